//! What an object counts for against a `ResourceQuota`, and which quotas it counts against.
//!
//! The one place where usage is defined: admission reserves by it before a write, the quota controller adds it up
//! afterwards. Every resource counts as `count/PLURAL.GROUP`; pods, services and claims count for more.
//!
//! ```text
//! a write counts against a quota  =  counted(plural, hard) is not empty  and  in_scope(quota.spec, object)
//! used                            =  sum of usage(object) over those, masked to the names of hard
//! ```
//!
//! Public behaviour: the Kubernetes documentation's "Resource Quotas".

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::pod_resources::{self, Amounts, amounts};
use crate::{Quantity, time};

/// Core resources that have a quota name of their own beside `count/...`.
const ALIASES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// What pods are counted for by name; extended resources and huge pages come on top.
const POD_NAMES: [&str; 11] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "count/pods",
];
/// Where a quota names one of these, each container must say how much it wants.
const COMPULSORY: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// `count/deployments.apps`
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// What an object counts for. A name that is absent counts for nothing.
pub fn usage(group: &str, plural: &str, object: &Value, now: Timestamp) -> Amounts {
    let one = Quantity::from_value(1, crate::quantity::Format::DecimalSi);
    let mut counted = Amounts::from([(count_name(group, plural), one)]);
    match (group, plural) {
        ("", "pods") if is_over(object, now) => {}
        ("", "pods") => counted.extend(pod_usage(object)),
        ("", "services") => counted.extend(service_usage(object)),
        ("", "persistentvolumeclaims") => counted.extend(claim_usage(object)),
        ("", alias) if ALIASES.contains(&alias) => drop(counted.insert(alias.to_owned(), one)),
        _ => {}
    }
    counted
}

/// Those of a quota's names that objects of this resource count for.
pub fn counted<'a>(group: &str, plural: &str, names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let count = count_name(group, plural);
    let counts = |name: &&str| match (group, plural) {
        ("", "pods") => is_pod_name(name),
        ("", "services") => {
            *name == count || matches!(*name, "services" | "services.nodeports" | "services.loadbalancers")
        }
        ("", "persistentvolumeclaims") => {
            let name = name.split_once(OF_CLASS).map_or(*name, |(_, of_class)| of_class);
            name == count || matches!(name, "persistentvolumeclaims" | "requests.storage")
        }
        ("", alias) => *name == count || (*name == alias && ALIASES.contains(&alias)),
        _ => *name == count,
    };
    names.into_iter().filter(counts).collect()
}

fn is_pod_name(name: &str) -> bool {
    let extended = |name: &str| name.strip_prefix("requests.").is_some_and(is_extended);
    POD_NAMES.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
        || extended(name)
}

/// Whether a resource is the cluster's own business, such as `nvidia.com/gpu`, not Kubernetes'.
fn is_extended(name: &str) -> bool {
    name.contains('/') && (!name.contains("kubernetes.io/") || name.starts_with("deviceclass.resource.kubernetes.io/"))
}

/// Whether an object is of those that a quota is about: it matches all scopes of the quota's spec.
pub fn in_scope(spec: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let named =
        list(&spec["scopes"]).iter().all(|scope| matches_scope(group, plural, object, text(scope), "Exists", &[]));
    let mut selected = list(&spec["scopeSelector"]["matchExpressions"]).iter();
    named
        && selected.all(|wanted| {
            let (scope, operator) = (text(&wanted["scopeName"]), text(&wanted["operator"]));
            matches_scope(group, plural, object, scope, operator, list(&wanted["values"]))
        })
}

fn matches_scope(group: &str, plural: &str, object: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let spec = &object["spec"];
    match (group, plural, scope) {
        ("", "pods", "Terminating") => has_deadline(object),
        ("", "pods", "NotTerminating") => !has_deadline(object),
        ("", "pods", "BestEffort") => is_best_effort(object),
        ("", "pods", "NotBestEffort") => !is_best_effort(object),
        ("", "pods", "PriorityClass") => matches_names(&[text(&spec["priorityClassName"])], operator, values),
        ("", "pods", "CrossNamespacePodAffinity") => reaches_other_namespaces(spec),
        ("", "persistentvolumeclaims", "VolumeAttributesClass") => {
            let status = &object["status"];
            let names = [
                text(&spec["volumeAttributesClassName"]),
                text(&status["currentVolumeAttributesClassName"]),
                text(&status["modifyVolumeStatus"]["targetVolumeAttributesClassName"]),
            ];
            matches_names(&names, operator, values)
        }
        _ => false,
    }
}

/// As a label selector would match a label that has one of `names`; empty names are none.
fn matches_names(names: &[&str], operator: &str, values: &[Value]) -> bool {
    let names: Vec<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    let listed = |name: &&str| values.iter().any(|value| value == name);
    match operator {
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        "In" => names.iter().any(listed),
        "NotIn" => names.is_empty() || !names.iter().all(listed),
        _ => false,
    }
}

/// Whether the pod has a deadline: it is one of those that end.
pub fn has_deadline(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|half| {
            let asked = amounts(&resources[*half]);
            ["cpu", "memory"].iter().any(|name| asked.get(*name).is_some_and(|amount| !amount.is_zero()))
        })
    };
    !asks(&pod["spec"]["resources"]) && !containers(pod).any(|container| asks(&container["resources"]))
}

fn reaches_other_namespaces(spec: &Value) -> bool {
    let reaches = |term: &Value| !list(&term["namespaces"]).is_empty() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        list(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(reaches)
            || list(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|term| reaches(&term["podAffinityTerm"]))
    })
}

/// What a new pod must say and does not, where a quota counts `names`: `must specify limits.cpu for: a,b; ...`.
pub fn unspecified(pod: &Value, names: &BTreeSet<&str>) -> Option<String> {
    if pod_resources::says_for_itself(pod) {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in containers(pod) {
        let said =
            half_names(&amounts(&container["resources"]["requests"]), &amounts(&container["resources"]["limits"]));
        for name in names.iter().filter(|name| COMPULSORY.contains(name) && !said.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(&container["name"]));
        }
    }
    if missing.is_empty() {
        return None;
    }
    let parts = missing.iter().map(|(name, of)| format!("{name} for: {}", join(of)));
    Some(format!("must specify {}", parts.collect::<Vec<_>>().join("; ")))
}

fn join(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(",")
}

/// Whether a pod counts no more: it has ended, or should have.
fn is_over(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(&pod["status"]["phase"]), "Failed" | "Succeeded") {
        return true;
    }
    let metadata = &pod["metadata"];
    let (Some(at), Some(grace)) =
        (metadata["deletionTimestamp"].as_str(), metadata["deletionGracePeriodSeconds"].as_i64())
    else {
        return false;
    };
    time::parse(at).is_ok_and(|at| now.duration_since(at) > SignedDuration::from_secs(grace))
}

fn pod_usage(pod: &Value) -> Amounts {
    let mut counted = half_names(&pod_resources::requests(pod), &pod_resources::limits(pod));
    counted.insert("pods".to_owned(), Quantity::from_value(1, crate::quantity::Format::DecimalSi));
    counted
}

/// Requests and limits under the names that quotas have for them.
fn half_names(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut named = Amounts::new();
    for (name, amount) in requests {
        let basic = matches!(&**name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if basic {
            named.insert(name.clone(), *amount);
        }
        if basic || is_extended(name) {
            named.insert(format!("requests.{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            named.insert(format!("limits.{name}"), *amount);
        }
    }
    named
}

fn service_usage(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = list(&spec["ports"]);
    let balanced = spec["type"] == "LoadBalancer";
    let node_ports = match text(&spec["type"]) {
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => {
            ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count()
        }
        "NodePort" | "LoadBalancer" => ports.len(),
        _ => 0,
    };
    let whole = |count: usize| Quantity::from_value(count as i64, crate::quantity::Format::DecimalSi);
    [
        ("services", whole(1)),
        ("services.nodeports", whole(node_ports)),
        ("services.loadbalancers", whole(usize::from(balanced))),
    ]
    .map(|(name, amount)| (name.to_owned(), amount))
    .into()
}

fn claim_usage(claim: &Value) -> Amounts {
    let one = Quantity::from_value(1, crate::quantity::Format::DecimalSi);
    let mut counted = Amounts::from([("persistentvolumeclaims".to_owned(), one)]);
    if let Some(asked) = amounts(&claim["spec"]["resources"]["requests"]).get("storage") {
        let allocated = amounts(&claim["status"]["allocatedResources"]).get("storage").copied();
        let counts = allocated.filter(|allocated| allocated > asked).unwrap_or(*asked);
        // Volumes have no fractions of a byte.
        let whole = Quantity::from_value(counts.value(), counts.format());
        counted.insert("requests.storage".to_owned(), whole);
    }
    let class = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = class.unwrap_or(text(&claim["spec"]["storageClassName"]));
    if !class.is_empty() {
        let of_class = counted.clone().into_iter().map(|(name, amount)| (format!("{class}{OF_CLASS}{name}"), amount));
        counted.extend(of_class);
    }
    counted
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["spec"]["containers"]).iter().chain(list(&pod["spec"]["initContainers"]))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        time::parse("2030-01-01T00:01:00Z").unwrap()
    }

    fn shown(group: &str, plural: &str, object: &Value) -> String {
        let used = usage(group, plural, object, now());
        used.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_kind_counts_for_what_the_documentation_says() {
        let gpu = json!({"requests": {"cpu": "500m", "nvidia.com/gpu": "2"}, "limits": {"memory": "1Gi"}});
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": gpu}]}});
        let with =
            |metadata: Value, status: Value| json!({"metadata": metadata, "spec": pod["spec"], "status": status});
        let ending =
            |seconds| json!({"deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": seconds});
        let full = "count/pods=1 cpu=500m limits.memory=1Gi pods=1 requests.cpu=500m requests.nvidia.com/gpu=2";
        for (group, plural, object, expected) in [
            ("", "pods", pod.clone(), full),
            ("", "pods", with(json!({}), json!({"phase": "Succeeded"})), "count/pods=1"),
            ("", "pods", with(ending(90), json!({})), full),
            ("", "pods", with(ending(30), json!({})), "count/pods=1"),
            ("", "secrets", json!({}), "count/secrets=1 secrets=1"),
            ("apps", "deployments", json!({}), "count/deployments.apps=1"),
            (
                "",
                "services",
                json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                    "ports": [{"nodePort": 30000}, {"port": 80}]}}),
                "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1",
            ),
            (
                "",
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
                "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
                 gold.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi",
            ),
        ] {
            assert_eq!(shown(group, plural, &object), expected, "{object}");
        }
    }

    #[test]
    fn a_quota_counts_the_names_of_its_resource_only() {
        let all = [
            "pods",
            "count/pods",
            "requests.nvidia.com/gpu",
            "hugepages-2Mi",
            "secrets",
            "count/secrets",
            "count/deployments.apps",
            "services.nodeports",
            "gold.storageclass.storage.k8s.io/requests.storage",
            "requests.storage",
        ];
        for (group, plural, expected) in [
            ("", "pods", "count/pods,hugepages-2Mi,pods,requests.nvidia.com/gpu"),
            ("", "secrets", "count/secrets,secrets"),
            ("apps", "deployments", "count/deployments.apps"),
            ("", "services", "services.nodeports"),
            ("", "persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage,requests.storage"),
            ("apps", "pods", ""),
        ] {
            assert_eq!(join(&counted(group, plural, all)), expected, "{group}/{plural}");
        }
    }

    #[test]
    fn scopes_select_pods() {
        let bare = json!({"spec": {"containers": [{"name": "c"}]}});
        let rich = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high",
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}},
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        for (spec, of_bare, of_rich) in [
            (json!({}), true, true),
            (json!({"scopes": ["Terminating"]}), false, true),
            (json!({"scopes": ["NotTerminating"]}), true, false),
            (json!({"scopes": ["BestEffort"]}), true, false),
            (json!({"scopes": ["NotBestEffort", "Terminating"]}), false, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), false, true),
            (class("Exists", json!([])), false, true),
            (class("In", json!(["high", "low"])), false, true),
            (class("In", json!(["low"])), false, false),
            (class("NotIn", json!(["high"])), true, false),
            (class("DoesNotExist", json!([])), true, false),
        ] {
            let found = [&bare, &rich].map(|pod| in_scope(&spec, "", "pods", pod));
            assert_eq!(found, [of_bare, of_rich], "{spec}");
        }
        assert!(!in_scope(&json!({"scopes": ["NotBestEffort"]}), "", "services", &json!({})));
    }

    #[test]
    fn every_container_says_what_a_quota_counts() {
        let pod = json!({"spec": {"containers": [
            {"name": "b", "resources": {"limits": {"cpu": "1"}}},
            {"name": "a"}]}});
        let names = BTreeSet::from(["limits.cpu", "requests.memory", "pods"]);
        let missing = unspecified(&pod, &names).unwrap();
        assert_eq!(missing, "must specify limits.cpu for: a; requests.memory for: a,b");
        let mut whole = pod;
        whole["spec"]["resources"] = json!({"requests": {"cpu": "1"}});
        assert_eq!(unspecified(&whole, &names), None);
    }
}
