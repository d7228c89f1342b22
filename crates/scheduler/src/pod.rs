//! A pod as the scheduler sees it: decoded once when it arrives, a few hundred bytes, never a typed object.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Key, Object};
use jiff::Timestamp;
use machinery::Selector;
use machinery::labels::{Operator, Requirement, SelectorError};
use serde::Deserialize;
use serde_json::Value;

use crate::companions::Controller;
use crate::resources::{Amounts, ResourceList};
use crate::wire;

/// A pod cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// It has another shape.
    #[error("not a pod")]
    Shape(#[from] serde_json::Error),
    /// A label selector in it is none.
    #[error("a label selector of the pod is wrong")]
    Selector(#[from] SelectorError),
}

/// A pod, compact.
#[derive(Debug, Clone, PartialEq)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: Key,
    /// The uid: tells a pod from its successor of the same name.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// The node that it is bound to.
    pub node_name: Option<Box<str>>,
    /// `spec.schedulerName`.
    pub scheduler_name: Box<str>,
    /// Whether it has ended, and holds nothing of its node any more.
    pub ended: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What was last reported about it: reason and message of the condition `PodScheduled`.
    pub reported: Option<(Box<str>, Box<str>)>,
    /// `status.nominatedNodeName`: where room is being made for it.
    pub nominated_node: Option<Box<str>>,
    /// Since when it is there: `status.startTime`, or its creation before it has started. Seconds since 1970.
    pub since: i64,
    /// The controller that made it, where its pods belong together, and that one's name.
    pub controller: Option<(Controller, Box<str>)>,
    /// What it asks for.
    pub needs: Arc<Needs>,
}

/// What decides where a pod can go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs {
    /// `spec.priority`.
    pub priority: i32,
    /// Whether `spec.preemptionPolicy` keeps others from being removed for it.
    pub never_preempts: bool,
    /// Names of scheduling gates: with one, the pod is not looked at.
    pub gates: Box<[Box<str>]>,
    /// Effective requests.
    pub requests: Amounts,
    /// Requests as scores count them.
    pub nonzero: Amounts,
    /// Whether no container asks for CPU or memory.
    pub best_effort: bool,
    /// Ports of the host.
    pub ports: Box<[HostPort]>,
    /// Tolerations.
    pub tolerations: Box<[Toleration]>,
    /// Node selector and affinity.
    pub node: NodeConstraints,
    /// Labels, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Affinity to other pods.
    pub pods: PodTerms,
    /// Topology spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Images of all containers.
    pub images: Box<[Box<str>]>,
    /// The claims of its volumes.
    pub claims: Box<[PodClaim]>,
    /// How many containers there are.
    pub containers: usize,
}

/// A claim of one of a pod's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// Namespace and name of the claim.
    pub key: Key,
    /// Whether it is the pod's own, of a generic ephemeral volume.
    pub ephemeral: bool,
}

/// A port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address; empty and `0.0.0.0` mean all.
    pub ip: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods with these ports cannot share a node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// `core/v1 Toleration`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Empty: every key.
    pub key: Box<str>,
    /// `Equal` (also empty) or `Exists`.
    pub operator: Box<str>,
    /// The value that `Equal` compares.
    pub value: Box<str>,
    /// Empty: every effect.
    pub effect: Box<str>,
}

impl Default for Toleration {
    fn default() -> Self {
        Self { key: "".into(), operator: "".into(), value: "".into(), effect: "".into() }
    }
}

/// Node selector and node affinity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeConstraints {
    /// `spec.nodeSelector`.
    pub selector: BTreeMap<Box<str>, Box<str>>,
    /// Required terms, one of which must match. `None`: nothing is required.
    pub required: Option<Vec<NodeSelectorTerm>>,
    /// Preferred terms with their weights.
    pub preferred: Vec<PreferredTerm>,
}

/// `core/v1 NodeSelectorTerm`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// About labels.
    pub match_expressions: Vec<NodeSelectorRequirement>,
    /// About `metadata.name`.
    pub match_fields: Vec<NodeSelectorRequirement>,
}

/// `core/v1 NodeSelectorRequirement`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NodeSelectorRequirement {
    /// The label or field.
    pub key: Box<str>,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: Box<str>,
    /// What it is compared with.
    #[serde(default)]
    pub values: Vec<Box<str>>,
}

/// `core/v1 PreferredSchedulingTerm`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The term.
    pub preference: NodeSelectorTerm,
}

/// Affinity to other pods and anti-affinity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodTerms {
    /// Required affinity.
    pub required: Vec<AffinityTerm>,
    /// Required anti-affinity.
    pub anti: Vec<AffinityTerm>,
    /// Preferred affinity, and anti-affinity with a negative weight.
    pub preferred: Vec<(i64, AffinityTerm)>,
}

impl PodTerms {
    /// Whether there is no term.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.anti.is_empty() && self.preferred.is_empty()
    }
}

/// `core/v1 PodAffinityTerm`.
#[derive(Debug, Clone, PartialEq)]
pub struct AffinityTerm {
    /// The label of nodes whose values are the domains.
    pub topology_key: Box<str>,
    /// Selects the other pods.
    pub selector: Selector,
    /// Their namespaces.
    pub namespaces: Namespaces,
}

/// The namespaces that a term is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Namespaces {
    /// The pod's own.
    Own,
    /// Those with these names, and those with these labels.
    Chosen {
        /// Names.
        names: Vec<Box<str>>,
        /// Labels.
        selector: Selector,
    },
}

/// `core/v1 TopologySpreadConstraint`.
#[derive(Debug, Clone, PartialEq)]
pub struct SpreadConstraint {
    /// The label of nodes whose values are the domains.
    pub topology_key: Box<str>,
    /// Selects the pods that are spread.
    pub selector: Selector,
    /// By how many pods domains may differ.
    pub max_skew: i64,
    /// With fewer domains the smallest counts as empty.
    pub min_domains: i64,
    /// `DoNotSchedule`, not `ScheduleAnyway`.
    pub required: bool,
    /// Whether only nodes count that the pod's node affinity admits.
    pub honors_affinity: bool,
    /// Whether only nodes count whose taints the pod tolerates.
    pub honors_taints: bool,
}

impl PodInfo {
    /// Reads the parts of a pod that matter.
    pub fn read(object: &Object) -> Result<Self, PodError> {
        let Wire { metadata, spec, status } = wire::decode(object)?;
        let controller = object.controller().and_then(|owner| Some((Controller::of(owner)?, owner.name.clone())));
        let since = status.start_time.or(metadata.creation_timestamp).map_or(0, Timestamp::as_second);
        let containers = || spec.containers.iter().chain(&spec.init_containers);
        let (mut requests, nonzero) = (spec.total(Amounts::read), spec.total(Amounts::nonzero));
        // To ask for none of a resource asks for nothing of the node.
        requests.extended.retain(|(_, amount)| *amount > 0);
        let images = containers().map(|container| container.image.clone()).collect();
        let ports = spec.lasting().flat_map(Container::host_ports).collect();
        let labels = &object.index().labels;
        let claims = spec.volumes.iter().filter_map(|volume| volume.claim(object.key())).collect();
        let Affinity { node_affinity, pod_affinity, pod_anti_affinity } = spec.affinity.unwrap_or_default();
        let affinity = node_affinity.unwrap_or_default();
        let pods = pod_terms(pod_affinity, pod_anti_affinity, labels)?;
        let spread: Result<_, _> = spec.topology_spread_constraints.into_iter().map(|c| c.read(labels)).collect();
        let needs = Needs {
            priority: spec.priority,
            never_preempts: &*spec.preemption_policy == "Never",
            gates: spec.scheduling_gates.into_iter().map(|gate| gate.name).collect(),
            best_effort: requests.milli_cpu == 0 && requests.memory == 0,
            ports,
            containers: spec.containers.len() + spec.init_containers.len(),
            requests,
            nonzero,
            tolerations: spec.tolerations.into(),
            node: NodeConstraints {
                selector: spec.node_selector,
                required: affinity.required_during_scheduling_ignored_during_execution.map(|r| r.node_selector_terms),
                preferred: affinity.preferred_during_scheduling_ignored_during_execution,
            },
            labels: labels.clone(),
            pods,
            spread: spread?,
            images,
            claims,
        };
        let condition = status.conditions.into_iter().find(|condition| &*condition.kind == "PodScheduled");
        Ok(Self {
            key: object.key().clone(),
            uid: object.uid().into(),
            generation: object.index().generation,
            node_name: (!spec.node_name.is_empty()).then_some(spec.node_name),
            scheduler_name: spec.scheduler_name,
            ended: matches!(&*status.phase, "Succeeded" | "Failed"),
            deleting: object.is_deleting(),
            reported: condition.filter(|c| &*c.status == "False").map(|c| (c.reason, c.message)),
            nominated_node: (!status.nominated_node_name.is_empty()).then_some(status.nominated_node_name),
            since,
            controller,
            needs: Arc::new(needs),
        })
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    creation_timestamp: Option<Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Box<str>,
    scheduler_name: Box<str>,
    priority: i32,
    preemption_policy: Box<str>,
    scheduling_gates: Vec<Gate>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: ResourceList,
    resources: Resources,
    tolerations: Vec<Toleration>,
    node_selector: BTreeMap<Box<str>, Box<str>>,
    affinity: Option<Affinity>,
    topology_spread_constraints: Vec<Spread>,
    volumes: Vec<Volume>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    name: Box<str>,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSource {
    claim_name: Box<str>,
}

impl Volume {
    fn claim(&self, pod: &Key) -> Option<PodClaim> {
        if let Some(source) = &self.persistent_volume_claim {
            let key = Key::new(pod.namespace.clone(), &*source.claim_name);
            return Some(PodClaim { key, ephemeral: false });
        }
        self.ephemeral.as_ref()?;
        Some(PodClaim { key: Key::new(pod.namespace.clone(), format!("{}-{}", pod.name, self.name)), ephemeral: true })
    }
}

impl Spec {
    /// The containers that run as long as the pod does.
    fn lasting(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(self.init_containers.iter().filter(|container| container.restarts()))
    }

    /// What the pod asks for: its containers run together with its sidecars, its init containers one after the other with
    /// the sidecars started before them. What the pod as a whole asks for comes before what its containers do.
    fn total(&self, read: fn(&ResourceList) -> Amounts) -> Amounts {
        let mut total = Amounts::default();
        for container in &self.containers {
            total.add(&read(&container.resources.requests));
        }
        let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
        for container in &self.init_containers {
            let mut now = read(&container.resources.requests);
            if container.restarts() {
                total.add(&now);
                sidecars.add(&now);
                now = sidecars.clone();
            } else {
                now.add(&sidecars);
            }
            peak.max(&now);
        }
        total.max(&peak);
        total.override_with(&self.resources.requests);
        total.add(&Amounts::read(&self.overhead));
        total
    }
}

#[derive(Deserialize)]
struct Gate {
    name: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    image: Box<str>,
    restart_policy: Box<str>,
    resources: Resources,
    ports: Vec<Port>,
}

impl Container {
    /// Whether it is a sidecar: an init container that goes on running.
    fn restarts(&self) -> bool {
        &*self.restart_policy == "Always"
    }

    fn host_ports(&self) -> impl Iterator<Item = HostPort> + '_ {
        let ports = self.ports.iter().filter(|port| port.host_port > 0);
        ports.map(|port| {
            let protocol = if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() };
            HostPort { ip: port.host_ip.clone(), protocol, port: port.host_port }
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    requests: ResourceList,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Port {
    #[serde(rename = "hostPort")]
    host_port: i32,
    #[serde(rename = "hostIP")]
    host_ip: Box<str>,
    protocol: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
    pod_affinity: PodAffinity,
    pod_anti_affinity: PodAffinity,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodAffinity {
    required_during_scheduling_ignored_during_execution: Vec<Term>,
    preferred_during_scheduling_ignored_during_execution: Vec<Preferred>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preferred {
    weight: i64,
    pod_affinity_term: Term,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Term {
    topology_key: Box<str>,
    label_selector: Value,
    namespaces: Vec<Box<str>>,
    namespace_selector: Value,
    match_label_keys: Vec<Box<str>>,
    mismatch_label_keys: Vec<Box<str>>,
}

type Labels = [(Box<str>, Box<str>)];

impl Term {
    fn read(self, labels: &Labels) -> Result<AffinityTerm, SelectorError> {
        let selector = Selector::from_label_selector(&self.label_selector)?;
        let selector = with_own_labels(selector, &self.match_label_keys, Operator::In, labels)?;
        let selector = with_own_labels(selector, &self.mismatch_label_keys, Operator::NotIn, labels)?;
        let namespaces = if self.namespaces.is_empty() && self.namespace_selector.is_null() {
            Namespaces::Own
        } else {
            let selector = Selector::from_label_selector(&self.namespace_selector)?;
            Namespaces::Chosen { names: self.namespaces, selector }
        };
        Ok(AffinityTerm { topology_key: self.topology_key, selector, namespaces })
    }
}

/// Adds that the values of these labels must be, or not be, those of the pod itself.
fn with_own_labels(
    selector: Selector,
    keys: &[Box<str>],
    operator: Operator,
    labels: &Labels,
) -> Result<Selector, SelectorError> {
    let mut selector = selector;
    for key in keys {
        if let Some((_, value)) = labels.iter().find(|(label, _)| label == key) {
            selector = selector.and(Requirement::new(key, operator, vec![value.to_string()])?);
        }
    }
    Ok(selector)
}

fn pod_terms(near: PodAffinity, far: PodAffinity, labels: &Labels) -> Result<PodTerms, SelectorError> {
    let mut terms = PodTerms::default();
    for term in near.required_during_scheduling_ignored_during_execution {
        terms.required.push(term.read(labels)?);
    }
    for term in far.required_during_scheduling_ignored_during_execution {
        terms.anti.push(term.read(labels)?);
    }
    for (sign, affinity) in [
        (1, near.preferred_during_scheduling_ignored_during_execution),
        (-1, far.preferred_during_scheduling_ignored_during_execution),
    ] {
        for preferred in affinity {
            terms.preferred.push((sign * preferred.weight, preferred.pod_affinity_term.read(labels)?));
        }
    }
    Ok(terms)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spread {
    topology_key: Box<str>,
    label_selector: Value,
    match_label_keys: Vec<Box<str>>,
    max_skew: i64,
    min_domains: i64,
    when_unsatisfiable: Box<str>,
    node_affinity_policy: Box<str>,
    node_taints_policy: Box<str>,
}

impl Spread {
    fn read(self, labels: &Labels) -> Result<SpreadConstraint, SelectorError> {
        let selector = Selector::from_label_selector(&self.label_selector)?;
        Ok(SpreadConstraint {
            selector: with_own_labels(selector, &self.match_label_keys, Operator::In, labels)?,
            topology_key: self.topology_key,
            max_skew: self.max_skew,
            min_domains: self.min_domains,
            required: &*self.when_unsatisfiable != "ScheduleAnyway",
            honors_affinity: &*self.node_affinity_policy != "Ignore",
            honors_taints: &*self.node_taints_policy == "Honor",
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
    preferred_during_scheduling_ignored_during_execution: Vec<PreferredTerm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSelector {
    node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    nominated_node_name: Box<str>,
    start_time: Option<Timestamp>,
    phase: Box<str>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: Box<str>,
    status: Box<str>,
    reason: Box<str>,
    message: Box<str>,
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod from its spec.
    pub(crate) fn pod(name: &str, spec: &Value) -> PodInfo {
        let object = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec});
        let object = Object::parse(api::resources::PODS, object.to_string().into_bytes().into()).unwrap();
        PodInfo::read(&object).unwrap()
    }

    #[test]
    fn adds_up_containers_init_containers_sidecars_and_overhead() {
        let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let table = [
            (json!({"containers": [{"resources": requests("100m")}, {"resources": requests("1")}]}), 1100),
            (
                json!({"containers": [{"resources": requests("1")}], "initContainers": [{"resources": requests("3")}]}),
                3000,
            ),
            (
                json!({"containers": [{"resources": requests("1")}], "initContainers": [
                    {"resources": requests("2"), "restartPolicy": "Always"}, {"resources": requests("500m")}]}),
                3000,
            ),
            (
                json!({"containers": [{"resources": requests("1")}], "initContainers": [
                    {"resources": requests("2"), "restartPolicy": "Always"}, {"resources": requests("4")}]}),
                6000,
            ),
            (json!({"containers": [{"resources": requests("1")}], "overhead": {"cpu": "250m"}}), 1250),
            (json!({"containers": [{"resources": requests("1")}], "resources": requests("2")}), 2000),
            (json!({"containers": [{}]}), 0),
        ];
        for (spec, milli_cpu) in table {
            assert_eq!(pod("a", &spec).needs.requests.milli_cpu, milli_cpu, "{spec}");
        }
        let plain = pod("a", &json!({"containers": [{}, {"resources": requests("1")}]}));
        assert_eq!((plain.needs.nonzero.milli_cpu, plain.needs.nonzero.memory), (1100, 400 << 20));
    }

    #[test]
    fn reads_gates_ports_and_extended_resources() {
        let pod = pod(
            "a",
            &json!({"schedulingGates": [{"name": "x"}], "containers": [{
            "ports": [{"containerPort": 1}, {"containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"a.io/gpu": "2", "memory": "1Mi"}}}]}),
        );
        assert_eq!(&*pod.needs.gates[0], "x");
        assert_eq!((pod.needs.ports.len(), &*pod.needs.ports[0].protocol), (1, "TCP"));
        assert_eq!(pod.needs.requests.extended, [("a.io/gpu".into(), 2)]);
    }
}
