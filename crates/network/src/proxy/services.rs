//! From Service and EndpointSlice objects to what should hold for each frontend. Pure.
//!
//! Which endpoints serve: those that are ready; where none is, those that are being ended but still serve, so that a rolling
//! update of the last pod drops nothing (KEP-1669). A `Local` traffic policy looks at this node's endpoints only, but for
//! clients inside of the cluster that use a Service's outer addresses: those get any. Hints narrow the choice where every
//! endpoint has one: to this node's, else to this zone's (KEP-3015).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use api::typed::{core::v1 as core, discovery::v1 as discovery};
use ipnet::Ipv4Net;

use super::rules::{Backend, Frontend, Refusal, Target};

/// The label that names a slice's Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service with one of these labels is another proxy's, or nobody's.
const FOREIGN_LABELS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", HEADLESS_LABEL];

/// What objects of services without an address of their own are labelled with; no proxy looks at them.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

/// What the proxy wants to know of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// `clusterIPs`, as far as they are IPv4.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// The load balancer's addresses that are to be handled on the node.
    pub balancer_ips: Vec<Ipv4Addr>,
    /// Who may use those: everybody, where there are none.
    pub source_ranges: BTreeSet<Ipv4Net>,
    /// The port on which balancers ask whether this node has endpoints.
    pub health_check_node_port: Option<u16>,
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
    /// The zones that should prefer it (`hints.forZones`); `None` where nothing is said.
    pub for_zones: Option<Vec<String>>,
}

/// Where this proxy is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// The node's zone, if it is labelled with one.
    pub zone: Option<String>,
}

impl Service {
    /// Reads one; `None` where it is not this proxy's: no cluster address, another proxy's, or only a name.
    pub fn of(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let labelled = service
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| FOREIGN_LABELS.iter().any(|label| labels.contains_key(*label)));
        let first = spec.cluster_ip.iter().cloned();
        let cluster_ips = spec.cluster_ips.clone().filter(|ips| !ips.is_empty()).unwrap_or_else(|| first.collect());
        let cluster_ips = ipv4s(&cluster_ips);
        if kind == "ExternalName" || labelled || cluster_ips.is_empty() {
            return None;
        }
        let mut balancer_ips = Vec::new();
        if kind == "LoadBalancer" {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
            let on_node = ingress.iter().filter(|point| point.ip_mode.as_deref() != Some("Proxy"));
            balancer_ips.extend(on_node.filter_map(|point| point.ip.as_deref()?.parse::<Ipv4Addr>().ok()));
        }
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        Some(Self {
            cluster_ips,
            external_ips: ipv4s(spec.external_ips.as_deref().unwrap_or_default()),
            balancer_ips,
            source_ranges: source_ranges(service, spec),
            health_check_node_port: health_check_node_port(spec),
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

/// Where only ranges of another family are given, nobody of this one may.
fn source_ranges(service: &core::Service, spec: &core::ServiceSpec) -> BTreeSet<Ipv4Net> {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotation = || service.metadata.annotations.as_ref()?.get(ANNOTATION);
    let texts: Vec<&str> = match spec.load_balancer_source_ranges.as_deref().unwrap_or_default() {
        [] => annotation().map(|text| text.split(',').collect()).unwrap_or_default(),
        ranges => ranges.iter().map(String::as_str).collect(),
    };
    let ranges: BTreeSet<Ipv4Net> =
        texts.iter().filter_map(|text| text.trim().parse().ok()).map(|net: Ipv4Net| net.trunc()).collect();
    let is_said = texts.iter().any(|text| !text.trim().is_empty());
    let nobody = || BTreeSet::from([Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32)]);
    if is_said && ranges.is_empty() { nobody() } else { ranges }
}

fn health_check_node_port(spec: &core::ServiceSpec) -> Option<u16> {
    let wanted = spec.external_traffic_policy.as_deref() == Some("Local");
    wanted.then(|| u16::try_from(spec.health_check_node_port?).ok()).flatten().filter(|port| *port != 0)
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
        let hints = endpoint.hints.as_ref();
        let for_nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).filter(|nodes| !nodes.is_empty());
        let for_zones = hints.and_then(|hints| hints.for_zones.as_ref()).filter(|zones| !zones.is_empty());
        Some(Self {
            address: endpoint.addresses.first()?.parse().ok()?,
            ready,
            ending: serving && terminating,
            node: endpoint.node_name.clone(),
            for_nodes: for_nodes.map(|nodes| nodes.iter().map(|node| node.name.clone()).collect()),
            for_zones: for_zones.map(|zones| zones.iter().map(|zone| zone.name.clone()).collect()),
        })
    }
}

/// What should hold for each frontend of a Service, on this node.
pub fn targets(
    service: &Service,
    slices: &[&Slice],
    place: &Place,
    cluster_dns: Option<Ipv4Addr>,
) -> BTreeMap<Frontend, Target> {
    let mut targets = BTreeMap::new();
    for port in &service.ports {
        let endpoints: Vec<_> = slices.iter().flat_map(|slice| endpoints(slice, port)).collect();
        let (protocol, number) = (port.protocol, port.port);
        for address in &service.cluster_ips {
            let mut target = target(service, &endpoints, place, service.internal_local, false);
            if Some(*address) == cluster_dns {
                target.refusal = Refusal::Ignore;
            }
            targets.insert(Frontend::Address(*address, protocol, number), target);
        }
        let balanced = service.balancer_ips.iter().map(|address| (address, service.source_ranges.clone()));
        let external = service.external_ips.iter().map(|address| (address, BTreeSet::new()));
        for (address, ranges) in external.chain(balanced) {
            let from_outside = Target { ranges, ..outer(service, &endpoints, place) };
            targets.insert(Frontend::Address(*address, protocol, number), from_outside);
            let from_inside = inner(service, &endpoints, place);
            targets.extend(from_inside.map(|target| (Frontend::InsideAddress(*address, protocol, number), target)));
        }
        if let Some(node_port) = port.node_port {
            targets.insert(Frontend::NodePort(protocol, node_port), outer(service, &endpoints, place));
            let from_inside = inner(service, &endpoints, place);
            targets.extend(from_inside.map(|target| (Frontend::InsideNodePort(protocol, node_port), target)));
        }
    }
    targets
}

type Candidate<'a> = (Backend, &'a Endpoint);

fn target(service: &Service, all: &[Candidate<'_>], place: &Place, local_only: bool, masquerade: bool) -> Target {
    let serving = serving(all, local_only, place);
    let on_node = |endpoint: &Endpoint| endpoint.node.as_ref().is_none_or(|node| *node == place.node);
    Target {
        backends: serving.iter().map(|(backend, _)| *backend).collect(),
        hairpin: serving.iter().filter(|(_, endpoint)| on_node(endpoint)).map(|(b, _)| b.address).collect(),
        masquerade,
        affinity_seconds: service.affinity_seconds,
        // Endpoints elsewhere that a policy keeps from being used must not look like a service without any.
        refusal: if local_only && !all.is_empty() { Refusal::Drop } else { Refusal::Reject },
        ranges: BTreeSet::new(),
    }
}

/// For clients elsewhere: an answer must come back through this node, so it has to look as if this node asked; unless only
/// this node's endpoints are used, which then see the client's own address.
fn outer(service: &Service, all: &[Candidate<'_>], place: &Place) -> Target {
    target(service, all, place, service.external_local, !service.external_local)
}

/// For this node and its pods, where a policy keeps outer clients to this node's endpoints: they may use any, as if they had
/// used the inner address.
fn inner(service: &Service, all: &[Candidate<'_>], place: &Place) -> Option<Target> {
    let target = || target(service, all, place, false, false);
    service.external_local.then(target).filter(|target| !target.backends.is_empty())
}

/// How many endpoints of this node take new connections: what a health check node port tells.
pub fn local_endpoints(slices: &[&Slice], place: &Place) -> usize {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let here = endpoints.filter(|endpoint| endpoint.ready && endpoint.node.as_ref() == Some(&place.node));
    here.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
}

/// A slice's endpoints for a Service's port: ports belong together by name and protocol.
fn endpoints<'a>(slice: &'a Slice, port: &'a Port) -> impl Iterator<Item = Candidate<'a>> {
    let same = |(name, protocol, _): &&(String, u8, u16)| *name == port.name && *protocol == port.protocol;
    slice.ports.iter().filter(same).flat_map(|(_, _, number)| {
        slice.endpoints.iter().map(|endpoint| (Backend { address: endpoint.address, port: *number }, endpoint))
    })
}

/// The endpoints that take new connections.
fn serving<'a>(all: &[Candidate<'a>], local_only: bool, place: &Place) -> Vec<Candidate<'a>> {
    let here = |endpoint: &Endpoint| !local_only || endpoint.node.as_ref() == Some(&place.node);
    let select = |wanted: fn(&Endpoint) -> bool| -> Vec<_> {
        all.iter().filter(|(_, endpoint)| here(endpoint) && wanted(endpoint)).copied().collect()
    };
    let mut chosen = select(|endpoint| endpoint.ready);
    if chosen.is_empty() {
        chosen = select(|endpoint| endpoint.ending);
    }
    if local_only { chosen } else { preferred(chosen, place) }
}

/// The endpoints that are hinted for this node, else those for its zone: each where every endpoint has such a hint and one of
/// them is for here.
fn preferred<'a>(endpoints: Vec<Candidate<'a>>, place: &Place) -> Vec<Candidate<'a>> {
    type Hint = fn(&Endpoint) -> Option<&Vec<String>>;
    let hints: [(Hint, Option<&String>); 2] = [
        (|endpoint| endpoint.for_nodes.as_ref(), Some(&place.node)),
        (|endpoint| endpoint.for_zones.as_ref(), place.zone.as_ref()),
    ];
    for (hint, here) in hints {
        let is_hinted =
            |endpoint: &Endpoint| hint(endpoint).zip(here).is_some_and(|(places, here)| places.contains(here));
        let all = endpoints.iter().all(|(_, endpoint)| hint(endpoint).is_some());
        let hinted: Vec<_> = endpoints.iter().filter(|(_, endpoint)| is_hinted(endpoint)).copied().collect();
        if all && !hinted.is_empty() {
            return hinted;
        }
    }
    endpoints
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
