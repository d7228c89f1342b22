//! The client library that programs in Rust use, `kube`: what it sends and expects is what most operators send and expect.
//!
//! One cluster, one program a part of the library. The machine is the end-to-end suite's.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails where it stands"
)]

mod operator;
mod resources;

#[path = "../e2e/machine.rs"]
#[allow(dead_code, reason = "the end-to-end suite needs more of it")]
mod machine;

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use workload::image;

use crate::machine::Machine;

/// How long anything may take before the test says that it hangs.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn programs_in_rust_do_their_work() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let archive = image::archive(machine.folder()).unwrap();
    machine.timonier(&format!("image import {}", archive.display()));
    let kubeconfig = machine.data().join("kubeconfig");
    machine.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = client(&kubeconfig).await;
            within("objects", resources::objects(client.clone())).await;
            Box::pin(within("pods", resources::pods(client.clone()))).await;
            Box::pin(within("scales_and_evicts", resources::scales_and_evicts(client.clone()))).await;
            within("custom_resources", operator::custom_resources(client.clone())).await;
            within("controls", operator::controls(client)).await;
        });
    });
}

/// The library's client with a TLS of ours beneath it.
async fn client(kubeconfig: &Path) -> Client {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let written = Kubeconfig::from_yaml(&text).unwrap();
    let config = kube::Config::from_custom_kubeconfig(written, &KubeConfigOptions::default()).await.unwrap();
    let raw: Value = serde_saphyr::from_str(&text).unwrap();
    let user = |field: &str| STANDARD.decode(raw["users"][0]["user"][field].as_str().unwrap()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for root in config.root_cert.iter().flatten() {
        roots.add(CertificateDer::from(root.clone())).unwrap();
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&user("client-certificate-data")).collect();
    let key = PrivateKeyDer::from_pem_slice(&user("client-key-data")).unwrap();
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots);
    let tls = tls.with_client_auth_cert(chain.unwrap(), key).unwrap();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let service: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    ClientBuilder::new(service, &config.default_namespace).with_layer(&config.base_uri_layer()).build()
}

/// Fails, and does not hang, where the server never says what is waited for.
async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not done before the deadline"))
}
