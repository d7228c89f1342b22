//! The API server from outside: requests through its in-process transport over a store in memory.

mod access;
mod admission;
mod apply;
mod audit;
mod behaviour;
mod certificates;
mod custom;
mod encryption;
mod eviction;
mod forwarding;
mod hostile;
mod kinds;
mod listener;
mod operations;
mod policies;
mod shared;
mod stale;
mod watches;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use base::{FakeClock, Random, Stop, Tasks};
use bytes::Bytes;
use control::{Body, Transport};
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use store::memory::MemoryStore;

use crate::audit::AuditConfig;
use crate::authentication::UserInfo;
use crate::registry::core::component_status::Component;
use crate::{Config, Limits, Server, Version};

/// A cluster's API server, as its administrator sees it.
pub(crate) struct Cluster {
    pub(crate) server: Arc<Server>,
    pub(crate) stop: Stop,
    pub(crate) pki: Pki,
    clock: Arc<FakeClock>,
    transport: Arc<dyn Transport>,
}

/// A CA with the server's and a client's certificate.
pub(crate) struct Pki {
    pub(crate) client: Arc<rustls::ClientConfig>,
    /// Trusts the server and has no certificate.
    pub(crate) stranger: Arc<rustls::ClientConfig>,
    pub(crate) server: Arc<rustls::ServerConfig>,
    ca_pem: String,
    key_pem: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let key = || KeyPair::generate().unwrap();
        let ca_key = key();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let signed = |name: &str, group: &str| {
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.distinguished_name.push(DnType::OrganizationName, group);
            let own = key();
            let certificate = params.signed_by(&own, &issuer).unwrap();
            (vec![certificate.der().clone()], rustls_pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap())
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca_certificate.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (chain, server_key) = signed("apiserver", "none");
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let server = server.with_client_cert_verifier(verifier).with_single_cert(chain, server_key).unwrap();
        let (chain, client_key) = signed("admin", "system:masters");
        let client = || {
            let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
            builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots.clone())
        };
        let stranger = client().with_no_client_auth();
        let client = client().with_client_auth_cert(chain, client_key).unwrap();
        Self {
            client: Arc::new(client),
            stranger: Arc::new(stranger),
            server: Arc::new(server),
            ca_pem: ca_certificate.pem(),
            key_pem: key().serialize_pem(),
        }
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::over(Arc::new(MemoryStore::default())).await
    }

    pub(crate) async fn audited(audit: AuditConfig) -> Self {
        Self::with(Arc::new(MemoryStore::default()), Some(audit), Limits::default()).await
    }

    pub(crate) async fn over(store: Arc<dyn store::Store>) -> Self {
        Self::with(store, None, Limits::default()).await
    }

    pub(crate) async fn limited(store: Arc<dyn store::Store>, limits: Limits) -> Self {
        Self::with(store, None, limits).await
    }

    /// A cluster whose services may have addresses of both families.
    pub(crate) async fn of_two_families() -> Self {
        let second = Some("fd43::/112".parse().unwrap());
        Self::with_ranges(Arc::new(MemoryStore::default()), None, Limits::default(), second).await
    }

    async fn with(store: Arc<dyn store::Store>, audit: Option<AuditConfig>, limits: Limits) -> Self {
        Self::with_ranges(store, audit, limits, None).await
    }

    async fn with_ranges(
        store: Arc<dyn store::Store>,
        audit: Option<AuditConfig>,
        limits: Limits,
        service_cidr_second: Option<ipnet::IpNet>,
    ) -> Self {
        let (pki, stop, clock) = (Pki::new(), Stop::new(), Arc::new(FakeClock::default()));
        let config = Config {
            store,
            clock: clock.clone(),
            random: Random::from_seed(7),
            tls: pki.server.clone(),
            ca_pem: pki.ca_pem.clone().into(),
            service_account_key_pem: pki.key_pem.clone().into(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            service_cidr_second,
            node_port_range: (30_000, 32_767),
            advertise: "192.0.2.1:6443".parse().unwrap(),
            kubelet_client: pki.client.clone(),
            version: Version {
                git_version: "v1.36.2+test".to_owned(),
                git_commit: String::new(),
                build_date: String::new(),
                platform: "linux/amd64".to_owned(),
            },
            static_tokens: Default::default(),
            audit,
            encryption: Arc::new(crate::EncryptionKeys::ephemeral()),
            limits,
            metrics: Vec::new(),
            components: vec![Component { name: "scheduler", running: Arc::default() }],
        };
        let server = Server::start(config, Tasks::new("apiserver"), stop.clone()).await.unwrap();
        let transport = server.transport(UserInfo::new("admin", &["system:masters"]));
        let cluster = Self { server, stop, pki, clock, transport };
        // A controller gives every namespace the account that its pods run as.
        for namespace in ["default", "kube-public"] {
            let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            let (status, answer) =
                cluster.call(Method::POST, &accounts, &json!({"metadata": {"name": "default"}})).await;
            assert!(matches!(status, StatusCode::CREATED | StatusCode::CONFLICT), "{answer}");
        }
        cluster
    }

    /// Has the store give up what was up to a revision.
    pub(crate) async fn forget(&self, revision: u64) {
        self.server.config.store.compact(store::Revision(revision + 1)).await.unwrap();
    }

    /// Lets time pass, on the wall and for timers, which the test has paused.
    pub(crate) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::advance(time).await;
    }

    pub(crate) async fn send(&self, request: Request<Bytes>) -> http::Response<Body> {
        self.transport.send(request).await.unwrap()
    }

    /// Calls, and gives status and body.
    pub(crate) async fn call(&self, method: Method, uri: &str, body: &Value) -> (StatusCode, Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        self.call_as(method, uri, kind, body).await
    }

    pub(crate) async fn call_as(&self, method: Method, uri: &str, kind: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(uri).header("content-type", kind).body(body).unwrap();
        let response = self.send(request).await;
        let status = response.status();
        (status, serde_json::from_slice(&read(response.into_body()).await).unwrap_or_default())
    }

    pub(crate) async fn get(&self, uri: &str) -> Value {
        self.call(Method::GET, uri, &Value::Null).await.1
    }

    pub(crate) async fn post(&self, uri: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, uri, &body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer
    }

    /// A watch's events, as they come.
    pub(crate) async fn watch(&self, uri: &str) -> Events {
        let request = Request::get(uri).body(Bytes::new()).unwrap();
        match self.send(request).await.into_body() {
            Body::Stream(stream) => Events(stream),
            Body::Full(body) => panic!("no watch but {body:?}"),
        }
    }
}

pub(crate) struct Events(futures::stream::BoxStream<'static, Result<Bytes, control::TransportError>>);

impl Events {
    /// The next event; a watch that says nothing for 10 seconds has failed.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let piece = tokio::time::timeout(Duration::from_secs(10), self.0.next()).await.expect("an event in time")?;
        Some(serde_json::from_slice(&piece.unwrap()).unwrap())
    }

    /// The next event as `TYPE name`.
    pub(crate) async fn short(&mut self) -> String {
        let Some(event) = self.next().await else { return "end".to_owned() };
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim_end().to_owned()
    }

    pub(crate) async fn raw(&mut self) -> Bytes {
        self.0.next().await.unwrap().unwrap()
    }
}

pub(crate) async fn read(body: Body) -> Bytes {
    match body {
        Body::Full(bytes) => bytes,
        Body::Stream(stream) => stream.map(|piece| piece.unwrap()).collect::<Vec<_>>().await.concat().into(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
pub(crate) fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
