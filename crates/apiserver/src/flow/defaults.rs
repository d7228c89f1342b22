//! The FlowSchemas and PriorityLevelConfigurations that every cluster has, as the Kubernetes documentation's "API Priority
//! and Fairness" lists them. `exempt` and `catch-all` are also in force when somebody deletes them.

use serde_json::{Value, json};

/// The annotation under which the server keeps an object as it is here; without it an administrator has taken it over.
pub(crate) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Levels that queue: name, shares, percent that may be lent, queues, hand.
const LEVELS: &[(&str, u32, u32, u32, u32)] = &[
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];
/// How many requests wait in one of their queues.
const QUEUE_LENGTH: u32 = 50;

/// Schemas: name, level, precedence, distinguisher, subjects, and what of theirs it is about.
const SCHEMAS: &[Row] = &[
    ("exempt", "exempt", 1, "", &["g:system:masters"], About::Everything),
    ("probes", "exempt", 2, "", ALL, About::Probes),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &["u:system:kube-controller-manager", "u:system:kube-scheduler", "s:*"],
        About::LeaderElection,
    ),
    ("system-node-high", "node-high", 400, "ByUser", &["g:system:nodes"], About::NodeHealth),
    ("system-nodes", "system", 500, "ByUser", &["g:system:nodes"], About::Everything),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["u:system:kube-controller-manager"],
        About::Everything,
    ),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", &["u:system:kube-scheduler"], About::Everything),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["s:*"], About::Everything),
    ("service-accounts", "workload-low", 9000, "ByUser", &["g:system:serviceaccounts"], About::Everything),
    ("global-default", "global-default", 9900, "ByUser", ALL, About::Everything),
    ("catch-all", "catch-all", 10_000, "ByUser", ALL, About::Everything),
];

/// Everybody.
const ALL: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];

type Row = (&'static str, &'static str, u32, &'static str, &'static [&'static str], About);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Everything,
    Probes,
    LeaderElection,
    NodeHealth,
}

/// All PriorityLevelConfigurations.
pub(crate) fn levels() -> Vec<Value> {
    let object = |name: &str, spec: Value| {
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec})
    };
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let catch_all = json!({"type": "Limited",
        "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
    let mut all = vec![object("exempt", exempt), object("catch-all", catch_all)];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH});
        object(
            name,
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue", "queuing": queuing}}}),
        )
    }));
    all
}

/// All FlowSchemas.
pub(crate) fn schemas() -> Vec<Value> {
    let one = |(name, level, precedence, distinguisher, subjects, about): &Row| {
        let mut spec = json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level},
            "rules": [rule(subjects, *about)]});
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
            "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec})
    };
    SCHEMAS.iter().map(one).collect()
}

fn rule(subjects: &[&str], about: About) -> Value {
    let subject = |text: &&str| match text.split_at(2) {
        ("u:", name) => json!({"kind": "User", "user": {"name": name}}),
        ("s:", name) => json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}}),
        (_, name) => json!({"kind": "Group", "group": {"name": name}}),
    };
    let mut rule = json!({"subjects": subjects.iter().map(subject).collect::<Vec<_>>()});
    let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let paths = |verb: &str, paths: &[&str]| json!([{"verbs": [verb], "nonResourceURLs": paths}]);
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    match about {
        About::Everything => {
            rule["resourceRules"] = json!([resources(&["*"], "*", &["*"], true)]);
            rule["nonResourceRules"] = paths("*", &["*"]);
        }
        About::Probes => rule["nonResourceRules"] = paths("get", &["/healthz", "/readyz", "/livez"]),
        About::LeaderElection => rule["resourceRules"] = json!([leases(&["get", "create", "update"])]),
        About::NodeHealth => {
            rule["resourceRules"] = json!([resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])]);
        }
    }
    rule
}
