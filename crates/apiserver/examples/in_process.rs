//! How fast the request path is by itself: reads, lists, writes and watches through the in-process transport, over a store
//! in memory. Prints one line for each. With a file's name, the audit log is written there meanwhile. Network, TLS and disk are left out; `bench/` measures those.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::audit::{AuditConfig, Policy};
use apiserver::authentication::UserInfo;
use apiserver::{Config, EncryptionKeys, Limits, Server, Version};
use base::{Random, Stop, SystemClock, Tasks};
use bytes::Bytes;
use control::{Body, Transport};
use futures::StreamExt;
use http::Request;

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-public/configmaps";
const OBJECTS: usize = 3000;
const WATCHERS: usize = 200;
const EVENTS: usize = 500;

#[expect(clippy::print_stdout, reason = "printing is what it is for")]
fn say(what: &str, count: usize, took: Duration) {
    let each = took.as_secs_f64() * 1e6 / count as f64;
    println!("{what}: {:.0}/s, {each:.1} us each", count as f64 / took.as_secs_f64());
}

fn config() -> Config {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let tls =
        tls.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).expect("a certificate");
    let client =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    Config {
        store: Arc::new(store::memory::MemoryStore::default()),
        clock: Arc::new(SystemClock),
        random: Random::from_os(),
        tls: Arc::new(tls),
        ca_pem: certificate.pem().into(),
        service_account_key_pem: key.serialize_pem().into(),
        issuer: "https://localhost".to_owned(),
        service_cidr: "10.43.0.0/16".parse().expect("a network"),
        service_cidr_second: None,
        node_port_range: (30_000, 32_767),
        advertise: "192.0.2.1:6443".parse().expect("an address"),
        kubelet_client: Arc::new(client.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()),
        version: Version {
            git_version: "v1.36.2".to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
            platform: String::new(),
        },
        static_tokens: Default::default(),
        audit: std::env::args().nth(1).map(|path| AuditConfig { policy: Policy::standard(), path: path.into() }),
        encryption: Arc::new(EncryptionKeys::ephemeral()),
        limits: Limits::default(),
        metrics: Vec::new(),
        components: Vec::new(),
    }
}

async fn call(transport: &Arc<dyn Transport>, method: &str, uri: &str, body: String) -> Bytes {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request =
        Request::builder().method(method).uri(uri).header("content-type", kind).body(body.into()).expect("a request");
    let response = transport.send(request).await.expect("an answer");
    assert!(response.status().is_success(), "{method} {uri}: {}", response.status());
    match response.into_body() {
        Body::Full(bytes) => bytes,
        Body::Stream(stream) => stream.map(|piece| piece.expect("a piece")).collect::<Vec<_>>().await.concat().into(),
    }
}

#[tokio::main]
async fn main() {
    let started = Instant::now();
    let server = Server::start(config(), Tasks::new("apiserver"), Stop::new()).await.expect("a start");
    say("start", 1, started.elapsed());
    let transport = server.transport(UserInfo::new("admin", &["system:masters"]));
    let payload = "x".repeat(1000);
    let timed = Instant::now();
    futures::stream::iter(0..OBJECTS)
        .for_each_concurrent(32, |at| {
            let body = format!(r#"{{"metadata":{{"name":"c{at}"}},"data":{{"k":"{payload}"}}}}"#);
            let transport = &transport;
            async move {
                drop(call(transport, "POST", CONFIG_MAPS, body).await);
            }
        })
        .await;
    say("create", OBJECTS, timed.elapsed());
    let timed = Instant::now();
    for at in 0..OBJECTS * 10 {
        call(&transport, "GET", &format!("{CONFIG_MAPS}/c{}", at % OBJECTS), String::new()).await;
    }
    say("get, one at a time", OBJECTS * 10, timed.elapsed());
    let timed = Instant::now();
    futures::stream::iter(0..OBJECTS)
        .for_each_concurrent(32, |at| {
            let transport = &transport;
            let (uri, body) = (format!("{CONFIG_MAPS}/c{at}"), format!(r#"{{"data":{{"v":"{at}"}}}}"#));
            async move {
                drop(call(transport, "PATCH", &uri, body).await);
            }
        })
        .await;
    say("patch", OBJECTS, timed.elapsed());
    let timed = Instant::now();
    for _ in 0..20 {
        call(&transport, "GET", CONFIG_MAPS, String::new()).await;
    }
    say("list of 3,000", 20, timed.elapsed());
    watches(&transport).await;
}

async fn watches(transport: &Arc<dyn Transport>) {
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        let uri = format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
        let response =
            transport.send(Request::get(uri).body(Bytes::new()).expect("a request")).await.expect("an answer");
        let Body::Stream(stream) = response.into_body() else { continue };
        watches.push(stream);
    }
    let timed = Instant::now();
    let readers = futures::future::join_all(watches.into_iter().map(|stream| stream.take(EVENTS).count()));
    let writes = async {
        for at in 0..EVENTS {
            call(transport, "PATCH", &format!("{CONFIG_MAPS}/c0"), format!(r#"{{"data":{{"w":"{at}"}}}}"#)).await;
        }
    };
    let (counts, ()) = tokio::join!(readers, writes);
    say("watch deliveries", counts.iter().sum(), timed.elapsed());
}
