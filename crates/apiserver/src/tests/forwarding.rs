//! Logs and streams through the API server to a kubelet: a small TLS server that answers as one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base::Tasks;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Cluster, PODS, read};

/// Tells what it was asked on the path of logs, echoes on the others.
async fn answer(tasks: Tasks, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = request.uri().to_string();
    if asked.starts_with("/containerLogs/") {
        let status = if asked.contains("previous") { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        return Ok(Response::builder().status(status).body(Full::new(asked.into())).unwrap());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tasks.spawn("echo", async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&[asked.as_bytes(), b" heard ", &heard].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let builder = builder.header("connection", "Upgrade").header("upgrade", "websocket");
    Ok(builder.header("sec-websocket-protocol", "v5.channel.k8s.io").body(Full::default()).unwrap())
}

/// Starts the kubelet, and a pod on its node.
async fn with_kubelet(cluster: &Cluster, tasks: &Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(cluster.pki.server.clone());
    let (own, stop) = (tasks.clone(), cluster.stop.clone());
    tasks.spawn("kubelet", async move {
        while let Some(Ok((stream, _))) = stop.or_stopped(listener.accept()).await {
            let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
            let for_service = own.clone();
            let service = hyper::service::service_fn(move |request| answer(for_service.clone(), request));
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(stream, service).with_upgrades();
            own.spawn("connection", async move { drop(connection.await) });
        }
    });
    let node = cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(node["metadata"]["name"], "n1");
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    assert_eq!(cluster.call(Method::PATCH, "/api/v1/nodes/n1/status", &status).await.0, StatusCode::OK);
    let containers = json!([{"name": "c", "image": "i"}]);
    cluster.post(PODS, json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": containers}})).await;
}

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    with_kubelet(&cluster, &tasks).await;
    let ask = async |query: &str| {
        let request = Request::get(format!("{PODS}/p/log?{query}")).body(Bytes::new()).unwrap();
        let response = cluster.send(request).await;
        (response.status(), read(response.into_body()).await)
    };
    let (status, body) = ask("tailLines=5&follow=true&pretty=true").await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"/containerLogs/default/p/c?follow=true&tailLines=5"[..]));
    let (status, body) = ask("previous=true").await;
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &error["kind"]), (StatusCode::BAD_REQUEST, &json!("Status")));
    let (status, body) = ask("container=other").await;
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status, &error["message"]),
        (StatusCode::BAD_REQUEST, &json!("container other is not valid for pod p"))
    );
}

#[tokio::test]
async fn upgraded_connections_are_passed_through_byte_for_byte() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    with_kubelet(&cluster, &tasks).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("listener", cluster.server.clone().serve(listener, cluster.stop.clone()));
    let mut stream = connect(&cluster, address).await;
    let head = format!(
        "POST {PODS}/p/exec?command=sh&command=-c&stdin=true&tty=false HTTP/1.1\r\nhost: {address}\r\nconnection: \
         Upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answered = Vec::new();
    while !answered.ends_with(b"\r\n\r\n") {
        answered.push(stream.read_u8().await.unwrap());
    }
    let answered = String::from_utf8(answered).unwrap();
    assert!(answered.starts_with("HTTP/1.1 101") && answered.contains("v5.channel.k8s.io"), "{answered}");
    stream.write_all(b"hello").await.unwrap();
    let mut heard = String::new();
    let _ = stream.read_to_string(&mut heard).await;
    assert_eq!(heard, "/exec/default/p/c?command=sh&command=-c&input=1&tty=0 heard hello");
}

async fn connect(cluster: &Cluster, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut config = (*cluster.pki.client).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
}

/// A pod's server hears of every method what the client said; also that of a pod whose name, or whose namespace's name, begins
/// with `proxy`, which answered 400.
#[tokio::test]
async fn a_pod_is_asked_with_the_method_of_the_client() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (own, stop) = (tasks.clone(), cluster.stop.clone());
    tasks.spawn("pod", async move {
        while let Some(Ok((stream, _))) = stop.or_stopped(listener.accept()).await {
            let service = hyper::service::service_fn(async |request: Request<Incoming>| {
                let heard = format!("{} {}", request.method(), request.uri());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(heard)))
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            own.spawn("connection", async move { drop(connection.await) });
        }
    });
    cluster
        .post(PODS, json!({"metadata": {"name": "proxy"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .await;
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    assert_eq!(cluster.call(Method::PATCH, &format!("{PODS}/proxy/status"), &status).await.0, StatusCode::OK);
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let uri = format!("{PODS}/proxy:{port}/proxy/a?method={method}");
        let request = Request::builder().method(method).uri(uri).body(Bytes::new()).unwrap();
        let response = cluster.send(request).await;
        let (status, body) = (response.status(), read(response.into_body()).await);
        let expected = if method == "HEAD" { String::new() } else { format!("{method} /a?method={method}") };
        assert_eq!((status, std::str::from_utf8(&body).unwrap()), (StatusCode::OK, &*expected));
    }
}
