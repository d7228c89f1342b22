//! A DaemonSet has one pod on each node that its pods may run on.
//!
//! Pods are bound by the scheduler: each asks, by its node affinity, for its one node. An update replaces pods within
//! `maxUnavailable`, or beside the old ones within `maxSurge`. Defined by the DaemonSet API reference; tolerations, labels,
//! events and rounding are upstream's.

mod failures;
mod nodes;
mod plan;
mod update;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{EventType, Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::Value;

use crate::history::{self, History};
use crate::pod_control::PodControl;
use crate::{Ctx, Descriptor, claims};
pub use failures::Failures;
use nodes::{Fit, Placement};
use plan::{DaemonPod, HASH_LABEL, Plan, View};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "daemonset-controller",
    reconciles: resources::DAEMON_SETS,
    owns: &[resources::PODS, resources::CONTROLLER_REVISIONS],
    watches: &[
        Trigger { resource: resources::PODS, keys: adopters },
        Trigger { resource: resources::NODES, keys: concerned },
    ],
    reads: &[],
    workers_max: 2,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

fn adopters(informers: &Informers, pod: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::DAEMON_SETS), pod)
}

/// The DaemonSets that have something to do because of a node: those that should have a pod there and have none, or have
/// one that should not be there. A node that only reports that it lives concerns none.
fn concerned(informers: &Informers, node: &Object) -> Vec<Key> {
    let on_node = informers.all(resources::PODS).by_field("spec.nodeName", &node.key().name);
    let exists = informers.all(resources::NODES).get(node.key()).is_some();
    let sets = informers.all(resources::DAEMON_SETS).all().into_iter().filter(|set| {
        let has_pod = on_node.iter().any(|pod| pod.controller().is_some_and(|owner| *owner.uid == *set.uid()));
        let should_run = Placement::of(&set.to_value()["spec"]["template"]["spec"]).fit(node) == Fit::Run;
        if exists { should_run != has_pod } else { should_run || has_pod }
    });
    sets.map(|set| set.key().clone()).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::DAEMON_SETS).get(key) else { return Ok(Next::OnChange) };
    if object.is_deleting() {
        // Its history may be gone already: nothing true could be said of its pods.
        return Ok(Next::OnChange);
    }
    let set = object.to_value();
    let selector = claims::selector(resources::DAEMON_SETS, &set, key)?;
    if selector.is_everything() {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        let control = PodControl::new(ctx, resources::DAEMON_SETS, &object);
        control.event(EventType::Warning, "SelectingAll", message);
        return Ok(Next::OnChange);
    }
    let owner = history::Owner {
        resource: resources::DAEMON_SETS,
        object: &object,
        value: &set,
        selector: &selector,
        hash_label: HASH_LABEL,
    };
    let history = history::bring_up_to_date(ctx, &owner).await?;
    let pods = ctx.cache(resources::PODS);
    let claims = claims::claims(&pods, &object, &selector);
    claims::settle(ctx, resources::DAEMON_SETS, &object, resources::PODS, &claims).await?;
    let mine: Vec<Object> = claims.owned.into_iter().chain(claims.adopt).collect();
    let now = ctx.clock.now();
    let failures = &ctx.settings.daemon_failures;
    let failed_stays = |node: &str| failures.left(object.uid(), node);
    let view = View {
        set: &set,
        hash: history.update().label(HASH_LABEL).unwrap_or_default(),
        nodes: ctx.cache(resources::NODES).all(),
        pods: mine.iter().filter_map(|pod| DaemonPod::of(pod, &set, now)).collect(),
        failed_stays: &failed_stays,
    };
    let plan = plan::plan(&view);
    plan.failed.iter().for_each(|node| failures.count(object.uid(), node));
    let (status, next) = (plan.status.clone(), plan.next);
    let result = apply(ctx, &object, plan).await;
    if status != set["status"] {
        let mut updated = set.clone();
        updated["status"] = status;
        let body = Bytes::from(updated.to_string());
        ctx.client.update_status(resources::DAEMON_SETS, key, body).await?;
    }
    result?;
    truncate(ctx, &set, &history, &mine).await?;
    Ok(next)
}

async fn apply(ctx: &Ctx, object: &Object, plan: Plan) -> Result<(), ReconcileError> {
    let control = PodControl::new(ctx, resources::DAEMON_SETS, object);
    for (kind, reason, message) in plan.events {
        control.event(kind, reason, &message);
    }
    let new = plan.create.iter().map(|template| control.pod(template)).collect();
    // Pods that are not wanted go also where a quota refuses new ones.
    let created = control.create_all(new).await;
    let deleted = control.delete_all(&plan.delete).await;
    Ok(created.and(deleted)?)
}

/// Deletes the oldest revisions beyond the limit that no pod is of.
async fn truncate(ctx: &Ctx, set: &Value, history: &History, pods: &[Object]) -> Result<(), ReconcileError> {
    let update = history.update().name();
    let live = history::labels_of(pods, HASH_LABEL);
    let old: Vec<_> = history.revisions.iter().filter(|one| one.name() != update).collect();
    let surplus = old.len().saturating_sub(history::limit(set));
    let unused: Vec<_> =
        old.into_iter().filter(|one| one.label(HASH_LABEL).is_none_or(|hash| !live.contains(hash))).collect();
    history::delete_oldest(ctx, &unused, surplus).await
}

#[cfg(test)]
mod tests;
