//! A Job runs pods until enough of them have succeeded, and counts each exactly once.
//!
//! A pod holds the finalizer `batch.kubernetes.io/job-tracking` until the status says what became of it: first its uid is
//! noted under `uncountedTerminatedPods`, then the finalizer goes, then the note becomes one more in the count. Cut off at
//! any point, the next reconcile goes on from what is written. How long to wait after failures is worked out from the pods
//! that failed, not remembered. Defined by the Job API reference; conditions, reasons, events and limits are upstream's.

mod indexes;
mod plan;
mod pods;
mod policy;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{ClientError, CustomIndex, EventType, Informers, Next, PatchType, ReconcileError, Trigger};
use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::pod_control::PodControl;
use crate::{Ctx, Descriptor, claims, conditions};
use plan::{Plan, View};
use pods::JobPod;

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "job-controller",
    reconciles: resources::JOBS,
    owns: &[resources::PODS],
    watches: &[
        Trigger { resource: resources::PODS, keys: adopters },
        Trigger { resource: resources::PODS, keys: former_owner },
    ],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Holds a pod until it has been counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// Who else may manage a Job, in `spec.managedBy`, is not us.
const MANAGED_BY: &str = "kubernetes.io/job-controller";

/// Pods that hold the finalizer, under the Job that should take it off.
const TRACKED: CustomIndex = CustomIndex { name: "job tracking", values: |pod| tracked_by(pod).into_iter().collect() };

fn tracked_by(pod: &Object) -> Option<String> {
    let tracked = pod.index().finalizers.iter().any(|name| **name == *TRACKING);
    let namespace = &pod.key().namespace;
    let name = match pod.controller() {
        Some(owner) => Some(&*owner.name).filter(|_| *owner.kind == *resources::JOBS.kind),
        None => pod.label(NAME_LABEL),
    };
    name.filter(|_| tracked).map(|name| format!("{namespace}/{name}"))
}

fn adopters(informers: &Informers, pod: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::JOBS), pod)
}

/// The Job that a pod was of before it was orphaned: it takes its finalizer off.
fn former_owner(_: &Informers, pod: &Object) -> Vec<Key> {
    let tracked = tracked_by(pod).filter(|_| pod.controller().is_none());
    let key = tracked.as_deref().and_then(|text| text.split_once('/'));
    key.map(|(namespace, name)| Key::new(namespace, name)).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let object = ctx.cache(resources::JOBS).get(key);
    let tracked = ctx.cache(resources::PODS).by_index(&TRACKED, &key.to_string());
    let job = object.as_ref().map(Object::to_value).unwrap_or_default();
    if job["spec"]["managedBy"].as_str().is_some_and(|name| name != MANAGED_BY) {
        return Ok(Next::OnChange);
    }
    let finished = conditions::is_true(&job["status"], "Complete") || conditions::is_true(&job["status"], "Failed");
    let Some(object) = object.filter(|_| !finished) else {
        // Nobody counts them any more.
        untrack(ctx, &tracked).await?;
        return Ok(Next::OnChange);
    };
    let selector = claims::selector(resources::JOBS, &job, key)?;
    let claims = claims::claims(&ctx.cache(resources::PODS), &object, &selector);
    claims::settle_with(ctx, resources::JOBS, &object, resources::PODS, &claims, Some(TRACKING)).await?;
    // Of an earlier Job of that name, or orphans that this one does not adopt.
    let strays = tracked.iter().filter(|pod| match pod.controller() {
        Some(owner) => *owner.uid != *object.uid(),
        None => claims.adopt.iter().all(|adopted| adopted.uid() != pod.uid()),
    });
    untrack(ctx, strays).await?;
    let adopted = claims.adopt.iter().map(|pod| JobPod::of(pod, true));
    let owned = claims.owned.iter().map(|pod| JobPod::of(pod, false));
    let view =
        View { job: &job, deleting: object.is_deleting(), pods: owned.chain(adopted).collect(), now: ctx.clock.now() };
    apply(ctx, &object, &job, plan::plan(&view)).await
}

async fn apply(ctx: &Ctx, object: &Object, job: &Value, plan: Plan) -> Result<Next, ReconcileError> {
    let control = PodControl::new(ctx, resources::JOBS, object);
    let result = change_pods(ctx, &control, &plan).await;
    let mut status = plan.status;
    if result.is_err() {
        // What was foretold has not come to be.
        for field in ["active", "ready", "terminating"] {
            match plan.seen.get(field) {
                Some(count) => status[field] = count.clone(),
                None => drop(status.as_object_mut().map(|fields| fields.remove(field))),
            }
        }
    }
    if status != job["status"] {
        let mut updated = job.clone();
        updated["status"] = status;
        let body = Bytes::from(updated.to_string());
        ctx.client.update_status(resources::JOBS, object.key(), body).await?;
        for (kind, reason, message) in &plan.events {
            control.event(*kind, reason, message);
        }
    }
    result?;
    untrack(ctx, &plan.untrack).await?;
    Ok(plan.next)
}

async fn change_pods(ctx: &Ctx, control: &PodControl<'_>, plan: &Plan) -> Result<(), ReconcileError> {
    // Those that are simply not needed any more do not count as failed.
    untrack(ctx, &plan.remove).await?;
    control.delete_all(plan.remove.iter().chain(&plan.end)).await?;
    let new = plan.create.iter().map(|new| control.named_pod(&new.template, &new.prefix)).collect();
    control.create_all(new).await?;
    Ok(())
}

/// Takes the finalizer off pods, all at the same time.
async fn untrack<'p>(ctx: &Ctx, pods: impl IntoIterator<Item = &'p Object>) -> Result<(), ClientError> {
    let held = pods.into_iter().filter(|pod| pod.index().finalizers.iter().any(|name| **name == *TRACKING));
    let patched = join_all(held.map(async |pod| {
        let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        match ctx.client.patch(resources::PODS, pod.key(), None, PatchType::StrategicMerge, &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            patched => patched.map(drop),
        }
    }));
    patched.await.into_iter().collect::<Result<Vec<()>, _>>().map(drop)
}

/// What is told about a Job in an event.
type JobEvent = (EventType, String, String);

#[cfg(test)]
mod tests;
