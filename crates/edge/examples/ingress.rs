//! The ingress controller alone, in front of one endpoint, with an API in memory: for a load generator.
//!
//! `cargo run --release -p edge --example ingress LISTEN ENDPOINT [THREADS]`, as in `127.0.0.1:8080 127.0.0.1:9000 2`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement for people")]

use std::net::SocketAddr;
use std::sync::Arc;

use base::{Random, Stop, Tasks};
use bytes::Bytes;
use control::harness::Api;
use control::{Body, Client, Informers, Transport, TransportError};
use edge::ingress::{CONTROLLER, Config, run};
use futures::future::BoxFuture;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;

/// No certificate: only plain requests are measured.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The API in memory knows no selector of a secret's type; there is no secret.
struct WithoutSelectors(Arc<dyn Transport>);

impl Transport for WithoutSelectors {
    fn send(
        &self,
        mut request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let plain = request.uri().to_string().replace("fieldSelector", "unused");
        *request.uri_mut() = plain.parse().expect("it stays an address");
        self.0.send(request)
    }
}

fn main() {
    let address = |at: usize| -> SocketAddr {
        let text = std::env::args().nth(at).expect("two addresses: where to listen, and the endpoint");
        text.parse().expect("an address and a port")
    };
    let (listen, endpoint) = (address(1), address(2));
    let threads = std::env::args().nth(3).map_or(2, |text| text.parse().expect("a number of threads"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let api = Api::new(Random::from_seed(1));
        for object in [
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "timonier"},
                "spec": {"controller": CONTROLLER}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
                "spec": {"ports": [{"port": 80}]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "web", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
                "endpoints": [{"addresses": [endpoint.ip()]}], "ports": [{"name": "", "port": endpoint.port()}]}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web", "namespace": "ns"},
                "spec": {"ingressClassName": "timonier", "rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}),
        ] {
            api.put(object);
        }
        let (tasks, stop) = (Tasks::new("measure"), Stop::new());
        let client = Client::new(Arc::new(WithoutSelectors(api.transport())), "ingress");
        let config = Config {
            informers: Informers::new(client.clone(), tasks.clone(), stop.clone()),
            client,
            http: Some(tokio::net::TcpListener::bind(listen).await.expect("the address is free")),
            https: None,
            default_certificate: Arc::new(NoCertificate),
            addresses: Vec::new(),
            random: Random::from_os(),
        };
        println!("http://{listen}/ leads to {endpoint}");
        run(config, stop).await.expect("it runs");
    });
}
