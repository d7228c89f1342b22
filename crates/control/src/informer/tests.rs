//! Caches against a server that answers by script, so that each turn of the protocol is in the test's hand.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};

use super::*;
use crate::changes::{Change, Changes};
use crate::{Body, Transport, TransportError};

/// Gives one answer after another and notes the requests. The last answer stays open.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<(u16, String)>>,
    requests: Mutex<Vec<String>>,
    frames: Mutex<Vec<Bytes>>,
}

impl Transport for Script {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let query = request.uri().query().unwrap_or("list").split('&');
        let query = query.filter(|pair| !pair.starts_with("timeoutSeconds") && !pair.starts_with("allow"));
        self.requests.lock().unwrap().push(query.collect::<Vec<_>>().join("&"));
        let (answer, last) = {
            let mut answers = self.answers.lock().unwrap();
            (answers.pop_front(), answers.is_empty())
        };
        let Some((status, text)) = answer else { return futures::future::pending().boxed() };
        let frames: Vec<Bytes> = text.split_inclusive('\n').map(|line| Bytes::from(line.to_owned())).collect();
        self.frames.lock().unwrap().extend(frames.clone());
        let frames = futures::stream::iter(frames.into_iter().map(Ok));
        let body = if last { frames.chain(futures::stream::pending()).boxed() } else { frames.boxed() };
        let mut response = http::Response::new(Body::Stream(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        async move { Ok(response) }.boxed()
    }
}

fn pod(name: &str, revision: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "labels": {"app": name},
        "resourceVersion": revision.to_string()}, "spec": {"nodeName": "a"}})
}

fn frame(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn end(revision: u64) -> String {
    let meta = json!({"resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
    frame("BOOKMARK", &json!({ "metadata": meta }))
}

struct Run {
    script: Arc<Script>,
    cache: Cache,
    changes: Changes,
    _informers: Informers,
}

fn run(answers: Vec<(u16, String)>) -> Run {
    let script = Arc::new(Script { answers: Mutex::new(answers.into()), ..Script::default() });
    let client = Client::new(script.clone(), "test");
    let informers = Informers::new(client, Tasks::new("test"), Stop::new());
    let cache = informers.all(api::resources::PODS);
    Run { script, changes: cache.changes(), cache, _informers: informers }
}

impl Run {
    async fn next(&mut self) -> String {
        match tokio::time::timeout(Duration::from_secs(60), self.changes.next()).await.expect("a change") {
            Change::Applied(object) => format!("+{}@{}", object.key().name, object.revision()),
            Change::Deleted(object) => format!("-{}@{}", object.key().name, object.revision()),
            Change::Synced => "synced".to_owned(),
        }
    }

    async fn expect(&mut self, changes: &[&str]) {
        for change in changes {
            assert_eq!(self.next().await, *change);
        }
    }

    fn requests(&self) -> Vec<String> {
        self.script.requests.lock().unwrap().clone()
    }
}

const INITIAL: &str = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";

#[tokio::test(start_paused = true)]
async fn a_lost_connection_resumes_where_it_was() {
    let first = frame("ADDED", &pod("a", 3)) + &end(5) + &frame("MODIFIED", &pod("a", 6));
    let second = frame("DELETED", &pod("a", 8));
    let mut run = run(vec![(200, first), (200, second)]);
    run.cache.wait_until(|cache| cache.revision() == 8).await;
    assert_eq!(run.requests(), [INITIAL, "watch=1&resourceVersion=6"]);
    run.expect(&["synced"]).await;
    assert!(run.changes.try_next().is_none(), "what came and went unseen is no change");
}

#[tokio::test(start_paused = true)]
async fn only_410_starts_over_and_then_reports_what_is_gone() {
    let first = frame("ADDED", &pod("a", 3)) + &frame("ADDED", &pod("b", 4)) + &end(5);
    let expired = frame("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired"}));
    let again = frame("ADDED", &pod("b", 4)) + &frame("ADDED", &pod("c", 9)) + &end(10);
    let mut run = run(vec![(200, first), (503, String::new()), (200, expired), (200, again)]);
    run.expect(&["+a@3", "+b@4", "synced", "+c@9", "-a@3"]).await;
    assert_eq!(run.requests(), [INITIAL, "watch=1&resourceVersion=5", "watch=1&resourceVersion=5", INITIAL]);
    assert_eq!(run.cache.revision(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streaming_lists_is_listed() {
    let refused =
        json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": "sendInitialEvents"}).to_string();
    let list = json!({"metadata": {"resourceVersion": "7"}, "items": [pod("a", 3)]}).to_string();
    let mut run = run(vec![(422, refused), (200, list), (200, frame("ADDED", &pod("b", 8)))]);
    run.expect(&["+a@3", "synced", "+b@8"]).await;
    assert_eq!(run.requests(), [INITIAL, "list", "watch=1&resourceVersion=7"]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_event_is_left_out_and_the_rest_goes_on() {
    let bad = "{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}\n".to_owned();
    let mut run = run(vec![(200, end(5) + &bad + &frame("ADDED", &pod("b", 8)))]);
    run.expect(&["synced", "+b@8"]).await;
}

#[tokio::test(start_paused = true)]
async fn cached_objects_are_slices_of_their_frames_and_found_by_index() {
    let mut changed = pod("a", 7);
    changed["metadata"]["labels"]["app"] = "z".into();
    changed["spec"]["nodeName"] = "b".into();
    changed["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x"}]);
    let first = frame("ADDED", &pod("a", 3)) + &end(5);
    let mut run = run(vec![(200, first), (200, frame("MODIFIED", &changed))]);
    // Asked for before anything is there, so that they are built up and changed by events alone.
    assert_eq!(run.cache.with_label("app", "a").len() + run.cache.by_field("spec.nodeName", "a").len(), 0);
    assert!(run.cache.owned_by("x").is_empty());
    run.cache.wait_until(|cache| cache.revision() == 7).await;
    run.expect(&["+a@7", "synced"]).await;
    let cache = &run.cache;
    assert!(cache.with_label("app", "a").is_empty() && cache.by_field("spec.nodeName", "a").is_empty());
    assert_eq!(cache.with_label("app", "z").len(), 1);
    assert_eq!(cache.by_field("spec.nodeName", "b").len(), 1);
    let owned = cache.owned_by("x");
    let frames = run.script.frames.lock().unwrap();
    let inside = |frame: &Bytes| frame.as_ptr_range().contains(&owned[0].json().as_ptr());
    assert!(frames.iter().any(inside), "the object's bytes were copied");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_lags_sees_each_key_once_in_its_latest_state() {
    let mut text = frame("ADDED", &pod("a", 1)) + &frame("ADDED", &pod("b", 2)) + &end(3);
    for revision in 4..100 {
        text += &frame("MODIFIED", &pod("b", revision));
    }
    let mut run = run(vec![(200, text)]);
    run.cache.wait_until(|cache| cache.revision() == 99).await;
    run.expect(&["+a@1", "+b@99", "synced"]).await;
    assert!(run.changes.try_next().is_none());
}
