//! A PodDisruptionBudget's status says how many of its pods may be disrupted now, which the eviction subresource counts down.
//!
//! The status is worked out from the pods and the scale of what controls them. A pod whose eviction was granted counts as
//! gone for two minutes; if it has not gone by then, it counts again. Where the status cannot be worked out, nothing may be
//! disrupted. Defined by the PodDisruptionBudget API reference; events, conditions and messages are upstream's.

mod expected;
pub mod stale_condition;
#[cfg(test)]
mod tests;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::labels::Selector;
use machinery::time;
use serde_json::{Map, Value, json};

use self::expected::Expected;
use crate::claims;
use crate::pods::PodView;
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "disruption-controller",
    reconciles: resources::POD_DISRUPTION_BUDGETS,
    owns: &[],
    watches: &[
        Trigger { resource: resources::PODS, keys: budgets_of_pod },
        Trigger { resource: resources::REPLICA_SETS, keys: budgets_of_workload },
        Trigger { resource: resources::DEPLOYMENTS, keys: budgets_of_workload },
        Trigger { resource: resources::STATEFUL_SETS, keys: budgets_of_workload },
        Trigger { resource: resources::REPLICATION_CONTROLLERS, keys: budgets_of_workload },
    ],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// How long a pod whose eviction was granted may take until its deletion is seen. Without an end a granted eviction whose
/// deletion failed would use up budget for ever.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

const ALLOWED: &str = "DisruptionAllowed";

fn budgets_of_pod(informers: &Informers, pod: &Object) -> Vec<Key> {
    let labels: Vec<(&str, &str)> = pod.index().labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    claims::selecting(&informers.all(resources::POD_DISRUPTION_BUDGETS), &pod.key().namespace, &labels)
}

/// A workload's scale concerns the budgets of its pods, which its template's labels lead to.
fn budgets_of_workload(informers: &Informers, workload: &Object) -> Vec<Key> {
    let budgets = informers.all(resources::POD_DISRUPTION_BUDGETS);
    if budgets.is_empty() {
        return vec![];
    }
    let workload_tree = workload.to_value();
    let labels = workload_tree["spec"]["template"]["metadata"]["labels"].as_object().into_iter().flatten();
    let labels: Vec<(&str, &str)> = labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect();
    claims::selecting(&budgets, &workload.key().namespace, &labels)
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::POD_DISRUPTION_BUDGETS).get(key) else { return Ok(Next::OnChange) };
    let budget = object.to_value();
    let about = ObjectReference::from((resources::POD_DISRUPTION_BUDGETS, &object));
    let pods = match Selector::from_label_selector(&budget["spec"]["selector"]) {
        Ok(selector) => pods_of(ctx, &key.namespace, &selector),
        Err(error) => {
            let message = format!("Failed to get pods: {error}");
            ctx.recorder.event(&about, EventType::Warning, "NoPods", &message);
            return apply(ctx, &object, &budget, Plan::failed(&budget, &error.to_string(), ctx.clock.now())).await;
        }
    };
    if pods.is_empty() {
        ctx.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
    }
    match expected::of(ctx, &budget["spec"], &pods).await {
        Ok(expected) => {
            if expected.has_unmanaged {
                ctx.recorder.event(
                    &about,
                    EventType::Warning,
                    "UnmanagedPods",
                    &unmanaged(&budget["spec"]["selector"]),
                );
            }
            let plan = plan(&budget, &pods, &expected, ctx.clock.now());
            report_not_deleted(ctx, key, &plan);
            apply(ctx, &object, &budget, plan).await
        }
        Err(error) => {
            let message = format!("Failed to calculate the number of expected pods: {error}");
            ctx.recorder.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", &message);
            let next = apply(ctx, &object, &budget, Plan::failed(&budget, &error.to_string(), ctx.clock.now())).await?;
            // What the API server could not answer now it may answer later; the rest changes with the cluster.
            error.into_client_error().map_or(Ok(next), |error| Err(error.into()))
        }
    }
}

fn pods_of(ctx: &Ctx, namespace: &str, selector: &Selector) -> Vec<Object> {
    let pods = ctx.cache(resources::PODS);
    let candidates = match selector.exact() {
        Some((key, value)) => pods.with_label(key, value),
        None => pods.in_namespace(namespace),
    };
    let ours = |pod: &Object| *pod.key().namespace == *namespace && selector.matches_pairs(&pod.index().labels);
    candidates.into_iter().filter(ours).collect()
}

/// What one reconcile does.
#[derive(Debug)]
struct Plan {
    status: Value,
    /// Pods whose eviction was granted long ago and that are still there.
    not_deleted: Vec<Object>,
    next: Next,
}

impl Plan {
    /// The status when it cannot be worked out: nothing may be disrupted.
    fn failed(budget: &Value, why: &str, now: Timestamp) -> Self {
        let mut status = budget["status"].clone();
        if !status.is_object() {
            status = json!({"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        }
        status["disruptionsAllowed"] = 0.into();
        set_condition(&mut status, "SyncFailed", "False", why, now);
        Self { status, not_deleted: vec![], next: Next::OnChange }
    }
}

fn plan(budget: &Value, pods: &[Object], expected: &Expected, now: Timestamp) -> Plan {
    let granted = &budget["status"]["disruptedPods"];
    let (mut healthy, mut disrupted, mut not_deleted, mut recheck) = (0, Map::new(), vec![], None);
    for pod in pods.iter().filter(|pod| !pod.is_deleting()) {
        let at = granted[&*pod.key().name].as_str().and_then(|at| time::parse(at).ok());
        let Some(left) = at.map(|at| DELETION_TIMEOUT - now.duration_since(at)) else {
            healthy += i64::from(PodView::of(pod).is_ready());
            continue;
        };
        if left.is_positive() {
            disrupted.insert(pod.key().name.to_string(), granted[&*pod.key().name].clone());
            let left = left.unsigned_abs();
            recheck = Some(recheck.map_or(left, |first: Duration| first.min(left)));
        } else {
            not_deleted.push(pod.clone());
            healthy += i64::from(PodView::of(pod).is_ready());
        }
    }
    // Nothing is allowed where nothing is expected, so that the first pods of a new budget are not evicted before they
    // have been counted.
    let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    let mut status = json!({"currentHealthy": healthy, "desiredHealthy": expected.healthy,
        "expectedPods": expected.pods, "disruptionsAllowed": allowed});
    if !disrupted.is_empty() {
        status["disruptedPods"] = disrupted.into();
    }
    status["observedGeneration"] = budget["metadata"]["generation"].clone();
    if budget["status"]["conditions"].is_array() {
        status["conditions"] = budget["status"]["conditions"].clone();
    }
    match allowed {
        0 => set_condition(&mut status, "InsufficientPods", "False", "", now),
        _ => set_condition(&mut status, "SufficientPods", "True", "", now),
    }
    Plan { status, not_deleted, next: recheck.map_or(Next::OnChange, Next::After) }
}

fn set_condition(status: &mut Value, reason: &str, is: &str, message: &str, now: Timestamp) {
    let old = crate::conditions::find(status, ALLOWED).cloned().unwrap_or_default();
    let since = match old["status"] == is && old["lastTransitionTime"].is_string() {
        true => old["lastTransitionTime"].clone(),
        false => time::seconds(now).into(),
    };
    let mut condition = json!({"type": ALLOWED, "status": is, "lastTransitionTime": since, "reason": reason,
        "message": message});
    let observed = &status["observedGeneration"];
    if observed.as_i64().is_some_and(|generation| generation != 0) {
        condition["observedGeneration"] = observed.clone();
    }
    crate::conditions::put(status, condition);
}

fn report_not_deleted(ctx: &Ctx, budget: &Key, plan: &Plan) {
    for pod in &plan.not_deleted {
        // Upstream names the namespace twice; whoever matches its messages would miss any other.
        let message = format!("Pod was expected by PDB {0}/{0} to be deleted but it wasn't", budget.namespace);
        let about = ObjectReference::from((resources::PODS, pod));
        ctx.recorder.event(&about, EventType::Warning, "NotDeleted", &message);
    }
}

/// The warning about pods that nothing controls, with the selector as upstream writes it.
fn unmanaged(selector: &Value) -> String {
    let pairs = selector["matchLabels"].as_object().into_iter().flatten();
    let pairs: String = pairs.map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default())).collect();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let expressions: String = expressions
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap_or_default();
            let values = row["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let values = values.collect::<Vec<_>>().join(" ");
            format!("{{{} {} [{values}]}},", text("key"), text("operator"))
        })
        .collect();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{{MatchLabels:map[string]string{{{pairs}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}) were found to be unmanaged. As a result, the \
         status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these \
         pods please set \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

async fn apply(ctx: &Ctx, object: &Object, budget: &Value, plan: Plan) -> Result<Next, ReconcileError> {
    if plan.status != budget["status"] {
        let mut updated = budget.clone();
        updated["status"] = plan.status;
        // At the version that was read: an eviction that was granted meanwhile must not be forgotten.
        let body = Bytes::from(updated.to_string());
        ctx.client.update_status(resources::POD_DISRUPTION_BUDGETS, object.key(), body).await?;
    }
    Ok(plan.next)
}
