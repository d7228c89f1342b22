//! Pods that no agent will ever end are ended here: those of a node that is gone, those that were deleted before they had a
//! node, and those that are being deleted on a node that is out of service. Of pods that have ended only so many stay.
//!
//! The behaviour is upstream's pod-garbage-collector; a node counts as gone when it has been away for 40 seconds and the
//! API server says so too, and as out of service when it is not ready and has the taint of that name ("Non-graceful node
//! shutdown" in the Kubernetes documentation).

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

/// More pods than these that have ended do not stay: nobody else would ever delete those that nobody owns. Upstream's figure.
const ENDED_MAX: usize = 12_500;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Of a node that is gone or out of service: every change of one that lives would bring back all of its pods for nothing.
fn pods_of_missing(informers: &Informers, node: &Object) -> Vec<Key> {
    if informers.all(resources::NODES).get(node.key()).is_some_and(|node| !is_out_of_service(&node)) {
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
    if let Some(node) = ctx.cache(resources::NODES).get(&node) {
        if object.is_deleting() && is_out_of_service(&node) {
            end(ctx, &object, None).await?;
        } else if is_ended(&object) {
            end_surplus(ctx).await?;
        }
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

fn is_out_of_service(node: &Object) -> bool {
    let tree = node.to_value();
    let tainted = tree["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["key"] == OUT_OF_SERVICE);
    tainted && !conditions::is_true(&tree["status"], "Ready")
}

fn is_ended(pod: &Object) -> bool {
    matches!(pod.field(resources::PODS, "status.phase"), Some("Succeeded" | "Failed"))
}

/// Deletes the pods that have ended and are too many.
async fn end_surplus(ctx: &Ctx) -> Result<(), ReconcileError> {
    let pods = ctx.cache(resources::PODS);
    // Neither copies an object: the index holds shared bytes.
    let mut ended = pods.by_field("status.phase", "Succeeded");
    ended.extend(pods.by_field("status.phase", "Failed"));
    for pod in surplus(ended, ENDED_MAX) {
        end(ctx, &pod, None).await?;
    }
    Ok(())
}

/// Those that go so that `kept` stay: first the evicted, which tell of a node and not of themselves, then the oldest.
fn surplus(mut ended: Vec<Object>, kept: usize) -> Vec<Object> {
    let count = ended.len().saturating_sub(kept);
    if count > 0 {
        ended.sort_by_cached_key(|pod| {
            let tree = pod.to_value();
            let evicted = tree["status"]["phase"] == "Failed" && tree["status"]["reason"] == "Evicted";
            (!evicted, tree["metadata"]["creationTimestamp"].to_string(), pod.key().clone())
        });
    }
    ended.truncate(count);
    ended
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

    #[tokio::test(start_paused = true)]
    async fn a_node_out_of_service_loses_what_is_being_deleted() {
        let node = |name: &str, ready: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "spec": {"taints": [{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let pod = |name: &str, node: &str, deleted: bool| {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": node}, "status": {"phase": "Running"}});
            if deleted {
                pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
                pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
            }
            pod
        };
        let mut late = node("later", "Unknown");
        late["spec"] = json!({});
        let objects = [
            node("away", "Unknown"),
            node("there", "True"),
            late,
            pod("kept", "away", false),
            pod("gone", "away", true),
            pod("ends", "there", true),
            pod("waits", "later", true),
        ];
        let names = |api: &control::harness::Api| {
            let pods = api.list(resources::PODS);
            pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let steps = [
            Step::Do(&|api| assert_eq!(names(api), ["ends", "kept", "waits"])),
            Step::Do(&|api| drop(api.put(node("later", "Unknown")))),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert_eq!(names(&end), ["ends", "kept"]);
    }

    #[test]
    fn of_those_that_have_ended_the_evicted_and_the_oldest_go() {
        let pod = |name: &str, created: &str, reason: &str| {
            let pod = json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": created},
                "status": {"phase": "Failed", "reason": reason}});
            Object::parse(resources::PODS, Bytes::from(pod.to_string())).expect("a pod")
        };
        let ended = vec![
            pod("young", "2030-01-03T00:00:00Z", ""),
            pod("evicted", "2030-01-04T00:00:00Z", "Evicted"),
            pod("old", "2030-01-01T00:00:00Z", ""),
            pod("older", "2029-01-01T00:00:00Z", ""),
        ];
        for (kept, expected) in [(4, &[][..]), (3, &["evicted"]), (1, &["evicted", "older", "old"])] {
            let gone = surplus(ended.clone(), kept);
            let names: Vec<&str> = gone.iter().map(|pod| &*pod.key().name).collect();
            assert_eq!(names, expected);
        }
    }
}
