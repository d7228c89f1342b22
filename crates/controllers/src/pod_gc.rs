//! Pods that no agent will ever end are ended here: those of a node that is gone, and those that were deleted before they
//! had a node.
//!
//! The behaviour is upstream's pod-garbage-collector; a node counts as gone when it has been away for 40 seconds and the
//! API server says so too.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{DeleteOptions, Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use machinery::time;
use serde_json::{Value, json};

use crate::pods::PodView;
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "pod-garbage-collector",
    reconciles: resources::PODS,
    owns: &[],
    watches: &[Trigger { resource: resources::NODES, keys: pods_of_missing }],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// A node that registers anew is away for a moment; its pods are not lost.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Of a node that is gone: every change of one that is there would bring back all of its pods for nothing.
fn pods_of_missing(informers: &Informers, node: &Object) -> Vec<Key> {
    if informers.all(resources::NODES).get(node.key()).is_some() {
        return vec![];
    }
    let pods = informers.all(resources::PODS).by_field("spec.nodeName", &node.key().name);
    pods.iter().map(|pod| pod.key().clone()).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let pods = ctx.cache(resources::PODS);
    let Some(object) = pods.get(key) else { return Ok(Next::OnChange) };
    let node = Key::new("", object.field(resources::PODS, "spec.nodeName").unwrap_or_default());
    if node.name.is_empty() {
        if object.is_deleting() {
            end(ctx, &object, None).await?;
        }
        return Ok(Next::OnChange);
    }
    if ctx.cache(resources::NODES).get(&node).is_some() {
        return Ok(Next::OnChange);
    }
    let seen = pods.received_at(key).map_or(Duration::ZERO, |at| at.elapsed());
    let marked = conditions::find(&object.to_value()["status"], "DisruptionTarget").is_some();
    if seen < QUARANTINE && !marked {
        return Ok(Next::After(QUARANTINE - seen));
    }
    match ctx.client.get(resources::NODES, &node).await {
        Ok(_) => return Ok(Next::After(QUARANTINE)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    end(ctx, &object, Some("PodGC: node no longer exists")).await?;
    Ok(Next::OnChange)
}

/// Marks the pod failed and removes it at once.
async fn end(ctx: &Ctx, object: &Object, disrupted: Option<&str>) -> Result<(), ReconcileError> {
    if !PodView::of(object).is_terminal() {
        let mut pod = object.to_value();
        pod["status"]["phase"] = Value::from("Failed");
        if let Some(message) = disrupted {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": message});
            conditions::set(&mut pod["status"], condition, &time::seconds(ctx.clock.now()));
        }
        ctx.client.update_status(resources::PODS, object.key(), Bytes::from(pod.to_string())).await?;
    }
    let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::of_uid(object.uid()) };
    match ctx.client.delete(resources::PODS, object.key(), &options).await {
        Err(error) if error.is_not_found() => Ok(()),
        deleted => Ok(deleted?),
    }
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_lost_node_go_after_a_while() {
        let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let pod = |name: &str, node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": node}, "status": {"phase": "Running"}})
        };
        let steps = [
            Step::Do(&|api| api.delete(resources::NODES, "", "a")),
            Step::Do(&|api| drop(api.put(pod("c", "a")))),
            Step::Do(&|api| assert!(api.get(resources::PODS, "n", "c").is_some(), "not at once")),
            Step::Wait(QUARANTINE),
        ];
        let objects = [node("a"), node("b"), pod("a", "a"), pod("b", "b")];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let left: Vec<_> = end.list(resources::PODS).iter().map(|pod| pod["metadata"]["name"].clone()).collect();
        assert_eq!(left, ["b"]);
    }
}
