//! The controllers: one file each, this file is their list.
//!
//! All of them share one set of caches and write under their own identities. Names, behaviour, conditions, reasons and
//! event messages are upstream's kube-controller-manager's.

pub mod bootstrap_signer;
pub mod certificates;
pub mod clusterrole_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslicemirroring;
pub mod ephemeral_volume;
pub mod garbage_collector;
pub mod job;
pub mod legacy_service_account_token_cleaner;
pub mod local_volume_provisioner;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod persistentvolume_binder;
pub mod persistentvolume_expander;
pub mod persistentvolume_protection;
pub mod persistentvolumeclaim_protection;
pub mod pod_gc;
pub mod podautoscaler;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resourcequota;
pub mod root_ca_publisher;
pub mod service_lb;
pub mod serviceaccount;
pub mod serviceaccount_token;
pub mod statefulset;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl;
pub mod ttlafterfinished;
pub mod volumeattributesclass_protection;

mod claims;
mod conditions;
#[cfg(test)]
mod fixtures;
mod history;
mod pod_control;
mod pods;
mod scale;
mod service;
mod template;
#[cfg(test)]
mod tests;
mod volume_claims;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base::{Random, SharedClock, Stop, Tasks};
use control::{Client, Component, Controller, Informers, Recorder};
use ipnet::{IpNet, Ipv4Net};

/// Every controller that reconciles one resource. Beside them run [`WIDE`].
pub const CONTROLLERS: &[Descriptor] = &[
    bootstrap_signer::CONTROLLER,
    cronjob::CONTROLLER,
    certificates::approving::CONTROLLER,
    certificates::cleaner::CONTROLLER,
    certificates::serving::CONTROLLER,
    certificates::signing::CONTROLLER,
    clusterrole_aggregation::CONTROLLER,
    daemonset::CONTROLLER,
    deployment::CONTROLLER,
    disruption::CONTROLLER,
    disruption::stale_condition::CONTROLLER,
    endpoints::CONTROLLER,
    endpointslice::CONTROLLER,
    endpointslicemirroring::CONTROLLER,
    ephemeral_volume::CONTROLLER,
    job::CONTROLLER,
    legacy_service_account_token_cleaner::CONTROLLER,
    local_volume_provisioner::provision::CONTROLLER,
    local_volume_provisioner::remove::CONTROLLER,
    namespace::CONTROLLER,
    node_ipam::CONTROLLER,
    node_lifecycle::CONTROLLER,
    persistentvolume_binder::claim::CONTROLLER,
    persistentvolume_binder::volume::CONTROLLER,
    persistentvolume_expander::CONTROLLER,
    persistentvolume_protection::CONTROLLER,
    persistentvolumeclaim_protection::CONTROLLER,
    pod_gc::CONTROLLER,
    podautoscaler::CONTROLLER,
    replicaset::CONTROLLER,
    replicationcontroller::CONTROLLER,
    root_ca_publisher::CONTROLLER,
    service_lb::CONTROLLER,
    serviceaccount::CONTROLLER,
    serviceaccount_token::CONTROLLER,
    statefulset::CONTROLLER,
    taint_eviction::CONTROLLER,
    token_cleaner::CONTROLLER,
    ttl::CONTROLLER,
    ttlafterfinished::CONTROLLER,
    volumeattributesclass_protection::CONTROLLER,
];

/// Controllers that look at all resources, whatever is served.
pub const WIDE: &[Wide] = &[
    Wide { name: garbage_collector::NAME, make: |ctx| garbage_collector::GarbageCollector::new(ctx) },
    Wide { name: resourcequota::NAME, make: |ctx| resourcequota::QuotaController::new(ctx) },
];

/// A row of [`WIDE`].
#[derive(Debug, Clone, Copy)]
pub struct Wide {
    /// The name of the controller and of its identity.
    pub name: &'static str,
    /// Makes it.
    pub make: fn(Ctx) -> Arc<dyn Component>,
}

/// A row of [`CONTROLLERS`].
pub type Descriptor = control::Descriptor<Settings>;

/// What a controller's reconcile works with.
pub type Ctx = control::Ctx<Settings>;

/// What the binary sets for all controllers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificates by which pods trust the API server, in PEM.
    pub root_ca_pem: String,
    /// Signs certificates for the cluster's own signers; nobody does where there is none.
    pub authority: Option<Arc<certificates::authority::Authority>>,
    /// Signs the tokens of service accounts that secrets hold; nobody does where there is none.
    pub token_signer: Option<Arc<serviceaccount_token::TokenSigner>>,
    /// What autoscalers remember.
    pub autoscalers: Arc<podautoscaler::Memory>,
    /// What the daemon set controller remembers of pods that failed.
    pub daemon_failures: Arc<daemonset::Failures>,
    /// When taints were seen first.
    pub noticed_taints: Arc<taint_eviction::Noticed>,
    /// How fast the nodes of each zone may lose their pods.
    pub zones: Arc<node_lifecycle::Zones>,
    /// Where pod addresses come from.
    pub cluster_cidr: Ipv4Net,
    /// The prefix length of a node's part of it.
    pub node_cidr_mask: u8,
    /// Pods' addresses of the other family, and the size of a node's part; `None` in a cluster of one family.
    pub cluster_cidr_second: Option<(IpNet, u8)>,
    /// What Services of type LoadBalancer get.
    pub load_balancers: service_lb::LoadBalancers,
    /// How long a node may be without a life sign until its state is unknown.
    pub node_monitor_grace: Duration,
    /// How long certificates last that nobody asked a shorter time for.
    pub signing_duration: Duration,
}

/// Makes the client of one controller from its name: `system:serviceaccount:kube-system:NAME`.
pub type ClientFactory = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What [`run`] needs.
pub struct Config {
    /// Under whose identity the shared caches watch, such as `system:kube-controller-manager`.
    pub informers: Client,
    /// Under whose identities the controllers write.
    pub clients: ClientFactory,
    /// Wall-clock time.
    pub clock: SharedClock,
    /// Generated names.
    pub random: Random,
    /// What the binary sets.
    pub settings: Settings,
}

/// Runs all controllers until `stop`. Returns when all have ended.
pub async fn run(config: Config, stop: Stop) {
    let tasks = Tasks::new("controllers");
    let informers = Informers::new(config.informers.clone(), tasks.clone(), stop.clone());
    let settings = Arc::new(config.settings.clone());
    for descriptor in CONTROLLERS {
        let ctx = context(&config, &settings, &informers, &tasks, &stop, descriptor.name);
        tasks.supervise(descriptor.name, stop.clone(), move |stop| {
            let controller = Controller::new(descriptor, ctx.clone());
            async move {
                controller.run(stop).await;
                Ok::<(), Infallible>(())
            }
        });
    }
    for wide in WIDE {
        let ctx = context(&config, &settings, &informers, &tasks, &stop, wide.name);
        tasks.supervise(wide.name, stop.clone(), move |stop| {
            let controller = (wide.make)(ctx.clone());
            async move {
                controller.run(stop).await;
                Ok::<(), Infallible>(())
            }
        });
    }
    stop.stopped().await;
    tasks.join().await;
}

/// Rows that write under another name than their own: upstream has one service account for several of them, and calls the
/// daemon set controller's by another name than the controller has in events.
const SHARED_IDENTITIES: &[(&Descriptor, &str)] = &[
    (&certificates::approving::CONTROLLER, certificates::IDENTITY),
    (&certificates::cleaner::CONTROLLER, certificates::IDENTITY),
    (&certificates::signing::CONTROLLER, certificates::IDENTITY),
    (&daemonset::CONTROLLER, "daemon-set-controller"),
    (&disruption::stale_condition::CONTROLLER, disruption::CONTROLLER.name),
    (&local_volume_provisioner::remove::CONTROLLER, local_volume_provisioner::IDENTITY),
    (&node_ipam::CONTROLLER, node_lifecycle::CONTROLLER.name),
    (&persistentvolume_binder::claim::CONTROLLER, persistentvolume_binder::IDENTITY),
    (&persistentvolume_binder::volume::CONTROLLER, persistentvolume_binder::IDENTITY),
];

/// Rows whose events name another source than the row.
const EVENT_SOURCES: &[(&Descriptor, &str)] = &[
    (&ephemeral_volume::CONTROLLER, ephemeral_volume::EVENT_SOURCE),
    (&persistentvolume_binder::claim::CONTROLLER, persistentvolume_binder::EVENT_SOURCE),
    (&persistentvolume_binder::volume::CONTROLLER, persistentvolume_binder::EVENT_SOURCE),
    (&persistentvolume_expander::CONTROLLER, persistentvolume_expander::EVENT_SOURCE),
];

/// The service account of a controller.
fn identity(name: &str) -> &str {
    renamed(SHARED_IDENTITIES, name)
}

fn renamed<'a>(names: &[(&Descriptor, &'a str)], name: &'a str) -> &'a str {
    names.iter().find(|(row, _)| row.name == name).map_or(name, |(_, other)| other)
}

fn context(
    config: &Config,
    settings: &Arc<Settings>,
    informers: &Informers,
    tasks: &Tasks,
    stop: &Stop,
    name: &str,
) -> Ctx {
    // Upstream's controller manager fills token secrets itself: no service account may write all secrets.
    let client = match name == serviceaccount_token::CONTROLLER.name {
        true => config.informers.clone(),
        false => (config.clients)(identity(name)),
    };
    let source = renamed(EVENT_SOURCES, name);
    let recorder = Recorder::new(client.clone(), tasks, stop.clone(), config.clock.clone(), source, "");
    let (informers, clock, random) = (informers.clone(), config.clock.clone(), config.random.clone());
    Ctx { client, informers, clock, random, recorder, settings: settings.clone() }
}
