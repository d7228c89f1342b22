//! A StatefulSet's pods have names and storage that outlive them: `web-0`, `web-1`, each with its own claims.
//!
//! Ordered sets go one pod at a time, and only while all before it are available; parallel ones go all at once. An update
//! replaces pods from the highest number down to the partition. Defined by the StatefulSet API reference; names, labels,
//! events and the order of things are upstream's, with its defaults of 1.36 (`maxUnavailable` is off there and here).

mod claim;
mod members;
mod plan;

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{ClientError, DeleteOptions, EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use futures::future::join_all;
use serde_json::Value;

use crate::history::{self, History};
use crate::{Ctx, Descriptor, claims};
use members::{Member, REVISION_LABEL, parent_and_ordinal};
use plan::{Plan, Step, View};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "statefulset-controller",
    reconciles: resources::STATEFUL_SETS,
    owns: &[resources::PODS, resources::CONTROLLER_REVISIONS],
    watches: &[
        Trigger { resource: resources::PODS, keys: adopters },
        Trigger { resource: resources::PERSISTENT_VOLUME_CLAIMS, keys: claimants },
    ],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// The label of a revision that holds its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// How many pods are made at the same time at most; a batch starts with one and doubles.
const BATCH_MAX: usize = 500;

fn adopters(informers: &Informers, pod: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::STATEFUL_SETS), pod)
}

/// A pod may wait for the end of a claim that was another's.
fn claimants(informers: &Informers, claim: &Object) -> Vec<Key> {
    claims::selecting_object(&informers.all(resources::STATEFUL_SETS), claim)
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::STATEFUL_SETS).get(key) else { return Ok(Next::OnChange) };
    let set = object.to_value();
    let selector = claims::selector(resources::STATEFUL_SETS, &set, key)?;
    let ours = |pod: &Object| parent_and_ordinal(&pod.key().name).is_some_and(|(parent, _)| parent == &*key.name);
    let claims = claims::claims_where(&ctx.cache(resources::PODS), &object, &selector, ours);
    claims::settle(ctx, resources::STATEFUL_SETS, &object, resources::PODS, &claims).await?;
    let owner = history::Owner {
        resource: resources::STATEFUL_SETS,
        object: &object,
        value: &set,
        selector: &selector,
        hash_label: HASH_LABEL,
    };
    let history = history::bring_up_to_date(ctx, &owner).await?;
    let pods: Vec<Object> = claims.owned.into_iter().chain(claims.adopt).collect();
    let volume_claims = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS);
    let plan = plan::plan(&View {
        object: &object,
        set: &set,
        history: &history,
        members: pods.iter().map(|pod| Member::of(pod, &set, ctx.clock.now())).collect(),
        claim: &|name| volume_claims.get(&Key::new(key.namespace.clone(), name)),
    });
    let live = history::labels_of(&pods, REVISION_LABEL);
    let current = plan.status["currentRevision"].as_str().unwrap_or_default().to_owned();
    let next = apply(ctx, &object, &set, plan).await?;
    truncate(ctx, &set, &history, |name| live.contains(name) || name == current).await?;
    Ok(next)
}

/// Deletes the oldest revisions beyond the limit that nobody uses.
async fn truncate(
    ctx: &Ctx,
    set: &Value,
    history: &History,
    in_use: impl Fn(&str) -> bool,
) -> Result<(), ReconcileError> {
    let update = history.update().name();
    let unused = history.revisions.iter().filter(|one| one.name() != update && !in_use(one.name()));
    let unused: Vec<_> = unused.collect();
    history::delete_oldest(ctx, &unused, unused.len().saturating_sub(history::limit(set))).await
}

async fn apply(ctx: &Ctx, object: &Object, set: &Value, plan: Plan) -> Result<Next, ReconcileError> {
    let result = act(ctx, object, plan.steps).await;
    if plan.status != set["status"] {
        let mut updated = set.clone();
        updated["status"] = plan.status;
        let body = Bytes::from(updated.to_string());
        ctx.client.update_status(resources::STATEFUL_SETS, object.key(), body).await?;
    }
    result?;
    Ok(plan.next)
}

/// Acts in order; what is made or deleted in a row goes together, in growing batches.
async fn act(ctx: &Ctx, object: &Object, steps: Vec<Step>) -> Result<(), ReconcileError> {
    let actor = Actor { ctx, set: object, about: ObjectReference::from((resources::STATEFUL_SETS, object)) };
    let (mut steps, mut batch) = (steps.into_iter().peekable(), 1);
    while let Some(step) = steps.next() {
        let kind = std::mem::discriminant(&step);
        let mut together = vec![step];
        while together.len() < batch {
            let Some(more) = steps.next_if(|next| std::mem::discriminant(next) == kind) else { break };
            together.push(more);
        }
        let done = join_all(together.into_iter().map(|step| actor.take(step))).await;
        done.into_iter().collect::<Result<Vec<()>, ReconcileError>>()?;
        batch = (batch * 2).min(BATCH_MAX);
    }
    Ok(())
}

struct Actor<'a> {
    ctx: &'a Ctx,
    set: &'a Object,
    about: ObjectReference,
}

impl Actor<'_> {
    async fn take(&self, step: Step) -> Result<(), ReconcileError> {
        match step {
            Step::Create { pod, claims } => {
                let name = text(&pod["metadata"]["name"]);
                self.create_claims(&name, claims).await?;
                let body = Bytes::from(pod.to_string());
                match self.ctx.client.create(resources::PODS, &self.set.key().namespace, body).await.map(drop) {
                    // The set goes with its namespace.
                    Err(error) if error.is_namespace_terminating() => Ok(()),
                    made => Ok(self.report("Create", &name, made)?),
                }
            }
            Step::CreateClaims { pod, claims } => self.create_claims(&pod, claims).await,
            Step::Blocked { pod, why } => {
                self.event(EventType::Warning, "FailedCreate", &self.failed("Create", &pod, &why));
                Err(ReconcileError::Invalid(format!("cannot create pod {pod}: {why}")))
            }
            Step::UpdatePod { key, pod } => {
                let written = self.ctx.client.update(resources::PODS, &key, Bytes::from(pod.to_string())).await;
                Ok(self.report("Update", &key.name, written.map(drop))?)
            }
            Step::UpdateClaim { key, claim, conflict } => {
                if conflict {
                    let message = format!(
                        "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, \
                         the retention policy is ignored for this claim",
                        key.name
                    );
                    self.event(EventType::Warning, "ConflictingController", &message);
                }
                let body = Bytes::from(claim.to_string());
                self.ctx.client.update(resources::PERSISTENT_VOLUME_CLAIMS, &key, body).await?;
                Ok(())
            }
            Step::Delete { key, uid } => {
                match self.ctx.client.delete(resources::PODS, &key, &DeleteOptions::of_uid(&uid)).await {
                    Err(error) if error.is_not_found() => Ok(()),
                    deleted => Ok(self.report("Delete", &key.name, deleted)?),
                }
            }
        }
    }

    async fn create_claims(&self, pod: &str, claims: Vec<Value>) -> Result<(), ReconcileError> {
        for claim in claims {
            let (namespace, name) = (&self.set.key().namespace, text(&claim["metadata"]["name"]));
            let body = Bytes::from(claim.to_string());
            let (set, what) = (&self.set.key().name, format!("Create Claim {name}"));
            match self.ctx.client.create(resources::PERSISTENT_VOLUME_CLAIMS, namespace, body).await {
                Ok(_) => {
                    let message = format!("{what} Pod {pod} in StatefulSet {set} success");
                    self.event(EventType::Normal, "SuccessfulCreate", &message);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let message = format!("{what} for Pod {pod} in StatefulSet {set} failed error: {error}");
                    self.event(EventType::Warning, "FailedCreate", &message);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn report(&self, verb: &str, pod: &str, done: Result<(), ClientError>) -> Result<(), ClientError> {
        match &done {
            Ok(()) => {
                let message = format!("{verb} Pod {pod} in StatefulSet {} successful", self.set.key().name);
                self.event(EventType::Normal, &format!("Successful{verb}"), &message);
            }
            // Upstream tells nobody of a pod that is there already.
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                let message = self.failed(verb, pod, &error.to_string());
                self.event(EventType::Warning, &format!("Failed{verb}"), &message);
            }
        }
        done
    }

    fn failed(&self, verb: &str, pod: &str, why: &str) -> String {
        format!("{verb} Pod {pod} in StatefulSet {} failed error: {why}", self.set.key().name)
    }

    fn event(&self, kind: EventType, reason: &str, message: &str) {
        self.ctx.recorder.event(&self.about, kind, reason, message);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
