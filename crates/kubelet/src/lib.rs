//! The node agent: runs the pods that are bound to its node and tells the API how they are.
//!
//! It knows a container runtime only as [`cri::Runtime`] and the API only through [`control`]. Pods arrive by one watch; each
//! has a [worker](worker) that [decides](plan) from the pod and the runtime's state, and [acts](job). Whatever must survive
//! the process stands in the runtime's labels and annotations, so that a restarted kubelet adopts what runs. Public
//! behaviour is that of the Kubernetes API reference for Pod, Node and Lease, and of the kubelet's own HTTPS endpoints.

mod action;
mod admission;
mod config;
mod dns;
mod environment;
mod eviction;
mod host;
mod identity;
mod image_gc;
mod images;
mod inbox;
mod job;
mod log_file;
pub mod metrics;
mod node;
mod observed;
mod plan;
mod pods;
mod probe;
mod pull_records;
mod pull_secrets;
mod references;
mod resize;
mod resources;
mod rotation;
mod server;
pub mod settings;
mod static_pods;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod volumes;
mod worker;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Typed;
use api::typed::core::v1::{Node, Pod, Service};
use base::{Backoff, Random, SharedClock, Stop, Tasks, chain};
use control::{Client, Informers, Recorder, WatchScope};
use cri::Runtime;
use tokio::sync::{Notify, broadcast, watch};

use host::Host;
use image_gc::ImageGc;
use images::Images;
use node::Registration;
use node::facts::{Facts, Pressure};
use pull_records::PullRecords;
use volumes::local::LocalVolumes;

pub use server::ServerConfig;
pub use settings::Settings;

/// Runtime events that a reader of logs may fall behind; beyond it the reader looks for itself.
const CHANGES_MAX: usize = 256;

/// What the kubelet needs.
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// Its addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// Calls the API as `system:node:NAME`.
    pub client: Client,
    /// Caches under the same identity.
    pub informers: Informers,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Records events; its component is `kubelet`, its host the node.
    pub recorder: Recorder,
    /// Time stamps.
    pub clock: SharedClock,
    /// Names of directories.
    pub random: Random,
    /// Volumes and other files of pods; made with mode 0700.
    pub root_dir: PathBuf,
    /// The logs of containers: `NAMESPACE_POD_UID/CONTAINER/N.log`.
    pub log_dir: PathBuf,
    /// The persistent volumes on this node's disk; made with mode 0700 when there is one.
    pub volumes_dir: PathBuf,
    /// The resolvers that pods get.
    pub cluster_dns: Vec<IpAddr>,
    /// The domain of services, such as `cluster.local`.
    pub cluster_domain: String,
    /// The kubelet's own endpoints.
    pub server: ServerConfig,
    /// The version that the node reports, such as `v1.36.0`.
    pub version: String,
    /// The port of the endpoints, as the node reports it; 0: the listener's own.
    pub port: u16,
    /// What an administrator may choose.
    pub settings: Settings,
    /// Becomes true once the API has the node's status as it is and the node is ready.
    pub reported: tokio::sync::watch::Sender<bool>,
}

/// The kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// How images were pulled cannot be read.
    #[error("cannot keep records of how images were pulled")]
    PullRecords(#[from] pull_records::RecordError),
    /// The listener is not usable.
    #[error("cannot read the address of the kubelet's listener")]
    Listener(#[source] std::io::Error),
}

/// Removes the volumes of all pods below `root_dir`, with their mounts. For when the node is reset: no pod may run.
pub fn remove_all(root_dir: &std::path::Path) -> std::io::Result<()> {
    if root_dir.exists() { volumes::mounts::remove_tree(root_dir) } else { Ok(()) }
}

/// Runs the node until `stop`; returns when everything that it started has ended. Containers go on.
pub async fn run(config: Config, stop: Stop) -> Result<(), KubeletError> {
    for (path, mode) in [(&config.root_dir, 0o700), (&config.log_dir, 0o755)] {
        let made = volumes::mounts::directory(path, mode);
        made.map_err(|source| KubeletError::Directory { path: path.clone(), source })?;
    }
    let local = config.server.listener.local_addr().map_err(KubeletError::Listener)?;
    let port = if config.port == 0 { local.port() } else { config.port };
    let Some(runtime_name) = stop.or_stopped(runtime_name(&*config.runtime)).await else { return Ok(()) };
    let settings = config.settings;
    let mut facts = Facts::read(&config.root_dir).await;
    facts.capacity.pods = settings.pods_max;
    let allocatable = facts.capacity.less(&settings);
    let tasks = Tasks::new("kubelet");
    let by_name = WatchScope::field("metadata.name", &config.node_name);
    let of_node = WatchScope::field("spec.nodeName", &config.node_name);
    let pressure = watch::Sender::new(Pressure::default());
    let registration = Registration {
        name: config.node_name.clone(),
        ips: config.node_ips.clone(),
        port,
        version: config.version.clone(),
        volumes_dir: config.volumes_dir.clone(),
        client: config.client.clone(),
        node: config.informers.cache(Node::resource(), by_name.clone()),
        runtime: config.runtime.clone(),
        clock: config.clock.clone(),
        images_changed: Arc::default(),
        pressure: pressure.subscribe(),
        allocatable,
        reported: config.reported.clone(),
    };
    let records = PullRecords::open(&config.root_dir, settings.image_verification.clone(), config.clock.clone())?;
    records.recover(&*config.runtime).await;
    let mut images = Images::new(settings.image_pulls_max, records);
    images.changed = registration.images_changed.clone();
    let host = Arc::new(Host {
        node_name: config.node_name,
        node_ips: config.node_ips,
        client: config.client,
        services: config.informers.all(Service::resource()),
        node: config.informers.cache(Node::resource(), by_name),
        pods: config.informers.cache(Pod::resource(), of_node),
        informers: config.informers,
        runtime: config.runtime,
        runtime_name,
        local_volumes: LocalVolumes { directory: config.volumes_dir, root_dir: config.root_dir.clone() },
        recorder: config.recorder,
        clock: config.clock,
        random: config.random,
        root_dir: config.root_dir,
        log_dir: config.log_dir,
        cluster_dns: config.cluster_dns,
        cluster_domain: config.cluster_domain,
        capacity: facts.capacity,
        allocatable,
        settings,
        images,
        tasks: tasks.clone(),
        changes: broadcast::Sender::new(CHANGES_MAX),
        admitted: Mutex::new(BTreeMap::new()),
        pressure,
        workers: Arc::default(),
        probes: Arc::default(),
        statics: Mutex::default(),
        released: Notify::new(),
    });
    tasks.spawn("node", node::run(registration, facts, stop.child()));
    let pods = pods::Pods::new(host.clone(), stop.child());
    if let Some(folder) = host.settings.manifests.clone() {
        let known = static_pods::start(&host, &pods, &folder).await;
        tasks.spawn("static pods", static_pods::run(host.clone(), pods.clone(), folder, known, stop.child()));
    }
    tasks.spawn("pods", pods::run(pods));
    let gc = Arc::new(ImageGc::default());
    tasks.spawn("image garbage collection", gc.clone().run(host.clone(), stop.child()));
    tasks.spawn("eviction", eviction::run(host.clone(), gc, stop.child()));
    tasks.spawn("local volumes", volumes::local::run(host.clone(), stop.child()));
    tasks.spawn("log rotation", rotation::run(host.clone(), stop.child()));
    tasks.spawn("node server", server::run(config.server, host, stop.child()));
    stop.stopped().await;
    tasks.join().await;
    Ok(())
}

/// Waits until the runtime answers: without its name no container has an id.
async fn runtime_name(runtime: &dyn Runtime) -> String {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        match runtime.version().await {
            Ok(version) => return version.runtime_name,
            Err(error) => tracing::warn!(error = chain(&error), "the container runtime does not answer; trying again"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
