//! A ReplicaSet has as many pods as it asks for: missing ones are made from its template, too many are deleted, those that
//! nobody misses first.
//!
//! Defined by the ReplicaSet API reference; the order of deletion, the growing batches of creation, events and conditions
//! are upstream's.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{ClientError, DeleteOptions, EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use machinery::labels::Selector;
use machinery::time;
use serde_json::{Value, json};

use crate::claims::{self, Claims};
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
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// How many pods one reconcile makes or deletes at most; the next goes on.
const BURST: usize = 500;

/// The first batch of new pods; each further one is twice as large. If something refuses pods, it refuses one and not
/// hundreds.
const FIRST_BATCH: usize = 1;

/// A pod with a lower number goes earlier than its fellows.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn adopters(informers: &Informers, pod: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::REPLICA_SETS), pod)
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::REPLICA_SETS).get(key) else { return Ok(Next::OnChange) };
    let set = object.to_value();
    let selector = Selector::from_label_selector(&set["spec"]["selector"])
        .map_err(|error| ReconcileError::Invalid(format!("selector of {key}: {error}")))?;
    let pods = ctx.cache(resources::PODS);
    let claims = claims::claims(&pods, &object, &selector);
    claims::settle(ctx, resources::REPLICA_SETS, &object, resources::PODS, &claims).await?;
    let related = related_pods(ctx, &object, &claims);
    let plan = plan(&object, &set, &claims, &related, ctx.clock.now());
    apply(ctx, &object, &set, plan).await
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
        let age = view.ready_since().map_or(SignedDuration::ZERO, |since| now.duration_since(since));
        if age >= min_ready {
            available += 1;
        } else {
            let rest = (min_ready - age).unsigned_abs();
            next = Some(next.map_or(rest, |next: Duration| next.min(rest)));
        }
    }
    let mut status = json!({"replicas": active.len()});
    let fully = active.iter().filter(|(pod, _)| labeled(pod)).count();
    let counts = [("fullyLabeledReplicas", fully), ("readyReplicas", ready), ("availableReplicas", available)];
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        status[field] = count.into();
    }
    status["terminatingReplicas"] = terminating.into();
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
struct Rank<'a> {
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
    fn of(pod: &'a Object, view: &PodView<'_>, fellows: usize, now: Timestamp) -> Self {
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

async fn apply(ctx: &Ctx, object: &Object, set: &Value, plan: Plan) -> Result<Next, ReconcileError> {
    let mut status = plan.status;
    let (kind, result) = if plan.create > 0 {
        ("FailedCreate", create(ctx, object, set, plan.create).await)
    } else {
        ("FailedDelete", delete(ctx, object, &plan.delete).await)
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
        let body = Bytes::from(updated.to_string());
        ctx.client.update_status(resources::REPLICA_SETS, object.key(), body).await?;
    }
    result?;
    Ok(plan.next)
}

/// Makes pods in growing batches, each at the same time; stops after the first batch with a failure.
async fn create(ctx: &Ctx, object: &Object, set: &Value, count: usize) -> Result<(), ClientError> {
    let about = ObjectReference::from((resources::REPLICA_SETS, object));
    let (mut rest, mut batch) = (count, FIRST_BATCH);
    while rest > 0 {
        let size = batch.min(rest);
        let made = join_all((0..size).map(|_| create_one(ctx, object, set, &about))).await;
        // All of a batch are heard before the first failure ends it.
        made.into_iter().collect::<Result<Vec<()>, _>>()?;
        rest -= size;
        batch *= 2;
    }
    Ok(())
}

async fn create_one(ctx: &Ctx, object: &Object, set: &Value, about: &ObjectReference) -> Result<(), ClientError> {
    let owner = claims::owner_reference(resources::REPLICA_SETS, object);
    let pod = pod_from_template(&set["spec"]["template"], &object.key().name, &ctx.random.name_suffix(5), &owner);
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match ctx.client.create(resources::PODS, &object.key().namespace, Bytes::from(pod.to_string())).await {
        Ok(_) => {
            ctx.recorder.event(about, EventType::Normal, "SuccessfulCreate", &format!("Created pod: {name}"));
            Ok(())
        }
        // The set goes with its namespace.
        Err(error) if error.is_namespace_terminating() => Ok(()),
        Err(error) => {
            ctx.recorder.event(about, EventType::Warning, "FailedCreate", &format!("Error creating: {error}"));
            Err(error)
        }
    }
}

/// A pod as its template says. The name is chosen here and not by the server, so that a lost answer can be traced.
fn pod_from_template(template: &Value, owner_name: &str, suffix: &str, owner: &Value) -> Value {
    // As long as a generated name may be: 63 characters, of which 5 are the suffix.
    let prefix = format!("{owner_name}-");
    let base: String = prefix.chars().take(58).collect();
    let mut meta = json!({"name": format!("{base}{suffix}"), "generateName": prefix});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            meta[field] = value.clone();
        }
    }
    meta["ownerReferences"] = json!([owner]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
}

async fn delete(ctx: &Ctx, object: &Object, pods: &[Object]) -> Result<(), ClientError> {
    let about = &ObjectReference::from((resources::REPLICA_SETS, object));
    let deleted = join_all(pods.iter().map(async |pod| {
        let options = DeleteOptions::of_uid(pod.uid());
        match ctx.client.delete(resources::PODS, pod.key(), &options).await {
            Ok(()) => {
                let message = format!("Deleted pod: {}", pod.key().name);
                ctx.recorder.event(about, EventType::Normal, "SuccessfulDelete", &message);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                ctx.recorder.event(about, EventType::Warning, "FailedDelete", &format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }));
    deleted.await.into_iter().collect::<Result<Vec<()>, _>>().map(drop)
}

#[cfg(test)]
mod tests;
