//! A HorizontalPodAutoscaler keeps the scale of its target where its metrics are at their targets.
//!
//! Every 15 seconds: the scale is read, each metric proposes a number of replicas, the largest counts, the rules of the
//! autoscaler's behaviour bound how fast it may be reached, and the scale is written. What was recommended and done lately is
//! remembered in memory only: after a restart the windows begin anew. Defined by "Horizontal Pod Autoscaling" in the
//! Kubernetes documentation and KEP-853; conditions, events and messages are upstream's.

mod behavior;
mod metrics;
mod propose;
mod replicas;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use api::{Key, Object, Resource, resources};
use bytes::Bytes;
use control::{ClientError, EventType, Next, ObjectReference, ReconcileError};
use futures::FutureExt;
use http::Method;
use jiff::Timestamp;
use machinery::labels::Selector;
use machinery::time;
use serde_json::{Value, json};

use self::behavior::History;
use crate::scale::{self, ScaleError};
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "horizontal-pod-autoscaler",
    reconciles: resources::HORIZONTAL_POD_AUTOSCALERS,
    owns: &[],
    watches: &[],
    reads: &[resources::PODS],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Metrics are no objects and cannot be watched; they change this often. Upstream's figure.
const SYNC_PERIOD: Duration = Duration::from_secs(15);

/// What is remembered of each autoscaler between reconciles.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<Key, Remembered>>);

#[derive(Debug, Clone, Default)]
struct Remembered {
    history: History,
    selector: Option<Selector>,
    /// A change of the scale whose answer has not come: from, to and when.
    asked: Option<(i64, i64, Timestamp)>,
    scaled_at: Option<Timestamp>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Remembered>> {
        self.0.lock().expect("no holder of the autoscalers' memory panics")
    }

    fn of(&self, key: &Key) -> Remembered {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    fn set(&self, key: &Key, remembered: Remembered) {
        self.lock().insert(key.clone(), remembered);
    }

    /// Other autoscalers of the namespace whose target's pods match one of these too.
    fn also_selecting(&self, key: &Key, pods: &[Object]) -> Vec<Key> {
        let all = self.lock();
        let from = Key { namespace: key.namespace.clone(), name: "".into() };
        let others = all.range(from..).take_while(|(other, _)| other.namespace == key.namespace);
        let selects = |remembered: &Remembered| {
            let selector = remembered.selector.as_ref();
            selector.is_some_and(|selector| pods.iter().any(|pod| selector.matches_pairs(&pod.index().labels)))
        };
        others
            .filter(|(other, remembered)| *other != key && selects(remembered))
            .map(|(other, _)| other.clone())
            .collect()
    }
}

/// One reconcile on its way.
struct Round<'a> {
    ctx: &'a Ctx,
    key: &'a Key,
    about: ObjectReference,
    tree: Value,
    status: Value,
    now: Timestamp,
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::HORIZONTAL_POD_AUTOSCALERS).get(key) else {
        ctx.settings.autoscalers.lock().remove(key);
        return Ok(Next::OnChange);
    };
    let tree = object.to_value();
    let mut status = tree["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let about = ObjectReference::from((resources::HORIZONTAL_POD_AUTOSCALERS, &object));
    let mut round = Round { ctx, key, about, tree, status, now: ctx.clock.now() };
    round.run().await?;
    Ok(Next::After(SYNC_PERIOD))
}

/// The target and what it is scaled to.
struct Target {
    resource: Resource,
    key: Key,
    scale: Value,
}

impl Round<'_> {
    async fn run(&mut self) -> Result<(), ReconcileError> {
        let target = match self.target().await {
            Ok(target) => target,
            Err(error) => {
                self.warn("FailedGetScale", &error.to_string());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                self.set("AbleToScale", "False", "FailedGetScale", &message);
                return self.write_status().await;
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.set("AbleToScale", "True", "SucceededGetScale", message);
        let current = target.scale["spec"]["replicas"].as_i64().unwrap_or(0);
        let mut remembered = self.ctx.settings.autoscalers.of(self.key);
        remembered.history.begin(current, self.now);
        if let Some((from, to, at)) = remembered.asked.take().filter(|(_, to, _)| *to == current) {
            // The answer was lost, and the change was made.
            remembered.history.scaled(from, to, at);
            remembered.scaled_at = Some(at);
        }
        let plan = self.plan(&target, current, &mut remembered).await;
        let desired = match plan.desired {
            None => return self.give_up(remembered, current, &plan).await,
            Some(desired) => desired,
        };
        let mut failed = None;
        if desired != current {
            remembered.asked = Some((current, desired, self.now));
            self.ctx.settings.autoscalers.set(self.key, remembered.clone());
            match self.rescale(target, desired).await {
                Ok(()) => {
                    let message = format!("the HPA controller was able to update the target scale to {desired}");
                    self.set("AbleToScale", "True", "SucceededRescale", &message);
                    self.event("SuccessfulRescale", &format!("New size: {desired}; reason: {}", plan.reason));
                    remembered.asked = None;
                    remembered.history.scaled(current, desired, self.now);
                    remembered.scaled_at = Some(self.now);
                }
                Err(error) => {
                    let message = format!("New size: {desired}; reason: {}; error: {error}", plan.reason);
                    self.warn("FailedRescale", &message);
                    let message = format!("the HPA controller was unable to update the target scale: {error}");
                    self.set("AbleToScale", "False", "FailedUpdateScale", &message);
                    failed = Some(error);
                }
            }
        }
        let shown = if failed.is_some() { self.status["desiredReplicas"].as_i64().unwrap_or(0) } else { desired };
        self.report(current, shown, plan.statuses, remembered.scaled_at);
        self.ctx.settings.autoscalers.set(self.key, remembered);
        self.write_status().await?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Nothing is scaled where no metric says to what.
    async fn give_up(&mut self, remembered: Remembered, current: i64, plan: &Plan) -> Result<(), ReconcileError> {
        let desired = self.status["desiredReplicas"].as_i64().unwrap_or(0);
        self.report(current, desired, plan.statuses.clone(), remembered.scaled_at);
        self.ctx.settings.autoscalers.set(self.key, remembered);
        self.warn("FailedComputeMetricsReplicas", &plan.reason);
        self.write_status().await
    }

    async fn target(&self) -> Result<Target, ScaleError> {
        let reference = &self.tree["spec"]["scaleTargetRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let client = &self.ctx.client;
        let resource = scale::resource_of(client, text("apiVersion"), text("kind")).await?;
        let key = Key::new(self.key.namespace.clone(), text("name"));
        match scale::get(client, &resource, &key).await? {
            Some(scale) => Ok(Target { resource, key, scale }),
            None => {
                let gone = api::ApiError::not_found(&resource.group, &resource.plural, &key.name);
                Err(ClientError::from(gone).into())
            }
        }
    }

    async fn rescale(&self, target: Target, replicas: i64) -> Result<(), ClientError> {
        let mut scale = target.scale;
        scale["spec"]["replicas"] = replicas.into();
        let uri = scale::path(&target.resource, &target.key);
        // At the version that was read: somebody else's change is looked at before it is changed.
        let body = Bytes::from(scale.to_string());
        self.ctx.client.request(Method::PUT, &uri, Some("application/json"), body).await.map(drop)
    }

    fn report(&mut self, current: i64, desired: i64, statuses: Vec<Value>, scaled_at: Option<Timestamp>) {
        let mut status = json!({"currentReplicas": current, "desiredReplicas": desired});
        let last = scaled_at.map(time::seconds).map(Value::from);
        let before = self.status.get("lastScaleTime").filter(|at| !at.is_null()).cloned();
        if let Some(last) = last.or(before) {
            status["lastScaleTime"] = last;
        }
        status["currentMetrics"] = if statuses.is_empty() { Value::Null } else { statuses.into() };
        if !self.status["conditions"].is_null() {
            status["conditions"] = self.status["conditions"].clone();
        }
        self.status = status;
    }

    async fn write_status(&mut self) -> Result<(), ReconcileError> {
        if self.status == self.tree["status"] {
            return Ok(());
        }
        let mut updated = self.tree.clone();
        updated["status"] = self.status.clone();
        let body = Bytes::from(updated.to_string());
        match self.ctx.client.update_status(resources::HORIZONTAL_POD_AUTOSCALERS, self.key, body).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.warn("FailedUpdateStatus", &error.to_string());
                Err(error.into())
            }
        }
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message});
        conditions::set(&mut self.status, condition, &time::seconds(self.now));
    }

    fn warn(&self, reason: &str, message: &str) {
        self.ctx.recorder.event(&self.about, EventType::Warning, reason, message);
    }

    fn event(&self, reason: &str, message: &str) {
        self.ctx.recorder.event(&self.about, EventType::Normal, reason, message);
    }
}

/// To what the target is to be scaled.
#[derive(Debug, Default)]
struct Plan {
    /// None where no metric could say.
    desired: Option<i64>,
    /// Why, or why not.
    reason: String,
    statuses: Vec<Value>,
}
