//! A node that stopped renewing its lease is not ready, and its taints say so.
//!
//! A node's life sign is its lease in `kube-node-lease`; how long ago it came is measured from when it arrived here, so
//! clocks of different machines are never compared. Taints follow the node's conditions, in both directions. Pods of a node
//! whose state is unknown are marked not ready, which takes them out of their services; while a node's agent lives, that is
//! the agent's to say. Names and messages are upstream's
//! node-lifecycle-controller's.

mod zones;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{EventType, Informers, Next, ObjectReference, PatchType, ReconcileError, Trigger};
use futures::FutureExt;
use machinery::time;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::zones::Eviction;
pub use self::zones::Zones;
use crate::pods::PodView;
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "node-controller",
    reconciles: resources::NODES,
    owns: &[],
    watches: &[
        Trigger { resource: resources::LEASES, keys: node_of_lease },
        Trigger { resource: resources::NODES, keys: silent_nodes },
    ],
    reads: &[resources::PODS],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Without a life sign for so long a node's state is unknown, unless the administrator says otherwise. Upstream's figure since
/// 1.32.
pub const GRACE: Duration = Duration::from_secs(50);

/// A new node may take so long until its first life sign.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The conditions that a node's agent keeps up to date.
const AGENT_CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Taints that keep new pods away: condition, the status that calls for the taint, its key.
const NO_SCHEDULE: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn node_of_lease(_: &Informers, lease: &Object) -> Vec<Key> {
    let ours = *lease.key().namespace == *LEASE_NAMESPACE;
    ours.then(|| Key::new("", lease.key().name.clone())).into_iter().collect()
}

/// How fast a silent node loses its pods depends on the other nodes.
fn silent_nodes(informers: &Informers, _: &Object) -> Vec<Key> {
    zones::silent(&informers.all(resources::NODES)).iter().map(|node| node.key().clone()).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let nodes = ctx.cache(resources::NODES);
    let (Some(object), Some(first_seen)) = (nodes.get(key), nodes.received_at(key)) else { return Ok(Next::OnChange) };
    let lease = ctx.cache(resources::LEASES).received_at(&Key::new(LEASE_NAMESPACE, key.name.clone()));
    // A node that never had a lease is given its start-up time from when it was last seen to change.
    let (since, grace) =
        lease.map_or((first_seen, STARTUP_GRACE), |renewed| (renewed, ctx.settings.node_monitor_grace));
    let silent = Instant::now().duration_since(since);
    let now = time::seconds(ctx.clock.now());
    let eviction = |begun| ctx.settings.zones.eviction(&nodes, &object, begun);
    let plan = plan(&object.to_value(), silent >= grace, &eviction, &now);
    let applied = apply(ctx, &object, &plan).await;
    if applied.is_err() {
        ctx.settings.zones.give_back(&object);
    }
    applied?;
    let again = (silent < grace).then(|| grace - silent);
    Ok(again.into_iter().chain(plan.next).min().map_or(Next::OnChange, Next::After))
}

/// The node's status and taints as they should be, and whether its pods are to be marked not ready.
#[derive(Debug, PartialEq)]
struct Plan {
    status: Option<Value>,
    taints: Option<Vec<Value>>,
    pods_not_ready: bool,
    /// When its turn to lose its pods comes.
    next: Option<Duration>,
}

/// `eviction` is asked, where the node is to lose its pods, with whether it has begun to.
fn plan(node: &Value, silent: bool, eviction: &dyn Fn(bool) -> Eviction, now: &str) -> Plan {
    let mut status = node["status"].clone();
    if silent {
        for kind in AGENT_CONDITIONS {
            set_unknown(&mut status, kind, &node["metadata"]["creationTimestamp"], now);
        }
    }
    let mut wanted = wanted_taints(&status, node["spec"]["unschedulable"] == true);
    let old = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let next = pace(&mut wanted, &old, eviction);
    let taints = merge_taints(&old, &wanted, now);
    let ready = conditions::find(&status, "Ready");
    Plan {
        pods_not_ready: ready.is_some_and(|ready| ready["status"] == "Unknown"),
        taints: (taints != old).then_some(taints),
        status: (status != node["status"]).then_some(status),
        next,
    }
}

/// Leaves out the taint that evicts while it is not the node's turn. Gives when that comes.
fn pace(
    wanted: &mut Vec<(&'static str, &'static str)>,
    old: &[Value],
    eviction: &dyn Fn(bool) -> Eviction,
) -> Option<Duration> {
    let evicts = |(_, effect): &(&str, &str)| *effect == "NoExecute";
    if !wanted.iter().any(evicts) {
        return None;
    }
    let ours =
        |taint: &Value| taint["effect"] == "NoExecute" && (taint["key"] == NOT_READY || taint["key"] == UNREACHABLE);
    match eviction(old.iter().any(ours)) {
        Eviction::Now => None,
        Eviction::Later(left) => {
            wanted.retain(|taint| !evicts(taint));
            Some(left)
        }
        Eviction::Never => {
            wanted.retain(|taint| !evicts(taint));
            None
        }
    }
}

fn set_unknown(status: &mut Value, kind: &str, created: &Value, now: &str) {
    match conditions::find(status, kind) {
        Some(condition) if condition["status"] == "Unknown" => {}
        Some(condition) => {
            let mut condition = condition.clone();
            condition["status"] = "Unknown".into();
            condition["reason"] = "NodeStatusUnknown".into();
            condition["message"] = "Kubelet stopped posting node status.".into();
            condition["lastTransitionTime"] = now.into();
            conditions::put(status, condition);
        }
        None => conditions::put(
            status,
            json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.", "lastHeartbeatTime": created,
                "lastTransitionTime": now}),
        ),
    }
}

/// The keys and effects that the conditions call for.
fn wanted_taints(status: &Value, unschedulable: bool) -> Vec<(&'static str, &'static str)> {
    let is = |kind: &str, value: &str| conditions::find(status, kind).is_some_and(|found| found["status"] == value);
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    wanted.extend(NO_SCHEDULE.iter().filter(|(kind, value, _)| is(kind, value)).map(|row| (row.2, "NoSchedule")));
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted.extend(NO_SCHEDULE[..2].iter().filter(|(kind, value, _)| is(kind, value)).map(|row| (row.2, "NoExecute")));
    wanted
}

/// Takes away what is ours and not wanted, adds what is missing, and leaves the rest, and what is there already, alone.
fn merge_taints(old: &[Value], wanted: &[(&str, &str)], now: &str) -> Vec<Value> {
    let ours = |taint: &Value| {
        let known = NO_SCHEDULE.iter().map(|row| row.2).chain([UNSCHEDULABLE]).any(|key| taint["key"] == key);
        known && taint["effect"] != "PreferNoSchedule"
    };
    let is = |taint: &Value, (key, effect): &(&str, &str)| taint["key"] == *key && taint["effect"] == *effect;
    let kept = old.iter().filter(|taint| !ours(taint) || wanted.iter().any(|want| is(taint, want)));
    let mut taints: Vec<Value> = kept.cloned().collect();
    for want in wanted.iter().filter(|want| !old.iter().any(|taint| is(taint, want))) {
        let mut taint = json!({"key": want.0, "effect": want.1});
        taint["timeAdded"] = now.into();
        taints.push(taint);
    }
    taints
}

async fn apply(ctx: &Ctx, object: &Object, plan: &Plan) -> Result<(), ReconcileError> {
    let mut revision = object.revision();
    if let Some(status) = &plan.status {
        let mut node = object.to_value();
        node["status"] = status.clone();
        let written = ctx.client.update_status(resources::NODES, object.key(), Bytes::from(node.to_string())).await?;
        revision = written.revision();
        let about = ObjectReference::from((resources::NODES, object));
        let message = format!("Node {} status is now: NodeNotReady", object.key());
        ctx.recorder.event(&about, EventType::Normal, "NodeNotReady", &message);
    }
    if plan.pods_not_ready {
        for pod in ctx.cache(resources::PODS).by_field("spec.nodeName", &object.key().name) {
            mark_not_ready(ctx, &pod).await?;
        }
    }
    if let Some(taints) = &plan.taints {
        let patch = json!({"metadata": {"resourceVersion": revision.to_string()}, "spec": {"taints": taints}});
        ctx.client.patch(resources::NODES, object.key(), None, PatchType::Merge, &patch).await?;
    }
    Ok(())
}

async fn mark_not_ready(ctx: &Ctx, pod: &Object) -> Result<(), ReconcileError> {
    if !PodView::of(pod).is_ready() {
        return Ok(());
    }
    let mut value = pod.to_value();
    let Some(ready) = conditions::find(&value["status"], "Ready").cloned() else { return Ok(()) };
    let mut ready = ready;
    ready["status"] = "False".into();
    ready["lastTransitionTime"] = time::seconds(ctx.clock.now()).into();
    conditions::put(&mut value["status"], ready);
    match ctx.client.update_status(resources::PODS, pod.key(), Bytes::from(value.to_string())).await {
        Err(error) if error.is_not_found() => {}
        written => {
            written?;
            let about = ObjectReference::from((resources::PODS, pod));
            ctx.recorder.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::fixtures::{ready_status, settings};

    fn taints(api: &Api) -> Vec<String> {
        let node = api.get(resources::NODES, "", "a").expect("the node");
        let text = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        taints.map(|taint| format!("{}:{}", text(taint, "key"), text(taint, "effect"))).collect()
    }

    fn ready(api: &Api) -> Value {
        let node = api.get(resources::NODES, "", "a").expect("the node");
        conditions::find(&node["status"], "Ready").expect("a condition")["status"].clone()
    }

    fn renew_of(api: &Api, name: &str) {
        let renewed = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE}, "spec": {"holderIdentity": name}});
        api.put(renewed);
    }

    fn renew(api: &Api) {
        ["a", "b"].iter().for_each(|name| renew_of(api, name));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_becomes_unknown_and_recovers() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"},
            "spec": {"unschedulable": true, "taints": [{"key": "mine", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a"}, "status": ready_status("2030-01-01T00:00:00Z")});
        let steps = [
            Step::Do(&renew),
            Step::Wait(GRACE - Duration::from_secs(20)),
            Step::Do(&|api| {
                assert_eq!(ready(api), "True");
                assert_eq!(taints(api), ["mine:NoSchedule", &format!("{UNSCHEDULABLE}:NoSchedule")]);
                renew_of(api, "b");
            }),
            Step::Wait(Duration::from_secs(20)),
            Step::Do(&|api| {
                assert_eq!(ready(api), "Unknown");
                let unreachable = ["NoSchedule", "NoExecute"].map(|effect| format!("{UNREACHABLE}:{effect}"));
                assert!(unreachable.iter().all(|taint| taints(api).contains(taint)), "{:?}", taints(api));
                let pod = api.get(resources::PODS, "n", "p").expect("the pod");
                assert!(!conditions::is_true(&pod["status"], "Ready"));
                // The agent is back.
                renew(api);
                api.change_each(resources::NODES, |node| {
                    node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
                    true
                });
            }),
        ];
        let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let end = check_converges(&CONTROLLER, settings(), &[node, other, pod], &steps).await;
        assert_eq!(taints(&end), ["mine:NoSchedule", &format!("{UNSCHEDULABLE}:NoSchedule")]);
    }

    /// The machine of a cluster of one was suspended for an hour: its own pods must not go for that.
    #[tokio::test(start_paused = true)]
    async fn where_no_node_is_ready_none_loses_its_pods() {
        let node = |name: &str, ready: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let evicts = |api: &Api| taints(api).iter().any(|taint| taint.ends_with("NoExecute"));
        let be = |ready: &'static str| {
            move |api: &Api| {
                renew(api);
                api.put(node("b", ready));
            }
        };
        let (ready, not_ready) = (be("True"), be("False"));
        let steps = [
            Step::Do(&|api| assert!(!evicts(api))),
            Step::Do(&ready),
            Step::Wait(Duration::from_secs(12)),
            Step::Do(&|api| assert!(evicts(api), "another node is there for its pods")),
            Step::Do(&not_ready),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[node("a", "False"), node("b", "False")], &steps).await;
        assert!(!evicts(&end));
    }

    #[test]
    fn taints_change_by_the_difference_only() {
        let status = json!({"conditions": [{"type": "Ready", "status": "False"},
            {"type": "DiskPressure", "status": "True"}]});
        let old = [
            json!({"key": NOT_READY, "effect": "NoExecute", "timeAdded": "earlier"}),
            json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "earlier"}),
            json!({"key": "theirs", "effect": "NoExecute"}),
        ];
        let merged = merge_taints(&old, &wanted_taints(&status, false), "now");
        let rows: Vec<_> = merged.iter().map(|taint| format!("{} {}", taint["key"], taint["timeAdded"])).collect();
        assert_eq!(
            rows,
            [
                "\"node.kubernetes.io/not-ready\" \"earlier\"",
                "\"theirs\" null",
                "\"node.kubernetes.io/not-ready\" \"now\"",
                "\"node.kubernetes.io/disk-pressure\" \"now\""
            ]
        );
    }
}
