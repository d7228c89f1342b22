//! Makes the volume of a claim for which the scheduler has chosen a node.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use super::{FINALIZER, PROVISIONER, VOLUMES_DIRECTORY};
use crate::volume_claims::{self, PROVISIONED_BY, SELECTED_NODE, annotation, class};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "local-volume-provisioner",
    reconciles: resources::PERSISTENT_VOLUME_CLAIMS,
    owns: &[],
    watches: &[Trigger { resource: resources::STORAGE_CLASSES, keys: of_class }],
    reads: &[resources::NODES, resources::PERSISTENT_VOLUMES],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// The label by which a volume is tied to its node.
const HOST_NAME: &str = "kubernetes.io/hostname";

/// A claim may have come before its class.
fn of_class(informers: &Informers, object: &Object) -> Vec<Key> {
    let claims = informers.all(resources::PERSISTENT_VOLUME_CLAIMS);
    volume_claims::keys(&claims.by_index(&volume_claims::CLAIMS, &volume_claims::by_class(&object.key().name)))
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// It is not ours, or has what it needs.
    Nothing,
    /// A volume for it.
    Create(Value),
    /// It asks for what a directory cannot be.
    Refuse(String),
    /// The node is gone: the scheduler is to choose again.
    ChooseAgain,
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS).get(key) else { return Ok(Next::OnChange) };
    let claim = object.to_value();
    let get = |resource, name: &str| ctx.cache(resource).get(&Key::new("", name)).map(|found| found.to_value());
    let storage_class = get(resources::STORAGE_CLASSES, class(&claim));
    let node = annotation(&claim, SELECTED_NODE).and_then(|name| get(resources::NODES, name));
    match plan(&claim, storage_class.as_ref(), node.as_ref()) {
        Plan::Create(volume) if get(resources::PERSISTENT_VOLUMES, &name_for(&claim)).is_none() => {
            create(ctx, &object, volume).await?;
        }
        Plan::Nothing | Plan::Create(_) => {}
        Plan::Refuse(why) => {
            let message = format!("failed to provision volume with StorageClass {:?}: {why}", class(&claim));
            tell(ctx, &object, EventType::Warning, "ProvisioningFailed", &message);
        }
        Plan::ChooseAgain => {
            let mut claim = claim;
            claim["metadata"]["annotations"].as_object_mut().map(|annotations| annotations.remove(SELECTED_NODE));
            ctx.client.update(resources::PERSISTENT_VOLUME_CLAIMS, key, Bytes::from(claim.to_string())).await?;
        }
    }
    Ok(Next::OnChange)
}

fn name_for(claim: &Value) -> String {
    format!("pvc-{}", claim["metadata"]["uid"].as_str().unwrap_or_default())
}

/// Decides what becomes of a claim.
pub(super) fn plan(claim: &Value, storage_class: Option<&Value>, node: Option<&Value>) -> Plan {
    let spec = &claim["spec"];
    let told = annotation(claim, volume_claims::PROVISIONER) == Some(PROVISIONER);
    let named = spec["volumeName"].as_str().is_some_and(|name| !name.is_empty());
    let Some(storage_class) = storage_class.filter(|class| told && !named && class["provisioner"] == PROVISIONER)
    else {
        return Plan::Nothing;
    };
    if let Some(why) = unfit(spec, storage_class) {
        return Plan::Refuse(why.to_owned());
    }
    if annotation(claim, SELECTED_NODE).is_none() {
        return Plan::Refuse(
            "a volume on a node's disk needs a class with volumeBindingMode WaitForFirstConsumer".into(),
        );
    }
    let Some(node) = node else { return Plan::ChooseAgain };
    let host = node["metadata"]["labels"][HOST_NAME].as_str();
    match (annotation(node, VOLUMES_DIRECTORY), host) {
        (Some(directory), Some(host)) => Plan::Create(volume(claim, storage_class, directory, host)),
        _ => Plan::Refuse(format!("node {} keeps no volumes", node["metadata"]["name"])),
    }
}

/// What of a claim or class a directory cannot be.
fn unfit(spec: &Value, storage_class: &Value) -> Option<&'static str> {
    let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let one_node = |mode: &Value| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
    if spec["volumeMode"] == "Block" {
        return Some("block volume provisioning is not supported");
    }
    if !spec["accessModes"].as_array().into_iter().flatten().all(one_node) {
        return Some("only ReadWriteOnce and ReadWriteOncePod are supported: one node alone has the disk");
    }
    if spec["selector"].is_object() {
        return Some("claim Selector is not supported");
    }
    if spec["dataSource"].is_object() || spec["dataSourceRef"].is_object() {
        return Some("a dataSource is not supported");
    }
    some(&storage_class["mountOptions"]).then_some("mountOptions are not supported")
}

fn volume(claim: &Value, storage_class: &Value, directory: &str, host: &str) -> Value {
    let (name, meta) = (name_for(claim), &claim["metadata"]);
    let is_host = json!({"key": HOST_NAME, "operator": "In", "values": [host]});
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": [FINALIZER]},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "volumeMode": "Filesystem",
            "storageClassName": class(claim),
            "persistentVolumeReclaimPolicy": storage_class["reclaimPolicy"].as_str().unwrap_or("Delete"),
            "local": {"path": format!("{}/{name}", directory.trim_end_matches('/'))},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"],
                "name": meta["name"], "uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [is_host]}]}}}})
}

async fn create(ctx: &Ctx, claim: &Object, volume: Value) -> Result<(), ReconcileError> {
    let name = volume["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match ctx.client.create(resources::PERSISTENT_VOLUMES, "", Bytes::from(volume.to_string())).await {
        Ok(_) => {
            let message = format!("Successfully provisioned volume {name}");
            tell(ctx, claim, EventType::Normal, "ProvisioningSucceeded", &message);
            Ok(())
        }
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn tell(ctx: &Ctx, claim: &Object, kind: EventType, reason: &str, message: &str) {
    let about = ObjectReference::from((resources::PERSISTENT_VOLUME_CLAIMS, claim));
    ctx.recorder.event(&about, kind, reason, message);
}
