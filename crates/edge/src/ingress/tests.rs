//! Requests over loopback: from a client, through the controller, to servers that stand for pods.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use api::resources::{INGRESSES, SECRETS};
use base64::Engine;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// The controller on loopback, with what it knows put in by hand.
struct World {
    shared: Arc<Shared>,
    secrets: Secrets,
    http: SocketAddr,
    https: SocketAddr,
    tasks: Tasks,
    stop: Stop,
}

impl World {
    async fn new() -> Self {
        let (tasks, stop) = (Tasks::new("test"), Stop::new());
        let (http, https) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (plain, secure) = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let shared = Arc::new(Shared {
            routes: Arc::default(),
            backends: RwLock::default(),
            ready: AtomicBool::new(true),
            https_port: Some(secure.port()),
            random: Random::from_os(),
            tasks: tasks.clone(),
        });
        let secrets: Secrets = Arc::default();
        let default = Arc::new(Fixed(Arc::new(certificates::read(&secret("default", "unnamed.invalid")).unwrap())));
        let resolver = Resolver { routes: shared.routes.clone(), secrets: secrets.clone(), default };
        let doors =
            [Door { listener: http, tls: None }, Door { listener: https, tls: Some(acceptor(resolver).unwrap()) }];
        for door in doors {
            tasks.spawn("door", server::serve(shared.clone(), door, stop.child()));
        }
        Self { shared, secrets, http: plain, https: secure, tasks, stop }
    }

    fn ingress(&self, name: &str, spec: &Value) {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        let object = Object::parse(INGRESSES, object.to_string().into()).unwrap();
        self.shared.routes_mut().apply(object.key(), &Ingress::decode(object.json()).unwrap());
    }

    /// A Service whose port 80 leads to these.
    fn service(&self, name: &str, app_protocol: &str, endpoints: &[SocketAddr]) {
        let port = json!({"name": "web", "port": 80, "appProtocol": app_protocol});
        let service = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"ports": [port]}});
        let mut backends = self.shared.backends_mut();
        backends.apply_service(&Object::parse(SERVICES, service.to_string().into()).unwrap()).unwrap();
        for (at, endpoint) in endpoints.iter().enumerate() {
            let slice = json!({"metadata": {"name": format!("{name}-{at}"), "namespace": "ns", "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "endpoints": [{"addresses": [endpoint.ip().to_string()]}], "ports": [{"name": "web", "port": endpoint.port()}]});
            backends.apply_slice(&Object::parse(ENDPOINT_SLICES, slice.to_string().into()).unwrap()).unwrap();
        }
    }

    /// All of a host to a Service, which leads to these.
    fn host(&self, host: &str, app_protocol: &str, endpoints: &[SocketAddr]) {
        let name = host.replace('.', "-");
        let backend = json!({"service": {"name": name, "port": {"number": 80}}});
        self.ingress(&name, &json!({"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}));
        self.service(&name, app_protocol, endpoints);
    }

    /// A server that tells what it was asked, over HTTP/1.1 and HTTP/2.
    async fn pod(&self) -> SocketAddr {
        self.serve(|request| async move {
            let headers: Vec<String> =
                request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            let (method, uri, version) = (request.method().clone(), request.uri().clone(), request.version());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let told = json!({"method": method.as_str(), "target": uri.to_string(), "version": format!("{version:?}"),
                "headers": headers, "body": String::from_utf8_lossy(&body)});
            Response::builder().header("keep-alive", "timeout=5").body(Full::from(told.to_string()).boxed()).unwrap()
        })
        .await
    }

    async fn serve<F, Fut>(&self, answer: F) -> SocketAddr
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (own, stop) = (self.tasks.clone(), self.stop.clone());
        self.tasks.spawn("pod", async move {
            while let Some(Ok((stream, _))) = stop.or_stopped(listener.accept()).await {
                let (answer, stop) = (answer.clone(), stop.clone());
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                own.spawn("pod's connection", async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    let _ = stop.or_stopped(connection).await;
                });
            }
        });
        address
    }

    async fn connect(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.http).await.unwrap();
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn("client", async move { drop(driver.await) });
        sender
    }

    async fn get(&self, host: &str, target: &str) -> (StatusCode, Value) {
        let request = Request::get(target).header("host", host).body(Full::default()).unwrap();
        self.ask(request).await
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
        let response = self.connect().await.send_request(request).await.unwrap();
        let status = response.status();
        assert!(!response.headers().contains_key("keep-alive"), "it is between the pod and us");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()))
    }

    async fn end(self) {
        self.stop.stop();
        self.tasks.join().await;
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// A secret with a new certificate for a host.
fn secret(name: &str, host: &str) -> Object {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let data = [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())];
    let data: serde_json::Map<_, _> = data
        .into_iter()
        .map(|(name, text)| (name.to_owned(), base64::engine::general_purpose::STANDARD.encode(text).into()))
        .collect();
    let secret = json!({"metadata": {"name": name, "namespace": "ns"}, "type": "kubernetes.io/tls", "data": data});
    Object::parse(SECRETS, secret.to_string().into()).unwrap()
}

fn header<'a>(told: &'a Value, name: &str) -> Vec<&'a str> {
    let all = told["headers"].as_array().unwrap().iter().filter_map(Value::as_str);
    all.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[tokio::test]
async fn a_request_reaches_its_pod_with_the_truth_about_its_client() {
    let world = World::new().await;
    world.host("a.example.com", "", &[world.pod().await]);
    let request = Request::post("/path/x?q=1")
        .header("host", "a.example.com:8080")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-real-ip", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("connection", "x-hop, x-forwarded-proto, host")
        .header("x-hop", "1")
        .header("keep-alive", "1")
        .header("x-own", "stays")
        .body(Full::from("the body"))
        .unwrap();
    let (status, told) = world.ask(request).await;
    assert_eq!((status, &told["method"], &told["target"]), (StatusCode::OK, &json!("POST"), &json!("/path/x?q=1")));
    assert_eq!((&told["body"], &told["version"]), (&json!("the body"), &json!("HTTP/1.1")));
    assert_eq!(header(&told, "host"), ["a.example.com:8080"]);
    assert_eq!((header(&told, "x-forwarded-for"), header(&told, "x-real-ip")), (vec!["127.0.0.1"], vec!["127.0.0.1"]));
    assert_eq!(
        (header(&told, "x-forwarded-proto"), header(&told, "x-forwarded-host")),
        (vec!["http"], vec!["a.example.com:8080"])
    );
    assert_eq!(header(&told, "x-forwarded-port"), [world.http.port().to_string()]);
    assert_eq!(header(&told, "x-own"), ["stays"]);
    for gone in ["forwarded", "x-hop", "keep-alive", "connection"] {
        assert!(header(&told, gone).is_empty(), "{gone}: {told}");
    }
    world.end().await;
}

#[tokio::test]
async fn what_cannot_be_served_says_why() {
    let world = World::new().await;
    world.host("empty.example.com", "", &[]);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    world.host("dead.example.com", "", &[nobody]);
    for (host, expected, text) in [
        ("none.example.com", 404, "no Ingress has this host and path"),
        ("empty.example.com", 503, "no endpoint that is ready"),
        ("dead.example.com", 502, "no endpoint of the Service takes connections"),
    ] {
        let (status, told) = world.get(host, "/").await;
        assert_eq!(status.as_u16(), expected);
        assert!(told.as_str().unwrap().contains(text), "{told}");
    }
    world.shared.ready.store(false, Ordering::Release);
    assert_eq!(
        world.get("none.example.com", "/").await.0,
        StatusCode::SERVICE_UNAVAILABLE,
        "not known yet is not nothing"
    );
    world.end().await;
}

/// A pod that is gone before its slice is, one that closes its idle connections: nobody hears of either.
#[tokio::test]
async fn requests_survive_the_pods_that_they_were_meant_for() {
    let world = World::new().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    world.host("half.example.com", "", &[nobody, world.pod().await]);
    for _ in 0..20 {
        let post = Request::post("/").header("host", "half.example.com").body(Full::from("x")).unwrap();
        assert_eq!(world.ask(post).await.0, StatusCode::OK);
    }
    // One answer for each connection, which then closes without a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = world.stop.clone();
    world.tasks.spawn("curt pod", async move {
        while let Some(Ok((mut stream, _))) = stop.or_stopped(listener.accept()).await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    world.host("curt.example.com", "", &[address]);
    for _ in 0..20 {
        assert_eq!(world.get("curt.example.com", "/").await.0, StatusCode::OK);
    }
    world.end().await;
}

#[tokio::test]
async fn connections_to_pods_are_used_again() {
    let world = World::new().await;
    let seen = Arc::new(Mutex::new(0));
    let counter = seen.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (own, stop) = (world.tasks.clone(), world.stop.clone());
    world.tasks.spawn("pod", async move {
        while let Some(Ok((stream, _))) = stop.or_stopped(listener.accept()).await {
            *counter.lock().unwrap() += 1;
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok"))));
            let (connection, stop) = (
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                stop.clone(),
            );
            own.spawn("connection", async move { drop(stop.or_stopped(connection).await) });
        }
    });
    world.host("a.example.com", "", &[address]);
    let mut client = world.connect().await;
    for _ in 0..10 {
        let request = Request::get("/").header("host", "a.example.com").body(Full::default()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
    assert_eq!(*seen.lock().unwrap(), 1);
    world.end().await;
}

#[tokio::test]
async fn bodies_go_both_ways_at_once_and_a_client_may_leave() {
    let world = World::new().await;
    let echo = world
        .serve(async |request: Request<Incoming>| {
            let length = request.headers().get("content-length").cloned();
            let mut response = Response::new(
                request.into_body().map_err(|_| -> Infallible { unreachable!("the client stays") }).boxed(),
            );
            length.and_then(|length| response.headers_mut().insert("content-length", length));
            response
        })
        .await;
    world.host("echo.example.com", "", &[echo]);
    let body: Bytes = (0..4 << 20).map(|at: u32| (at / 7) as u8).collect::<Vec<_>>().into();
    for _ in 0..3 {
        let request = Request::post("/").header("host", "echo.example.com").body(Full::from(body.clone())).unwrap();
        let response = world.connect().await.send_request(request).await.unwrap();
        assert!(response.into_body().collect().await.unwrap().to_bytes() == body);
    }
    let gone = Arc::new(tokio::sync::Notify::new());
    let told = gone.clone();
    struct Tell(Arc<tokio::sync::Notify>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let endless = world
        .serve(move |_| {
            let tell = Tell(told.clone());
            let pieces = futures::stream::repeat_with(move || {
                let _held = &tell;
                Ok(Frame::data(Bytes::from_static(&[1; 1024])))
            });
            async move { Response::new(BodyExt::boxed(StreamBody::new(pieces))) }
        })
        .await;
    world.host("endless.example.com", "", &[endless]);
    let request = Request::get("/").header("host", "endless.example.com").body(Full::default()).unwrap();
    let mut client = world.connect().await;
    let mut response = client.send_request(request).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    drop((response, client));
    tokio::time::timeout(Duration::from_secs(10), gone.notified()).await.expect("the pod learns that its client went");
    world.end().await;
}

/// What two servers could read in two ways is read in one, or refused.
#[tokio::test]
async fn a_request_is_read_in_one_way_only() {
    let world = World::new().await;
    world.host("a.example.com", "", &[world.pod().await]);
    for (sent, expected) in [
        ("GET / HTTP/1.1\r\nhost: a.example.com\r\nhost: b.example.com\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: user@a.example.com\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a.example.com\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy", "400"),
        ("CONNECT a.example.com:80 HTTP/1.1\r\nhost: a.example.com\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nhost: a.example.com\r\nbad header: x\r\n\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(world.http).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(std::str::from_utf8(&head).unwrap(), format!("HTTP/1.1 {expected}"), "{sent:?}");
    }
    // Both a length and chunks: the chunks count, and the pod hears of no length.
    let sent = "POST / HTTP/1.1\r\nhost: a.example.com\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\nconnection: close\r\n\r\n\
                2\r\nhi\r\n0\r\n\r\n";
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400")
            || (answer.contains(r#""body":"hi""#) && !answer.contains("content-length: 3")),
        "{answer}"
    );
    world.end().await;
}

#[tokio::test]
async fn a_websocket_goes_through() {
    let world = World::new().await;
    let own = world.tasks.clone();
    let pod = world
        .serve(move |mut request: Request<Incoming>| {
            let own = own.clone();
            async move {
                let key = request.headers()["sec-websocket-key"].as_bytes().to_vec();
                let upgrade = hyper::upgrade::on(&mut request);
                own.spawn("echo", async move {
                    let stream = TokioIo::new(upgrade.await.unwrap());
                    let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
                    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
                    while let Some(Ok(message)) = socket.next().await {
                        let _ = socket.send(message).await;
                    }
                });
                let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(&key);
                let builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
                let builder = builder.header("connection", "Upgrade").header("upgrade", "websocket");
                builder.header("sec-websocket-accept", accept).body(Empty::new().boxed()).unwrap()
            }
        })
        .await;
    world.host("ws.example.com", "", &[pod]);
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://ws.example.com/chat", stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    socket.close(None).await.unwrap();
    drop(socket);
    world.end().await;
}

/// As gRPC does it: HTTP/2 on both sides, a status in the trailers.
#[tokio::test]
async fn trailers_come_through_over_http2() {
    let world = World::new().await;
    let pod = world
        .serve(|request: Request<Incoming>| async move {
            assert_eq!((request.version(), request.headers()["te"].to_str().unwrap()), (Version::HTTP_2, "trailers"));
            assert_eq!(request.uri().authority().unwrap(), "rpc.example.com");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            let frames = [Frame::data(body), Frame::trailers(trailers)].map(Ok);
            Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
        })
        .await;
    world.host("rpc.example.com", "grpc", &[pod]);
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    world.tasks.spawn("client", async move { drop(driver.await) });
    let request = Request::post("http://rpc.example.com/pkg.Service/Call")
        .header("te", "trailers")
        .body(Full::<Bytes>::from("message"))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
    drop(sender);
    world.end().await;
}

#[tokio::test]
async fn tls_shows_the_certificate_of_the_host_and_speaks_http2() {
    let world = World::new().await;
    world.service("web", "", &[world.pod().await]);
    let backend = json!({"service": {"name": "web", "port": {"name": "web"}}});
    let rule = |host: &str| json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
    world.ingress(
        "web",
        &json!({"tls": [{"hosts": ["a.example.com", "*.b.example.com"], "secretName": "cert"}],
        "rules": [rule("a.example.com"), rule("*.b.example.com"), rule("c.example.com")]}),
    );
    let cert = secret("cert", "a.example.com");
    let certified = Arc::new(certificates::read(&cert).unwrap());
    world.secrets.write().unwrap().insert(cert.key().clone(), certified.clone());
    // Plain requests for a host with a certificate are sent there; others are served.
    let request = Request::get("/x?y=1").header("host", "a.example.com").body(Full::default()).unwrap();
    let response = world.connect().await.send_request(request).await.unwrap();
    let expected = format!("https://a.example.com:{}/x?y=1", world.https.port());
    assert_eq!(
        (response.status(), response.headers()["location"].to_str().unwrap()),
        (StatusCode::PERMANENT_REDIRECT, &*expected)
    );
    assert_eq!(world.get("c.example.com", "/").await.0, StatusCode::OK);
    for (host, is_named) in [("a.example.com", true), ("x.b.example.com", true), ("c.example.com", false)] {
        let (shown, told) = over_tls(&world, host).await;
        assert_eq!(shown == certified.cert[0].as_ref(), is_named, "{host}");
        assert_eq!((header(&told, "x-forwarded-proto"), header(&told, "host")), (vec!["https"], vec![host]));
    }
    world.end().await;
}

/// The certificate that is shown for a host, and what the pod was asked over HTTP/2.
async fn over_tls(world: &World, host: &str) -> (Vec<u8>, Value) {
    let mut config = (*super::upstream::unverified()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(world.https).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    world.tasks.spawn("client", async move { drop(driver.await) });
    let request =
        Request::builder().method(Method::GET).uri(format!("https://{host}/")).body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (shown, serde_json::from_slice(&body).unwrap())
}
