//! The TLS listener on the loopback address: HTTP/1.1 and HTTP/2, client certificates, and what strangers get.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::Cluster;

async fn get(
    cluster: &Cluster,
    address: std::net::SocketAddr,
    protocol: &[u8],
    path: &str,
    certificate: bool,
) -> (u16, String) {
    let mut config = if certificate { (*cluster.pki.client).clone() } else { (*cluster.pki.stranger).clone() };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap());
    let request = http::Request::get(format!("https://{address}{path}")).header("host", address.to_string());
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let tasks = base::Tasks::new("test client");
    let response = if protocol == b"h2" {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tasks.spawn("connection", async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tasks.spawn("connection", async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    };
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn both_protocols_are_served_to_those_who_have_a_certificate() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = base::Tasks::new("test");
    tasks.spawn("listener", cluster.server.clone().serve(listener, cluster.stop.clone()));
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let (status, body) = get(&cluster, address, protocol, "/api/v1/namespaces/default", true).await;
        assert_eq!((status, body.contains("\"name\":\"default\"")), (200, true), "{body}");
        let (status, body) = get(&cluster, address, protocol, "/api/v1/namespaces/default", false).await;
        assert_eq!((status, body.contains("Unauthorized")), (401, true), "{body}");
        assert_eq!(get(&cluster, address, protocol, "/readyz", false).await, (200, "ok".to_owned()));
    }
    cluster.stop.stop();
    tokio::time::timeout(std::time::Duration::from_secs(20), tasks.join()).await.expect("the listener ends");
}
