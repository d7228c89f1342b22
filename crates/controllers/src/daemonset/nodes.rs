//! On which nodes the pods of a DaemonSet may run: by name, labels and taints, as the scheduler will see it.

use std::borrow::Cow;

use api::Object;
use serde::Deserialize;
use serde_json::{Value, json};

/// Taints that every daemon pod tolerates: it runs on nodes that are in trouble, and on new ones.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Tolerated as well by pods in the network of their node.
const TOLERATED_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a daemon pod should be on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// There should be one.
    Run,
    /// None should be made, and one that is there may stay.
    Stay,
    /// None may be there.
    No,
}

/// Gives the pod spec the tolerations of all daemon pods.
pub(super) fn add_tolerations(spec: &mut Value) {
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let host = (spec["hostNetwork"] == true).then_some(&TOLERATED_ON_HOST_NETWORK);
    for (key, effect) in TOLERATED.iter().chain(host) {
        let wanted = json!({"key": key, "operator": "Exists", "effect": effect});
        let same = |have: &&mut Value| {
            ["key", "operator", "effect"].iter().all(|field| have[*field] == wanted[*field])
                && have["value"].as_str().unwrap_or_default().is_empty()
        };
        match tolerations.iter_mut().find(same) {
            Some(have) => *have = wanted,
            None => tolerations.push(wanted),
        }
    }
    spec["tolerations"] = tolerations.into();
}

/// Makes the pod spec ask for one node by its name.
pub(super) fn pin(spec: &mut Value, node: &str) {
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]});
}

/// The node that a daemon pod asks for, or is on.
pub(super) fn target(spec: &Value) -> Option<&str> {
    let terms =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    terms.as_array()?.iter().find_map(|term| {
        let fields = term["matchFields"].as_array()?;
        fields.iter().find(|field| field["key"] == "metadata.name" && field["operator"] == "In")?["values"][0].as_str()
    })
}

/// What a pod spec asks of nodes.
pub(super) struct Placement<'a> {
    spec: &'a Value,
    tolerations: Vec<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeTaints<'a> {
    #[serde(borrow)]
    spec: TaintSpec<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TaintSpec<'a> {
    #[serde(borrow)]
    taints: Option<Vec<Taint<'a>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Taint<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(borrow)]
    effect: Cow<'a, str>,
}

impl<'a> Placement<'a> {
    /// Of the spec in a DaemonSet's template.
    pub(super) fn of(spec: &'a Value) -> Self {
        let mut own = json!({"tolerations": spec["tolerations"], "hostNetwork": spec["hostNetwork"]});
        add_tolerations(&mut own);
        Self { spec, tolerations: own["tolerations"].as_array().cloned().unwrap_or_default() }
    }

    /// Whether such a pod should be on that node.
    pub(super) fn fit(&self, node: &Object) -> Fit {
        let wanted = self.spec["nodeName"].as_str().unwrap_or_default();
        let by_name = wanted.is_empty() || *wanted == *node.key().name;
        if !by_name || !self.selects(node) {
            return Fit::No;
        }
        let facts: NodeTaints<'_> = serde_json::from_slice(node.json()).unwrap_or_else(|error| {
            tracing::error!(node = %node.key(), %error, "cannot read a node's taints");
            NodeTaints::default()
        });
        let taints = facts.spec.taints.unwrap_or_default();
        let refused = |effect: &str| taints.iter().any(|taint| taint.effect == effect && !self.tolerates(taint));
        match (refused("NoExecute"), refused("NoSchedule")) {
            (true, _) => Fit::No,
            (false, true) => Fit::Stay,
            (false, false) => Fit::Run,
        }
    }

    fn tolerates(&self, taint: &Taint<'_>) -> bool {
        self.tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            let of_effect = text("effect").is_empty() || text("effect") == taint.effect;
            let of_key = text("key").is_empty() || text("key") == taint.key;
            let of_value = match text("operator") {
                "Exists" => true,
                "" | "Equal" => text("value") == taint.value,
                _ => false,
            };
            of_effect && of_key && of_value
        })
    }

    fn selects(&self, node: &Object) -> bool {
        let selector = self.spec["nodeSelector"].as_object();
        if selector.into_iter().flatten().any(|(key, value)| node.label(key) != value.as_str()) {
            return false;
        }
        let required = &self.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
        terms.iter().any(|term| {
            let labels = term["matchExpressions"].as_array().map_or(&[][..], Vec::as_slice);
            let fields = term["matchFields"].as_array().map_or(&[][..], Vec::as_slice);
            let name = |field: &str| (field == "metadata.name").then_some(&*node.key().name);
            // A term that asks for nothing is met by nothing.
            !(labels.is_empty() && fields.is_empty())
                && labels.iter().all(|one| meets(one, node.label(one["key"].as_str().unwrap_or_default())))
                && fields.iter().all(|one| meets(one, name(one["key"].as_str().unwrap_or_default())))
        })
    }
}

/// Whether a value (`None`: absent) meets a node selector's requirement.
fn meets(requirement: &Value, value: Option<&str>) -> bool {
    let values = requirement["values"].as_array().map_or(&[][..], Vec::as_slice);
    let among = |value: &str| values.iter().any(|wanted| wanted == value);
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.as_str()?.parse::<i64>().ok()?));
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use api::resources;
    use bytes::Bytes;

    use super::*;

    #[test]
    fn nodes_fit_by_name_labels_and_taints() {
        let node = json!({"metadata": {"name": "a", "labels": {"disk": "ssd", "cpus": "8"}},
            "spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
        let tainted = |effect: &str| {
            let mut node = node.clone();
            node["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": effect}]);
            node
        };
        let required = |term: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [term]}}}})
        };
        let label = |operator: &str, values: &[&str]| {
            required(json!({"matchExpressions": [{"key": "cpus", "operator": operator, "values": values}]}))
        };
        let tolerates = json!({"tolerations": [{"key": "k", "operator": "Equal", "value": "v"}]});
        let table = [
            (json!({}), node.clone(), Fit::Run),
            (json!({"nodeName": "b"}), node.clone(), Fit::No),
            (json!({"nodeSelector": {"disk": "ssd"}}), node.clone(), Fit::Run),
            (json!({"nodeSelector": {"disk": "hdd"}}), node.clone(), Fit::No),
            (label("Gt", &["4"]), node.clone(), Fit::Run),
            (label("Lt", &["4"]), node.clone(), Fit::No),
            (label("NotIn", &["8"]), node.clone(), Fit::No),
            (label("DoesNotExist", &[]), node.clone(), Fit::No),
            (required(json!({})), node.clone(), Fit::No),
            (json!({}), tainted("NoSchedule"), Fit::Stay),
            (json!({}), tainted("NoExecute"), Fit::No),
            (json!({}), tainted("PreferNoSchedule"), Fit::Run),
            (tolerates, tainted("NoExecute"), Fit::Run),
        ];
        for (spec, node, fit) in table {
            let node = Object::parse(resources::NODES, Bytes::from(node.to_string())).expect("a node");
            assert_eq!(Placement::of(&spec).fit(&node), fit, "{spec} on {}", String::from_utf8_lossy(node.json()));
        }
    }

    #[test]
    fn a_pinned_pod_tells_its_node() {
        let mut spec = json!({"affinity": {"podAffinity": {"x": 1}}});
        pin(&mut spec, "a");
        assert_eq!((target(&spec), &spec["affinity"]["podAffinity"]["x"]), (Some("a"), &json!(1)));
        assert_eq!(target(&json!({})), None);
    }
}
