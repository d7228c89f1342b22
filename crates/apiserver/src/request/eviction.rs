//! `pods/NAME/eviction`: deletes a pod where the disruption budget that selects it allows one more disruption.
//!
//! A disruption is taken from the budget's status by compare and swap, so that two evictions never take the same one, before
//! the pod is marked and deleted. Pods that have ended, have not begun or are going already disrupt nothing. Defined by
//! "API-initiated Eviction" in the Kubernetes documentation; answers and messages are upstream's.

use std::sync::Arc;

use api::object::Tree;
use api::{ApiError, Key, Object, Reason, resources};
use machinery::labels::Selector;
use serde_json::{Value, json};

use super::delete::{Options, delete_object};
use super::managed::Owners;
use super::metadata;
use super::query::Query;
use crate::Server;
use crate::registry::Context;
use crate::request::Call;
use crate::request::write::{Changed, modify};

/// A budget with more granted evictions than this, whose pods are still there, grants no more. Without a limit its object
/// would grow with each eviction while the disruption controller is away.
const DISRUPTED_PODS_MAX: usize = 2000;

/// How often an eviction begins again because the pod was changed meanwhile. Without an end a busy writer could keep it for
/// ever.
const ATTEMPTS_MAX: usize = 20;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const ALLOWED: &str = "DisruptionAllowed";

/// Evicts the pod that `key` names.
pub async fn evict(server: &Arc<Server>, context: &Context<'_>, key: &Key, eviction: Value) -> Result<Value, ApiError> {
    if *metadata::text(&eviction, "name") != *key.name {
        return Err(ApiError::new(Reason::BadRequest, "name in URL does not match name in Eviction object"));
    }
    let options = Options::of(&eviction["deleteOptions"], &Query::default())?;
    let context = Context { dry_run: context.dry_run || options.dry_run, ..context.clone() };
    let eviction = Eviction { server, context: &context, key };
    for _ in 0..ATTEMPTS_MAX {
        if eviction.attempt(&options).await? == Attempt::Done {
            let success =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            return Ok(success);
        }
    }
    Err(ApiError::conflict("", "pods", &key.name, super::write::MODIFIED))
}

#[derive(PartialEq, Eq)]
enum Attempt {
    Done,
    /// The pod was changed between looking and deleting.
    Overtaken,
}

struct Eviction<'a> {
    server: &'a Arc<Server>,
    context: &'a Context<'a>,
    key: &'a Key,
}

impl Eviction<'_> {
    async fn attempt(&self, options: &Options) -> Result<Attempt, ApiError> {
        let cache = self.server.caches().of(resources::PODS).await?;
        self.server.caches().fresh().await;
        let pod = cache.get(self.key).ok_or_else(|| ApiError::not_found("", "pods", &self.key.name))?;
        check_preconditions(self.key, options, pod.uid(), pod.revision())?;
        let phase = pod.field(resources::PODS, "status.phase").unwrap_or_default();
        let exactly = Options { resource_version: Some(pod.revision()), ..options.clone() };
        let overtaken = |error: &ApiError| error.is_conflict() && options.resource_version.is_none();
        if pod.is_deleting() || matches!(phase, "Succeeded" | "Failed") {
            self.mark_and_delete(options).await?;
            return Ok(Attempt::Done);
        }
        if phase == "Pending" {
            // It must not have begun meanwhile.
            return match self.mark_and_delete(&exactly).await {
                Err(error) if overtaken(&error) => Ok(Attempt::Overtaken),
                done => done.map(|()| Attempt::Done),
            };
        }
        match self.budget_of(&pod).await? {
            None => self.mark_and_delete(options).await?,
            Some(budget) if is_free(&pod.to_value(), &budget.to_value()) => {
                // It must not have become healthy meanwhile: then the budget guards it.
                self.mark_and_delete(&exactly).await.map_err(|error| match overtaken(&error) {
                    true => still_processing(&budget.key().name),
                    false => error,
                })?;
            }
            Some(budget) => {
                self.take_one(budget.key(), &pod).await?;
                self.mark_and_delete(options).await?;
            }
        }
        Ok(Attempt::Done)
    }

    /// The one budget that selects the pod.
    async fn budget_of(&self, pod: &Object) -> Result<Option<Object>, ApiError> {
        let cache = self.server.caches().of(resources::POD_DISRUPTION_BUDGETS).await?;
        let snapshot = self.server.caches().snapshot(&cache);
        let selects = |budget: &Object| {
            let selector = Selector::from_label_selector(&budget.to_value()["spec"]["selector"]);
            selector.is_ok_and(|selector| selector.matches_pairs(&pod.index().labels))
        };
        let all = snapshot.entries(Some(&pod.key().namespace)).map(|entry| &entry.object);
        let mut selecting = all.filter(|budget| selects(budget));
        match (selecting.next(), selecting.next()) {
            (budget, None) => Ok(budget.cloned()),
            _ => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                Err(ApiError::new(Reason::Unknown, message))
            }
        }
    }

    /// Takes one of the allowed disruptions.
    async fn take_one(&self, budget: &Key, pod: &Object) -> Result<(), ApiError> {
        let served = self.server.find("policy", "v1", "poddisruptionbudgets");
        let served = served.expect("budgets are in the resource table");
        let call = Call::internal(self.server, served, self.context.user, budget, "status");
        let now = metadata::time(self.context.now);
        let change = |old: &Tree| taken(&old.object, &budget.name, &pod.key().name, &now).map(Changed::from);
        modify(&call, self.context, budget, &change).await.map(drop)
    }

    /// Says in the pod's status why it goes, and deletes it.
    async fn mark_and_delete(&self, options: &Options) -> Result<(), ApiError> {
        let served = self.server.find("", "v1", "pods").expect("pods are in the resource table");
        let mut options = options.clone();
        if !self.context.dry_run {
            let call = Call::internal(self.server, served.clone(), self.context.user, self.key, "status");
            let change = |old: &Tree| {
                let old = &old.object;
                let version = metadata::text(old, "resourceVersion").parse().unwrap_or(0);
                check_preconditions(self.key, &options, metadata::text(old, "uid"), version)?;
                let object = marked(old, &metadata::time(self.context.now));
                Ok(Changed { object, owners: Owners::Untouched })
            };
            let pod = modify(&call, self.context, self.key, &change).await?;
            // The version that the client meant is now the one that this just wrote.
            options.resource_version = options.resource_version.map(|_| pod.revision());
        }
        let call = Call::internal(self.server, served, self.context.user, self.key, "");
        delete_object(&call, self.context, self.key, &options).await.map(drop)
    }
}

/// Whether a pod that is not ready may go without taking from the budget.
fn is_free(pod: &Value, budget: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let enough = number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy");
    !ready && (budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || enough)
}

/// The budget with one disruption less, or why there is none to take.
fn taken(old: &Value, name: &str, pod: &str, now: &str) -> Result<Value, ApiError> {
    let status = &old["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let allowed = number(&status["disruptionsAllowed"]);
    let forbidden = |why: &str| {
        let message = format!("poddisruptionbudget.policy {name:?} is forbidden: {why}");
        Err(ApiError::about(Reason::Forbidden, "policy", "poddisruptionbudget", name, message))
    };
    if number(&status["observedGeneration"]) < number(&old["metadata"]["generation"]) {
        return Err(still_processing(name));
    }
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(too_many(&why_none(status, name)));
    }
    let mut new = old.clone();
    metadata::fields(&mut new).shift_remove("resourceVersion");
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = now.into();
    if allowed == 1 {
        set_insufficient(&mut new["status"], now);
    }
    Ok(new)
}

fn why_none(status: &Value, name: &str) -> String {
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let condition = status["conditions"].as_array().into_iter().flatten().find(|row| row["type"] == ALLOWED);
    let text = |field: &str| condition.and_then(|row| row[field].as_str()).unwrap_or_default();
    let says_why = text("status") == "False" && !text("message").is_empty();
    let refuses = format!("The disruption budget {name} does not allow evicting pods currently");
    match () {
        // The numbers mean nothing then.
        () if says_why && text("reason") == "SyncFailed" => {
            format!("{refuses} because it failed sync: {}", text("message"))
        }
        () if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        () if says_why => format!("{refuses} ({}): {}", text("reason"), text("message")),
        () => refuses,
    }
}

fn set_insufficient(status: &mut Value, now: &str) {
    let condition = json!({"type": ALLOWED, "status": "False", "observedGeneration": status["observedGeneration"],
        "lastTransitionTime": now, "reason": "InsufficientPods", "message": ""});
    put_condition(status, condition);
}

fn put_condition(status: &mut Value, condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let list = status["conditions"].as_array_mut().expect("it was made a list");
    match list.iter_mut().find(|known| known["type"] == condition["type"]) {
        Some(known) => *known = condition,
        None => list.push(condition),
    }
}

fn check_preconditions(key: &Key, options: &Options, uid: &str, version: u64) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::conflict("", "Pod", &key.name, &why));
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| !wanted.is_empty() && *wanted != uid) {
        return conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been \
             deleted and then recreated"
        ));
    }
    if let Some(wanted) = options.resource_version.filter(|wanted| *wanted != version) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
             The object might have been modified"
        ));
    }
    Ok(())
}

fn marked(old: &Value, now: &str) -> Value {
    let mut pod = old.clone();
    metadata::fields(&mut pod).shift_remove("resourceVersion");
    let known =
        old["status"]["conditions"].as_array().into_iter().flatten().find(|row| row["type"] == "DisruptionTarget");
    let since = known.filter(|row| row["status"] == "True").and_then(|row| row["lastTransitionTime"].as_str());
    let condition = json!({"type": "DisruptionTarget", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or(now), "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
    put_condition(&mut pod["status"], condition);
    pod
}

fn still_processing(budget: &str) -> ApiError {
    let mut error = too_many(&format!("The disruption budget {budget} is still being processed by the server."));
    error.details["retryAfterSeconds"] = 10.into();
    error
}

fn too_many(why: &str) -> ApiError {
    let mut error = ApiError::new(Reason::TooManyRequests, REFUSED);
    error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    error
}
