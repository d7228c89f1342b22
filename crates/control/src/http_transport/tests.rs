//! The transport against a real TLS server on the loopback interface.

use std::convert::Infallible;
use std::sync::Arc;

use api::{Key, resources};
use base::{Stop, Tasks};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Client as ApiClient, WatchScope};

type Pieces = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// Answers a watch in pieces that do not keep to the frames, everything else with who asked, and how.
async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Pieces>, Infallible> {
    let bearer = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = if request.uri().query().is_some_and(|query| query.contains("watch=1")) {
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"7\"}}}\n".to_owned()
    } else {
        let labels = format!("{{\"bearer\":\"{}\",\"version\":\"{:?}\"}}", bearer.unwrap_or(""), request.version());
        format!("{{\"metadata\":{{\"name\":\"a\",\"labels\":{labels}}}}}")
    };
    let (first, second) = text.split_at(text.len() / 2);
    let pieces = [first, second].map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes()))));
    Ok(http::Response::new(StreamBody::new(futures::stream::iter(pieces).boxed())))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, tasks: Tasks) {
    while let Ok((connection, _)) = listener.accept().await {
        let tls = tls.clone();
        tasks.spawn("connection", async move {
            let connection = TokioIo::new(tls.accept(connection).await.expect("a handshake"));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // How a connection ends is the client's business.
            let _ = server.serve_connection(connection, service_fn(answer)).await;
        });
    }
}

/// A server that speaks the given protocols, and a client that trusts it.
async fn client_of_server(protocols: &[&[u8]], tasks: &Tasks, stop: &Stop) -> ApiClient {
    ApiClient::new(Arc::new(transport_to_server(protocols, tasks, stop, &[]).await), "test")
}

/// The same; the client is told of other servers first.
async fn transport_to_server(protocols: &[&[u8]], tasks: &Tasks, stop: &Stop, first: &[String]) -> HttpTransport {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("protocol versions").with_no_client_auth();
    let mut server = builder.with_single_cert(vec![certificate.clone()], key).expect("a server configuration");
    server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (signal, own) = (stop.clone(), tasks.clone());
    tasks.spawn("server", async move {
        let _ = signal.or_stopped(serve(listener, TlsAcceptor::from(Arc::new(server)), own)).await;
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("protocol versions");
    let tls = builder.with_root_certificates(roots).with_no_client_auth();
    let servers = [first, &[format!("https://{address}/")]].concat();
    HttpTransport::to_any(&servers, tls, Some("secret")).expect("a transport")
}

#[tokio::test]
async fn a_server_that_is_away_is_passed_over_and_watches_do_not_keep_others_waiting() {
    let (tasks, stop) = (Tasks::new("test"), Stop::new());
    // Nobody listens there: the port was free a moment ago.
    let away = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let transport = transport_to_server(&[b"h2"], &tasks, &stop, &[format!("https://{away}")]).await;
    let client = ApiClient::new(Arc::new(transport.clone()), "test");
    let first = client.get(resources::PODS, &Key::new("n", "a")).await;
    assert!(matches!(first, Err(crate::ClientError::Transport(_))), "the caller may try again");
    client.get(resources::PODS, &Key::new("n", "a")).await.expect("the second server answers");

    let start = crate::watch::Start::with_initial_events(10);
    let mut watches = Vec::new();
    for _ in 0..=STREAMS_MAX {
        watches.push(client.watch(resources::PODS, &WatchScope::default(), start.clone()).await.expect("a watch"));
    }
    assert_eq!(transport.0.lanes().len(), 2, "one connection carries only so many");
    drop(watches);
    client.get(resources::PODS, &Key::new("n", "a")).await.expect("an answer");
    assert_eq!(transport.0.lanes()[0].load(), 1, "what has been read is counted no more");
    transport.reconnect();
    client.get(resources::PODS, &Key::new("n", "a")).await.expect("an answer");
    assert_eq!(transport.0.lanes().len(), 1);
    stop.stop();
}

#[tokio::test]
async fn speaks_the_best_protocol_that_the_server_has() {
    for (protocols, version) in [(&[b"h2".as_slice(), b"http/1.1"][..], "HTTP/2.0"), (&[b"http/1.1"], "HTTP/1.1")] {
        let (tasks, stop) = (Tasks::new("test"), Stop::new());
        let client = client_of_server(protocols, &tasks, &stop).await;
        let object = client.get(resources::PODS, &Key::new("n", "a")).await.expect("an answer");
        assert_eq!((object.label("version"), object.label("bearer")), (Some(version), Some("Bearer secret")));
        let start = crate::watch::Start::with_initial_events(10);
        let mut watch = client.watch(resources::PODS, &WatchScope::default(), start).await.expect("a watch");
        let event = watch.next().await.expect("an event").expect("a frame");
        assert!(matches!(event, crate::watch::Event::Applied(object) if object.revision() == 7));
        assert!(watch.next().await.is_none());
        stop.stop();
    }
}

#[test]
fn only_https_servers_are_accepted() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("protocol versions");
    let tls = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    for url in ["http://127.0.0.1:1", "127.0.0.1:6443", "https://", ""] {
        let made = HttpTransport::new(url, tls.clone(), None);
        assert!(matches!(made, Err(HttpTransportError::Url { .. })), "{url}");
    }
}
