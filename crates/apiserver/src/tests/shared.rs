//! What many clients get at a time: watchers over the network are told in turns, lists that are asked for again are shared. All
//! the same nobody misses, repeats or reorders anything.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Tasks;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::{CONFIG_MAPS, Cluster, config_map};
use crate::watch_cache::{Filter, Pace, Start, WatchEvent, Watching};

/// So many that they rest between turns.
const MANY: usize = 200;
/// No rest is longer.
const RESTED: Duration = Duration::from_millis(25);

async fn watchers(cluster: &Cluster, pace: Pace, count: usize) -> Vec<Watching> {
    let cache = cluster.server.caches().of(api::resources::CONFIG_MAPS).await.unwrap();
    cluster.server.caches().fresh().await;
    let now = cluster.server.caches().applied();
    let filter = Filter { namespace: Some("default".into()), ..Filter::default() };
    let one = |_| cache.watch(now, filter.clone(), Start::After(now), pace, true, Duration::from_secs(3600)).unwrap();
    (0..count).map(one).collect()
}

/// What a watcher has been told by now.
fn told(watcher: &mut Watching) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(Some(event)) = tokio::task::unconstrained(watcher.next()).now_or_never() {
        told.push(match event {
            WatchEvent::Change(kind, change) => change.object(kind).key().name.to_string(),
            WatchEvent::Bookmark { revision, .. } => format!("bookmark {revision}"),
            other => panic!("{other:?}"),
        });
    }
    told
}

async fn post(cluster: &Cluster, name: &str) {
    cluster.post(CONFIG_MAPS, config_map(name, json!({}))).await;
    cluster.server.caches().fresh().await;
}

#[tokio::test(start_paused = true)]
async fn many_watchers_are_told_at_once_after_a_pause_and_together_in_a_burst() {
    let cluster = Cluster::start().await;
    let mut many = watchers(&cluster, Pace::InTurns, MANY).await;
    let mut own = watchers(&cluster, Pace::AtOnce, 1).await;
    for pause in 0..2 {
        let name = |at: usize| format!("{pause}-{at}");
        post(&cluster, &name(0)).await;
        for watcher in many.iter_mut().chain(&mut own) {
            assert_eq!(told(watcher), [name(0)], "after a pause nobody waits");
        }
        for at in 1..4 {
            post(&cluster, &name(at)).await;
            assert_eq!(told(&mut own[0]), [name(at)], "in this process nobody waits");
        }
        for watcher in &mut many {
            assert_eq!(told(watcher), [""; 0], "they rest");
        }
        tokio::time::sleep(RESTED).await;
        for watcher in &mut many {
            assert_eq!(told(watcher), [name(1), name(2), name(3)], "what happened in the rest, in order");
        }
        tokio::time::sleep(RESTED).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_burst_does_not_wait_for_the_rest_to_end_and_slow_readers_catch_up() {
    let cluster = Cluster::start().await;
    let mut many = watchers(&cluster, Pace::InTurns, MANY).await;
    let names: Vec<_> = (0..300).map(|at| format!("burst-{at:03}")).collect();
    for name in &names[..100] {
        post(&cluster, name).await;
    }
    let early = told(&mut many[0]);
    assert!(early.len() >= 64 && early.len() < 100, "{}", early.len());
    // The others' queues hold 256.
    for name in &names[100..] {
        post(&cluster, name).await;
    }
    tokio::time::sleep(RESTED).await;
    for (at, watcher) in many.iter_mut().enumerate() {
        let before = if at == 0 { early.clone() } else { Vec::new() };
        assert_eq!([before, told(watcher)].concat(), names, "watcher {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn few_watchers_are_always_told_at_once() {
    let cluster = Cluster::start().await;
    let mut few = watchers(&cluster, Pace::InTurns, 20).await;
    for name in ["a", "b", "c"] {
        post(&cluster, name).await;
        for watcher in &mut few {
            assert_eq!(told(watcher), [name]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_comes_after_what_waits() {
    let cluster = Cluster::start().await;
    let mut many = watchers(&cluster, Pace::InTurns, MANY).await;
    post(&cluster, "a").await;
    post(&cluster, "b").await;
    let cache = cluster.server.caches().of(api::resources::CONFIG_MAPS).await.unwrap();
    let now = cluster.server.caches().applied();
    cache.bookmark(now);
    for watcher in &mut many {
        assert_eq!(told(watcher), ["a".to_owned(), "b".to_owned(), format!("bookmark {now}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_or_comes_in_a_rest_changes_nothing_for_others() {
    let cluster = Cluster::start().await;
    let mut many = watchers(&cluster, Pace::InTurns, MANY).await;
    post(&cluster, "a").await;
    post(&cluster, "b").await;
    many.drain(..150);
    let mut late = watchers(&cluster, Pace::InTurns, 50).await;
    post(&cluster, "c").await;
    tokio::time::sleep(RESTED).await;
    many.iter_mut().for_each(|watcher| assert_eq!(told(watcher), ["a", "b", "c"]));
    late.iter_mut().for_each(|watcher| assert_eq!(told(watcher), ["c"]));
}

/// A connection to a server that listens.
enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn connect(cluster: &Cluster, address: SocketAddr, protocol: &[u8], tasks: &Tasks) -> Self {
        let mut config = (*cluster.pki.client).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let stream = TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap());
        if protocol == b"h2" {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tasks.spawn("connection", async move { drop(connection.await) });
            Self::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tasks.spawn("connection", async move { drop(connection.await) });
            Self::Http1(sender)
        }
    }

    async fn get(&mut self, path: &str, encoding: &str) -> http::Response<Incoming> {
        let request = http::Request::get(format!("https://127.0.0.1{path}")).header("host", "127.0.0.1");
        let request = request.header("accept-encoding", encoding).body(Full::new(Bytes::new())).unwrap();
        match self {
            Self::Http1(sender) => sender.send_request(request).await.unwrap(),
            Self::Http2(sender) => sender.send_request(request).await.unwrap(),
        }
    }

    async fn list(&mut self, path: &str, encoding: &str) -> Value {
        let response = self.get(path, encoding).await;
        let compressed = response.headers().contains_key("content-encoding");
        assert_eq!(compressed, encoding == "gzip");
        let body = tokio::time::timeout(Duration::from_secs(20), response.into_body().collect()).await;
        let body = body.expect("it ends").unwrap().to_bytes();
        let mut plain = Vec::new();
        if compressed {
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
        } else {
            plain.extend_from_slice(&body);
        }
        serde_json::from_slice(&plain).unwrap()
    }
}

async fn listen(cluster: &Cluster) -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new("test");
    tasks.spawn("listener", cluster.server.clone().serve(listener, cluster.stop.clone()));
    (address, tasks)
}

/// The names in `n` events of a watch, as they come over the wire.
async fn seen(mut body: Incoming, n: usize) -> Vec<String> {
    let (mut text, mut names) = (Vec::new(), Vec::new());
    while names.len() < n {
        let frame = tokio::time::timeout(Duration::from_secs(20), body.frame()).await.expect("in time").unwrap();
        text.extend_from_slice(frame.unwrap().data_ref().unwrap());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let event: Value = serde_json::from_slice(&text.drain(..=end).collect::<Vec<_>>()).unwrap();
            names.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_on_the_wire_sees_every_event_once_and_in_order() {
    let cluster = Cluster::start().await;
    let (address, tasks) = listen(&cluster).await;
    let version = cluster.get(CONFIG_MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}");
    let mut bodies = Vec::new();
    let mut shared = Client::connect(&cluster, address, b"h2", &tasks).await;
    for _ in 0..100 {
        bodies.push(shared.get(&path, "identity").await.into_body());
    }
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut own = Client::connect(&cluster, address, b"http/1.1", &tasks).await;
        bodies.push(own.get(&path, "identity").await.into_body());
        held.push(own);
    }
    let names: Vec<_> = (0..150).map(|at| format!("wire-{at:03}")).collect();
    let readers = futures::future::join_all(bodies.into_iter().map(|body| seen(body, names.len())));
    let writes = async {
        for name in &names {
            cluster.post(CONFIG_MAPS, config_map(name, json!({"k": "x".repeat(700)}))).await;
        }
    };
    let (all, ()) = tokio::join!(readers, writes);
    assert_eq!(all.len(), 120);
    all.into_iter().for_each(|seen| assert_eq!(seen, names));
}

/// All items of a list, which are not read from what is kept.
async fn in_pages(cluster: &Cluster) -> Vec<Value> {
    let mut page = cluster.get(&format!("{CONFIG_MAPS}?limit=5")).await;
    let mut items = page["items"].as_array().unwrap().clone();
    while let Some(token) = page["metadata"]["continue"].as_str() {
        page = cluster.get(&format!("{CONFIG_MAPS}?limit=5&continue={token}")).await;
        items.extend_from_slice(page["items"].as_array().unwrap());
    }
    items
}

#[tokio::test]
async fn a_large_list_is_the_same_however_often_it_is_asked_for_until_something_changes() {
    let cluster = Cluster::start().await;
    let (address, tasks) = listen(&cluster).await;
    for at in 0..12 {
        // Longer and shorter than what is sent at a time.
        let text = "0123456789".repeat(if at % 2 == 0 { 7_000 } else { 100 });
        cluster.post(CONFIG_MAPS, config_map(&format!("large-{at}"), json!({"k": text}))).await;
    }
    let mut clients = Vec::new();
    for protocol in [&b"http/1.1"[..], b"h2"] {
        clients.push(Client::connect(&cluster, address, protocol, &tasks).await);
    }
    for change in 0..3 {
        let expected = in_pages(&cluster).await;
        for _ in 0..3 {
            for client in &mut clients {
                for encoding in ["identity", "gzip"] {
                    let list = client.list(CONFIG_MAPS, encoding).await;
                    assert_eq!(list["items"].as_array().unwrap(), &expected);
                    assert_eq!(list["kind"], "ConfigMapList");
                }
            }
            // What else happens is no change of the list, but is one of its moment.
            let other = cluster.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"generateName": "s-"}}));
            let revision = other.await["metadata"]["resourceVersion"].clone();
            let list = clients[0].list(CONFIG_MAPS, "identity").await;
            assert_eq!(list["metadata"]["resourceVersion"], revision);
            // Other lists of the resource are others.
            assert_eq!(cluster.get("/api/v1/configmaps").await["items"].as_array().unwrap().len(), {
                let others = cluster.get("/api/v1/configmaps?fieldSelector=metadata.namespace%21%3Ddefault").await;
                expected.len() + others["items"].as_array().unwrap().len()
            });
        }
        let path = format!("{CONFIG_MAPS}/large-{change}");
        match change {
            0 => drop(cluster.call(Method::DELETE, &path, &Value::Null).await),
            _ => drop(cluster.call(Method::PATCH, &path, &json!({"data": {"n": "1"}})).await),
        }
    }
}
