//! Columns of the kinds that are about volumes and devices.

use serde_json::Value;

use super::About::{Field, Text};
use super::cells::{joined, joined_or_none, list, name_or_default, or, plain, size, string, texts, truth};
use super::{AGE, Column, NAME, boolean, number, text, wide};

const OLD_CLASS: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text("Capacity", Field("api.core.v1.PersistentVolumeSpec.capacity"), |volume, _| {
        or(volume, "/spec/capacity/storage", "0")
    }),
    text("Access Modes", Field("api.core.v1.PersistentVolumeSpec.accessModes"), |volume, _| {
        access_modes(volume, "/spec/accessModes").into()
    }),
    text("Reclaim Policy", Field("api.core.v1.PersistentVolumeSpec.persistentVolumeReclaimPolicy"), |volume, _| {
        plain(volume, "/spec/persistentVolumeReclaimPolicy")
    }),
    text("Status", Field("api.core.v1.PersistentVolumeStatus.phase"), |volume, _| phase(volume).into()),
    text("Claim", Field("api.core.v1.PersistentVolumeSpec.claimRef"), |volume, _| {
        let claim = &volume["spec"]["claimRef"];
        match claim.is_object() {
            true => format!("{}/{}", string(claim, "/namespace"), string(claim, "/name")).into(),
            false => "".into(),
        }
    }),
    text("StorageClass", Text("StorageClass of the pv"), |volume, _| class(volume)),
    text("VolumeAttributesClass", Text("VolumeAttributesClass of the pv"), |volume, _| {
        given(volume, "/spec/volumeAttributesClassName")
    }),
    text("Reason", Field("api.core.v1.PersistentVolumeStatus.reason"), |volume, _| plain(volume, "/status/reason")),
    AGE,
    wide("VolumeMode", Field("api.core.v1.PersistentVolumeSpec.volumeMode"), |volume, _| {
        given(volume, "/spec/volumeMode")
    }),
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", Field("api.core.v1.PersistentVolumeClaimStatus.phase"), |claim, _| phase(claim).into()),
    text("Volume", Field("api.core.v1.PersistentVolumeClaimSpec.volumeName"), |claim, _| {
        plain(claim, "/spec/volumeName")
    }),
    text("Capacity", Field("api.core.v1.PersistentVolumeClaimStatus.capacity"), |claim, _| {
        if is_bound(claim) { or(claim, "/status/capacity/storage", "0") } else { "".into() }
    }),
    text("Access Modes", Field("api.core.v1.PersistentVolumeClaimStatus.accessModes"), |claim, _| {
        if is_bound(claim) { access_modes(claim, "/status/accessModes").into() } else { "".into() }
    }),
    text("StorageClass", Text("StorageClass of the pvc"), |claim, _| class(claim)),
    text("VolumeAttributesClass", Text("VolumeAttributesClass of the pvc"), |claim, _| {
        given(claim, "/spec/volumeAttributesClassName")
    }),
    AGE,
    wide("VolumeMode", Field("api.core.v1.PersistentVolumeClaimSpec.volumeMode"), |claim, _| {
        given(claim, "/spec/volumeMode")
    }),
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    Column {
        cell: |class, _| {
            let marks =
                ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
            name_or_default(class, &marks)
        },
        ..NAME
    },
    text("Provisioner", Field("api.storage.v1.StorageClass.provisioner"), |class, _| plain(class, "/provisioner")),
    text("ReclaimPolicy", Field("api.storage.v1.StorageClass.reclaimPolicy"), |class, _| {
        or(class, "/reclaimPolicy", "Delete")
    }),
    text("VolumeBindingMode", Field("api.storage.v1.StorageClass.volumeBindingMode"), |class, _| {
        or(class, "/volumeBindingMode", "Immediate")
    }),
    text("AllowVolumeExpansion", Field("api.storage.v1.StorageClass.allowVolumeExpansion"), |class, _| {
        truth(class, "/allowVolumeExpansion", false)
    }),
    AGE,
];

pub(super) const VOLUME_ATTRIBUTES_CLASS: &[Column] = &[
    Column { cell: |class, _| name_or_default(class, &["storageclass.kubernetes.io/is-default-class"]), ..NAME },
    text("DriverName", Field("api.storage.v1.VolumeAttributesClass.driverName"), |class, _| {
        plain(class, "/driverName")
    }),
    AGE,
];

pub(super) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        format: "name",
        ..text("Attacher", Field("api.storage.v1.VolumeAttachmentSpec.attacher"), |attachment, _| {
            plain(attachment, "/spec/attacher")
        })
    },
    text("PV", Field("api.storage.v1.VolumeAttachmentSource.persistentVolumeName"), |attachment, _| {
        plain(attachment, "/spec/source/persistentVolumeName")
    }),
    text("Node", Field("api.storage.v1.VolumeAttachmentSpec.nodeName"), |attachment, _| {
        plain(attachment, "/spec/nodeName")
    }),
    boolean("Attached", Field("api.storage.v1.VolumeAttachmentStatus.attached"), |attachment, _| {
        truth(attachment, "/status/attached", false)
    }),
    AGE,
];

pub(super) const CSI_NODE: &[Column] = &[
    NAME,
    number("Drivers", Text("Drivers indicates the number of CSI drivers registered on the node"), |node, _| {
        size(node, "/spec/drivers").into()
    }),
    AGE,
];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", Field("api.storage.v1.CSIDriverSpec.attachRequired"), |driver, _| {
        truth(driver, "/spec/attachRequired", true)
    }),
    boolean("PodInfoOnMount", Field("api.storage.v1.CSIDriverSpec.podInfoOnMount"), |driver, _| {
        truth(driver, "/spec/podInfoOnMount", false)
    }),
    boolean("StorageCapacity", Field("api.storage.v1.CSIDriverSpec.storageCapacity"), |driver, _| {
        truth(driver, "/spec/storageCapacity", false)
    }),
    text("TokenRequests", Field("api.storage.v1.CSIDriverSpec.tokenRequests"), |driver, _| {
        let requests = list(driver, "/spec/tokenRequests");
        if requests.is_empty() {
            return "<unset>".into();
        }
        joined(requests.iter().map(|request| string(request, "/audience"))).into()
    }),
    boolean("RequiresRepublish", Field("api.storage.v1.CSIDriverSpec.requiresRepublish"), |driver, _| {
        truth(driver, "/spec/requiresRepublish", false)
    }),
    text("Modes", Field("api.storage.v1.CSIDriverSpec.volumeLifecycleModes"), |driver, _| {
        joined_or_none(texts(driver, "/spec/volumeLifecycleModes"))
    }),
    AGE,
];

pub(super) const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    text("StorageClassName", Field("api.storage.v1.CSIStorageCapacity.storageClassName"), |capacity, _| {
        plain(capacity, "/storageClassName")
    }),
    text("Capacity", Field("api.storage.v1.CSIStorageCapacity.capacity"), |capacity, _| {
        or(capacity, "/capacity", "<unset>")
    }),
];

pub(super) const DEVICE_CLASS: &[Column] = &[NAME, AGE];

pub(super) const RESOURCE_CLAIM: &[Column] = &[
    NAME,
    text("State", Text("A summary of the current state (allocated, pending, reserved, etc.)."), |claim, _| {
        let deleted = !claim["metadata"]["deletionTimestamp"].is_null();
        let allocated = !claim["status"]["allocation"].is_null();
        let reserved = allocated && size(claim, "/status/reservedFor") > 0;
        let states = [
            (deleted, "deleted"),
            (!allocated && !deleted, "pending"),
            (allocated, "allocated"),
            (reserved, "reserved"),
        ];
        joined(states.into_iter().filter_map(|(holds, state)| holds.then_some(state))).into()
    }),
    AGE,
];

pub(super) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    text("Node", Field("api.resource.v1.ResourceSliceSpec.nodeName"), |slice, _| plain(slice, "/spec/nodeName")),
    text("Driver", Field("api.resource.v1.ResourceSliceSpec.driver"), |slice, _| plain(slice, "/spec/driver")),
    text("Pool", Field("api.resource.v1.ResourcePool.name"), |slice, _| plain(slice, "/spec/pool/name")),
    AGE,
];

fn phase(object: &Value) -> &str {
    if object["metadata"]["deletionTimestamp"].is_null() { string(object, "/status/phase") } else { "Terminating" }
}

fn is_bound(claim: &Value) -> bool {
    !string(claim, "/spec/volumeName").is_empty()
}

/// The name of the class, which an annotation said before there was a field.
fn class(object: &Value) -> Value {
    or(object, OLD_CLASS, string(object, "/spec/storageClassName"))
}

/// What is there, even if it is empty, or `<unset>`.
fn given(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).filter(|value| !value.is_null()).cloned().unwrap_or_else(|| "<unset>".into())
}

fn access_modes(object: &Value, pointer: &str) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let modes: Vec<&str> = texts(object, pointer).collect();
    joined(short.into_iter().filter(|(mode, _)| modes.contains(mode)).map(|(_, short)| short))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modes_are_short_and_in_order() {
        let claim = json!({"status": {"accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteOnce"]}});
        assert_eq!(access_modes(&claim, "/status/accessModes"), "RWO,RWX");
    }
}
