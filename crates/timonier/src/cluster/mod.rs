//! One node with its control plane in one process: what is opened first, who starts whom, and how it ends.
//!
//! Everything that can fail for a reason that a user can mend fails before the first component starts. After that a
//! component that fails is started again while the others go on. Nothing here waits for a timer.

mod components;
pub(crate) mod encryption;
mod late_network;
mod node_options;
mod options;
mod running;
mod storage_class;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base::{Random, SharedClock, Stop, SystemClock, Tasks};
use store::embedded::EmbeddedStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use options::Options;

use crate::data_dir::{DATASTORE, DataDir, create_private};
use crate::pki::{self, Leaf, Pki, Purpose};
use crate::{kubeconfig, preflight};

/// Components that have not ended by then are left behind: a stop that hangs is worse than one that is cut short.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Worker threads: two serve a small machine, and more than four only cost memory.
const WORKERS_MAX: usize = 4;

/// When what only the start needed has been used for the last time. Half of the code is of that kind: without its release an
/// idle process would hold it for ever.
const START_SETTLES: Duration = Duration::from_secs(5);

/// What all components are made from.
struct Ground {
    data: DataDir,
    options: Options,
    node_name: String,
    node_ip: Ipv4Addr,
    clock: SharedClock,
    random: Random,
    pki: Pki,
    net: Arc<dyn linux::net::Net>,
    api_server: Arc<apiserver::Server>,
    tasks: Tasks,
    stop: Stop,
    running: running::Running,
}

/// Runs a cluster until it is told to stop. `on_ready` is called once, with the node's name, when the node is ready.
pub(crate) fn run(
    data: &DataDir,
    options: &Options,
    on_ready: impl FnOnce(&str) -> Result<()> + Send + 'static,
) -> Result<()> {
    data.create()?;
    preflight::check_disk(data.root())?;
    preflight::raise_file_limit()?;
    let _lock = data.lock()?;
    let api_listener = preflight::listen(options.api_port, "--api-port")?;
    let kubelet_listener = preflight::listen(options.kubelet_port, "--kubelet-port")?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let listeners = (TcpListener::from_std(api_listener)?, kubelet_listener);
        run_async(data, options, listeners, on_ready).await
    })
}

async fn run_async(
    data: &DataDir,
    options: &Options,
    (api_listener, kubelet_listener): (TcpListener, std::net::TcpListener),
    on_ready: impl FnOnce(&str) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ground = prepare(data, options).await?;
    let (tasks, stop) = (ground.tasks.clone(), ground.stop.clone());

    let (server, serving) = (ground.api_server.clone(), stop.child());
    tasks.spawn("api server listener", async move { server.serve(api_listener, serving).await });
    let ready = components::start(ground, kubelet_listener).await?;
    tokio::select! {
        node = ready => on_ready(&node.context("the node's watcher ended early")?)?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let started = stop.child();
    tasks.spawn("release of the start's code", async move {
        if started.or_stopped(tokio::time::sleep(START_SETTLES)).await.is_some()
            && let Err(error) = linux::memory::release_code()
        {
            tracing::debug!(%error, "the start's code stays in memory");
        }
    });
    if !stop.is_stopped() {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    tracing::info!("stopping; pods go on");
    stop.stop();
    if tokio::time::timeout(STOP_TIMEOUT, tasks.join()).await.is_err() {
        tracing::warn!(tasks = tasks.running(), "some tasks did not end in time");
    }
    Ok(())
}

/// Everything that comes before the first component, in the order of what can fail.
async fn prepare(data: &DataDir, options: &Options) -> Result<Ground> {
    let clock: SharedClock = Arc::new(SystemClock);
    let net: Arc<dyn linux::net::Net> =
        Arc::new(linux::net::Kernel::new().context("cannot reach the kernel's network")?);
    network::ensure_loopback_up(net.as_ref()).await.context("cannot bring the loopback up")?;
    let node_name = options.node_name()?;
    let node_ip = node_ip(net.as_ref(), options).await?;
    let pki = Pki::open(data.path("pki"), clock.clone())?;
    let store = EmbeddedStore::open(data.path(DATASTORE), store::embedded::Options::default())
        .context("cannot open the datastore")?;
    let (tasks, stop, random) = (Tasks::new("timonier"), Stop::new(), Random::from_os());

    let running = running::Running::default();
    let server_leaf = pki.leaf("apiserver", &server_purpose(options, &node_name, node_ip))?;
    let config = apiserver::Config {
        store: Arc::new(store),
        clock: clock.clone(),
        random: random.clone(),
        tls: pki::server_tls(&server_leaf, pki.ca_pem(), &["h2", "http/1.1"])?,
        ca_pem: pki.ca_pem().to_owned().into(),
        service_account_key_pem: pki.service_account_key()?.into(),
        issuer: format!("https://kubernetes.default.svc.{}", options.cluster_domain),
        service_cidr: options.service_cidr.into(),
        node_port_range: (30_000, 32_767),
        advertise: SocketAddr::from((node_ip, options.api_port)),
        kubelet_client: pki::client_tls(&pki.leaf("kubelet-client", &kubelet_client())?, pki.ca_pem())?,
        version: version(),
        static_tokens: options.static_tokens()?,
        audit: Some(options.audit(data)?),
        encryption: Arc::new(encryption::keys(data)?),
        limits: apiserver::Limits::default(),
        metrics: scheduler::metrics::METRICS.to_vec(),
        components: vec![running.controllers.component("controller-manager"), running.scheduler.component("scheduler")],
    };
    let api_server =
        apiserver::Server::start(config, tasks.clone(), stop.child()).await.context("cannot start the API server")?;
    write_kubeconfig(data, options, &pki)?;
    let (data, options) = (data.clone(), options.clone());
    for name in ["runtime", "kubelet", "logs", "volumes", "network"] {
        create_private(&data.path(name))?;
    }
    Ok(Ground { data, options, node_name, node_ip, clock, random, pki, net, api_server, tasks, stop, running })
}

/// The name that the API server shows to kubelets, and that kubelets let in.
pub(super) const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

fn kubelet_client() -> Purpose {
    Purpose::Client { user: KUBELET_CLIENT.to_owned(), groups: vec![] }
}

fn server_purpose(options: &Options, node_name: &str, node_ip: Ipv4Addr) -> Purpose {
    let domain = &options.cluster_domain;
    let mut names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(node_name.to_owned());
    let addresses = [Ipv4Addr::LOCALHOST, node_ip, options.kubernetes_service_ip()];
    Purpose::Server { names, addresses: addresses.map(IpAddr::V4).into() }
}

fn write_kubeconfig(data: &DataDir, options: &Options, pki: &Pki) -> Result<()> {
    let admin = Purpose::Client { user: "timonier-admin".to_owned(), groups: vec!["system:masters".to_owned()] };
    let Leaf { certificate, key } = pki.leaf("admin", &admin)?;
    kubeconfig::write(data, &format!("https://127.0.0.1:{}", options.api_port), pki.ca_pem(), &certificate, &key)
}

/// The address that pods and other machines reach this node under. A machine without any has its pods' gateway.
async fn node_ip(net: &dyn linux::net::Net, options: &Options) -> Result<Ipv4Addr> {
    if let Some(address) = options.node_ip {
        return Ok(address);
    }
    match network::node_address(net).await.context("cannot look at the machine's addresses")? {
        Some(IpAddr::V4(address)) => Ok(address),
        _ => Ok(options.first_gateway()),
    }
}

fn version() -> apiserver::Version {
    apiserver::Version {
        git_version: format!("v1.36.2+timonier{}", env!("CARGO_PKG_VERSION")),
        git_commit: String::new(),
        build_date: String::new(),
        platform: format!("linux/{}", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
    }
}
