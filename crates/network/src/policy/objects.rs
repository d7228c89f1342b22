//! What policies are planned from: NetworkPolicy, Pod and Namespace objects, cut down to what counts. Pure.
//!
//! The meaning is the NetworkPolicy API reference's: no `from` is everybody, an empty one too; no `ports` is every port; a
//! peer with both selectors wants both of one pod; a block may leave parts out. IPv6 blocks match nobody here.

use std::net::Ipv4Addr;
use std::sync::Arc;

use api::Object;
use ipnet::Ipv4Net;
use machinery::labels::{Selector, SelectorError};
use serde::Deserialize;
use serde_json::Value;

/// Labels, sorted by key.
pub type Labels = Vec<(Box<str>, Box<str>)>;

/// The annotations by which the API's mirror of a static pod names the pod that runs.
const CONFIG_ANNOTATIONS: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which pods of its namespace it is for.
    pub selects: Selector,
    /// Who may reach them; `None` where it says nothing of that.
    pub ingress: Option<Vec<Rule>>,
    /// Whom they may reach; `None` where it says nothing of that.
    pub egress: Option<Vec<Rule>>,
}

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// With whom; `None`: with everybody.
    pub peers: Option<Vec<Peer>>,
    /// On which ports; `None`: on every one, with every protocol.
    pub ports: Option<Vec<Port>>,
}

/// Whom a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Addresses.
    Block {
        /// All of these,
        net: Ipv4Net,
        /// but these.
        except: Vec<Ipv4Net>,
    },
    /// Pods.
    Pods(PeerPods),
}

/// The pods that a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPods {
    /// In which namespaces.
    pub namespaces: Namespaces,
    /// With which labels.
    pub pods: Selector,
}

/// The namespaces of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// The policy's own.
    Own(Arc<str>),
    /// Those with these labels.
    Labelled(Selector),
}

/// Which ports a rule names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// Every port of a protocol.
    All(u8),
    /// From one to another.
    Range(u8, u16, u16),
    /// The one that the pod which is asked calls so.
    Named(u8, String),
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its uid, and for a static pod's mirror what the pod itself has for one.
    pub uids: Vec<String>,
    /// The node that it runs on.
    pub node: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses; none where it has the node's or has ended.
    pub addresses: Vec<Ipv4Addr>,
    /// Whether it has the node's network.
    pub host_network: bool,
    /// Whether it has ended.
    pub ended: bool,
    /// Its ports with names.
    pub ports: Vec<(String, u8, u16)>,
}

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A selector is none.
    #[error("a selector is wrong")]
    Selector(#[from] SelectorError),
    /// A block is none.
    #[error("{0:?} is not a range of addresses")]
    Block(String),
    /// A port is none.
    #[error("{0} is not a port")]
    Port(Value),
}

impl Policy {
    /// Reads one.
    pub fn of(object: &Object) -> Result<Self, PolicyError> {
        Self::read(&object.to_value())
    }

    /// Reads one from its JSON.
    pub fn read(object: &Value) -> Result<Self, PolicyError> {
        let spec = &object["spec"];
        let namespace: Arc<str> = object["metadata"]["namespace"].as_str().unwrap_or_default().into();
        let types: Vec<&str> = list(&spec["policyTypes"]).filter_map(Value::as_str).collect();
        // Not said: always ingress, and egress where there are rules for it.
        let egress = types.contains(&"Egress") || (types.is_empty() && list(&spec["egress"]).next().is_some());
        let ingress = types.contains(&"Ingress") || types.is_empty();
        let rules = |wanted: bool, field: &str, peers: &str| -> Result<Option<Vec<Rule>>, PolicyError> {
            let rules = || list(&spec[field]).map(|rule| Rule::read(rule, peers, &namespace)).collect();
            wanted.then(rules).transpose()
        };
        Ok(Self {
            selects: selector(&spec["podSelector"])?,
            ingress: rules(ingress, "ingress", "from")?,
            egress: rules(egress, "egress", "to")?,
        })
    }
}

impl Rule {
    fn read(rule: &Value, peers: &str, namespace: &Arc<str>) -> Result<Self, PolicyError> {
        let (peers, ports) = (&rule[peers], &rule["ports"]);
        let some = |value: &Value| list(value).next().is_some();
        let read_peers = || list(peers).filter_map(|peer| Peer::read(peer, namespace).transpose()).collect();
        let read_ports = || list(ports).map(Port::read).collect();
        Ok(Self { peers: some(peers).then(read_peers).transpose()?, ports: some(ports).then(read_ports).transpose()? })
    }
}

impl Peer {
    /// `None` where it is of another family.
    fn read(peer: &Value, namespace: &Arc<str>) -> Result<Option<Self>, PolicyError> {
        if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
            let Some(net) = block(cidr)? else { return Ok(None) };
            let except = list(&peer["ipBlock"]["except"]).filter_map(Value::as_str).map(block);
            let except = except.filter_map(Result::transpose).collect::<Result<_, _>>()?;
            return Ok(Some(Self::Block { net, except }));
        }
        let namespaces = match &peer["namespaceSelector"] {
            Value::Null => Namespaces::Own(namespace.clone()),
            labels => Namespaces::Labelled(selector(labels)?),
        };
        Ok(Some(Self::Pods(PeerPods { namespaces, pods: selector(&peer["podSelector"])? })))
    }
}

impl Port {
    fn read(port: &Value) -> Result<Self, PolicyError> {
        let protocol = protocol(port["protocol"].as_str()).ok_or_else(|| PolicyError::Port(port.clone()))?;
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
        match &port["port"] {
            Value::Null => Ok(Self::All(protocol)),
            Value::String(name) => Ok(Self::Named(protocol, name.clone())),
            first => {
                let first = number(first).ok_or_else(|| PolicyError::Port(port.clone()))?;
                Ok(Self::Range(protocol, first, number(&port["endPort"]).unwrap_or(first)))
            }
        }
    }
}

impl PeerPods {
    /// Whether a pod of a namespace is meant. Pods with the node's network have the node's address: nobody can tell them
    /// from it, so they are never meant.
    pub fn matches(&self, pod: &Pod, namespace: &str, namespace_labels: Option<&Labels>) -> bool {
        let in_namespace = match &self.namespaces {
            Namespaces::Own(own) => &**own == namespace,
            Namespaces::Labelled(selector) => namespace_labels.is_some_and(|labels| selector.matches_pairs(labels)),
        };
        in_namespace && !pod.host_network && self.pods.matches_pairs(&pod.labels)
    }
}

impl Pod {
    /// Reads one.
    pub fn of(object: &Object) -> Result<Self, serde_json::Error> {
        let part: Part = serde_json::from_slice(object.json())?;
        let ended = matches!(part.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ips = part.status.pod_ips.iter().map(|ip| ip.ip.as_str()).chain(part.status.pod_ip.as_deref());
        let mut addresses: Vec<Ipv4Addr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if ended || part.spec.host_network {
            addresses.clear();
        }
        let annotation = |name| part.metadata.annotations.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let uids = CONFIG_ANNOTATIONS.into_iter().filter_map(annotation).chain([object.uid().to_owned()]).collect();
        let containers = part.spec.init_containers.iter().flatten().chain(part.spec.containers.iter().flatten());
        let named =
            |port: &PortPart| Some((port.name.clone()?, protocol(port.protocol.as_deref())?, port.container_port));
        Ok(Self {
            uids,
            node: part.spec.node_name.unwrap_or_default(),
            labels: labels(object),
            addresses,
            host_network: part.spec.host_network,
            ended,
            ports: containers.flat_map(|container| container.ports.iter().flatten()).filter_map(named).collect(),
        })
    }
}

/// An object's labels.
pub fn labels(object: &Object) -> Labels {
    let mut labels: Labels = object.index().labels.to_vec();
    labels.sort_unstable();
    labels
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Not said, or empty: everything.
fn selector(value: &Value) -> Result<Selector, SelectorError> {
    if value.is_null() { Ok(Selector::everything()) } else { Selector::from_label_selector(value) }
}

/// `None` for IPv6.
fn block(text: &str) -> Result<Option<Ipv4Net>, PolicyError> {
    match text.parse::<ipnet::IpNet>() {
        Ok(ipnet::IpNet::V4(net)) => Ok(Some(net.trunc())),
        Ok(ipnet::IpNet::V6(_)) => Ok(None),
        Err(_) => Err(PolicyError::Block(text.to_owned())),
    }
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// What is read of a pod's JSON: a typed pod takes 25 kB.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    metadata: MetadataPart,
    #[serde(default)]
    spec: SpecPart,
    #[serde(default)]
    status: StatusPart,
}

#[derive(Deserialize, Default)]
struct MetadataPart {
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct SpecPart {
    node_name: Option<String>,
    #[serde(default)]
    host_network: bool,
    init_containers: Option<Vec<ContainerPart>>,
    containers: Option<Vec<ContainerPart>>,
}

#[derive(Deserialize)]
struct ContainerPart {
    ports: Option<Vec<PortPart>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortPart {
    name: Option<String>,
    protocol: Option<String>,
    container_port: u16,
}

#[derive(Deserialize, Default)]
struct StatusPart {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", default)]
    pod_ips: Vec<IpPart>,
}

#[derive(Deserialize)]
struct IpPart {
    ip: String,
}
