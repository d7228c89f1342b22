//! The service proxy: what kube-proxy does, with rules whose number of changes does not depend on the cluster's size.
//!
//! [`services`] turns Service and EndpointSlice objects into what should hold for each frontend (an address and port that
//! clients send to). [`rules`] turns that into nftables map elements and into the difference to what is there. Here is the
//! loop between: changes that arrive together become one transaction, which the kernel applies as a whole; nothing is
//! polled. At the start the kernel's own elements are read and adopted, so that a restart changes nothing that is right.
//!
//! What the behaviour should be is defined by the Service API reference and kube-proxy's nftables mode (KEP-3866).
//! Not here: IPv6.

mod health;
pub mod rules;
pub mod services;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::resources::NODES;
use api::typed::{core::v1 as core, discovery::v1 as discovery};
use api::{Key, Object, Typed};
use base::{Backoff, Stop};
use control::{Change, Changes, Informers, WatchScope};
use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use linux::net::{Connections, Net, NetError};
use tokio::time::Instant;

use crate::TABLE;
use health::HealthChecks;
use rules::{Frontend, Layout, Rules, Target};
use services::{Place, Service, Slice};

/// How many endpoints one transaction programs at most. A transaction is one datagram, which the kernel copies as a whole:
/// without a limit the first one of a large cluster would want hundreds of megabytes at once.
const ENDPOINTS_PER_TRANSACTION_MAX: usize = 100_000;

/// What [`run`] is given.
#[derive(Clone)]
pub struct Config {
    /// Where services and endpoint slices come from.
    pub informers: Informers,
    /// The network namespace that the node lives in.
    pub net: Arc<dyn Net>,
    /// This node's name, as in `EndpointSlice.endpoints[].nodeName`.
    pub node_name: String,
    /// All pods' addresses, on every node: what comes to a service from elsewhere gets the node's address.
    pub cluster_cidr: Ipv4Net,
    /// All services' addresses: what is sent to one that has no endpoints is rejected.
    pub service_cidr: Ipv4Net,
    /// The address that the node's own DNS server answers on. Where its Service has no endpoints it stays reachable.
    pub cluster_dns: Option<Ipv4Addr>,
    /// On which of the node's addresses node ports are; on every one, where there are none.
    pub node_port_addresses: Vec<Ipv4Net>,
}

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Programs services until `stop`. A transaction that the kernel refuses is tried again with back-off, from what the kernel
/// then has.
pub async fn run(config: Config, stop: Stop) -> Result<(), NetError> {
    let mut services = config.informers.all(core::Service::resource()).changes();
    let mut slices = config.informers.all(discovery::EndpointSlice::resource()).changes();
    let mut nodes = config.informers.cache(NODES, WatchScope::field("metadata.name", &config.node_name)).changes();
    let mut proxy = Proxy::new(&config);
    let mut health = HealthChecks::new(stop.child());
    let (mut services_synced, mut slices_synced, mut nodes_synced) = (false, false, false);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
    let mut retry_at: Option<Instant> = None;
    let (mut lost, mut can_watch) = (None, true);
    loop {
        tokio::select! {
            () = stop.stopped() => {
                health.end().await;
                return Ok(());
            }
            change = nodes.next() => nodes_synced |= proxy.take_node(&change),
            change = services.next() => services_synced |= proxy.take_service(&change),
            change = slices.next() => slices_synced |= proxy.take_slice(&change),
            gone = watch_of(&mut lost) => {
                lost = None;
                if let Err(error) = gone {
                    tracing::warn!(error = base::chain(&error), "cannot watch the service rules; what removes them stays unseen");
                    can_watch = false;
                    continue;
                }
                tracing::warn!("someone removed the service rules; putting them back");
                proxy.rules = None;
                retry_at = retry_at.or_else(|| Some(Instant::now() + backoff.next_delay()));
                continue;
            }
            () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
        }
        services_synced |= drain(&mut services, |change| proxy.take_service(change));
        slices_synced |= drain(&mut slices, |change| proxy.take_slice(change));
        nodes_synced |= drain(&mut nodes, |change| proxy.take_node(change));
        // Before all are complete, services would seem to have no endpoints, and working ones would be rejected.
        if !(services_synced && slices_synced && nodes_synced) || retry_at.is_some_and(|at| Instant::now() < at) {
            continue;
        }
        let applied = proxy.apply().await;
        health.update(&proxy.health_checks(), applied.is_ok());
        retry_at = match applied {
            Ok(()) => {
                // What is there now is to stay there.
                if lost.is_none() && can_watch {
                    let net = config.net.clone();
                    lost = Some(async move { net.chain_gone(TABLE, rules::SERVICES_CHAIN).await }.boxed());
                }
                backoff.reset();
                None
            }
            Err(error) => {
                let delay = backoff.next_delay();
                tracing::warn!(error = base::chain(&error), ?delay, "cannot program services; trying again");
                Some(Instant::now() + delay)
            }
        };
    }
}

/// What the watch says, where there is one; else nothing, for ever.
async fn watch_of(watch: &mut Option<BoxFuture<'_, Result<(), NetError>>>) -> Result<(), NetError> {
    match watch {
        Some(watch) => watch.await,
        None => std::future::pending().await,
    }
}

/// Takes what has arrived already, so that a burst becomes one transaction.
fn drain(changes: &mut Changes, mut take: impl FnMut(&Change) -> bool) -> bool {
    std::iter::from_fn(|| changes.try_next()).fold(false, |synced, (change, _)| synced | take(&change))
}

/// What is known of the cluster, what should hold, and what the kernel has.
pub struct Proxy {
    net: Arc<dyn Net>,
    layout: Layout,
    place: Place,
    services: BTreeMap<Key, Service>,
    /// The services whose health somebody asks for.
    checked: BTreeSet<Key>,
    /// By service, then by the slice's name.
    slices: BTreeMap<Key, BTreeMap<Arc<str>, Slice>>,
    /// Which service each slice was seen under, by the slice's key: its label may change.
    service_of_slice: BTreeMap<Key, Key>,
    /// What each service wants of a frontend. Two may want the same (an external address): the first by name gets it.
    claims: BTreeMap<Frontend, BTreeMap<Key, Target>>,
    claimed_by: BTreeMap<Key, BTreeSet<Frontend>>,
    /// The services whose wants are to be computed again.
    dirty: BTreeSet<Key>,
    /// What the kernel has; `None` where that is to be found out first.
    rules: Option<Rules>,
    /// Connections that are still to be forgotten.
    orphans: BTreeSet<Connections>,
}

impl Proxy {
    /// Knows nothing yet.
    pub fn new(config: &Config) -> Self {
        let layout = Layout {
            cluster_cidr: config.cluster_cidr.trunc(),
            service_cidr: config.service_cidr.trunc(),
            cluster_dns: config.cluster_dns,
            node_port_addresses: config.node_port_addresses.iter().map(Ipv4Net::trunc).collect(),
        };
        Self::with(config.net.clone(), layout, &config.node_name)
    }

    /// The same, without informers.
    pub fn with(net: Arc<dyn Net>, layout: Layout, node_name: &str) -> Self {
        Self {
            net,
            layout,
            place: Place { node: node_name.to_owned(), zone: None },
            services: BTreeMap::new(),
            checked: BTreeSet::new(),
            slices: BTreeMap::new(),
            service_of_slice: BTreeMap::new(),
            claims: BTreeMap::new(),
            claimed_by: BTreeMap::new(),
            dirty: BTreeSet::new(),
            rules: None,
            orphans: BTreeSet::new(),
        }
    }

    /// Takes in a change of a Service; true for `Synced`.
    fn take_service(&mut self, change: &Change) -> bool {
        match change {
            Change::Applied(object) => {
                let service = decode::<core::Service>(object).as_ref().and_then(Service::of);
                self.set_service(object.key(), service);
            }
            Change::Deleted(object) => self.set_service(object.key(), None),
            Change::Synced => return true,
        }
        false
    }

    /// Takes in a change of this node; true for `Synced`.
    fn take_node(&mut self, change: &Change) -> bool {
        match change {
            Change::Applied(object) => self.set_zone(object.label(ZONE_LABEL).map(str::to_owned)),
            Change::Deleted(_) => self.set_zone(None),
            Change::Synced => return true,
        }
        false
    }

    /// The zone that this node is in.
    pub fn set_zone(&mut self, zone: Option<String>) {
        let zone = zone.filter(|zone| !zone.is_empty());
        if self.place.zone != zone {
            self.place.zone = zone;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// By port: the service that is asked for there, and how many endpoints of it are here.
    fn health_checks(&self) -> BTreeMap<u16, (Key, usize)> {
        let check = |key: &Key| {
            let port = self.services.get(key)?.health_check_node_port?;
            let slices: Vec<&Slice> = self.slices.get(key).into_iter().flat_map(BTreeMap::values).collect();
            Some((port, (key.clone(), services::local_endpoints(&slices, &self.place))))
        };
        self.checked.iter().filter_map(check).collect()
    }

    /// Takes in a change of an EndpointSlice; true for `Synced`.
    fn take_slice(&mut self, change: &Change) -> bool {
        match change {
            Change::Applied(object) => {
                let service = object.label(services::SERVICE_NAME_LABEL);
                let service = service.map(|name| Key::new(object.key().namespace.clone(), name));
                let service = service.filter(|_| object.label(services::HEADLESS_LABEL).is_none());
                let slice = service.zip(decode::<discovery::EndpointSlice>(object).as_ref().and_then(Slice::of));
                self.set_slice(object.key(), slice);
            }
            Change::Deleted(object) => self.set_slice(object.key(), None),
            Change::Synced => return true,
        }
        false
    }

    /// A Service as it is now; `None` where it is gone or not for this proxy.
    pub fn set_service(&mut self, key: &Key, service: Option<Service>) {
        if service.as_ref().is_some_and(|service| service.health_check_node_port.is_some()) {
            self.checked.insert(key.clone());
        } else {
            self.checked.remove(key);
        }
        let changed = match service {
            Some(service) => self.services.insert(key.clone(), service.clone()) != Some(service),
            None => self.services.remove(key).is_some(),
        };
        if changed {
            self.dirty.insert(key.clone());
        }
    }

    /// An EndpointSlice as it is now, with its service; `None` where it is gone or not for this proxy.
    pub fn set_slice(&mut self, key: &Key, slice: Option<(Key, Slice)>) {
        let former = self.service_of_slice.remove(key);
        if let Some(former) = former.filter(|former| slice.as_ref().is_none_or(|(service, _)| service != former)) {
            if let Some(of_service) = self.slices.get_mut(&former) {
                of_service.remove(&key.name);
                if of_service.is_empty() {
                    self.slices.remove(&former);
                }
            }
            self.dirty.insert(former);
        }
        let Some((service, slice)) = slice else { return };
        self.service_of_slice.insert(key.clone(), service.clone());
        let of_service = self.slices.entry(service.clone()).or_default();
        if of_service.insert(key.name.clone(), slice.clone()) != Some(slice) {
            self.dirty.insert(service);
        }
    }

    /// Brings the kernel to what should hold now.
    pub async fn apply(&mut self) -> Result<(), NetError> {
        let changed = self.settle();
        let (mut rules, prelude, updates) = match self.rules.take() {
            Some(rules) => (rules, Vec::new(), self.updates(changed)),
            None => {
                let contents = self.net.table(TABLE).await?;
                let (rules, prelude) = Rules::adopt(&self.layout, contents.unwrap_or_default());
                let everything = self.claims.keys().chain(rules.frontends()).copied().collect();
                (rules, prelude, self.updates(everything))
            }
        };
        let mut changes = prelude;
        for chunk in chunks(updates) {
            let (more, gone) = rules.change(chunk);
            changes.extend(more);
            self.orphans.extend(gone);
            self.net.commit(TABLE, &std::mem::take(&mut changes)).await?;
        }
        if !changes.is_empty() {
            self.net.commit(TABLE, &changes).await?;
        }
        // What the kernel has is known again only now: an error above leaves `None`, and the next call reads it.
        self.rules = Some(rules);
        if !self.orphans.is_empty() {
            let orphans: Vec<_> = self.orphans.iter().cloned().collect();
            self.net.forget_connections(&orphans).await?;
            self.orphans.clear();
        }
        Ok(())
    }

    /// Computes again what the changed services want; returns the frontends that may be concerned.
    fn settle(&mut self) -> BTreeSet<Frontend> {
        let mut changed = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            let slices: Vec<&Slice> = self.slices.get(&key).into_iter().flat_map(BTreeMap::values).collect();
            let targets = match self.services.get(&key) {
                Some(service) => services::targets(service, &slices, &self.place, self.layout.cluster_dns),
                None => BTreeMap::new(),
            };
            let now: BTreeSet<Frontend> = targets.keys().copied().collect();
            let before = self.claimed_by.remove(&key).unwrap_or_default();
            for gone in before.difference(&now) {
                if let Some(claims) = self.claims.get_mut(gone) {
                    claims.remove(&key);
                    if claims.is_empty() {
                        self.claims.remove(gone);
                    }
                }
            }
            changed.extend(before.iter().chain(&now).copied());
            for (frontend, target) in targets {
                self.claims.entry(frontend).or_default().insert(key.clone(), target);
            }
            if !now.is_empty() {
                self.claimed_by.insert(key, now);
            }
        }
        changed
    }

    fn updates(&self, frontends: BTreeSet<Frontend>) -> Vec<(Frontend, Option<Target>)> {
        let winner = |frontend: &Frontend| self.claims.get(frontend).and_then(|claims| claims.values().next()).cloned();
        frontends.into_iter().map(|frontend| (frontend, winner(&frontend))).collect()
    }
}

/// Parts of a change, each small enough for one transaction. A frontend is never divided.
fn chunks(updates: Vec<(Frontend, Option<Target>)>) -> Vec<Vec<(Frontend, Option<Target>)>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut weight) = (Vec::new(), 0);
    for update in updates {
        weight += update.1.as_ref().map_or(1, |target| target.backends.len() + 1);
        chunk.push(update);
        if weight >= ENDPOINTS_PER_TRANSACTION_MAX {
            chunks.push(std::mem::take(&mut chunk));
            weight = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// One object that cannot be read is logged and treated as absent: the others go on.
fn decode<T: Typed>(object: &Object) -> Option<T> {
    let decoded = T::decode(object.json());
    if let Err(error) = &decoded {
        tracing::warn!(key = %object.key(), kind = %T::resource().kind, %error, "cannot read an object; ignoring it");
    }
    decoded.ok()
}
