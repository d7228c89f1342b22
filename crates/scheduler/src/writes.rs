//! What the scheduler writes: bindings, reservations of volumes, and the condition that says why a pod waits.

use api::Key;
use api::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use bytes::Bytes;
use control::{Client, ClientError, DeleteOptions, Informers, PatchType};
use serde_json::{Value, json};

use crate::image::Counted;
use crate::pod::PodInfo;
use crate::volumes::{Decision, SELECTED_NODE};

/// On volumes: nobody asked for this claim, it was found.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Binds a pod to a node. Fails when the pod is another than was placed, or is bound already.
pub(crate) async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), ClientError> {
    let body = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": &*pod.uid},
        "target": {"kind": "Node", "name": node}});
    client.post(PODS, &pod.key, Some("binding"), Bytes::from(body.to_string())).await.map(drop)
}

/// Reserves free volumes for claims, and tells provisioners for which node they are to make others. The rest is the
/// controllers' to do. Fails where somebody else was first.
pub(crate) async fn reserve_volumes(
    client: &Client,
    informers: &Informers,
    decision: &Decision,
) -> Result<(), ClientError> {
    let claims = informers.all(PERSISTENT_VOLUME_CLAIMS);
    for (name, claim_key) in &decision.bindings {
        let key = Key::new("", &**name);
        let (Some(volume), Some(claim)) = (informers.all(PERSISTENT_VOLUMES).get(&key), claims.get(claim_key)) else {
            continue;
        };
        let mut volume = volume.to_value();
        if volume["spec"]["claimRef"]["uid"] == claim.uid() {
            continue;
        }
        if volume["spec"]["claimRef"].is_null() {
            volume["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
        }
        volume["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": &*claim_key.namespace, "name": &*claim_key.name, "uid": claim.uid(),
            "resourceVersion": claim.revision().to_string()});
        client.update(PERSISTENT_VOLUMES, &key, Bytes::from(volume.to_string())).await?;
    }
    for key in &decision.provisions {
        let Some(claim) = claims.get(key) else { continue };
        let patch = json!({"metadata": {"uid": claim.uid(), "annotations": {SELECTED_NODE: &*decision.node}}});
        client.patch(PERSISTENT_VOLUME_CLAIMS, key, None, PatchType::Merge, &patch).await?;
    }
    Ok(())
}

/// Says in the pod's status why it is not scheduled.
pub(crate) async fn report(client: &Client, pod: &PodInfo, patch: &Value) -> Result<(), ClientError> {
    client.patch(PODS, &pod.key, Some("status"), PatchType::StrategicMerge, patch).await.map(drop)
}

/// The patch that sets the condition `PodScheduled` to false. With the uid: a successor of the same name is not meant.
pub(crate) fn condition(pod: &PodInfo, reason: &str, message: &str, now: jiff::Timestamp) -> Value {
    let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null});
    if pod.generation > 0 {
        condition["observedGeneration"] = pod.generation.into();
    }
    // The time is that of the last change of the status, which a new message is not.
    if pod.reported.is_none() {
        condition["lastTransitionTime"] = machinery::time::seconds(now).into();
    }
    json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [condition]}})
}

/// Removes the victims of a preemption, each marked with the reason, then writes the pod's own patch. One that is gone
/// already is no error; one that was replaced by another of its name is left alone.
pub(crate) async fn preempt(
    client: &Client,
    victims: &[Counted],
    pod: &PodInfo,
    patch: &Value,
    now: jiff::Timestamp,
) -> Result<(), ClientError> {
    for victim in victims.iter().filter(|victim| !victim.deleting) {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": "default-scheduler: preempting to accommodate a higher priority pod",
            "lastTransitionTime": machinery::time::seconds(now)});
        let mark = json!({"metadata": {"uid": &*victim.uid}, "status": {"conditions": [condition]}});
        let marked = client.patch(PODS, &victim.key, Some("status"), PatchType::StrategicMerge, &mark).await;
        let options = DeleteOptions { uid: Some(victim.uid.to_string()), ..DeleteOptions::default() };
        let done = match marked {
            Ok(_) => client.delete(PODS, &victim.key, &options).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => {}
        }
    }
    report(client, pod, patch).await
}
