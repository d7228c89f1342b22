//! Ends a volume whose claim is gone: its node removes the data, then the object goes.
//!
//! Each step can be seen in the API and is found again after a crash: the node is told, the node answers, the volume is
//! deleted, the node's annotation is taken away. A volume of a node that is gone stays `Released` until the node comes back:
//! its data may too. Who deletes a volume whose policy is `Retain` deletes the object alone.

use std::time::Duration;

use api::{Key, Object, resources};
use control::{CustomIndex, DeleteOptions, Informers, Next, PatchType, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use super::{FINALIZER, PROVISIONER, REMOVAL_PREFIX, REMOVE, REMOVED};
use crate::volume_claims::{self, PROVISIONED_BY, annotation, has_finalizer, is_deleting};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "local-volume-remover",
    reconciles: resources::PERSISTENT_VOLUMES,
    owns: &[],
    watches: &[Trigger { resource: resources::NODES, keys: named_on }],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Volumes that a node is told of at the same time. Annotations of one object have 256 KiB altogether, and each takes about
/// 70 bytes: without a limit a namespace with thousands of claims would fill them.
const REMOVALS_MAX: usize = 256;

/// How long a volume waits for its turn when a node has that many to remove.
const TURN: Duration = Duration::from_secs(5);

/// Finds nodes by the volumes that they are to remove.
const BY_REMOVAL: CustomIndex = CustomIndex { name: "removals", values: removals };

/// Finds nodes by the name that volumes are tied to.
const BY_HOST_NAME: CustomIndex = CustomIndex {
    name: "host name",
    values: |node| node.label("kubernetes.io/hostname").map(str::to_owned).into_iter().collect(),
};

/// Most nodes have nothing to remove: their bytes say so without being decoded.
fn removals(node: &Object) -> Vec<String> {
    if !std::str::from_utf8(node.json()).is_ok_and(|text| text.contains(REMOVAL_PREFIX)) {
        return Vec::new();
    }
    let node = node.to_value();
    let annotations = node["metadata"]["annotations"].as_object().into_iter().flatten();
    annotations.filter_map(|(name, _)| name.strip_prefix(REMOVAL_PREFIX)).map(str::to_owned).collect()
}

fn named_on(_: &Informers, node: &Object) -> Vec<Key> {
    removals(node).into_iter().map(|volume| Key::new("", volume)).collect()
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    /// The node is told to remove the data.
    Tell,
    /// The object goes.
    Delete,
    /// The node's annotation goes.
    Forget,
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let nodes = ctx.cache(resources::NODES);
    let told = nodes.by_index(&BY_REMOVAL, &key.name).into_iter().next();
    let volume = ctx.cache(resources::PERSISTENT_VOLUMES).get(key);
    let tree = volume.as_ref().map(Object::to_value);
    let host = tree.as_ref().and_then(host_name).map(|host| nodes.by_index(&BY_HOST_NAME, &host));
    let node = told.or_else(|| host.into_iter().flatten().next());
    let answer = node.as_ref().map(Object::to_value);
    let answer = answer.as_ref().and_then(|node| annotation(node, &annotation_of(&key.name)));
    match (plan(tree.as_ref(), answer), node, volume) {
        (Plan::Tell, Some(node), _) if removals(&node).len() >= REMOVALS_MAX => return Ok(Next::After(TURN)),
        (Plan::Tell, Some(node), _) => annotate(ctx, &node, &key.name, &REMOVE.into()).await?,
        (Plan::Forget, Some(node), _) => annotate(ctx, &node, &key.name, &Value::Null).await?,
        (Plan::Delete, _, Some(volume)) => delete(ctx, &volume).await?,
        _ => {}
    }
    Ok(Next::OnChange)
}

fn annotation_of(volume: &str) -> String {
    format!("{REMOVAL_PREFIX}{volume}")
}

/// The one host that a volume is tied to.
fn host_name(volume: &Value) -> Option<String> {
    let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    term["values"][0].as_str().map(str::to_owned)
}

/// Decides the next step; `answer` is what stands on the node.
pub(super) fn plan(volume: Option<&Value>, answer: Option<&str>) -> Plan {
    let ours =
        |volume: &&Value| annotation(volume, PROVISIONED_BY) == Some(PROVISIONER) && has_finalizer(volume, FINALIZER);
    let Some(volume) = volume else {
        return if answer == Some(REMOVED) { Plan::Forget } else { Plan::Nothing };
    };
    if !ours(&volume) {
        return Plan::Nothing;
    }
    let phase = volume["status"]["phase"].as_str().unwrap_or_default();
    let unused = matches!(phase, "Released" | "Failed") || (is_deleting(volume) && phase != "Bound");
    match (unused, volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete", answer) {
        (true, true, None) => Plan::Tell,
        (true, true, Some(REMOVED)) => Plan::Delete,
        // Its data is whose who keeps it.
        (true, false, _) if is_deleting(volume) => Plan::Delete,
        _ => Plan::Nothing,
    }
}

async fn annotate(ctx: &Ctx, node: &Object, volume: &str, value: &Value) -> Result<(), ReconcileError> {
    let patch = json!({"metadata": {"uid": node.uid(), "annotations": {annotation_of(volume): value}}});
    ctx.client.patch(resources::NODES, node.key(), None, PatchType::Merge, &patch).await?;
    Ok(())
}

/// Deletes the object, which its finalizers keep, and then lets it go.
async fn delete(ctx: &Ctx, volume: &Object) -> Result<(), ReconcileError> {
    let (resource, key) = (resources::PERSISTENT_VOLUMES, volume.key());
    if !volume.is_deleting() {
        match ctx.client.delete(resource, key, &DeleteOptions::of_uid(volume.uid())).await {
            Err(error) if error.is_not_found() => return Ok(()),
            deleted => deleted?,
        }
    }
    let current = match ctx.client.get(resource, key).await {
        Err(error) if error.is_not_found() => return Ok(()),
        current => current?,
    };
    if current.uid() != volume.uid() {
        return Ok(());
    }
    volume_claims::set_finalizer(ctx, resource, key, current.to_value(), FINALIZER, false).await
}
