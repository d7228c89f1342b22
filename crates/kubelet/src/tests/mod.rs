//! The kubelet whole: against an API in memory, a runtime in memory, and a client of its endpoints over real TLS.

mod access;
mod eviction;
mod fake_runtime;
mod images;
mod model;
mod resize;
mod sessions;
mod static_pods;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Typed;
use api::typed::coordination::v1::Lease;
use api::typed::core::v1::{Node, Pod};
use base::{Random, Stop, Tasks};
use bytes::Bytes;
use control::harness::Api;
use control::{Body, Client, Informers, Recorder, Transport, TransportError};
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::{Config, ServerConfig};
use fake_runtime::FakeRuntime;

/// What the in-memory API lacks: the selector of a node's pods (here all pods are its own), tokens, and pods that stay until
/// their kubelet removes them.
struct Front(Api, Arc<dyn Transport>);

/// Keeps a pod that is being deleted.
const HOLD: &str = "test/until-the-kubelet-is-done";

impl Transport for Front {
    fn send(
        &self,
        mut request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        if request.uri().path().ends_with("/token") {
            let answer = json!({"status": {"token": "TOKEN", "expirationTimestamp": "2099-01-01T00:00:00Z"}});
            return async move { Ok(http::Response::new(Body::Full(answer.to_string().into()))) }.boxed();
        }
        if request.method() == http::Method::DELETE {
            let options: Value = serde_json::from_slice(request.body()).unwrap();
            assert_eq!(options["gracePeriodSeconds"], 0);
            let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
            // A mirror pod may be deleted by others at the same time.
            if let Some(mut pod) = self.0.get(Pod::resource(), "default", &name) {
                let mirror = pod["metadata"]["annotations"].get(crate::identity::CONFIG_MIRROR).is_some();
                assert_eq!(options["preconditions"]["uid"], pod["metadata"]["uid"]);
                assert!(mirror || ended(&pod), "the last status is written before the pod goes");
                pod["metadata"]["finalizers"] = json!([]);
                self.0.put(pod);
            }
        }
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let kept: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("fieldSelector=spec.nodeName")).collect();
        *request.uri_mut() = format!("{path}?{}", kept.join("&")).parse().unwrap();
        self.1.send(request)
    }
}

/// Whether the API was told that a pod has ended.
fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

/// A cluster of one node, whose kubelet can be started anew.
struct Cluster {
    api: Api,
    runtime: FakeRuntime,
    dir: tempfile::TempDir,
    identities: Identities,
    settings: crate::Settings,
}

impl Drop for Cluster {
    /// A test that failed leaves mounts behind, which would keep its directory.
    fn drop(&mut self) {
        if let Err(error) = crate::volumes::mounts::remove_tree(&self.dir.path().join("root")) {
            eprintln!("cannot clean up: {error}");
        }
    }
}

struct Kubelet {
    stop: Stop,
    tasks: Tasks,
    address: SocketAddr,
}

impl Kubelet {
    async fn end(self) {
        self.stop.stop();
        self.tasks.join().await;
    }
}

impl Cluster {
    fn new() -> Self {
        let api = Api::new(Random::from_seed(7));
        Self {
            runtime: FakeRuntime::new(api.clock()),
            api,
            dir: tempfile::tempdir().unwrap(),
            identities: Identities::new(),
            settings: crate::Settings::default(),
        }
    }

    async fn start(&self) -> Kubelet {
        self.start_with(Arc::new(Front(self.api.clone(), self.api.transport()))).await
    }

    async fn start_with(&self, transport: Arc<dyn Transport>) -> Kubelet {
        let (tasks, stop) = (Tasks::new("test"), Stop::new());
        let client = Client::new(transport, "test");
        let clock: base::SharedClock = Arc::new(self.api.clock());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            node_name: "node-1".into(),
            node_ips: vec!["192.0.2.1".parse().unwrap()],
            informers: Informers::new(client.clone(), tasks.clone(), stop.clone()),
            recorder: Recorder::new(client.clone(), &tasks, stop.clone(), clock.clone(), "kubelet", "node-1"),
            client,
            runtime: Arc::new(self.runtime.clone()),
            clock,
            random: Random::from_os(),
            root_dir: self.dir.path().join("root"),
            log_dir: self.dir.path().join("logs"),
            volumes_dir: self.dir.path().join("volumes"),
            cluster_dns: vec!["10.43.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
            server: ServerConfig {
                listener,
                tls: self.identities.server(),
                trusted_names: vec!["kube-apiserver".into()],
                metrics: Vec::new(),
            },
            version: "v1.36.0".into(),
            port: 0,
            settings: self.settings.clone(),
            reported: tokio::sync::watch::Sender::new(false),
        };
        let run = crate::run(config, stop.clone());
        tasks.spawn("kubelet", async move { run.await.unwrap() });
        Kubelet { stop, tasks, address }
    }

    /// Creates a pod with the rest of its spec given.
    fn pod(&self, name: &str, spec: Value) -> String {
        let mut spec = spec;
        spec["nodeName"] = "node-1".into();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        self.api.put(pod)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.api.get(Pod::resource(), "default", name)
    }

    /// Asks for the pod's deletion as the API server does it: it stays until the kubelet says that nothing is left.
    fn delete(&self, name: &str) {
        let mut pod = self.get(name).unwrap();
        pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:30Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 1.into();
        pod["metadata"]["finalizers"] = json!([HOLD]);
        self.api.put(pod);
    }

    async fn phase(&self, name: &str, phase: &str) {
        until(&format!("{name} is {phase}"), || self.get(name).is_some_and(|pod| pod["status"]["phase"] == phase))
            .await;
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.dir.path().join("root/pods").join(uid)
    }
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let list = object["status"]["conditions"].as_array();
    list.and_then(|list| list.iter().find(|condition| condition["type"] == name))
        .map_or(&Value::Null, |condition| &condition["status"])
}

#[tokio::test]
async fn the_node_registers_ready_and_renews_its_lease() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let node = || cluster.api.get(Node::resource(), "", "node-1");
    until("the node is ready", || node().is_some_and(|node| *condition(&node, "Ready") == "True")).await;
    until("the lease is there", || cluster.api.get(Lease::resource(), "kube-node-lease", "node-1").is_some()).await;
    let node = node().unwrap();
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], kubelet.address.port());
    assert_eq!(node["status"]["nodeInfo"]["containerRuntimeVersion"], "fake://1");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node-1");
    kubelet.end().await;
}

/// A machine was cut off for a minute, and the node controller called its state unknown. The kubelet took the status for what it
/// had written last, and wrote it again when five minutes were over: so long the node got no pods.
#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_else_changed_is_put_right_soon() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let ready = |api: &Api| {
        let node = api.get(Node::resource(), "", "node-1").unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    until("the node is ready", || ready(&cluster.api)).await;
    let unknown = |node: &mut Value| {
        node["status"]["conditions"].as_array_mut().into_iter().flatten().for_each(|condition| {
            condition["status"] = "Unknown".into();
        });
        true
    };
    cluster.api.change_each(Node::resource(), unknown);
    assert!(!ready(&cluster.api));
    let before = tokio::time::Instant::now();
    until("the node is ready again", || ready(&cluster.api)).await;
    assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    kubelet.end().await;
}

#[tokio::test]
async fn a_pod_runs_follows_its_config_and_leaves_nothing_behind() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let uid = cluster.pod(
        "web",
        json!({"containers": [{"name": "web", "image": "busybox:1", "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "readinessProbe": {"exec": {"command": ["true"]}},
                "volumeMounts": [{"name": "settings", "mountPath": "/settings"}, {"name": "token", "mountPath": "/token"}]}],
            "volumes": [{"name": "settings", "configMap": {"name": "settings"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}),
    );
    let waits = || {
        cluster.api.all().iter().any(|event| {
            event["reason"] == "FailedMount"
                && event["message"].as_str().unwrap().contains("configmap \"settings\" not found")
        })
    };
    until("the missing config map is told of", waits).await;
    assert_eq!(cluster.runtime.counts(), (0, 0));
    let settings = |color: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "default"}, "data": {"color": color}});
    cluster.api.put(settings("blue"));
    until("the pod is ready", || *condition(&cluster.get("web").unwrap(), "Ready") == "True").await;
    let pod = cluster.get("web").unwrap();
    assert_eq!((&pod["status"]["phase"], &pod["status"]["podIP"]), (&json!("Running"), &json!("127.0.0.1")));
    assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], "fake://container-002");
    let config = &cluster.runtime.configs()[0];
    assert!(config.envs.iter().any(|variable| variable.key == "IP" && variable.value == b"127.0.0.1"));
    let mounted =
        |path: &str| PathBuf::from(&config.mounts.iter().find(|mount| mount.container_path == path).unwrap().host_path);
    assert_eq!(std::fs::read_to_string(mounted("/token").join("token")).unwrap(), "TOKEN");
    let color = mounted("/settings").join("color");
    assert_eq!(std::fs::read_to_string(&color).unwrap(), "blue");
    cluster.api.put(settings("red"));
    until("the file follows the config map", || std::fs::read_to_string(&color).is_ok_and(|color| color == "red"))
        .await;
    cluster.delete("web");
    until("the pod is gone", || cluster.get("web").is_none()).await;
    assert_eq!(cluster.runtime.counts(), (0, 0));
    assert!(!cluster.pod_dir(&uid).exists());
    assert_eq!(std::fs::read_dir(cluster.dir.path().join("logs")).unwrap().count(), 0);
    kubelet.end().await;
}

#[tokio::test]
async fn jobs_end_crash_loops_wait_and_missing_images_are_named() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let container = |command: &str, image: &str| json!([{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["exit", command]}]);
    cluster.pod("job", json!({"restartPolicy": "Never", "containers": container("0", "busybox:1")}));
    cluster.pod("failed", json!({"restartPolicy": "Never", "containers": container("4", "busybox:1")}));
    cluster.pod("crash", json!({"containers": container("1", "busybox:1")}));
    cluster.pod("image", json!({"containers": container("0", "missing:1")}));
    cluster.phase("job", "Succeeded").await;
    cluster.phase("failed", "Failed").await;
    let state = |name: &str| cluster.get(name).unwrap()["status"]["containerStatuses"][0].clone();
    assert_eq!(state("failed")["state"]["terminated"]["exitCode"], 4);
    until("the crash loop backs off", || state("crash")["state"]["waiting"]["reason"] == "CrashLoopBackOff").await;
    assert_eq!(
        (&state("crash")["restartCount"], &state("crash")["lastState"]["terminated"]["exitCode"]),
        (&json!(1), &json!(1))
    );
    until("the pull backs off", || state("image")["state"]["waiting"]["reason"] == "ImagePullBackOff").await;
    kubelet.end().await;
}

/// A pod that names its node itself passes the scheduler by. It ran beside the one that has its port already, and its owner,
/// which would have made it anew until the port is free, saw nothing.
#[tokio::test]
async fn a_pod_whose_port_of_the_node_is_taken_is_rejected() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let spec = |port: Value| json!({"containers": [{"name": "c", "image": "busybox:1", "ports": [port]}]});
    cluster.pod("first", spec(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"})));
    cluster.phase("first", "Running").await;
    cluster.pod("udp", spec(json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"})));
    cluster.pod("elsewhere", spec(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"})));
    cluster.pod("second", spec(json!({"containerPort": 81, "hostPort": 8080})));
    cluster.phase("udp", "Running").await;
    cluster.phase("elsewhere", "Running").await;
    cluster.phase("second", "Failed").await;
    let status = cluster.get("second").unwrap()["status"].clone();
    let message =
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!((&status["reason"], &status["message"]), (&json!("NodePorts"), &json!(message)));
    cluster.delete("first");
    until("the first is gone", || cluster.get("first").is_none()).await;
    cluster.delete("elsewhere");
    until("the other is gone", || cluster.get("elsewhere").is_none()).await;
    cluster.pod("third", spec(json!({"containerPort": 81, "hostPort": 8080})));
    cluster.phase("third", "Running").await;
    kubelet.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_writes_nothing_but_its_lease() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod("web", json!({"containers": [{"name": "web", "image": "busybox:1", "livenessProbe": {"exec": {"command": ["true"]}}}]}));
    cluster.phase("web", "Running").await;
    // Events of the start are still being written.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before = cluster.api.writes();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(cluster.api.writes() - before, 10);
    kubelet.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_restarts_after_10_20_and_40_seconds() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod("crash", json!({"containers": [{"name": "c", "image": "busybox:1", "command": ["exit", "1"]}]}));
    let mut restarted_at = Vec::new();
    for restarts in 1..=4 {
        let count = || cluster.get("crash").unwrap()["status"]["containerStatuses"][0]["restartCount"] == restarts;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !count() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        restarted_at.push(tokio::time::Instant::now());
    }
    let waits: Vec<_> = restarted_at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64().round()).collect();
    assert_eq!(waits, [10.0, 20.0, 40.0]);
    // Of all those runs only the last two are kept.
    until("old runs are removed", || cluster.runtime.counts() == (1, 2)).await;
    kubelet.end().await;
}

#[tokio::test]
async fn a_restarted_kubelet_adopts_what_runs_and_removes_what_is_gone() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let spec = || json!({"containers": [{"name": "c", "image": "busybox:1"}]});
    cluster.pod("stays", spec());
    let gone = cluster.pod("goes", spec());
    cluster.phase("stays", "Running").await;
    cluster.phase("goes", "Running").await;
    let before = cluster.get("stays").unwrap()["status"]["containerStatuses"][0]["containerID"].clone();
    kubelet.end().await;
    assert_eq!(cluster.runtime.running().len(), 2);
    cluster.api.delete(Pod::resource(), "default", "goes");
    let kubelet = cluster.start().await;
    until("the pod that is gone is removed", || cluster.runtime.counts() == (1, 1) && !cluster.pod_dir(&gone).exists())
        .await;
    // It was given half a minute, since nothing said otherwise any more: its volumes were held as long.
    assert_eq!(cluster.runtime.graces(), [1]);
    assert_eq!(cluster.get("stays").unwrap()["status"]["containerStatuses"][0]["containerID"], before);
    // What runs is still looked after.
    cluster.runtime.end(&cluster.runtime.running()[0], 1);
    until("it is restarted", || cluster.get("stays").unwrap()["status"]["containerStatuses"][0]["restartCount"] == 1)
        .await;
    kubelet.end().await;
}

#[tokio::test]
async fn a_claim_is_waited_for_and_its_volume_outlives_the_pod() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let node = || cluster.api.get(Node::resource(), "", "node-1");
    until("the node says where it keeps volumes", || {
        node().is_some_and(|node| node["metadata"]["annotations"]["timonier.io/volumes-directory"].is_string())
    })
    .await;
    let directory = node().unwrap()["metadata"]["annotations"]["timonier.io/volumes-directory"].clone();
    let path = PathBuf::from(directory.as_str().unwrap()).join("pvc-1");
    let uid = cluster.pod(
        "db",
        json!({"securityContext": {"fsGroup": 4242},
            "containers": [{"name": "db", "image": "busybox:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c", "readOnly": false}}]}),
    );
    let event = |text: &str| {
        let events = cluster.api.list(api::resources::EVENTS);
        events.iter().any(|event| event["message"].as_str().is_some_and(|message| message.contains(text)))
    };
    until("the missing claim is named", || event("failed to fetch PVC from API server")).await;
    let bound = cluster.api.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "default"}, "spec": {"volumeName": "pvc-1"}, "status": {"phase": "Bound"}}));
    cluster.api.put(json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "pvc-1", "annotations": {"pv.kubernetes.io/provisioned-by": "timonier.io/local"}},
        "spec": {"local": {"path": path}, "claimRef": {"name": "c", "namespace": "default", "uid": bound["metadata"]["uid"]}}}));
    cluster.phase("db", "Running").await;
    let mounts = cluster.runtime.configs().remove(0).mounts;
    let mount = mounts.iter().find(|mount| mount.container_path == "/data").unwrap();
    assert_eq!(mount.host_path, path.to_str().unwrap());
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&path).unwrap()), 4242);
    std::fs::write(path.join("file"), "kept").unwrap();

    // It is removed when the node's object says so, but not before the pod has let it go.
    let removal = || node().unwrap()["metadata"]["annotations"]["removal.timonier.io/pvc-1"].clone();
    cluster.api.change_each(Node::resource(), |node| {
        node["metadata"]["annotations"]["removal.timonier.io/pvc-1"] = "remove".into();
        true
    });
    cluster.delete("db");
    until("the pod is gone", || cluster.get("db").is_none() && !cluster.pod_dir(&uid).exists()).await;
    until("the volume is gone", || removal() == "removed").await;
    assert!(!path.exists());
    kubelet.end().await;
}

#[tokio::test]
async fn the_endpoints_serve_the_api_server_and_nobody_else() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod("web", json!({"containers": [{"name": "web", "image": "busybox:1"}]}));
    cluster.phase("web", "Running").await;
    let ask = async |client: &str, path: &str| {
        let mut stream = cluster.identities.connect(kubelet.address, client).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(ask("stranger", "/pods").await.starts_with("HTTP/1.1 403"));
    assert!(ask("kube-apiserver", "/healthz").await.ends_with("ok"));
    assert!(ask("kube-apiserver", "/pods").await.contains("\"name\":\"web\""));
    let log = ask("kube-apiserver", "/containerLogs/default/web/web?timestamps=true").await;
    assert!(log.contains("2030-01-01T00:00:00Z hello from container-002"), "{log}");
    let previous = ask("kube-apiserver", "/containerLogs/default/web/web?previous=true").await;
    assert!(previous.contains("previous terminated container \"web\" in pod \"web\" not found"), "{previous}");
    assert!(ask("kube-apiserver", "/stats/summary").await.contains("\"nodeName\":\"node-1\""));

    let stream = cluster.identities.connect(kubelet.address, "kube-apiserver").await;
    let request = http::Request::get("ws://node/exec/default/web/web?command=cat&input=1&output=1&error=1")
        .header("host", "node")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")
        .body(())
        .unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    socket.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    let mut channels: [String; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].push_str(std::str::from_utf8(&data[1..]).unwrap());
        }
    }
    assert_eq!((channels[1].as_str(), channels[2].as_str()), ("hello", "bye"));
    let result: Value = serde_json::from_str(&channels[3]).unwrap();
    assert_eq!(
        (&result["reason"], &result["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("3"))
    );
    kubelet.end().await;
}

/// A certificate authority for the test.
struct Identities {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: rustls::RootCertStore,
}

type Connected = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

impl Identities {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut root = rustls::RootCertStore::empty();
        root.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    fn issue(
        &self,
        name: &str,
    ) -> (Vec<rustls_pki_types::CertificateDer<'static>>, rustls_pki_types::PrivateKeyDer<'static>) {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn provider() -> Arc<rustls::crypto::CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let (chain, key) = self.issue("node");
        let roots = Arc::new(self.root.clone());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Self::provider());
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Self::provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        Arc::new(config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap())
    }

    async fn connect(&self, address: SocketAddr, name: &str) -> Connected {
        let (chain, key) = self.issue(name);
        self.connect_with(address, |config| config.with_client_auth_cert(chain, key).unwrap()).await
    }

    /// Without a certificate.
    async fn connect_unnamed(&self, address: SocketAddr) -> Connected {
        self.connect_with(address, |config| config.with_no_client_auth()).await
    }

    async fn connect_with(
        &self,
        address: SocketAddr,
        shown: impl FnOnce(
            rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
        ) -> rustls::ClientConfig,
    ) -> Connected {
        let config = rustls::ClientConfig::builder_with_provider(Self::provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = shown(config.with_root_certificates(self.root.clone()));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("node").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}
