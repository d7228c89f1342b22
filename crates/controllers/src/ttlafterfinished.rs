//! Jobs that have ended go after their `spec.ttlSecondsAfterFinished`, with their pods.
//!
//! The behaviour is upstream's ttl-after-finished controller.

use std::time::Duration;

use api::{Key, resources};
use control::{DeleteOptions, Next, Propagation, ReconcileError};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::Value;

use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "ttl-after-finished-controller",
    reconciles: resources::JOBS,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::JOBS).get(key) else { return Ok(Next::OnChange) };
    let expires = if object.is_deleting() { None } else { expiry(&object.to_value()) };
    let Some(expires) = expires else { return Ok(Next::OnChange) };
    let rest = expires.duration_since(ctx.clock.now());
    if rest.is_positive() {
        return Ok(Next::After(rest.unsigned_abs()));
    }
    // Read afresh: the time may have been raised, and the cache not know yet.
    let fresh = match ctx.client.get(resources::JOBS, key).await {
        Err(error) if error.is_not_found() => return Ok(Next::OnChange),
        fresh => fresh?,
    };
    if fresh.uid() != object.uid() || expiry(&fresh.to_value()) != Some(expires) {
        return Ok(Next::OnChange);
    }
    let options = DeleteOptions {
        resource_version: Some(fresh.revision()),
        propagation: Some(Propagation::Foreground),
        ..DeleteOptions::of_uid(fresh.uid())
    };
    match ctx.client.delete(resources::JOBS, key, &options).await {
        Err(error) if error.is_not_found() => Ok(Next::OnChange),
        deleted => Ok(deleted.map(|()| Next::OnChange)?),
    }
}

/// When a Job is to go, if it has ended and says how long it stays.
fn expiry(job: &Value) -> Option<Timestamp> {
    let stays = SignedDuration::from_secs(job["spec"]["ttlSecondsAfterFinished"].as_i64()?);
    let ended = ["Complete", "Failed"]
        .into_iter()
        .find_map(|kind| conditions::find(&job["status"], kind).filter(|condition| condition["status"] == "True"))?;
    time::parse(ended["lastTransitionTime"].as_str()?).ok()?.checked_add(stays).ok()
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::json;

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn ended_jobs_go_after_their_time() {
        let job = |name: &str, ttl: Option<u32>, condition: &str| {
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "n"},
                "spec": {"ttlSecondsAfterFinished": ttl}, "status": {"conditions": [{"type": condition,
                    "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}]}})
        };
        let objects = [
            job("soon", Some(60), "Complete"),
            job("later", Some(1000), "Failed"),
            job("stays", None, "Complete"),
            job("runs", Some(0), "Suspended"),
        ];
        let steps =
            [Step::Do(&|api| assert_eq!(api.list(resources::JOBS).len(), 4)), Step::Wait(Duration::from_secs(61))];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let soon = end.get(resources::JOBS, "n", "soon").expect("held by the garbage collector's finalizer");
        assert_eq!(soon["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let going = |job: &&Value| !job["metadata"]["deletionTimestamp"].is_null();
        assert_eq!(end.list(resources::JOBS).iter().filter(going).count(), 1);
    }
}
