//! Every component of the node, each with an identity of its own: one function a component, one line in [`start`].

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use api::resources::{LEASES, NODES, SERVICES};
use api::{Key, Object};
use apiserver::authentication::UserInfo;
use base::Stop;
use control::{Client, ClientError, Informers, Recorder, WatchScope};
use controllers::serviceaccount_token::TokenSigner;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use network::{PodNetworkBuiltIn, PodNetworkConfig};
use serde_json::json;
use tokio::sync::oneshot;

use super::late_network::{Bring, LateNetwork, late_network};
use super::options::NODE_PREFIX;
use super::{Ground, KUBELET_CLIENT, storage_class};
use crate::pki::{self, Purpose};

/// Pods ask the cluster's DNS on this port.
const DNS_PORT: u16 = 53;

/// Where nodes' leases are.
const NODE_LEASES: &str = "kube-node-lease";

/// Starts all components. What is returned ends with the node's name when the node is ready.
pub(super) async fn start(ground: Ground, kubelet_listener: TcpListener) -> Result<oneshot::Receiver<String>> {
    let ground = Arc::new(ground);
    let (bring, late) = late_network();
    let runtime = open_runtime(&ground, late).await?;
    controllers(&ground)?;
    scheduler(&ground);
    kubelet(&ground, runtime, kubelet_listener)?;
    node_network(&ground, bring);
    cluster_dns_service(&ground);
    storage_class::make(&ground);
    let (ready, done) = oneshot::channel();
    watch_readiness(&ground, ready);
    Ok(done)
}

impl Ground {
    /// A client with an identity, that calls the API server's request function directly. The component's name, up to a slash, is
    /// the manager of the fields that it writes: upstream's names, which tools know and leave out.
    pub(super) fn client(&self, user: UserInfo, component: &str) -> Client {
        Client::new(self.api_server.transport(user), component)
    }

    /// Caches under one identity, until `stop`.
    fn informers(&self, client: &Client, stop: &Stop) -> Informers {
        Informers::new(client.clone(), self.tasks.clone(), stop.clone())
    }

    fn recorder(&self, client: &Client, stop: &Stop, component: &str) -> Recorder {
        Recorder::new(client.clone(), &self.tasks, stop.clone(), self.clock.clone(), component, &self.node_name)
    }
}

async fn open_runtime(ground: &Ground, network: LateNetwork) -> Result<Arc<runtime::Embedded>> {
    let config = runtime::Config {
        root: ground.data.path("runtime"),
        shim: std::env::current_exe().context("cannot find our own program file")?,
        network: Arc::new(network),
        cgroup_root: ground.data.cgroup(),
        registries: ground.options.registries(&ground.data)?,
        clock: ground.clock.clone(),
        stop: ground.stop.child(),
    };
    let runtime = runtime::Embedded::open(config).await.context("cannot open the container runtime")?;
    import_folder(ground, &runtime).await?;
    Ok(runtime)
}

/// The archives in the data directory's `images`. One that cannot be imported does not keep the cluster from starting.
async fn import_folder(ground: &Ground, runtime: &runtime::Embedded) -> Result<()> {
    let (store, folder) = (runtime.images(), ground.data.path("images"));
    let done = tokio::task::spawn_blocking(move || store.import_folder(&folder)).await?;
    for archive in done.context("cannot import the data directory's images")? {
        let path = archive.path.display();
        match archive.result {
            Ok(images) => tracing::info!(%path, images = images.len(), "imported an archive"),
            Err(error) => tracing::warn!(%path, error = base::chain(&error), "cannot import an archive"),
        }
    }
    Ok(())
}

fn controllers(ground: &Arc<Ground>) -> Result<()> {
    let authority = Arc::new(ground.pki.authority()?);
    let key = ground.pki.service_account_key()?;
    let token_signer = TokenSigner::from_pem(&key).context("the service account key cannot sign tokens")?;
    let shared = ground.clone();
    ground.tasks.spawn("controllers", async move {
        let ground = shared.clone();
        let clients = move |name: &str| {
            let component = format!("kube-controller-manager/{name}");
            ground.client(UserInfo::service_account("kube-system", name), &component)
        };
        let config = controllers::Config {
            informers: shared.client(UserInfo::new("system:kube-controller-manager", &[]), "kube-controller-manager"),
            clients: Arc::new(clients),
            clock: shared.clock.clone(),
            random: shared.random.clone(),
            settings: controllers::Settings {
                root_ca_pem: shared.pki.ca_pem().to_owned(),
                authority: Some(authority),
                token_signer: Some(Arc::new(token_signer)),
                autoscalers: Arc::default(),
                daemon_failures: Arc::default(),
                zones: Arc::default(),
                cluster_cidr: shared.options.cluster_cidr,
                node_cidr_mask: NODE_PREFIX,
                load_balancers: shared.options.load_balancers(),
            },
        };
        let _running = shared.running.controllers.begin();
        controllers::run(config, shared.stop.child()).await;
    });
    Ok(())
}

fn scheduler(ground: &Arc<Ground>) {
    let shared = ground.clone();
    ground.tasks.supervise("scheduler", ground.stop.clone(), move |stop| {
        let client = shared.client(UserInfo::new("system:kube-scheduler", &[]), "kube-scheduler");
        let config = scheduler::Config {
            informers: shared.informers(&client, &stop),
            recorder: shared.recorder(&client, &stop, "default-scheduler"),
            clock: shared.clock.clone(),
            random: shared.random.clone(),
            client,
        };
        let running = shared.running.scheduler.begin();
        async move {
            let _running = running;
            scheduler::run(config, stop).await
        }
    });
}

fn kubelet(ground: &Arc<Ground>, runtime: Arc<runtime::Embedded>, listener: TcpListener) -> Result<()> {
    let names = Purpose::Server {
        names: vec![ground.node_name.clone(), "localhost".to_owned()],
        addresses: vec![IpAddr::V4(ground.node_ip)],
    };
    let tls = pki::server_tls(&ground.pki.leaf("kubelet", &names)?, ground.pki.ca_pem(), &["http/1.1"])?;
    let shared = ground.clone();
    ground.tasks.supervise("kubelet", ground.stop.clone(), move |stop| {
        // A kubelet that is started again listens on the same socket.
        let listener = listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        let (ground, runtime, tls) = (shared.clone(), runtime.clone(), tls.clone());
        async move {
            let listener = listener.map_err(kubelet::KubeletError::Listener)?;
            let allowed_names = vec![KUBELET_CLIENT.to_owned()];
            let server = kubelet::ServerConfig { listener, tls, allowed_names };
            kubelet::run(kubelet_config(&ground, runtime, server, &stop), stop).await
        }
    });
    Ok(())
}

fn kubelet_config(
    ground: &Ground,
    runtime: Arc<runtime::Embedded>,
    server: kubelet::ServerConfig,
    stop: &Stop,
) -> kubelet::Config {
    let client = ground.client(UserInfo::node(&ground.node_name), "kubelet");
    kubelet::Config {
        node_name: ground.node_name.clone(),
        node_ips: vec![IpAddr::V4(ground.node_ip)],
        informers: ground.informers(&client, stop),
        runtime,
        recorder: ground.recorder(&client, stop, "kubelet"),
        clock: ground.clock.clone(),
        random: ground.random.clone(),
        root_dir: ground.data.path("kubelet"),
        log_dir: ground.data.path("logs"),
        volumes_dir: ground.data.path("volumes"),
        cluster_dns: vec![IpAddr::V4(ground.options.dns_ip())],
        cluster_domain: ground.options.cluster_domain.clone(),
        server,
        version: super::version().git_version,
        port: ground.options.kubelet_port,
        settings: ground.options.node.settings(&ground.data),
        client,
    }
}

/// Why the node's network did not start.
#[derive(Debug, thiserror::Error)]
enum NetworkError {
    #[error("the node's pod CIDR {0:?} is not one")]
    Cidr(String),
    #[error(transparent)]
    Start(#[from] network::StartError),
    #[error(transparent)]
    Proxy(#[from] linux::net::NetError),
    #[error(transparent)]
    Dns(#[from] edge::dns::DnsError),
}

/// The pod network, and what needs its bridge: the service proxy and DNS.
fn node_network(ground: &Arc<Ground>, bring: Bring) {
    let shared = ground.clone();
    let bring = Arc::new(bring);
    ground.tasks.supervise("node network", ground.stop.clone(), move |stop| {
        let (ground, bring) = (shared.clone(), bring.clone());
        async move {
            let Some(cidr) = stop.or_stopped(pod_cidr(&ground, &stop)).await else { return Ok(()) };
            let (gate, asks) = network::policy::gate();
            let config = PodNetworkConfig {
                net: ground.net.clone(),
                state_dir: ground.data.path("network"),
                pod_cidr: cidr?,
                cluster_cidr: ground.options.cluster_cidr,
                service_cidr: ground.options.service_cidr,
                cluster_dns: Some(ground.options.dns_ip()),
                mtu: None,
                policies: Some(gate),
            };
            let pods = Arc::new(PodNetworkBuiltIn::start(config).await?);
            let guarded = async { Ok(network_policies(&ground, pods.attached(), asks, stop.clone()).await?) };
            bring.send_replace(Some(pods.clone()));
            let kept = async { Ok::<_, NetworkError>(pods.keep(stop.clone()).await?) };
            let proxied = async { Ok(proxy(&ground, stop.clone()).await?) };
            let answered = async { Ok(dns(&ground, stop.clone()).await?) };
            tokio::try_join!(kept, guarded, proxied, answered)?;
            Ok::<_, NetworkError>(())
        }
    });
}

/// The range that the node was given, as soon as it has one.
async fn pod_cidr(ground: &Ground, stop: &Stop) -> Result<Ipv4Net, NetworkError> {
    let client = ground.client(UserInfo::node(&ground.node_name), "timonier/network");
    let informers = ground.informers(&client, stop);
    let nodes = informers.cache(NODES, WatchScope::field("metadata.name", &ground.node_name));
    let key = Key::new("", ground.node_name.as_str());
    let cidr = |node: Object| node.to_value()["spec"]["podCIDR"].as_str().map(str::to_owned);
    nodes.wait_until(|nodes| nodes.get(&key).and_then(cidr).is_some()).await;
    let cidr = nodes.get(&key).and_then(cidr).unwrap_or_default();
    cidr.parse().map_err(|_| NetworkError::Cidr(cidr))
}

async fn proxy(ground: &Ground, stop: Stop) -> Result<(), linux::net::NetError> {
    let client = ground.client(UserInfo::new("system:kube-proxy", &["system:node-proxier"]), "kube-proxy");
    let config = network::proxy::Config {
        informers: ground.informers(&client, &stop),
        net: ground.net.clone(),
        node_name: ground.node_name.clone(),
        cluster_cidr: ground.options.cluster_cidr,
        service_cidr: ground.options.service_cidr,
        cluster_dns: Some(ground.options.dns_ip()),
        node_port_addresses: ground.options.nodeport_addresses.clone(),
    };
    network::proxy::run(config, stop).await
}

/// Keeps the node's pods under their network policies.
async fn network_policies(
    ground: &Ground,
    attached: Vec<network::sandboxes::Sandbox>,
    asks: network::policy::Asks,
    stop: Stop,
) -> Result<(), linux::net::NetError> {
    let client = ground.client(UserInfo::new("system:kube-proxy", &["system:node-proxier"]), "timonier/network");
    let informers = ground.informers(&client, &stop);
    let config =
        network::policy::Config { informers, net: ground.net.clone(), node_name: ground.node_name.clone(), attached };
    network::policy::run(config, asks, stop).await
}

async fn dns(ground: &Ground, stop: Stop) -> Result<(), edge::dns::DnsError> {
    let client = ground.client(UserInfo::service_account("kube-system", "kube-dns"), "timonier/dns");
    let config = edge::dns::Config {
        listeners: vec![SocketAddr::from((ground.options.dns_ip(), DNS_PORT))],
        domain: ground.options.cluster_domain.clone(),
        informers: ground.informers(&client, &stop),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    edge::dns::run(config, stop).await
}

/// The Service `kube-dns`, so that the cluster's DNS is found where people look for it. It selects nothing: every node
/// answers on its address itself.
fn cluster_dns_service(ground: &Arc<Ground>) {
    let shared = ground.clone();
    ground.tasks.supervise("cluster DNS service", ground.stop.clone(), move |stop| {
        let ground = shared.clone();
        async move {
            let client = ground.client(UserInfo::new("system:apiserver", &["system:masters"]), "timonier/up");
            let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
            let ports = json!([
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP"}, {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"}]);
            let service = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
                "spec": {"clusterIP": ground.options.dns_ip().to_string(), "ports": ports}});
            match client.create(SERVICES, "kube-system", service.to_string().into()).await {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => {
                    stop.stopped().await;
                    Ok::<_, ClientError>(())
                }
            }
        }
    });
}

/// Tells `ready` the node's name when its condition `Ready` is true and its lease was renewed after this start: a node that
/// was here before still says that it is ready.
fn watch_readiness(ground: &Arc<Ground>, ready: oneshot::Sender<String>) {
    let (shared, stop) = (ground.clone(), ground.stop.child());
    let started = ground.clock.now();
    ground.tasks.spawn("readiness", async move {
        let client = shared.client(UserInfo::new("system:apiserver", &["system:masters"]), "timonier/up");
        let informers = shared.informers(&client, &stop);
        let nodes = informers.cache(NODES, WatchScope::field("metadata.name", &shared.node_name));
        let leases = informers.cache(LEASES, WatchScope::key(&Key::new(NODE_LEASES, shared.node_name.as_str())));
        let node_key = Key::new("", shared.node_name.as_str());
        let lease_key = Key::new(NODE_LEASES, shared.node_name.as_str());
        let renewed = |lease: Object| {
            let at = lease.to_value()["spec"]["renewTime"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            at.is_some_and(|at| at >= started)
        };
        let wait = async {
            nodes.wait_until(|nodes| nodes.get(&node_key).is_some_and(|node| is_ready(&node))).await;
            leases.wait_until(|leases| leases.get(&lease_key).is_some_and(renewed)).await;
            nodes.wait_until(|nodes| nodes.get(&node_key).is_some_and(|node| is_ready(&node))).await;
        };
        if stop.or_stopped(wait).await.is_some() {
            let _ = ready.send(shared.node_name.clone());
        }
        // The watches were for this alone.
        stop.stop();
    });
}

fn is_ready(node: &Object) -> bool {
    let node = node.to_value();
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && node["spec"]["podCIDR"].is_string()
}
