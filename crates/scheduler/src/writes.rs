//! What the scheduler writes: bindings, and the condition that says why a pod waits.

use api::resources::PODS;
use bytes::Bytes;
use control::{Client, ClientError, PatchType};
use serde_json::{Value, json};

use crate::pod::PodInfo;

/// Binds a pod to a node. Fails when the pod is another than was placed, or is bound already.
pub(crate) async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), ClientError> {
    let body = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": &*pod.uid},
        "target": {"kind": "Node", "name": node}});
    client.post(PODS, &pod.key, Some("binding"), Bytes::from(body.to_string())).await.map(drop)
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
