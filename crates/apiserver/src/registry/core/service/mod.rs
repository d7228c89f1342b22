//! Services: defaults, and the cluster addresses and node ports that must be unique in the cluster.
//!
//! What is in use is known from the watch cache, as it changes; what a write under way has taken is held beside it until
//! the cache shows the write. So two writers never get the same address, and nothing leaks when a write fails.

mod types;
mod validate;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use api::{ApiError, Object, Reason, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use machinery::names;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::invalid::{FieldError, invalid};
use crate::registry::tree::{child, is_set, list, list_mut, present, remove, set, set_default, text};
use crate::registry::{Context, Descriptor, Parts, Reservation, Strategy, tree};
use crate::watch_cache::{Caches, Observer};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: resources::SERVICES, strategy: |parts| Arc::new(ServiceStrategy::new(parts)) };

/// How long a client sticks to an endpoint when the service does not say: three hours.
const AFFINITY_SECONDS: i64 = 10_800;
/// The value of `clusterIP` of a service without an address.
const HEADLESS: &str = "None";

struct ServiceStrategy {
    caches: Arc<Caches>,
    ranges: types::Ranges,
    ports: (u16, u16),
    used: Arc<Mutex<Used>>,
    followed: OnceCell<()>,
}

/// How often each address and port is used, by stored services and by writes under way.
#[derive(Debug, Default)]
struct Used {
    addresses: HashMap<IpAddr, u32>,
    ports: HashMap<u16, u32>,
}

fn count<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: K, more: bool) {
    let times = counts.entry(key).or_default();
    *times = if more { *times + 1 } else { times.saturating_sub(1) };
}

impl Used {
    fn take(&mut self, held: &Held, more: bool) {
        held.addresses.iter().for_each(|address| count(&mut self.addresses, *address, more));
        held.ports.iter().for_each(|port| count(&mut self.ports, *port, more));
        if !more {
            self.addresses.retain(|_, times| *times > 0);
            self.ports.retain(|_, times| *times > 0);
        }
    }
}

/// What one service has.
#[derive(Debug, Default, Clone)]
struct Held {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Held {
    fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        let addresses = list(&spec["clusterIPs"]).iter().filter_map(|address| text(address).parse().ok()).collect();
        let ports = list(&spec["ports"]).iter().filter_map(|port| port["nodePort"].as_u64());
        let mut ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
        let health = spec["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        ports.extend(health);
        ports.retain(|port| *port != 0);
        ports.sort_unstable();
        // One port of a service may serve TCP and UDP.
        ports.dedup();
        Self { addresses, ports }
    }
}

struct FollowServices(Arc<Mutex<Used>>);

impl Observer for FollowServices {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let held = |object: Option<&Object>| object.map(|object| Held::of(&object.to_value()));
        let (old, new) = (held(old), held(new));
        let mut used = self.0.lock().expect(POISON);
        if let Some(new) = new {
            used.take(&new, true);
        }
        if let Some(old) = old {
            used.take(&old, false);
        }
    }
}

/// Gives back what a write took, when it is over.
struct Taken {
    used: Arc<Mutex<Used>>,
    held: Held,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.used.lock().expect(POISON).take(&self.held, false);
    }
}

const POISON: &str = "nothing panics while it holds the addresses";

impl ServiceStrategy {
    fn new(parts: &Parts) -> Self {
        Self {
            caches: parts.caches.clone(),
            ranges: types::Ranges { first: parts.config.service_cidr, second: parts.config.service_cidr_second },
            ports: parts.config.node_port_range,
            used: Arc::default(),
            followed: OnceCell::new(),
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().expect(POISON)
    }

    async fn follow(&self) -> Result<(), ApiError> {
        let follow = || async {
            self.caches.of(resources::SERVICES).await?.observe(Arc::new(FollowServices(self.used.clone())));
            Ok(())
        };
        self.followed.get_or_try_init(follow).await.map(drop)
    }

    /// Takes what the service asks for and lacks, and writes it in.
    async fn take(&self, context: &Context<'_>, new: &mut Value, old: Option<&Value>) -> Result<Taken, ApiError> {
        self.follow().await?;
        self.caches.fresh().await;
        let before = old.map(Held::of).unwrap_or_default();
        let mut taken = Taken { used: self.used.clone(), held: Held::default() };
        let wants = Wants::of(new);
        if let Some(spec) = present(new, "spec") {
            if wants.address {
                self.take_address(context, spec, &before, &mut taken)?;
            }
            if wants.node_ports {
                self.take_ports(context, spec, &before, &mut taken)?;
            }
        }
        Ok(taken)
    }

    /// One address of each family that the service has; what it has already, it keeps.
    fn take_address(
        &self,
        context: &Context<'_>,
        spec: &mut Value,
        before: &Held,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        let given: Vec<String> = match list(&spec["clusterIPs"]) {
            [] if text(&spec["clusterIP"]).is_empty() => Vec::new(),
            [] => vec![text(&spec["clusterIP"]).to_owned()],
            given => given.iter().map(|address| text(address).to_owned()).collect(),
        };
        let families: Vec<bool> = list(&spec["ipFamilies"]).iter().map(|family| text(family) == "IPv4").collect();
        let mut used = self.used();
        let mut addresses: Vec<String> = Vec::new();
        for index in 0..given.len().max(families.len()).max(1) {
            let address = match given.get(index) {
                Some(asked) => self.asked_address(asked, before, &used)?,
                None => {
                    let is_v4 = families.get(index).copied().unwrap_or(self.ranges.first.addr().is_ipv4());
                    let free = |address: &IpAddr| !used.addresses.contains_key(address);
                    let found = self.ranges.of(is_v4).and_then(|range| free_address(context, range, free));
                    found.ok_or_else(|| exhausted("IP", "range is full"))?
                }
            };
            if !before.addresses.contains(&address) {
                let held = Held { addresses: vec![address], ports: Vec::new() };
                used.take(&held, true);
                taken.held.addresses.extend(held.addresses);
            }
            // As it was written, where it was.
            addresses.push(given.get(index).cloned().unwrap_or_else(|| address.to_string()));
        }
        set(spec, "clusterIP", addresses[0].clone());
        set(spec, "clusterIPs", addresses);
        Ok(())
    }

    /// An address that the service asks for, where it may have it.
    fn asked_address(&self, asked: &str, before: &Held, used: &Used) -> Result<IpAddr, ApiError> {
        let refuse = |why: &str| {
            let why = format!("failed to allocate IP {asked}: {why}");
            Err(invalid(resources::SERVICES, "", &[FieldError::invalid("spec.clusterIPs", &json!([asked]), &why)]))
        };
        let Ok(address) = asked.parse::<IpAddr>() else { return refuse("must be a valid IP address") };
        if before.addresses.contains(&address) {
            return Ok(address);
        }
        let range = self.ranges.of(address.is_ipv4()).unwrap_or(&self.ranges.first);
        if !range.contains(&address) {
            return refuse(&format!(
                "provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}"
            ));
        }
        if used.addresses.contains_key(&address) {
            return refuse("provided IP is already allocated");
        }
        Ok(address)
    }

    fn take_ports(
        &self,
        context: &Context<'_>,
        spec: &mut Value,
        before: &Held,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        let mut used = self.used();
        let mut own: Vec<u16> = Vec::new();
        let mut take = |used: &mut Used, port: u16| {
            let held = Held { addresses: Vec::new(), ports: vec![port] };
            used.take(&held, true);
            taken.held.ports.push(port);
        };
        let wanted: Vec<u64> = list(&spec["ports"]).iter().map(|port| port["nodePort"].as_u64().unwrap_or(0)).collect();
        for (index, number) in wanted.iter().enumerate().filter(|(_, number)| **number != 0) {
            let refuse = |why: &str| {
                let path = format!("spec.ports[{index}].nodePort");
                Err(invalid(resources::SERVICES, "", &[FieldError::invalid(path, &json!(number), why)]))
            };
            let Some(port) = u16::try_from(*number).ok().filter(|port| (self.ports.0..=self.ports.1).contains(port))
            else {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    self.ports.0, self.ports.1
                );
                return refuse(&why);
            };
            if own.contains(&port) || before.ports.contains(&port) {
                own.push(port);
                continue;
            }
            if used.ports.contains_key(&port) {
                return refuse("provided port is already allocated");
            }
            take(&mut used, port);
            own.push(port);
        }
        for port in list_mut(spec, "ports") {
            if port["nodePort"].as_u64().unwrap_or(0) == 0 {
                let number = self.free_port(context, &used).ok_or_else(|| exhausted("port", "range is full"))?;
                take(&mut used, number);
                set(port, "nodePort", number);
            }
        }
        let local = text(&spec["externalTrafficPolicy"]) == "Local" && text(&spec["type"]) == "LoadBalancer";
        if local && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            let number = self.free_port(context, &used).ok_or_else(|| exhausted("port", "range is full"))?;
            take(&mut used, number);
            set(spec, "healthCheckNodePort", number);
        }
        Ok(())
    }

    fn free_port(&self, context: &Context<'_>, used: &Used) -> Option<u16> {
        let (first, last) = (usize::from(self.ports.0), usize::from(self.ports.1));
        let size = last + 1 - first;
        let reserved = if size < 64 { 0 } else { (size / 32).clamp(16, 128) };
        let upper = first + reserved..last + 1;
        let start = context.random.below(upper.len());
        let turned = upper.clone().cycle().skip(start).take(upper.len()).chain(first..first + reserved);
        turned.filter_map(|port| u16::try_from(port).ok()).find(|port| !used.ports.contains_key(port))
    }
}

/// A free address, from a random place on. The first part of the range is left for addresses that users choose, until
/// the rest is full.
fn free_address(context: &Context<'_>, range: &IpNet, free: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(20);
    let size = 1_usize << bits;
    let reserved = (size / 16).clamp(16, 256).min(size / 2);
    let nth = |offset: usize| match range.network() {
        IpAddr::V4(first) => IpAddr::from((u32::from(first) + u32::try_from(offset).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from((u128::from(first) + offset as u128).to_be_bytes()),
    };
    // Neither the network's own address nor the last, which is its broadcast address.
    let (upper, lower) = (reserved..size - 1, 1..reserved);
    let start = context.random.below(upper.len());
    let turned = upper.clone().cycle().skip(start).take(upper.len());
    turned.chain(lower).map(nth).find(free)
}

fn exhausted(what: &str, why: &str) -> ApiError {
    ApiError::new(Reason::InternalError, format!("Internal error occurred: failed to allocate a service{what}: {why}"))
}

/// What a service of this type needs.
struct Wants {
    address: bool,
    node_ports: bool,
}

impl Wants {
    fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        let kind = text(&spec["type"]);
        let without = kind == "ExternalName" || text(&spec["clusterIP"]) == HEADLESS;
        let opted_out = kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] == false;
        Self { address: !without, node_ports: matches!(kind, "NodePort" | "LoadBalancer") && !opted_out }
    }
}

impl Strategy for ServiceStrategy {
    fn default(&self, service: &mut Value) {
        if let Some(spec) = child(service, "spec") {
            default_spec(spec);
            if text(&spec["type"]) != "ExternalName" {
                default_addresses(spec, &self.ranges);
            }
        }
        if service["spec"]["type"] == "LoadBalancer"
            && let Some(balancer) = present(service, "status").and_then(|status| present(status, "loadBalancer"))
        {
            for ingress in list_mut(balancer, "ingress") {
                if !text(&ingress["ip"]).is_empty() {
                    set_default(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn prepare_for_create(&self, _: &Context<'_>, service: &mut Value) {
        set(service, "status", json!({"loadBalancer": {}}));
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        super::super::keep_status(new, old);
        if let Some(spec) = present(new, "spec") {
            types::keep_what_was_given(spec, &old["spec"]);
            types::give_second_back(spec, &old["spec"]);
            types::drop_what_the_type_does_not_have(spec, &old["spec"]);
        }
        if text(&new["spec"]["type"]) != "LoadBalancer"
            && let Some(status) = present(new, "status")
        {
            set(status, "loadBalancer", json!({}));
        }
    }

    fn reserve<'a>(
        &'a self,
        context: &'a Context<'a>,
        new: &'a mut Value,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Option<Reservation>, ApiError>> {
        async move {
            let name = text(&new["metadata"]["name"]).to_owned();
            // Before anything is taken: what is malformed is told of alone, as upstream does.
            let malformed = validate::addresses_of(new, old, &self.ranges);
            if !malformed.is_empty() {
                return Err(invalid(resources::SERVICES, &name, &malformed));
            }
            match self.take(context, new, old).await {
                Ok(taken) => Ok(Some(Box::new(taken) as Reservation)),
                Err(mut error) => {
                    if error.reason == Reason::Invalid {
                        error.message = error.message.replacen("Service \"\"", &format!("Service {name:?}"), 1);
                        error.details["name"] = name.into();
                    }
                    Err(error)
                }
            }
        }
        .boxed()
    }

    fn validate(&self, _: &Context<'_>, service: &Value) -> Vec<FieldError> {
        validate::validate(service, None)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::update(new, old)
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::load_balancer(&new["status"]["loadBalancer"], &old["status"]["loadBalancer"], &new["spec"])
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        validate::warnings(new)
    }
}

fn default_spec(spec: &mut Value) {
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "type", "ClusterIP");
    match text(&spec["sessionAffinity"]) {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" if spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null() => {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
        }
        _ => {}
    }
    for port in list_mut(spec, "ports") {
        set_default(port, "protocol", "TCP");
        let number = port["port"].clone();
        if !is_set(port, "targetPort") || port["targetPort"] == 0 || port["targetPort"] == "" {
            set(port, "targetPort", number);
        }
    }
    let kind = text(&spec["type"]).to_owned();
    if types::is_reached_from_outside(spec) {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(&*kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" && !is_set(spec, "allocateLoadBalancerNodePorts") {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn default_addresses(spec: &mut Value, ranges: &types::Ranges) {
    let single = text(&spec["clusterIP"]).to_owned();
    if !single.is_empty() && list(&spec["clusterIPs"]).is_empty() {
        set(spec, "clusterIPs", json!([single]));
    }
    if let Some(first) = list(&spec["clusterIPs"]).first().cloned() {
        set_default(spec, "clusterIP", first);
    }
    let own_endpoints = text(&spec["clusterIP"]) == HEADLESS && tree::entries(&spec["selector"]).next().is_none();
    set_default(spec, "ipFamilyPolicy", if own_endpoints { "RequireDualStack" } else { "SingleStack" });
    if list(&spec["ipFamilies"]).is_empty() {
        let given = list(&spec["clusterIPs"]).iter().map(text).filter(|address| *address != HEADLESS);
        let mut families: Vec<_> = given.map(|address| types::family(!address.contains(':'))).collect();
        // Two of a kind, or three, are refused for their addresses.
        if families.is_empty() || families.windows(2).any(|pair| pair[0] == pair[1]) {
            families.clear();
            families.push(types::family(ranges.first.addr().is_ipv4()));
        }
        set(spec, "ipFamilies", families);
    }
    // Who names the endpoints himself may name them of any family.
    let both = own_endpoints || ranges.is_dual();
    if let [only] = list(&spec["ipFamilies"])
        && both
        && matches!(text(&spec["ipFamilyPolicy"]), "PreferDualStack" | "RequireDualStack")
    {
        let other = types::family(text(only) != "IPv4");
        let families = json!([only, other]);
        set(spec, "ipFamilies", families);
    }
}
