//! Logs and streams through the API server to a kubelet: a small TLS server that answers as one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base::Tasks;
use base64::Engine;
use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use streams::websocket::Tunnel;
use streams::{BoxDuplex, ExecSession, Input, Output, exec, port_forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Cluster, PODS, read};

/// Tells what it was asked on the path of logs, echoes on the others.
async fn answer(tasks: Tasks, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = request.uri().to_string();
    if asked.starts_with("/containerLogs/") {
        let status = if asked.contains("previous") { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        return Ok(Response::builder().status(status).body(Full::new(asked.into())).unwrap());
    }
    if request.headers()["upgrade"] == "SPDY/3.1" {
        return Ok(speak_spdy(&tasks, request));
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
    Ok(builder.header("sec-websocket-protocol", "v4.channel.k8s.io").body(Full::default()).unwrap())
}

/// A kubelet that knows SPDY alone: a process that gives back its input, and a port that gives back what it hears.
fn speak_spdy(tasks: &Tasks, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = request.uri().to_string();
    let forwards = asked.starts_with("/portForward/");
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let offer = if forwards { port_forward::OFFER } else { exec::OFFER };
    let mut accepted = streams::upgrade::accept(request.headers(), upgrade, offer).unwrap();
    let response = std::mem::take(&mut accepted.response).map(|()| Full::default());
    let own = tasks.clone();
    tasks.spawn("kubelet's session", async move {
        let opened = accepted.open().await.unwrap();
        if forwards {
            let connect: port_forward::Connect = Arc::new(move |_| {
                let (ours, theirs) = tokio::io::duplex(64);
                let (mut reader, mut writer) = tokio::io::split(theirs);
                own.spawn("port", async move { drop(tokio::io::copy(&mut reader, &mut writer).await) });
                async { Ok(BoxDuplex::new(ours)) }.boxed()
            });
            return port_forward::serve(opened, &[], connect).await.unwrap();
        }
        assert_eq!(asked, "/exec/default/p/c?command=cat&input=1&output=1&error=1");
        let (input, mut inputs) = mpsc::channel(1);
        let (outputs, output) = mpsc::channel(1);
        own.spawn("process", async move {
            while let Some(Input::Stdin(data)) = inputs.recv().await {
                outputs.send(Output::Stdout(data)).await.unwrap();
            }
            outputs.send(Output::Stderr("bye".into())).await.unwrap();
            outputs.send(Output::Exited(3)).await.unwrap();
        });
        let options = exec::Options { stdin: true, stdout: true, stderr: true, ..Default::default() };
        exec::serve(opened, options, async { Ok(ExecSession { input, output }) }.boxed()).await.unwrap();
    });
    response
}

/// A connection to the server that has become a WebSocket of one protocol.
async fn websocket(cluster: &Cluster, tasks: &Tasks, path: &str, protocol: &str) -> WebSocketStream<BoxDuplex> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("listener", cluster.server.clone().serve(listener, cluster.stop.clone()));
    let stream = BoxDuplex::new(connect(cluster, address).await);
    let request = Request::get(format!("wss://{address}{path}"))
        .header("host", address.to_string())
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(())
        .unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    socket
}

/// An upstream kubelet of some years ago knows the newest protocol of WebSocket not at all: the client got 400.
#[tokio::test]
async fn a_session_is_translated_for_a_node_that_knows_spdy_alone() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    with_kubelet(&cluster, &tasks).await;
    let path = format!("{PODS}/p/exec?command=cat&stdin=true&stdout=true&stderr=true");
    let mut socket = websocket(&cluster, &tasks, &path, exec::V5).await;
    socket.send(Message::binary(&b"\x00hello"[..])).await.unwrap();
    socket.send(Message::binary(&[255, 0][..])).await.unwrap();
    let mut channels: [String; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].push_str(std::str::from_utf8(&data[1..]).unwrap());
        }
    }
    assert_eq!((channels[1].as_str(), channels[2].as_str()), ("hello", "bye"));
    let result: Value = serde_json::from_str(&channels[3]).unwrap();
    assert_eq!(result["details"]["causes"][0]["message"], "3", "{result}");
}

#[tokio::test]
async fn a_tunnel_is_opened_for_a_node_that_knows_spdy_alone() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    with_kubelet(&cluster, &tasks).await;
    let socket = websocket(&cluster, &tasks, &format!("{PODS}/p/portforward"), port_forward::TUNNEL_PROTOCOL).await;
    let (mut stream, moved) = port_forward::client::open(BoxDuplex::new(Tunnel::new(socket)), 80);
    let used = async move {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    };
    assert_eq!(tokio::join!(moved, used), (Ok(()), "hello".to_owned()));
}

#[tokio::test]
async fn logs_come_over_websocket() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    with_kubelet(&cluster, &tasks).await;
    for protocol in ["binary.k8s.io", "base64.binary.k8s.io"] {
        let mut socket = websocket(&cluster, &tasks, &format!("{PODS}/p/log?tailLines=5"), protocol).await;
        let (mut messages, mut text) = (Vec::new(), Vec::new());
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(data) => messages.push(data.to_vec()),
                Message::Text(data) => messages.push(base64::engine::general_purpose::STANDARD.decode(data).unwrap()),
                _ => {}
            }
        }
        assert!(messages[0].is_empty(), "an empty message comes first");
        messages.iter().for_each(|message| text.extend_from_slice(message));
        assert_eq!(text, b"/containerLogs/default/p/c?tailLines=5", "{protocol}");
    }
}

/// Whoever may only `get` must not run a process, which a GET over WebSocket does.
#[tokio::test]
async fn a_session_wants_the_right_to_create() {
    let cluster = Cluster::start().await;
    let rule = |verb: &str| json!({"apiGroups": [""], "resources": ["pods/exec", "pods/log"], "verbs": [verb]});
    for verb in ["get", "create"] {
        let role = json!({"metadata": {"name": verb}, "rules": [rule("get"), rule(verb)]});
        cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
        let binding = json!({"metadata": {"name": verb},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": verb},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": verb}]});
        cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    }
    for (user, path, expected) in [
        ("get", "log", StatusCode::NOT_FOUND),
        ("get", "exec?command=ls", StatusCode::FORBIDDEN),
        ("create", "exec?command=ls", StatusCode::NOT_FOUND),
    ] {
        let request = Request::get(format!("{PODS}/none/{path}")).header("impersonate-user", user);
        let response = cluster.send(request.body(Bytes::new()).unwrap()).await;
        assert_eq!(response.status(), expected, "{user} {path}");
    }
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
         Upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answered = Vec::new();
    while !answered.ends_with(b"\r\n\r\n") {
        answered.push(stream.read_u8().await.unwrap());
    }
    let answered = String::from_utf8(answered).unwrap();
    assert!(answered.starts_with("HTTP/1.1 101") && answered.contains("v4.channel.k8s.io"), "{answered}");
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

/// `node:port` names the kubelet where the port is its own; what listens on the server itself is nobody's to reach.
#[tokio::test]
async fn a_node_may_be_named_with_a_port() {
    let (cluster, tasks) = (Cluster::start().await, Tasks::new("test"));
    with_kubelet(&cluster, &tasks).await;
    let node = cluster.get("/api/v1/nodes/n1").await;
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    for uri in
        ["/api/v1/nodes/n1/proxy/containerLogs/a".to_owned(), format!("/api/v1/nodes/n1:{port}/proxy/containerLogs/a")]
    {
        let response = cluster.send(Request::get(&uri).body(Bytes::new()).unwrap()).await;
        let (status, body) = (response.status(), read(response.into_body()).await);
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"/containerLogs/a"[..]), "{uri}");
    }
    let (status, refused) = cluster.call(Method::GET, "/api/v1/nodes/n1:1/proxy/pods", &Value::Null).await;
    assert_eq!((status, &refused["message"]), (StatusCode::BAD_REQUEST, &json!("address not allowed for node \"n1\"")));
    let (status, _) = cluster.call(Method::GET, "/api/v1/nodes/n1:kubelet/proxy/pods", &Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
