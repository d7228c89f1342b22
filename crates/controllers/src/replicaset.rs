//! A ReplicaSet has as many pods as it asks for: missing ones are made from its template, too many are deleted, those that
//! nobody misses first.
//!
//! Defined by the ReplicaSet API reference; the order of deletion, the growing batches of creation, events and conditions
//! are upstream's. A ReplicationController is reconciled by the same code.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use api::{Key, Object, Resource, resources};
use bytes::Bytes;
use control::{Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use crate::claims::{self, Claims};
use crate::pod_control::PodControl;
use crate::pods::{PodView, is_active};
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "replicaset-controller",
    reconciles: resources::REPLICA_SETS,
    owns: &[resources::PODS],
    watches: &[Trigger { resource: resources::PODS, keys: adopters }],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(resources::REPLICA_SETS, &key, &ctx).await }.boxed(),
};

/// How many pods one reconcile makes or deletes at most; the next goes on.
const BURST: usize = 500;

/// A pod with a lower number goes earlier than its fellows.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn adopters(informers: &Informers, pod: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::REPLICA_SETS), pod)
}

/// Brings the pods of a ReplicaSet, or of a ReplicationController, to their number.
pub(crate) async fn reconcile(resource: &'static Resource, key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resource).get(key) else { return Ok(Next::OnChange) };
    let set = object.to_value();
    let selector = claims::selector(resource, &set, key)?;
    let claims = claims::claims(&ctx.cache(resources::PODS), &object, &selector);
    claims::settle(ctx, resource, &object, resources::PODS, &claims).await?;
    let related = related_pods(ctx, &object, &claims);
    let plan = plan(&object, &set, &claims, &related, ctx.clock.now());
    apply(ctx, resource, &object, &set, plan).await
}

/// Pods of all sets with the same owner, such as those of one Deployment: they share nodes for the same purpose.
fn related_pods(ctx: &Ctx, object: &Object, claims: &Claims) -> Vec<Object> {
    let Some(owner) = object.controller() else { return claims.owned.clone() };
    let (sets, pods) = (ctx.cache(resources::REPLICA_SETS), ctx.cache(resources::PODS));
    let siblings = sets.owned_by(&owner.uid).into_iter();
    let siblings = siblings.filter(|set| set.controller().is_some_and(|of| of.uid == owner.uid));
    siblings.flat_map(|set| pods.owned_by(set.uid())).collect()
}

/// What one reconcile does.
#[derive(Debug)]
struct Plan {
    create: usize,
    delete: Vec<Object>,
    /// The status but for the condition `ReplicaFailure`.
    status: Value,
    next: Next,
}

fn plan(object: &Object, set: &Value, claims: &Claims, related: &[Object], now: Timestamp) -> Plan {
    // What is being adopted counts as ours: it will be.
    let all: Vec<(&Object, PodView<'_>)> =
        claims.owned.iter().chain(&claims.adopt).map(|pod| (pod, PodView::of(pod))).collect();
    let active: Vec<&(&Object, PodView<'_>)> = all.iter().filter(|(pod, view)| is_active(pod, view)).collect();
    let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    let (mut create, mut delete) = (0, vec![]);
    if !object.is_deleting() {
        create = wanted.saturating_sub(active.len()).min(BURST);
        let surplus = active.len().saturating_sub(wanted).min(BURST);
        delete = if surplus > 0 { least_missed(&active, related, now, surplus) } else { vec![] };
    }
    let terminating = all.iter().filter(|(pod, view)| pod.is_deleting() && !view.is_terminal()).count();
    let (status, next) = status(set, &active, terminating, now);
    Plan { create, delete, status, next }
}

/// The status, and when to look again for pods that have not been ready for long enough.
fn status(set: &Value, active: &[&(&Object, PodView<'_>)], terminating: usize, now: Timestamp) -> (Value, Next) {
    let min_ready = SignedDuration::from_secs(set["spec"]["minReadySeconds"].as_i64().unwrap_or(0));
    let labels = set["spec"]["template"]["metadata"]["labels"].as_object();
    let labeled = |pod: &Object| {
        labels.into_iter().flatten().all(|(key, value)| pod.label(key).is_some_and(|have| *value == *have))
    };
    let (mut ready, mut available, mut next) = (0, 0, None);
    for (_, view) in active {
        if !view.is_ready() {
            continue;
        }
        ready += 1;
        match view.time_to_available(min_ready, now) {
            None => available += 1,
            Some(rest) => next = Some(next.map_or(rest, |next: Duration| next.min(rest))),
        }
    }
    let mut status = json!({"replicas": active.len()});
    let fully = active.iter().filter(|(pod, _)| labeled(pod)).count();
    let counts = [("fullyLabeledReplicas", fully), ("readyReplicas", ready), ("availableReplicas", available)];
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        status[field] = count.into();
    }
    if set["kind"] == *resources::REPLICA_SETS.kind {
        status["terminatingReplicas"] = terminating.into();
    }
    status["observedGeneration"] = set["metadata"]["generation"].clone();
    let conditions = &set["status"]["conditions"];
    if conditions.is_array() {
        status["conditions"] = conditions.clone();
    }
    (status, next.map_or(Next::OnChange, Next::After))
}

/// The pods whose deletion costs least.
fn least_missed(active: &[&(&Object, PodView<'_>)], related: &[Object], now: Timestamp, surplus: usize) -> Vec<Object> {
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for pod in related {
        let view = PodView::of(pod);
        if is_active(pod, &view) && !view.spec.node_name.is_empty() {
            *on_node.entry(view.spec.node_name.into_owned()).or_default() += 1;
        }
    }
    let mut ranked: Vec<(Rank<'_>, &Object)> = active
        .iter()
        .map(|(pod, view)| (Rank::of(pod, view, on_node.get(&*view.spec.node_name).copied().unwrap_or(0), now), *pod))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    ranked.into_iter().take(surplus).map(|(_, pod)| pod.clone()).collect()
}

/// Upstream's order of deletion, field by field; what sorts first goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank<'a> {
    /// Unassigned pods before assigned.
    assigned: bool,
    /// Pending before unknown before running.
    phase: u8,
    /// Not ready before ready.
    ready: bool,
    /// The users' own ranking.
    cost: i32,
    /// Pods that share their node with more fellows first.
    fellows: Reverse<usize>,
    /// Pods that have been ready for a shorter time first; times of the same magnitude are equal.
    ready_for: Magnitude,
    /// Pods whose containers restarted more often first.
    restarts: Reverse<i64>,
    /// Younger pods first; ages of the same magnitude are equal.
    age: Magnitude,
    /// Random, but the same each time.
    uid: &'a str,
}

/// The logarithm of a time in seconds, to the base of 2; unknown times sort first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Magnitude(Option<u32>);

impl Magnitude {
    fn since(at: Option<Timestamp>, now: Timestamp) -> Self {
        Self(at.map(|at| now.duration_since(at).as_secs().max(0).unsigned_abs().saturating_add(1).ilog2()))
    }
}

impl<'a> Rank<'a> {
    pub(crate) fn of(pod: &'a Object, view: &PodView<'_>, fellows: usize, now: Timestamp) -> Self {
        let cost = view.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
        Self {
            assigned: !view.spec.node_name.is_empty(),
            phase: match &*view.status.phase {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            },
            ready: view.is_ready(),
            cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
            fellows: Reverse(fellows),
            ready_for: Magnitude::since(view.ready_since(), now),
            restarts: Reverse(view.restarts()),
            age: Magnitude::since(view.metadata.creation_timestamp, now),
            uid: pod.uid(),
        }
    }
}

async fn apply(
    ctx: &Ctx,
    resource: &Resource,
    object: &Object,
    set: &Value,
    plan: Plan,
) -> Result<Next, ReconcileError> {
    let pods = PodControl::new(ctx, resource, object);
    let mut status = plan.status;
    let (kind, result) = if plan.create > 0 {
        let new = (0..plan.create).map(|_| pods.pod(&set["spec"]["template"])).collect();
        ("FailedCreate", pods.create_all(new).await)
    } else {
        ("FailedDelete", pods.delete_all(&plan.delete).await)
    };
    match &result {
        Ok(()) => conditions::remove(&mut status, "ReplicaFailure"),
        Err(error) if conditions::find(&status, "ReplicaFailure").is_none() => {
            let condition = json!({"type": "ReplicaFailure", "status": "True", "reason": kind,
                "message": error.to_string()});
            conditions::set(&mut status, condition, &time::seconds(ctx.clock.now()));
        }
        Err(_) => {}
    }
    if status != set["status"] {
        let mut updated = set.clone();
        updated["status"] = status;
        ctx.client.update_status(resource, object.key(), Bytes::from(updated.to_string())).await?;
    }
    result?;
    Ok(plan.next)
}

#[cfg(test)]
mod tests;
