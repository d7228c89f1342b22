//! A Deployment's status: counts, and the conditions `Available`, `Progressing` and `ReplicaFailure`.

use std::time::Duration;

use control::Next;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use super::rollout::{Progress, View};
use super::sets::{Set, parse_time};
use crate::conditions;

/// Upstream's value for "no deadline".
const NO_DEADLINE: i64 = i32::MAX as i64;

pub(super) fn has_progress_deadline(view: &View<'_>) -> bool {
    deadline(view).is_some()
}

fn deadline(view: &View<'_>) -> Option<SignedDuration> {
    let seconds = view.spec()["progressDeadlineSeconds"].as_i64()?;
    (seconds != NO_DEADLINE).then(|| SignedDuration::from_secs(seconds))
}

/// Sets a condition with its times, unless it says the same (status and reason) already.
pub(super) fn set_condition(status: &mut Value, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let old = conditions::find(status, kind).cloned().unwrap_or_default();
    if old["status"] == value && old["reason"] == reason {
        return;
    }
    let now = Value::from(time::seconds(now));
    let transition = if old["status"] == value { old["lastTransitionTime"].clone() } else { now.clone() };
    conditions::put(
        status,
        json!({"type": kind, "status": value, "lastUpdateTime": now, "lastTransitionTime": transition,
            "reason": reason, "message": message}),
    );
}

/// The new set could not be created.
pub(super) fn set_create_failed(status: &mut Value, message: &str, now: Timestamp) {
    set_condition(status, "Progressing", "False", "ReplicaSetCreateError", message, now);
}

/// The counts, of the sets' statuses.
pub(super) fn counts(view: &View<'_>, sets: &[Set], new: Option<&Set>) -> Value {
    let sum = |field: &str| sets.iter().map(|set| set.count(field)).sum::<i64>();
    let wanted: i64 = sets.iter().map(Set::replicas).sum();
    let available = sum("availableReplicas");
    let mut status = json!({});
    for (field, count) in [
        ("replicas", sum("replicas")),
        ("updatedReplicas", new.map_or(0, |set| set.count("replicas"))),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (wanted - available).max(0)),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    status["terminatingReplicas"] = sum("terminatingReplicas").into();
    status["observedGeneration"] = view.deployment["metadata"]["generation"].clone();
    status
}

/// Whether all replicas are there, new and available.
pub(super) fn is_complete(view: &View<'_>, status: &Value) -> bool {
    let wanted = view.replicas();
    let is = |field: &str| status[field].as_i64().unwrap_or(0) == wanted;
    is("updatedReplicas") && is("replicas") && is("availableReplicas")
}

/// Brings the status in `deployment` up to date. `new` is the new set as it is. Tells when the deadline is to be looked at.
pub(super) fn update(view: &View<'_>, deployment: &mut Value, new: Option<&Set>, progress: Progress) -> Next {
    let before = view.deployment["status"].clone();
    let mut status = counts(view, &view.sets, new);
    for field in ["conditions", "collisionCount"] {
        if let Some(value) = deployment["status"].get(field) {
            status[field] = value.clone();
        }
    }
    let available = status["availableReplicas"].as_i64().unwrap_or(0) >= view.replicas() - view.max_unavailable();
    let (value, reason, message) = if available {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, "Available", value, reason, message, view.now);
    if progress == Progress::Update {
        update_progress(view, &before, &mut status, new);
        update_failure(view, &mut status, new);
    }
    let next = next_look(view, &status);
    deployment["status"] = status;
    next
}

fn update_progress(view: &View<'_>, before: &Value, status: &mut Value, new: Option<&Set>) {
    if !has_progress_deadline(view) {
        return conditions::remove(status, "Progressing");
    }
    let current = conditions::find(status, "Progressing").cloned().unwrap_or_default();
    let count = |status: &Value, field: &str| status[field].as_i64().unwrap_or(0);
    let name = view.deployment["metadata"]["name"].as_str().unwrap_or_default();
    let subject = new.map_or(format!("Deployment \"{name}\""), |set| format!("ReplicaSet \"{}\"", set.key.name));
    let done = format!("{subject} has successfully progressed.");
    // A finished rollout stays finished when pods come and go later.
    let all_new = count(status, "replicas") == count(status, "updatedReplicas");
    if all_new && current["reason"] == "NewReplicaSetAvailable" && current["message"] == *done {
        return;
    }
    let grew = |field: &str| count(status, field) > count(before, field);
    let old = |status: &Value| count(status, "replicas") - count(status, "updatedReplicas");
    if is_complete(view, status) {
        advance(view, status, &current, "NewReplicaSetAvailable", &done);
    } else if grew("updatedReplicas") || grew("readyReplicas") || grew("availableReplicas") || old(status) < old(before)
    {
        advance(view, status, &current, "ReplicaSetUpdated", &format!("{subject} is progressing."));
    } else if timed_out(view, &current) {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, view.now);
    }
}

/// Progress starts the deadline over, so the time of update changes even where nothing else does.
fn advance(view: &View<'_>, status: &mut Value, current: &Value, reason: &str, message: &str) {
    let now = Value::from(time::seconds(view.now));
    let transition = if current["status"] == "True" { current["lastTransitionTime"].clone() } else { now.clone() };
    let condition = json!({"type": "Progressing", "status": "True", "lastUpdateTime": now,
        "lastTransitionTime": transition, "reason": reason, "message": message});
    conditions::put(status, condition);
}

fn timed_out(view: &View<'_>, current: &Value) -> bool {
    match current["reason"].as_str() {
        None | Some("NewReplicaSetAvailable" | "DeploymentPaused") => false,
        Some("ProgressDeadlineExceeded") => true,
        Some(_) => remaining(view, current).is_some_and(|rest| rest.is_zero() || rest.is_negative()),
    }
}

/// How long until the deadline of the condition.
fn remaining(view: &View<'_>, current: &Value) -> Option<SignedDuration> {
    let since = parse_time(&current["lastUpdateTime"])?;
    Some(deadline(view)? - view.now.duration_since(since))
}

fn update_failure(view: &View<'_>, status: &mut Value, new: Option<&Set>) {
    // The new set's failure is the one that holds the rollout up.
    let sets = new.into_iter().chain(view.sets.iter());
    let failure = sets.filter_map(|set| conditions::find(&set.value["status"], "ReplicaFailure")).next();
    match failure {
        Some(failure) => {
            let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
            set_condition(status, "ReplicaFailure", &text("status"), &text("reason"), &text("message"), view.now);
        }
        None => conditions::remove(status, "ReplicaFailure"),
    }
}

/// When a rollout that makes no progress has to be looked at again.
fn next_look(view: &View<'_>, status: &Value) -> Next {
    let Some(current) = conditions::find(status, "Progressing") else { return Next::OnChange };
    let ended = matches!(
        current["reason"].as_str(),
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "DeploymentPaused")
    );
    if ended || is_complete(view, status) {
        return Next::OnChange;
    }
    match remaining(view, current) {
        // Times in the status are cut to seconds: a little later is certain to be past it.
        Some(rest) => Next::After(Duration::try_from(rest).unwrap_or_default() + Duration::from_secs(1)),
        None => Next::OnChange,
    }
}
