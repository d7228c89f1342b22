//! A server with its node in one process: what is opened first, who starts whom, and how it ends. What it shares with an
//! agent is here too.
//!
//! Everything that can fail for a reason that a user can mend fails before the first component starts. After that a
//! component that fails is started again while the others go on. Nothing here waits for a timer.

mod cni;
pub(crate) mod components;
mod control_plane;
pub(crate) mod encryption;
pub(crate) mod external_runtime;
mod ingress;
mod late_network;
mod node_options;
mod options;
mod renewal;
mod running;
pub(crate) mod settings;
mod storage_class;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::{Random, SharedClock, Stop, SystemClock, Tasks};
use control::{Client, Informers, Recorder};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub(crate) use node_options::NodeOptions;
pub(crate) use options::{Options, duration};

use components::Node;
use control_plane::ControlPlane;
use renewal::Renewals;
use settings::Settings;

use crate::agent;
use crate::data_dir::{DataDir, create_private};
use crate::pki::{Pki, Purpose};
use crate::preflight;

/// Components that have not ended by then are left behind: a stop that hangs is worse than one that is cut short.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Worker threads: two serve a small machine, and more than four only cost memory.
const WORKERS_MAX: usize = 4;

/// When what only the start needed has been used for the last time. Half of the code is of that kind: without its release an
/// idle process would hold it for ever.
const START_SETTLES: Duration = Duration::from_secs(5);

/// The name that the API server shows to kubelets, and that kubelets let in.
pub(crate) const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// What all components are made from, on every node.
pub(crate) struct Base {
    pub(crate) data: DataDir,
    pub(crate) settings: Settings,
    pub(crate) node_name: String,
    pub(crate) node_ip: Ipv4Addr,
    pub(crate) node: NodeOptions,
    pub(crate) clock: SharedClock,
    pub(crate) random: Random,
    pub(crate) net: Arc<dyn linux::net::Net>,
    pub(crate) tasks: Tasks,
    pub(crate) stop: Stop,
}

impl Base {
    pub(crate) async fn new(data: &DataDir, node: &NodeOptions, settings: Settings) -> Result<Self> {
        let net: Arc<dyn linux::net::Net> =
            Arc::new(linux::net::Kernel::new().context("cannot reach the kernel's network")?);
        network::ensure_loopback_up(net.as_ref()).await.context("cannot bring the loopback up")?;
        node.check()?;
        let (node_name, node_ip) = (node.name()?, node_ip(net.as_ref(), node, &settings).await?);
        for name in ["runtime", "kubelet", "logs", "volumes", "network"] {
            create_private(&data.path(name))?;
        }
        Ok(Self {
            data: data.clone(),
            settings,
            node_name,
            node_ip,
            node: node.clone(),
            clock: Arc::new(SystemClock),
            random: Random::from_os(),
            net,
            tasks: Tasks::new("timonier"),
            stop: Stop::new(),
        })
    }

    /// Caches under one identity, until `stop`.
    fn informers(&self, client: &Client, stop: &Stop) -> Informers {
        Informers::new(client.clone(), self.tasks.clone(), stop.clone())
    }

    fn recorder(&self, client: &Client, stop: &Stop, component: &str) -> Recorder {
        Recorder::new(client.clone(), &self.tasks, stop.clone(), self.clock.clone(), component, &self.node_name)
    }
}

/// Runs a server until it is told to stop. `on_ready` is called once, with the node's name, when the node is ready.
pub(crate) fn run(
    data: &DataDir,
    options: &Options,
    on_ready: impl FnOnce(&str) -> Result<()> + Send + 'static,
) -> Result<()> {
    data.create()?;
    preflight::check_disk(data.root())?;
    preflight::raise_file_limit()?;
    let _lock = data.lock()?;
    if let Some(state) = agent::State::read(data)? {
        bail!(
            "{} is a node of the cluster of {}: start it with `timonier agent`, or make it forget with `timonier reset --yes`",
            data.root().display(),
            state.servers.join(", ")
        );
    }
    let api_listener = preflight::listen(options.api_port, "--api-port")?;
    let listener = preflight::listen(options.node.kubelet_port, "--kubelet-port")?;
    runtime()?.block_on(async {
        let mut told = Told::new()?;
        let base = Arc::new(Base::new(data, &options.node, options.settings()).await?);
        let pki = Arc::new(Pki::open(data.path("pki"), base.clock.clone())?);
        let mut renewals = Renewals::default();
        let plane = ControlPlane::open(base.clone(), options, pki.clone(), &mut renewals).await?;
        let names = Purpose::Server {
            names: vec![base.node_name.clone(), "localhost".to_owned()],
            addresses: vec![IpAddr::V4(base.node_ip)],
        };
        let serving = renewals.leaf(&pki, "kubelet", names)?;
        let unnamed = renewals.leaf(&pki, "ingress", ingress_purpose(&base))?;
        let (transport, ca_pem) = (plane.node_transport(), pki.ca_pem().to_owned());
        let doors = ingress::Sockets::open(options.ingress_http_port, options.ingress_https_port);
        plane.start(TcpListener::from_std(api_listener)?, doors, unnamed)?;
        base.tasks.spawn("certificates", renewals.run(pki, base.stop.child()));
        let node = Node { base: base.clone(), transport, serving, ca_pem, listener };
        let ready = components::start(node).await?;
        run_until_told(&base, ready, &mut told, on_ready, std::future::pending()).await?;
        Ok(())
    })
}

/// What hosts without a certificate show.
fn ingress_purpose(base: &Base) -> Purpose {
    Purpose::Server { names: vec!["timonier-ingress.invalid".to_owned()], addresses: vec![IpAddr::V4(base.node_ip)] }
}

/// The threads that all components share.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, WORKERS_MAX);
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?)
}

/// The signals that end a process in order. From when it is made they do nothing else.
pub(crate) struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why a node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process is told to.
    Told,
    /// What it was made from is no longer so.
    Outdated,
}

/// Waits until the node is ready, then until the process is told to stop or `outdated` ends, and ends everything in order.
pub(crate) async fn run_until_told(
    base: &Base,
    ready: oneshot::Receiver<String>,
    told: &mut Told,
    on_ready: impl FnOnce(&str) -> Result<()> + Send + 'static,
    outdated: impl Future<Output = ()>,
) -> Result<Ended> {
    let (tasks, stop) = (base.tasks.clone(), base.stop.clone());
    let mut ends = std::pin::pin!(async {
        tokio::select! {
            () = told.wait() => Ended::Told,
            () = outdated => Ended::Outdated,
        }
    });
    let ended = tokio::select! {
        node = ready => {
            on_ready(&node.context("the node's watcher ended early")?)?;
            None
        }
        ended = &mut ends => Some(ended),
    };
    let started = stop.child();
    tasks.spawn("release of the start's code", async move {
        if started.or_stopped(tokio::time::sleep(START_SETTLES)).await.is_some()
            && let Err(error) = linux::memory::release_code()
        {
            tracing::debug!(%error, "the start's code stays in memory");
        }
    });
    let ended = match ended {
        Some(ended) => ended,
        None => ends.await,
    };
    tracing::info!("stopping; pods go on");
    stop.stop();
    if tokio::time::timeout(STOP_TIMEOUT, tasks.join()).await.is_err() {
        tracing::warn!(tasks = tasks.running(), "some tasks did not end in time");
    }
    Ok(ended)
}

/// The address that pods and other machines reach this node under. A machine without any has its pods' gateway.
async fn node_ip(net: &dyn linux::net::Net, node: &NodeOptions, settings: &Settings) -> Result<Ipv4Addr> {
    if let Some(address) = node.node_ip {
        return Ok(address);
    }
    match network::node_address(net).await.context("cannot look at the machine's addresses")? {
        Some(IpAddr::V4(address)) => Ok(address),
        _ => Ok(settings.first_gateway()),
    }
}

pub(crate) fn version() -> apiserver::Version {
    apiserver::Version {
        git_version: format!("v1.36.2+timonier{}", env!("CARGO_PKG_VERSION")),
        git_commit: String::new(),
        build_date: String::new(),
        platform: format!("linux/{}", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
    }
}
