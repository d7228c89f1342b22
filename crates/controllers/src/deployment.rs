//! A Deployment moves its pods from one template to the next, through ReplicaSets that it scales up and down.
//!
//! A reconcile makes the next writes only: the driver brings it back when they show in the caches. Which ReplicaSet is new
//! is decided by comparing templates, never remembered. Defined by the Deployment API reference; rounding, order, revisions,
//! conditions, reasons and messages are upstream's.

mod rollout;
mod sets;
mod status;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{DeleteOptions, EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::Value;

use crate::claims;
use crate::pods::PodView;
use crate::{Ctx, Descriptor};
use rollout::{Action, Plan, View};
use sets::Set;

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "deployment-controller",
    reconciles: resources::DEPLOYMENTS,
    owns: &[resources::REPLICA_SETS],
    watches: &[
        Trigger { resource: resources::REPLICA_SETS, keys: adopters },
        Trigger { resource: resources::PODS, keys: ended_pods },
    ],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

fn adopters(informers: &Informers, set: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::DEPLOYMENTS), set)
}

/// A Deployment that recreates waits for the end of its old pods.
fn ended_pods(informers: &Informers, pod: &Object) -> Vec<Key> {
    let Some(owner) = control::driver::controller_key(resources::REPLICA_SETS, pod) else { return vec![] };
    let set = informers.all(resources::REPLICA_SETS).get(&owner);
    let key = set.and_then(|set| control::driver::controller_key(resources::DEPLOYMENTS, &set));
    let Some(deployment) = key.and_then(|key| informers.all(resources::DEPLOYMENTS).get(&key)) else { return vec![] };
    // Looked for in the bytes: one that only mentions the word is reconciled once too often, which costs less than
    // decoding every Deployment whose pods change.
    let recreates = deployment.json().windows(8).any(|window| window == b"Recreate");
    if recreates { vec![deployment.key().clone()] } else { vec![] }
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::DEPLOYMENTS).get(key) else { return Ok(Next::OnChange) };
    let deployment = object.to_value();
    let about = ObjectReference::from((resources::DEPLOYMENTS, &object));
    let selector = claims::selector(resources::DEPLOYMENTS, &deployment, key)?;
    if selector.is_everything() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        ctx.recorder.event(&about, EventType::Warning, "SelectingAll", message);
        return Ok(Next::OnChange);
    }
    let claims = claims::claims(&ctx.cache(resources::REPLICA_SETS), &object, &selector);
    claims::settle(ctx, resources::DEPLOYMENTS, &object, resources::REPLICA_SETS, &claims).await?;
    let old_pods_of = |set: &Object| {
        let pods = ctx.cache(resources::PODS).owned_by(set.uid());
        pods.iter().filter(|pod| !PodView::of(pod).is_terminal()).count()
    };
    let sets = claims.owned.iter().chain(&claims.adopt).map(|set| Set::new(set, old_pods_of(set))).collect();
    let view = View { deployment: &deployment, deleting: object.is_deleting(), sets, now: ctx.clock.now() };
    apply(ctx, &object, &about, rollout::plan(&view)).await
}

async fn apply(ctx: &Ctx, object: &Object, about: &ObjectReference, plan: Plan) -> Result<Next, ReconcileError> {
    for action in plan.actions {
        let creates = matches!(action, Action::Create { .. });
        let Err(error) = act(ctx, object, about, action).await else { continue };
        if creates {
            report_refusal(ctx, object, &error).await?;
        }
        return Err(error);
    }
    let Some(mut updated) = plan.deployment else { return Ok(plan.next) };
    if updated.metadata {
        let body = Bytes::from(updated.value.to_string());
        let written = ctx.client.update(resources::DEPLOYMENTS, object.key(), body).await?;
        updated.value["metadata"]["resourceVersion"] = written.revision().to_string().into();
    }
    if updated.status {
        let body = Bytes::from(updated.value.to_string());
        ctx.client.update_status(resources::DEPLOYMENTS, object.key(), body).await?;
    }
    Ok(plan.next)
}

/// Tells in the conditions that the new set was refused, such as by a quota.
async fn report_refusal(ctx: &Ctx, object: &Object, error: &ReconcileError) -> Result<(), ReconcileError> {
    match error {
        ReconcileError::Client(error) if !error.is_ambiguous() && !error.is_already_exists() => {}
        _ => return Ok(()),
    }
    let mut deployment = object.to_value();
    status::set_create_failed(&mut deployment["status"], &error.to_string(), ctx.clock.now());
    if deployment["status"] != object.to_value()["status"] {
        let body = Bytes::from(deployment.to_string());
        ctx.client.update_status(resources::DEPLOYMENTS, object.key(), body).await?;
    }
    Ok(())
}

async fn act(ctx: &Ctx, object: &Object, about: &ObjectReference, action: Action) -> Result<(), ReconcileError> {
    let scaled = |message: &str| ctx.recorder.event(about, EventType::Normal, "ScalingReplicaSet", message);
    match action {
        Action::Create { set, message } => {
            create(ctx, object, &set).await?;
            message.iter().for_each(|message| scaled(message));
        }
        Action::Update { key, set, message } => {
            ctx.client.update(resources::REPLICA_SETS, &key, Bytes::from(set.to_string())).await?;
            message.iter().for_each(|message| scaled(message));
        }
        Action::Delete { key, uid } => {
            match ctx.client.delete(resources::REPLICA_SETS, &key, &DeleteOptions::of_uid(&uid)).await {
                Err(error) if error.is_not_found() => {}
                deleted => deleted?,
            }
        }
    }
    Ok(())
}

/// Creates the new ReplicaSet. A name that is taken by another template's set is a collision of hashes: the next attempt
/// hashes with a higher count.
async fn create(ctx: &Ctx, object: &Object, set: &Value) -> Result<(), ReconcileError> {
    let body = Bytes::from(set.to_string());
    let error = match ctx.client.create(resources::REPLICA_SETS, &object.key().namespace, body).await {
        Ok(_) => return Ok(()),
        Err(error) if error.is_namespace_terminating() => return Ok(()),
        Err(error) if error.is_already_exists() => error,
        Err(error) => return Err(error.into()),
    };
    let key = Key::new(object.key().namespace.clone(), set["metadata"]["name"].as_str().unwrap_or_default());
    let taken = ctx.client.get(resources::REPLICA_SETS, &key).await?;
    let ours = taken.controller().is_some_and(|owner| *owner.uid == *object.uid());
    if ours && sets::same_template(&taken.to_value()["spec"]["template"], &set["spec"]["template"]) {
        // Made by an earlier attempt whose answer was lost.
        return Ok(());
    }
    let mut deployment = object.to_value();
    let count = deployment["status"]["collisionCount"].as_i64().unwrap_or(0);
    deployment["status"]["collisionCount"] = (count + 1).into();
    let body = Bytes::from(deployment.to_string());
    ctx.client.update_status(resources::DEPLOYMENTS, object.key(), body).await?;
    Err(error.into())
}

#[cfg(test)]
mod tests;
