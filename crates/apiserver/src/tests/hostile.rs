//! Clients that mean harm, or know no better: what they send is refused with the right status, what they hold is given up,
//! and nobody else notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Tasks;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{CONFIG_MAPS, Cluster, config_map};
use crate::Limits;

const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";

fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

/// An object that was stored 126 levels deep made every list and watch that held it unreadable: they add levels of their
/// own, and readers stop at 128.
#[tokio::test]
async fn what_is_nested_too_deep_is_refused_and_never_stored() {
    let cluster = Cluster::start().await;
    for depth in [90, 99, 100, 110, 120, 124, 125, 126, 127, 128, 1000, 100_000] {
        for kind in ["application/json", "application/yaml"] {
            let name = format!("d{depth}-{}", &kind[12..]);
            let data = nested(depth);
            let body = format!(r#"{{"metadata":{{"name":"{name}"}},"revision":1,"data":{data}}}"#);
            let request = http::Request::post(REVISIONS).header("content-type", kind);
            let answer = cluster.send(request.body(body.into()).unwrap()).await;
            // YAML's reader stops earlier: aliases make depth cheap.
            let fits = depth < 100 && kind == "application/json";
            let expected = if fits { StatusCode::CREATED } else { StatusCode::BAD_REQUEST };
            assert_eq!(answer.status(), expected, "{name}");
        }
    }
    // A patch that copies the object into itself, again and again.
    let copies: Vec<_> = (0..6).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/a/a/a"})).collect();
    let path = format!("{REVISIONS}/d90-json");
    let (status, _) = cluster.call_as(Method::PATCH, &path, "application/json-patch+json", &Value::from(copies)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let list = cluster.get(REVISIONS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "the list can be read");
}

#[tokio::test]
async fn bodies_that_are_none_are_refused_by_name() {
    let cluster = Cluster::start().await;
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    let large = format!(r#"{{"metadata":{{"name":"large"}},"data":{{"k":"{}"}}}}"#, "x".repeat(3 << 20));
    let table: [(&str, &str, u16); 9] = [
        ("application/json", "{", 400),
        ("application/json", "[]", 400),
        ("application/json", "null", 400),
        ("application/json", r#"{"metadata":{"name":"a"},"data":{"k":1}}"#, 400),
        ("application/json", &large, 413),
        ("application/yaml", "a: b: c", 400),
        ("application/yaml", bomb, 400),
        ("application/vnd.kubernetes.protobuf", "k8s\0\u{7f}\u{7f}\u{7f}", 400),
        ("text/plain", "hello", 415),
    ];
    for (kind, body, expected) in table {
        let request = http::Request::post(CONFIG_MAPS).header("content-type", kind);
        let answer = cluster.send(request.body(body.to_owned().into()).unwrap()).await;
        let status = answer.status().as_u16();
        let shown: Value = serde_json::from_slice(&super::read(answer.into_body()).await).unwrap();
        assert_eq!((status, &shown["kind"], &shown["code"]), (expected, &json!("Status"), &json!(expected)), "{shown}");
    }
}

/// A server on a port, with limits that a test can wait for.
async fn listening(limits: Limits) -> (Cluster, SocketAddr, Tasks) {
    let cluster = Cluster::limited(Arc::new(MemoryStore::new()), limits).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new("test");
    tasks.spawn("listener", cluster.server.clone().serve(listener, cluster.stop.clone()));
    (cluster, address, tasks)
}

async fn connect(cluster: &Cluster, address: SocketAddr, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut tls = (*cluster.pki.client).clone();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
}

/// Everything that the server says until it closes the connection.
async fn said(stream: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    // A connection that is cut off may end without TLS's farewell.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("it closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn clients_that_stop_half_way_are_cut_off() {
    let soon = Duration::from_millis(300);
    let limits = Limits { header_time_max: soon, stall_max: soon, ..Limits::default() };
    let (cluster, address, _tasks) = listening(limits).await;
    // Half a head.
    let mut slow = connect(&cluster, address, b"http/1.1").await;
    slow.write_all(b"GET /api/v1/nodes HTTP/1.1\r\nhost: x\r\nx-a: ").await.unwrap();
    let answer = said(&mut slow).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    // Half an HTTP/2 preface.
    let mut slow = connect(&cluster, address, b"h2").await;
    slow.write_all(b"PRI * HTTP").await.unwrap();
    said(&mut slow).await;
    // Half a body.
    let mut slow = connect(&cluster, address, b"http/1.1").await;
    let head =
        format!("POST {CONFIG_MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{{\"meta");
    slow.write_all(head.as_bytes()).await.unwrap();
    let answer = said(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("Timeout"), "{answer}");
    // A body that is announced too large is not waited for.
    let mut large = connect(&cluster, address, b"http/1.1").await;
    let head =
        format!("POST {CONFIG_MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4000000\r\n\r\n");
    large.write_all(head.as_bytes()).await.unwrap();
    let answer = said(&mut large).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("Request entity too large"), "{answer}");
    // A client that says that it will say no more counts as gone: nothing is held for it.
    let mut half = connect(&cluster, address, b"http/1.1").await;
    half.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    half.shutdown().await.unwrap();
    let answer = said(&mut half).await;
    assert!(answer.is_empty() || answer.ends_with("ok"), "{answer}");
    // Headers without end.
    let mut long = connect(&cluster, address, b"http/1.1").await;
    let head = format!("GET /readyz HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(100_000));
    // The server may close before it has read all of it.
    let _ = long.write_all(head.as_bytes()).await;
    let answer = said(&mut long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_server_that_stops_lets_requests_end_and_then_cuts_off() {
    let soon = Duration::from_millis(500);
    let limits = Limits { shutdown_delay: soon, drain_max: soon, ..Limits::default() };
    let (cluster, address, tasks) = listening(limits).await;
    let mut watch = connect(&cluster, address, b"http/1.1").await;
    let head = format!("GET {CONFIG_MAPS}?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n");
    watch.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    watch.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // One that never sends its body.
    let mut stuck = connect(&cluster, address, b"http/1.1").await;
    let head = format!("POST {CONFIG_MAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n");
    stuck.write_all(head.as_bytes()).await.unwrap();
    cluster.stop.stop();
    // Load balancers see it while connections are still let in.
    let mut probe = connect(&cluster, address, b"http/1.1").await;
    probe.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(said(&mut probe).await.contains("[-]shutdown failed"));
    assert!(said(&mut watch).await.ends_with("0\r\n\r\n"), "the watch ends as one that is over");
    tokio::time::timeout(Duration::from_secs(20), tasks.join()).await.expect("the listener ends");
    said(&mut stuck).await;
}

#[tokio::test]
async fn watchers_that_do_not_read_cost_little_and_miss_nothing() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, config_map("a", json!({"n": "0"}))).await;
    let cache = cluster.server.caches().of(api::resources::CONFIG_MAPS).await.unwrap();
    let own = cache.watchers();
    let mut watchers = Vec::new();
    for _ in 0..2000 {
        watchers.push(cluster.watch(&format!("{CONFIG_MAPS}?watch=1")).await);
    }
    let path = format!("{CONFIG_MAPS}/a");
    for n in 1..=300 {
        cluster.call(Method::PATCH, &path, &json!({"data": {"n": n.to_string()}})).await;
    }
    assert_eq!(cache.watchers(), own, "each was unhooked when its queue was full");
    for watcher in watchers.iter_mut().step_by(500) {
        for n in 0..=300 {
            assert_eq!(watcher.next().await.unwrap()["object"]["data"]["n"], n.to_string());
        }
    }
}
