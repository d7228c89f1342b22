//! The storage class `local`, the cluster's default: volumes on the disk of the node where their first pod runs.
//!
//! Made where there is none of that name, and left alone where there is: who wants another default takes the mark from it.

use std::sync::Arc;

use api::resources::STORAGE_CLASSES;
use control::ClientError;
use controllers::local_volume_provisioner::PROVISIONER;
use serde_json::json;

use super::control_plane::ControlPlane;

/// Makes the class, at each start.
pub(super) fn make(plane: &Arc<ControlPlane>) {
    let shared = plane.clone();
    plane.base.tasks.supervise("storage class", plane.base.stop.clone(), move |stop| {
        let plane = shared.clone();
        async move {
            let client = plane.own_client();
            let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
                "metadata": {"name": "local",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": PROVISIONER,
                "volumeBindingMode": "WaitForFirstConsumer",
                "reclaimPolicy": "Delete",
                "allowVolumeExpansion": true});
            match client.create(STORAGE_CLASSES, "", class.to_string().into()).await {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => {
                    stop.stopped().await;
                    Ok::<_, ClientError>(())
                }
            }
        }
    });
}
