//! From Service and EndpointSlice objects to what should hold for each frontend. Pure.
//!
//! Which endpoints serve: those that are ready; where none is, those that are being ended but still serve, so that a rolling
//! update of the last pod drops nothing (KEP-1669). A `Local` traffic policy looks at this node's endpoints only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use api::typed::{core::v1 as core, discovery::v1 as discovery};

use super::rules::{Backend, Frontend, Refusal, Target};

/// The label that names a slice's Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service with this label is another proxy's.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

/// What the proxy wants to know of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// `clusterIPs`, as far as they are IPv4.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `externalIPs`, and the load balancer's addresses that are to be handled on the node.
    pub external_ips: Vec<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// For how many seconds a client keeps its endpoint, with `sessionAffinity: ClientIP`.
    pub affinity_seconds: Option<u32>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name; may be empty.
    pub name: String,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
    /// Its number on every node, if it has one.
    pub node_port: Option<u16>,
}

/// What the proxy wants to know of an EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// Name, protocol and number of each port.
    pub ports: Vec<(String, u8, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it is being ended and still takes connections.
    pub ending: bool,
    /// The node that it runs on, if that is known.
    pub node: Option<String>,
    /// The nodes that should prefer it (`hints.forNodes`); `None` where nothing is said.
    pub for_nodes: Option<Vec<String>>,
}

impl Service {
    /// Reads one; `None` where it is not this proxy's: no cluster address, another proxy's, or only a name.
    pub fn of(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let labelled = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
        let first = spec.cluster_ip.iter().cloned();
        let cluster_ips = spec.cluster_ips.clone().filter(|ips| !ips.is_empty()).unwrap_or_else(|| first.collect());
        let cluster_ips = ipv4s(&cluster_ips);
        if kind == "ExternalName" || labelled || cluster_ips.is_empty() {
            return None;
        }
        let mut external_ips = ipv4s(spec.external_ips.as_deref().unwrap_or_default());
        if kind == "LoadBalancer" {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
            let on_node = ingress.iter().filter(|point| point.ip_mode.as_deref() != Some("Proxy"));
            external_ips.extend(on_node.filter_map(|point| point.ip.as_deref()?.parse::<Ipv4Addr>().ok()));
        }
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        Some(Self {
            cluster_ips,
            external_ips,
            ports: spec.ports.iter().flatten().filter_map(Port::of).collect(),
            internal_local: is_local(&spec.internal_traffic_policy),
            external_local: is_local(&spec.external_traffic_policy),
            affinity_seconds: affinity(spec),
        })
    }
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    let wanted = spec.session_affinity.as_deref() == Some("ClientIP");
    let configured = || spec.session_affinity_config.as_ref()?.client_ip.as_ref()?.timeout_seconds;
    wanted.then(|| configured().and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS_DEFAULT))
}

impl Port {
    fn of(port: &core::ServicePort) -> Option<Self> {
        Some(Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
        })
    }
}

impl Slice {
    /// Reads one; `None` where it does not hold IPv4 addresses.
    pub fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        if slice.address_type != "IPv4" {
            return None;
        }
        let port = |port: &discovery::EndpointPort| {
            let name = port.name.clone().unwrap_or_default();
            Some((name, protocol(port.protocol.as_deref())?, u16::try_from(port.port?).ok()?))
        };
        Some(Self {
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().flatten().filter_map(Endpoint::of).collect(),
        })
    }
}

impl Endpoint {
    /// The addresses of an endpoint are fungible, and the first one is to be used (EndpointSlice API).
    fn of(endpoint: &discovery::Endpoint) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        // An absent condition is unknown, which counts as ready, and as serving where ready; terminating is false then.
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        let for_nodes = endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
        Some(Self {
            address: endpoint.addresses.first()?.parse().ok()?,
            ready,
            ending: serving && terminating,
            node: endpoint.node_name.clone(),
            for_nodes: for_nodes.map(|nodes| nodes.iter().map(|node| node.name.clone()).collect()),
        })
    }
}

/// What should hold for each frontend of a Service, on this node.
pub fn targets(
    service: &Service,
    slices: &[&Slice],
    node_name: &str,
    cluster_dns: Option<Ipv4Addr>,
) -> BTreeMap<Frontend, Target> {
    let mut targets = BTreeMap::new();
    for port in &service.ports {
        let endpoints: Vec<(Backend, &Endpoint)> = slices.iter().flat_map(|slice| endpoints(slice, port)).collect();
        let target = |local_only: bool, masquerade: bool| {
            let serving = serving(&endpoints, local_only, node_name);
            let on_node = |endpoint: &Endpoint| endpoint.node.as_deref().is_none_or(|node| node == node_name);
            Target {
                backends: serving.iter().map(|(backend, _)| *backend).collect(),
                hairpin: serving.iter().filter(|(_, endpoint)| on_node(endpoint)).map(|(b, _)| b.address).collect(),
                masquerade,
                affinity_seconds: service.affinity_seconds,
                // Endpoints elsewhere that a policy keeps from being used must not look like a service without any.
                refusal: if local_only && !endpoints.is_empty() { Refusal::Drop } else { Refusal::Reject },
            }
        };
        for address in &service.cluster_ips {
            let mut target = target(service.internal_local, false);
            if Some(*address) == cluster_dns {
                target.refusal = Refusal::Ignore;
            }
            targets.insert(Frontend::Address(*address, port.protocol, port.port), target);
        }
        // From outside, an answer must come back through this node, so it has to look as if this node asked; unless only
        // this node's endpoints are used, which then see the client's own address.
        for address in &service.external_ips {
            let external = target(service.external_local, !service.external_local);
            targets.insert(Frontend::Address(*address, port.protocol, port.port), external);
        }
        if let Some(node_port) = port.node_port {
            let external = target(service.external_local, !service.external_local);
            targets.insert(Frontend::NodePort(port.protocol, node_port), external);
        }
    }
    targets
}

/// A slice's endpoints for a Service's port: ports belong together by name and protocol.
fn endpoints<'a>(slice: &'a Slice, port: &'a Port) -> impl Iterator<Item = (Backend, &'a Endpoint)> {
    let same = |(name, protocol, _): &&(String, u8, u16)| *name == port.name && *protocol == port.protocol;
    slice.ports.iter().filter(same).flat_map(|(_, _, number)| {
        slice.endpoints.iter().map(|endpoint| (Backend { address: endpoint.address, port: *number }, endpoint))
    })
}

/// The endpoints that take new connections.
fn serving<'a>(
    endpoints: &[(Backend, &'a Endpoint)],
    local_only: bool,
    node_name: &str,
) -> Vec<(Backend, &'a Endpoint)> {
    let here = |endpoint: &Endpoint| !local_only || endpoint.node.as_deref() == Some(node_name);
    let select = |wanted: fn(&Endpoint) -> bool| -> Vec<_> {
        endpoints.iter().filter(|(_, endpoint)| here(endpoint) && wanted(endpoint)).copied().collect()
    };
    let mut chosen = select(|endpoint| endpoint.ready);
    if chosen.is_empty() {
        chosen = select(|endpoint| endpoint.ending);
    }
    prefer_hinted(chosen, node_name)
}

/// The endpoints that are hinted for this node, where every one has a hint and one of them is for this node.
fn prefer_hinted<'a>(endpoints: Vec<(Backend, &'a Endpoint)>, node_name: &str) -> Vec<(Backend, &'a Endpoint)> {
    let hinted = |endpoint: &Endpoint| {
        endpoint.for_nodes.as_ref().is_some_and(|nodes| nodes.iter().any(|node| node == node_name))
    };
    let all = endpoints.iter().all(|(_, endpoint)| endpoint.for_nodes.is_some());
    let preferred: Vec<_> = endpoints.iter().filter(|(_, endpoint)| hinted(endpoint)).copied().collect();
    if all && !preferred.is_empty() { preferred } else { endpoints }
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn ipv4s(addresses: &[String]) -> Vec<Ipv4Addr> {
    addresses.iter().filter_map(|address| address.parse().ok()).collect::<BTreeSet<_>>().into_iter().collect()
}
