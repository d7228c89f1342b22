//! `pods/NAME/eviction`: deletes a pod where the disruption budgets that select it allow one more disruption.

use std::sync::Arc;

use api::{ApiError, Key, Object, Reason, resources};
use machinery::labels::Selector;
use serde_json::{Value, json};

use super::delete::{Options, delete_object};
use super::metadata;
use crate::Server;
use crate::registry::Context;
use crate::request::Call;
use crate::request::write::modify;

/// Evicts the pod that `key` names.
pub async fn evict(server: &Arc<Server>, context: &Context<'_>, key: &Key, eviction: Value) -> Result<Value, ApiError> {
    let cache = server.caches().of(resources::PODS).await?;
    server.caches().fresh().await;
    let pod = cache.get(key).ok_or_else(|| ApiError::not_found("", "pods", &key.name))?;
    if needs_budget(&pod) {
        let budgets = budgets_of(server, &pod).await?;
        match &budgets[..] {
            [] => {}
            [budget] => take_one(server, context, budget, &pod).await?,
            _ => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(Reason::InternalError, message));
            }
        }
    }
    let given = &eviction["deleteOptions"];
    let options = Options {
        grace_seconds: given["gracePeriodSeconds"].as_i64(),
        uid: given["preconditions"]["uid"].as_str().map(str::to_owned),
        ..Options::default()
    };
    let served = server.find("", "v1", "pods").expect("pods are in the resource table");
    let call = Call::internal(server, served, context.user, key, "");
    delete_object(&call, context, key, &options).await?;
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

/// Pods that have ended, run nowhere or are going already disrupt nothing.
fn needs_budget(pod: &Object) -> bool {
    let phase = pod.field(resources::PODS, "status.phase").unwrap_or_default();
    !pod.is_deleting() && !matches!(phase, "Succeeded" | "Failed" | "Pending")
}

async fn budgets_of(server: &Server, pod: &Object) -> Result<Vec<Object>, ApiError> {
    let cache = server.caches().of(resources::POD_DISRUPTION_BUDGETS).await?;
    let snapshot = server.caches().snapshot(&cache);
    let selects = |budget: &Object| {
        let tree = budget.to_value();
        let selector = tree["spec"].get("selector").map(Selector::from_label_selector);
        selector.is_some_and(|selector| selector.is_ok_and(|selector| selector.matches_pairs(&pod.index().labels)))
    };
    let all = snapshot.entries(Some(&pod.key().namespace)).map(|entry| &entry.object);
    Ok(all.filter(|budget| selects(budget)).cloned().collect())
}

/// Takes one of the allowed disruptions, so that two evictions cannot take the same.
async fn take_one(server: &Arc<Server>, context: &Context<'_>, budget: &Object, pod: &Object) -> Result<(), ApiError> {
    let served = server.find("policy", "v1", "poddisruptionbudgets").expect("budgets are in the resource table");
    let call = Call::internal(server, served, context.user, budget.key(), "status");
    let change = |old: &Value| {
        let allowed = old["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        let observed = old["status"]["observedGeneration"].as_i64().unwrap_or(0);
        if observed < old["metadata"]["generation"].as_i64().unwrap_or(0) {
            return Err(too_many(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                "The disruption budget is still being processed by the server.",
            ));
        }
        if allowed <= 0 {
            let healthy = old["status"]["currentHealthy"].as_i64().unwrap_or(0);
            let desired = old["status"]["desiredHealthy"].as_i64().unwrap_or(0);
            let why = format!(
                "The disruption budget {} needs {desired} healthy pods and has {healthy} currently",
                budget.key().name
            );
            return Err(too_many("Cannot evict pod as it would violate the pod's disruption budget.", &why));
        }
        let mut new = old.clone();
        metadata::fields(&mut new).shift_remove("resourceVersion");
        new["status"]["disruptionsAllowed"] = (allowed - 1).into();
        new["status"]["disruptedPods"][&*pod.key().name] = metadata::time(context.now).into();
        Ok(new)
    };
    modify(&call, context, budget.key(), &change).await.map(drop)
}

fn too_many(message: &str, why: &str) -> ApiError {
    let mut error = ApiError::new(Reason::TooManyRequests, message);
    error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    error
}
