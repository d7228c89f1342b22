//! Watches: order, transitions, resumption, bookmarks, and that nobody is slowed down by others.

use std::collections::HashMap;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, Events, config_map};

const QUIET: &str = "/api/v1/namespaces/kube-node-lease/configmaps";

#[tokio::test]
async fn a_watch_shows_what_is_and_then_what_happens() {
    let cluster = Cluster::start().await;
    cluster.post(QUIET, config_map("old", json!({}))).await;
    let mut events = cluster.watch(&format!("{QUIET}?watch=1")).await;
    assert_eq!(events.short().await, "ADDED old");
    cluster.post(QUIET, config_map("new", json!({}))).await;
    // Other namespaces' objects are not seen.
    cluster.post(CONFIG_MAPS, config_map("elsewhere", json!({}))).await;
    cluster.call(Method::PATCH, &format!("{QUIET}/new"), &json!({"data": {"k": "v"}})).await;
    cluster.call(Method::DELETE, &format!("{QUIET}/old"), &Value::Null).await;
    assert_eq!(events.short().await, "ADDED new");
    let modified = events.next().await.unwrap();
    assert_eq!((&modified["type"], &modified["object"]["data"]["k"]), (&json!("MODIFIED"), &json!("v")));
    let deleted = events.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("old")));
    let version =
        |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&deleted) > version(&modified), "a deletion shows the revision that deleted");
}

#[tokio::test]
async fn objects_come_into_and_go_out_of_a_selector() {
    let cluster = Cluster::start().await;
    let mut events = cluster.watch(&format!("{QUIET}?watch=1&labelSelector=on%3Dyes")).await;
    cluster.post(QUIET, config_map("a", json!({}))).await;
    for (value, expected) in [("yes", "ADDED a"), ("no", "DELETED a"), ("yes", "ADDED a")] {
        cluster.call(Method::PATCH, &format!("{QUIET}/a"), &json!({"metadata": {"labels": {"on": value}}})).await;
        assert_eq!(events.short().await, expected);
    }
    cluster.call(Method::PATCH, &format!("{QUIET}/a"), &json!({"data": {"k": "v"}})).await;
    assert_eq!(events.short().await, "MODIFIED a");
}

#[tokio::test]
async fn a_watch_resumes_where_it_stopped_or_says_that_it_cannot() {
    let cluster = Cluster::start().await;
    let first = cluster.post(QUIET, config_map("a", json!({}))).await;
    cluster.get(QUIET).await;
    cluster.post(QUIET, config_map("b", json!({}))).await;
    cluster.post(QUIET, config_map("c", json!({}))).await;
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = cluster.watch(&format!("{QUIET}?watch=1&resourceVersion={from}")).await;
    assert_eq!((events.short().await, events.short().await), ("ADDED b".to_owned(), "ADDED c".to_owned()));
    cluster.forget(2).await;
    let mut events = cluster.watch(&format!("{QUIET}?watch=1&resourceVersion=1")).await;
    let error = events.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"], &error["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(error["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("));
    assert_eq!(events.short().await, "end");
}

/// Every client listed again after a restart, all at once, since a new server knew nothing of what had been before its first
/// look at a resource.
#[tokio::test]
async fn a_watch_resumes_from_before_the_server_started() {
    let store = std::sync::Arc::new(store::memory::MemoryStore::default());
    let before = Cluster::over(store.clone()).await;
    let first = before.post(QUIET, config_map("a", json!({}))).await;
    before.post(QUIET, config_map("b", json!({"k": "v"}))).await;
    before.call(Method::PATCH, &format!("{QUIET}/b"), &json!({"metadata": {"labels": {"on": "yes"}}})).await;
    let page = before.get(&format!("{QUIET}?limit=1")).await;
    before.call(Method::DELETE, &format!("{QUIET}/a"), &Value::Null).await;
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    before.stop.stop();
    let after = Cluster::over(store).await;
    let mut events = after.watch(&format!("{QUIET}?watch=1&resourceVersion={from}")).await;
    let mut selected = after.watch(&format!("{QUIET}?watch=1&resourceVersion={from}&labelSelector=on")).await;
    after.post(QUIET, config_map("c", json!({}))).await;
    for expected in ["ADDED b", "MODIFIED b", "DELETED a", "ADDED c"] {
        assert_eq!(events.short().await, expected);
    }
    assert_eq!(selected.short().await, "ADDED b");
    // A page from before the restart, and a list at a moment from before it.
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = after.get(&format!("{QUIET}?limit=9&continue={token}")).await;
    assert_eq!(rest["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"], "{rest}");
    let then = after.get(&format!("{QUIET}?resourceVersion={from}&resourceVersionMatch=Exact")).await;
    let names: Vec<_> = then["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect();
    assert!(names.contains(&json!("a")) && !names.contains(&json!("b")), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_mark_the_initial_events_the_minutes_and_the_end() {
    let cluster = Cluster::start().await;
    cluster.post(QUIET, config_map("a", json!({}))).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=90";
    let mut events = cluster.watch(&format!("{QUIET}?{query}")).await;
    assert_eq!(events.short().await, "ADDED a");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let mut rest = Vec::new();
    while let Some(event) = slow(&mut events).await {
        rest.push(event["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(rest, ["BOOKMARK", "BOOKMARK"]);
}

/// The next event, however long it takes.
async fn slow(events: &mut Events) -> Option<Value> {
    use futures::StreamExt;
    events.0.next().await.map(|piece| serde_json::from_slice(&piece.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_concurrent_writers_every_watcher_sees_every_change_once_and_in_order() {
    let cluster = Cluster::start().await;
    cluster.get(QUIET).await;
    let mut early = cluster.watch(&format!("{QUIET}?watch=1")).await;
    let writers = (0..4).map(|writer| {
        let cluster = &cluster;
        async move {
            let path = format!("{QUIET}/w{writer}");
            cluster.post(QUIET, config_map(&format!("w{writer}"), json!({"n": "0"}))).await;
            for n in 1..100 {
                cluster.call(Method::PATCH, &path, &json!({"data": {"n": n.to_string()}})).await;
            }
        }
    });
    join_all(writers).await;
    // One that reads nothing while 400 events pass its queue of 256, and one that begins in the middle.
    let mut seen: HashMap<String, i64> = HashMap::new();
    let mut last = 0;
    for _ in 0..400 {
        let event = early.next().await.unwrap();
        let metadata = &event["object"]["metadata"];
        let revision: u64 = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        let n: i64 = event["object"]["data"]["n"].as_str().unwrap().parse().unwrap();
        let before = seen.insert(metadata["name"].as_str().unwrap().to_owned(), n).unwrap_or(-1);
        assert_eq!(n, before + 1, "no change is missing or repeated");
    }
}

#[tokio::test]
async fn watchers_share_the_bytes_of_an_event_with_the_cache() {
    let cluster = Cluster::start().await;
    let (mut one, mut two) =
        (cluster.watch(&format!("{QUIET}?watch=1")).await, cluster.watch(&format!("{QUIET}?watch=1")).await);
    cluster.post(QUIET, config_map("a", json!({}))).await;
    let (first, second) = (one.raw().await, two.raw().await);
    assert_eq!(first.as_ptr(), second.as_ptr());
    let cache = cluster.server.caches().of(api::resources::CONFIG_MAPS).await.unwrap();
    let object = cache.get(&api::Key::new("kube-node-lease", "a")).unwrap();
    assert!(first.as_ptr_range().contains(&object.json().as_ptr()), "the cached object is a slice of the event");
}

#[tokio::test]
async fn a_watcher_that_leaves_is_forgotten() {
    let cluster = Cluster::start().await;
    let events = cluster.watch(&format!("{QUIET}?watch=1")).await;
    let cache = cluster.server.caches().of(api::resources::CONFIG_MAPS).await.unwrap();
    let before = cache.watchers();
    drop(events);
    assert_eq!(cache.watchers(), before - 1);
}

#[tokio::test]
async fn tables_are_watched_too() {
    let cluster = Cluster::start().await;
    let request =
        http::Request::get(format!("{QUIET}?watch=1")).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let control::Body::Stream(stream) = cluster.send(request.body(bytes::Bytes::new()).unwrap()).await.into_body()
    else {
        panic!("no watch")
    };
    let mut events = Events(stream);
    cluster.post(QUIET, config_map("a", json!({"x": "1", "y": "2"}))).await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["object"]["kind"], &event["object"]["rows"][0]["cells"]),
        (&json!("Table"), &json!(["a", 2, "0s"]))
    );
}
