//! Every component of a node: one function a component, one line in [`start`]. All of them are the same to the API, the
//! node's agent, whether the API server is in this process or on another machine.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use api::resources::NODES;
use api::{Key, Object};
use base::Stop;
use control::{Client, Informers, WatchScope};
use ipnet::Ipv4Net;
use network::overlay::{Mode, Overlay, OverlayConfig, Own};
use network::plugins::{Plugins, PluginsConfig, make_anchor};
use network::{PodNetworkBuiltIn, PodNetworkConfig};
use tokio::sync::{oneshot, watch};

use super::late_network::{Bring, LateNetwork, late_network};
use super::{Base, KUBELET_CLIENT};
use crate::tls::{self, Identity};

/// Pods ask the cluster's DNS on this port.
pub(super) const DNS_PORT: u16 = 53;

/// What a node's components are made from.
pub(crate) struct Node {
    pub(crate) base: Arc<Base>,
    /// Calls the API as the node's agent.
    pub(crate) transport: Arc<dyn control::Transport>,
    /// What the kubelet serves with.
    pub(crate) serving: Identity,
    /// Who signed the certificates of the kubelet's callers.
    pub(crate) ca_pem: String,
    /// Where the kubelet is called.
    pub(crate) listener: TcpListener,
}

/// The same, with what the components share.
struct Ground {
    base: Arc<Base>,
    transport: Arc<dyn control::Transport>,
    /// One watch of each resource for all components.
    informers: Informers,
    reported: watch::Sender<bool>,
}

/// Starts all components. What is returned ends with the node's name when the node is ready.
pub(crate) async fn start(node: Node) -> Result<oneshot::Receiver<String>> {
    let client = Client::new(node.transport.clone(), "timonier/node");
    let informers = node.base.informers(&client, &node.base.stop);
    let (base, transport) = (node.base.clone(), node.transport.clone());
    let ground = Arc::new(Ground { base, transport, informers, reported: watch::Sender::new(false) });
    let (bring, late) = late_network();
    let runtime = open_runtime(&ground.base, late).await?;
    let serving = node.serving.clone();
    kubelet(&ground, runtime, node)?;
    node_network(&ground, bring);
    let (ready, done) = oneshot::channel();
    watch_readiness(&ground, serving, ready);
    Ok(done)
}

impl Ground {
    fn client(&self, component: &str) -> Client {
        Client::new(self.transport.clone(), component)
    }
}

/// The runtime that is installed, or else the embedded one.
async fn open_runtime(base: &Arc<Base>, network: LateNetwork) -> Result<Arc<dyn cri::Runtime>> {
    match &base.node.container_runtime_endpoint {
        // It finds the plugins by itself.
        Some(endpoint) if base.settings.pod_network.mode().is_none() => {
            Ok(Arc::new(cri::Remote::new(endpoint).context("cannot use --container-runtime-endpoint")?))
        }
        Some(endpoint) => super::external_runtime::open(base, endpoint, &network),
        None => open_embedded(base, network).await,
    }
}

async fn open_embedded(base: &Base, network: LateNetwork) -> Result<Arc<dyn cri::Runtime>> {
    let config = runtime::Config {
        root: base.data.path("runtime"),
        shim: std::env::current_exe().context("cannot find our own program file")?,
        network: Arc::new(network),
        cgroup_root: base.data.cgroup(),
        handlers: base.node.handlers(),
        registries: base.node.registries(&base.data)?,
        clock: base.clock.clone(),
        stop: base.stop.child(),
    };
    let runtime = runtime::Embedded::open(config).await.context("cannot open the container runtime")?;
    import_folder(base, &runtime).await?;
    let (path, served) = (base.data.path("cri.sock"), runtime.clone());
    base.tasks.supervise("container runtime's socket", base.stop.clone(), move |stop| {
        let (path, runtime) = (path.clone(), served.clone());
        async move { cri::serve(&path, runtime, stop).await }
    });
    Ok(runtime)
}

/// The archives in the data directory's `images`. One that cannot be imported does not keep the cluster from starting.
async fn import_folder(base: &Base, runtime: &runtime::Embedded) -> Result<()> {
    let (store, folder) = (runtime.images(), base.data.path("images"));
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

fn kubelet(ground: &Arc<Ground>, runtime: Arc<dyn cri::Runtime>, node: Node) -> Result<()> {
    let tls = tls::server(node.serving, &node.ca_pem, &["http/1.1"])?;
    let (shared, listener) = (ground.clone(), node.listener);
    ground.base.tasks.supervise("kubelet", ground.base.stop.clone(), move |stop| {
        // A kubelet that is started again listens on the same socket.
        let listener = listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        let (ground, runtime, tls) = (shared.clone(), runtime.clone(), tls.clone());
        async move {
            let listener = listener.map_err(kubelet::KubeletError::Listener)?;
            let trusted_names = vec![KUBELET_CLIENT.to_owned()];
            let metrics = edge::dns::metrics::METRICS.to_vec();
            let server = kubelet::ServerConfig { listener, tls, trusted_names, metrics };
            kubelet::run(kubelet_config(&ground, runtime, server, &stop), stop).await
        }
    });
    Ok(())
}

fn kubelet_config(
    ground: &Ground,
    runtime: Arc<dyn cri::Runtime>,
    server: kubelet::ServerConfig,
    stop: &Stop,
) -> kubelet::Config {
    let (base, client) = (&ground.base, ground.client("kubelet"));
    kubelet::Config {
        node_name: base.node_name.clone(),
        node_ips: vec![IpAddr::V4(base.node_ip)],
        informers: ground.informers.clone(),
        runtime,
        recorder: base.recorder(&client, stop, "kubelet"),
        clock: base.clock.clone(),
        random: base.random.clone(),
        root_dir: base.data.path("kubelet"),
        log_dir: base.data.path("logs"),
        volumes_dir: base.data.path("volumes"),
        cluster_dns: vec![IpAddr::V4(base.settings.dns_ip())],
        cluster_domain: base.settings.cluster_domain.clone(),
        server,
        version: super::version().git_version,
        port: base.node.kubelet_port,
        settings: base.node.settings(&base.data),
        reported: ground.reported.clone(),
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
    Plugins(#[from] network::plugins::PluginsError),
    #[error(transparent)]
    Proxy(#[from] linux::net::NetError),
    #[error(transparent)]
    Dns(#[from] edge::dns::DnsError),
}

/// The pod network, and what needs its bridge: the ways to other nodes, the service proxy and DNS.
fn node_network(ground: &Arc<Ground>, bring: Bring) {
    let shared = ground.clone();
    let bring = Arc::new(bring);
    ground.base.tasks.supervise("node network", ground.base.stop.clone(), move |stop| {
        let (ground, bring) = (shared.clone(), bring.clone());
        async move {
            let Some(pod_cidr) = stop.or_stopped(pod_cidr(&ground)).await else { return Ok(()) };
            match ground.base.settings.pod_network.mode() {
                Some(mode) => built_in_network(&ground, &bring, pod_cidr?, mode, stop).await,
                None => plugins_network(&ground, &bring, pod_cidr?, stop).await,
            }
        }
    });
}

async fn built_in_network(
    ground: &Ground,
    bring: &Bring,
    pod_cidr: Ipv4Net,
    mode: Mode,
    stop: Stop,
) -> Result<(), NetworkError> {
    let base = &ground.base;
    let mtu = network::overlay::pod_mtu(base.net.as_ref(), base.node_ip, mode).await?;
    let (gate, asks) = network::policy::gate();
    let config = PodNetworkConfig {
        net: base.net.clone(),
        state_dir: base.data.path("network"),
        pod_cidr,
        cluster_cidr: base.settings.cluster_cidr,
        service_cidr: base.settings.service_cidr,
        cluster_dns: Some(base.settings.dns_ip()),
        mtu: Some(mtu),
        policies: Some(gate),
    };
    let pods = Arc::new(PodNetworkBuiltIn::start(config).await?);
    let guarded = async { Ok(network_policies(ground, pods.attached(), asks, stop.clone()).await?) };
    bring.send_replace(Some(pods.clone()));
    let own = Own { name: base.node_name.clone(), address: base.node_ip, pod_cidr, mode, mtu };
    let overlay = OverlayConfig { net: base.net.clone(), informers: ground.informers.clone(), own };
    let kept = async { Ok::<_, NetworkError>(pods.keep(stop.clone()).await?) };
    let joined = async {
        Overlay::new(overlay).run(stop.clone()).await;
        Ok::<_, NetworkError>(())
    };
    let proxied = async { Ok(proxy(ground, stop.clone()).await?) };
    let answered = async { Ok(dns(ground, stop.clone()).await?) };
    tokio::try_join!(kept, joined, guarded, proxied, answered)?;
    Ok(())
}

/// Pods hang on links of installed plugins, which see to their policies and to the ways between nodes too.
async fn plugins_network(ground: &Ground, bring: &Bring, pod_cidr: Ipv4Net, stop: Stop) -> Result<(), NetworkError> {
    let (base, settings) = (&ground.base, &ground.base.settings);
    make_anchor(base.net.as_ref(), base.node_ip, settings.service_cidr, settings.dns_ip()).await?;
    let plugins = Plugins::open(PluginsConfig {
        net: base.net.clone(),
        configuration_dir: base.node.cni_conf_dir.clone(),
        program_dir: base.node.cni_bin_dir.clone(),
        state_dir: base.data.path("network"),
        pod_cidr: Some(pod_cidr),
    })?;
    bring.send_replace(Some(Arc::new(plugins)));
    let proxied = async { Ok::<_, NetworkError>(proxy(ground, stop.clone()).await?) };
    let answered = async { Ok(dns(ground, stop.clone()).await?) };
    tokio::try_join!(proxied, answered)?;
    Ok(())
}

/// The range that the node was given, as soon as it has one.
async fn pod_cidr(ground: &Ground) -> Result<Ipv4Net, NetworkError> {
    let nodes = ground.informers.cache(NODES, WatchScope::field("metadata.name", &ground.base.node_name));
    let key = Key::new("", ground.base.node_name.as_str());
    let cidr = |node: Object| node.to_value()["spec"]["podCIDR"].as_str().map(str::to_owned);
    nodes.wait_until(|nodes| nodes.get(&key).and_then(cidr).is_some()).await;
    let cidr = nodes.get(&key).and_then(cidr).unwrap_or_default();
    cidr.parse().map_err(|_| NetworkError::Cidr(cidr))
}

async fn proxy(ground: &Ground, stop: Stop) -> Result<(), linux::net::NetError> {
    let base = &ground.base;
    let config = network::proxy::Config {
        informers: ground.informers.clone(),
        net: base.net.clone(),
        node_name: base.node_name.clone(),
        cluster_cidr: base.settings.cluster_cidr,
        service_cidr: base.settings.service_cidr,
        cluster_dns: Some(base.settings.dns_ip()),
        node_port_addresses: base.node.nodeport_addresses.clone(),
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
    let (informers, base) = (ground.informers.clone(), &ground.base);
    let (net, node_name) = (base.net.clone(), base.node_name.clone());
    network::policy::run(network::policy::Config { informers, net, node_name, attached }, asks, stop).await
}

async fn dns(ground: &Ground, stop: Stop) -> Result<(), edge::dns::DnsError> {
    let settings = &ground.base.settings;
    let config = edge::dns::Config {
        listeners: vec![SocketAddr::from((settings.dns_ip(), DNS_PORT))],
        domain: settings.cluster_domain.clone(),
        informers: ground.informers.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    edge::dns::run(config, stop).await
}

/// Tells `ready` the node's name when the API has it as ready, since this start: a node that was here before still says that
/// it is. The kubelet must be callable by then.
fn watch_readiness(ground: &Arc<Ground>, serving: Identity, ready: oneshot::Sender<String>) {
    let (shared, mut reported) = (ground.clone(), ground.reported.subscribe());
    ground.base.tasks.spawn("readiness", async move {
        let name = &shared.base.node_name;
        let nodes = shared.informers.cache(NODES, WatchScope::field("metadata.name", name));
        let key = Key::new("", name.as_str());
        let wait = async {
            // The sender lives as long as what the components share.
            drop(reported.wait_for(|reported| *reported).await);
            nodes.wait_until(|nodes| nodes.get(&key).is_some_and(|node| is_ready(&node))).await;
            serving.there().await;
        };
        if shared.base.stop.or_stopped(wait).await.is_some() {
            let _ = ready.send(name.clone());
        }
    });
}

fn is_ready(node: &Object) -> bool {
    let node = node.to_value();
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && node["spec"]["podCIDR"].is_string()
}
