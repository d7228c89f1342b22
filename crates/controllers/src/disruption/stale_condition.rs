//! A pod that was about to be disrupted and is still there two minutes later no longer says that it is.
//!
//! Whoever means to disrupt a pod sets its condition `DisruptionTarget` first. If the deletion then fails and nobody tries
//! again, the condition would mislead for ever. The kubelet's own mark is left alone: a node may take its time. Upstream's
//! disruption controller does this beside its budgets.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Next, ReconcileError};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use crate::pods::PodView;
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "disruption-controller-stale-conditions",
    reconciles: resources::PODS,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// How long the condition may stand on a pod that is not being deleted.
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(2);

const CONDITION: &str = "DisruptionTarget";

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::PODS).get(key) else { return Ok(Next::OnChange) };
    // Nearly every pod ends here, and only what is looked at is read of it.
    let view = PodView::of(&object);
    let marked = view.status.conditions.iter().flatten().any(|condition| condition.kind == CONDITION);
    if object.is_deleting() || !marked {
        return Ok(Next::OnChange);
    }
    let mut pod = object.to_value();
    match plan(&pod["status"], ctx.clock.now()) {
        Plan::Nothing => Ok(Next::OnChange),
        Plan::LookAgain(after) => Ok(Next::After(after)),
        Plan::Clear => {
            let condition = json!({"type": CONDITION, "status": "False"});
            conditions::set(&mut pod["status"], condition, &time::seconds(ctx.clock.now()));
            write(ctx, &object, &pod).await?;
            Ok(Next::OnChange)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    LookAgain(Duration),
    Clear,
}

fn plan(status: &Value, now: Timestamp) -> Plan {
    let ended = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    let Some(condition) = conditions::find(status, CONDITION).filter(|_| !ended) else { return Plan::Nothing };
    if condition["status"] != "True" || condition["reason"] == "TerminationByKubelet" {
        return Plan::Nothing;
    }
    let since = condition["lastTransitionTime"].as_str().and_then(|at| time::parse(at).ok());
    let left = since.map_or(SignedDuration::ZERO, |since| STALE_AFTER - now.duration_since(since));
    if left.is_positive() { Plan::LookAgain(left.unsigned_abs()) } else { Plan::Clear }
}

async fn write(ctx: &Ctx, object: &Object, pod: &Value) -> Result<(), ReconcileError> {
    let body = Bytes::from(pod.to_string());
    match ctx.client.update_status(resources::PODS, object.key(), body).await {
        Err(error) if error.is_not_found() => Ok(()),
        written => Ok(written.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn a_mark_that_came_to_nothing_goes_after_two_minutes() {
        let pod = |name: &str, reason: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"}, "spec": {},
                "status": {"phase": "Running", "conditions": [{"type": CONDITION, "status": "True", "reason": reason,
                    "lastTransitionTime": "2030-01-01T00:00:00Z"}]}})
        };
        let is = |api: &control::harness::Api, name: &str| {
            api.get(resources::PODS, "n", name).expect("the pod")["status"]["conditions"][0]["status"].clone()
        };
        let steps = [
            Step::Wait(Duration::from_secs(100)),
            Step::Do(&|api| assert_eq!(is(api, "a"), "True")),
            Step::Wait(Duration::from_secs(30)),
        ];
        let objects = [pod("a", "EvictionByEvictionAPI"), pod("b", "TerminationByKubelet")];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert_eq!((is(&end, "a"), is(&end, "b")), (json!("False"), json!("True")));
    }
}
