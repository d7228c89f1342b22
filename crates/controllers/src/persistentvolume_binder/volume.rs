//! A volume's phase follows its claim, and when that is gone its reclaim policy says what becomes of it.
//!
//! Nothing is deleted here: a provisioner that made a volume removes it, with its data, once it is `Released`.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::Value;

use super::{Report, matching};
use crate::volume_claims::{self, BOUND_BY_CONTROLLER, PROVISIONED_BY, VOLUMES, annotation, by_claim, claim_of};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "persistentvolume-binder-controller-volumes",
    reconciles: resources::PERSISTENT_VOLUMES,
    owns: &[],
    watches: &[Trigger { resource: resources::PERSISTENT_VOLUME_CLAIMS, keys: of_claim }],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// The volume that a claim names, and those that are for it.
fn of_claim(informers: &Informers, object: &Object) -> Vec<Key> {
    let volumes = informers.all(resources::PERSISTENT_VOLUMES).by_index(&VOLUMES, &by_claim(object.key()));
    let mut keys = volume_claims::keys(&volumes);
    let claim = object.to_value();
    keys.extend(claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty()).map(|name| Key::new("", name)));
    keys
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Nothing.
    Nothing,
    /// It is in this phase. The report is sent when it comes into it.
    Phase(&'static str, Option<Report>),
    /// Its claim has another volume: it is free again, or still reserved for the claim's name.
    Unbind,
    /// It cannot serve the claim that it is reserved for; both are told.
    Tell(Report, Report),
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::PERSISTENT_VOLUMES).get(key) else { return Ok(Next::OnChange) };
    let volume = object.to_value();
    let claim = match claim_of(&volume) {
        Some(claim) => claimant(&volume, &claim, ctx).await?,
        None => None,
    };
    let tree = claim.as_ref().map(Object::to_value);
    let plan = plan(&volume, tree.as_ref());
    apply(ctx, &object, volume, claim.as_ref(), plan).await
}

/// The claim that a volume is for. One that the cache does not have is asked for: nothing is released because a cache is late.
async fn claimant(volume: &Value, key: &Key, ctx: &Ctx) -> Result<Option<Object>, ReconcileError> {
    let uid = volume["spec"]["claimRef"]["uid"].as_str().unwrap_or_default();
    let fits = |claim: &Object| uid.is_empty() || claim.uid() == uid;
    let cached = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS).get(key);
    if cached.as_ref().is_some_and(fits) || is_let_go(volume) || uid.is_empty() {
        return Ok(cached.filter(fits));
    }
    match ctx.client.get(resources::PERSISTENT_VOLUME_CLAIMS, key).await {
        Ok(claim) => Ok(Some(claim).filter(fits)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_let_go(volume: &Value) -> bool {
    matches!(volume["status"]["phase"].as_str(), Some("Released" | "Failed"))
}

/// Decides what phase a volume is in; `claim` is the one that it is for, if that exists.
pub(super) fn plan(volume: &Value, claim: Option<&Value>) -> Plan {
    let reference = &volume["spec"]["claimRef"];
    if reference.is_null() || reference["uid"].as_str().unwrap_or_default().is_empty() {
        return Plan::Phase("Available", None);
    }
    let Some(claim) = claim else { return reclaim(volume) };
    match claim["spec"]["volumeName"].as_str().unwrap_or_default() {
        "" if !matching::same_mode(claim, volume) => {
            let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let of_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                name(claim)
            );
            let of_claim = format!(
                "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                name(volume)
            );
            Plan::Tell(Report::warning("VolumeMismatch", of_volume), Report::warning("VolumeMismatch", of_claim))
        }
        // The claim's own row binds it.
        "" => Plan::Nothing,
        named if volume["metadata"]["name"] == named => Plan::Phase("Bound", None),
        _ if annotation(volume, PROVISIONED_BY).is_some()
            && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete" =>
        {
            reclaim(volume)
        }
        _ => Plan::Unbind,
    }
}

/// Nobody uses it any more.
fn reclaim(volume: &Value) -> Plan {
    if !is_let_go(volume) {
        return Plan::Phase("Released", None);
    }
    let name = volume["metadata"]["name"].as_str().unwrap_or_default();
    match volume["spec"]["persistentVolumeReclaimPolicy"].as_str() {
        Some("Retain") => Plan::Nothing,
        Some("Delete") if annotation(volume, PROVISIONED_BY).is_some_and(|by| !by.starts_with("kubernetes.io/")) => {
            Plan::Nothing
        }
        Some("Delete") => {
            let why =
                format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched");
            Plan::Phase("Failed", Some(Report::warning("VolumeFailedDelete", why)))
        }
        Some("Recycle") => {
            let why = "No recycler plugin found for the volume!";
            Plan::Phase("Failed", Some(Report::warning("VolumeFailedRecycle", why)))
        }
        _ => {
            let why = "Volume has unrecognized PersistentVolumeReclaimPolicy";
            Plan::Phase("Failed", Some(Report::warning("VolumeUnknownReclaimPolicy", why)))
        }
    }
}

async fn apply(
    ctx: &Ctx,
    object: &Object,
    mut volume: Value,
    claim: Option<&Object>,
    plan: Plan,
) -> Result<Next, ReconcileError> {
    let about = ObjectReference::from((resources::PERSISTENT_VOLUMES, object));
    match plan {
        Plan::Nothing => {}
        Plan::Phase(phase, report) => {
            if volume["status"]["phase"] != phase {
                let message = report.as_ref().map(|report| report.message.clone());
                write_phase(ctx, object.key(), volume, phase, message).await?;
                report.inspect(|report| report.send(ctx, &about));
            }
        }
        Plan::Tell(of_volume, of_claim) => {
            of_volume.send(ctx, &about);
            if let Some(claim) = claim {
                of_claim.send(ctx, &ObjectReference::from((resources::PERSISTENT_VOLUME_CLAIMS, claim)));
            }
        }
        Plan::Unbind => {
            unbind(&mut volume);
            let body = Bytes::from(volume.to_string());
            let written = ctx.client.update(resources::PERSISTENT_VOLUMES, object.key(), body).await?;
            write_phase(ctx, object.key(), written.to_value(), "Available", None).await?;
        }
    }
    Ok(Next::OnChange)
}

/// Takes the claim away that this controller wrote; where somebody else did, only what makes it one object.
fn unbind(volume: &mut Value) {
    let ours = annotation(volume, BOUND_BY_CONTROLLER).is_some();
    if !ours {
        volume["spec"]["claimRef"].as_object_mut().map(|reference| reference.remove("uid"));
        return;
    }
    volume["spec"].as_object_mut().map(|spec| spec.remove("claimRef"));
    volume["metadata"]["annotations"].as_object_mut().map(|annotations| annotations.remove(BOUND_BY_CONTROLLER));
}

async fn write_phase(
    ctx: &Ctx,
    key: &Key,
    mut volume: Value,
    phase: &str,
    message: Option<String>,
) -> Result<(), ReconcileError> {
    volume["status"]["phase"] = phase.into();
    match message {
        Some(message) => volume["status"]["message"] = message.into(),
        None => drop(volume["status"].as_object_mut().map(|status| status.remove("message"))),
    }
    match ctx.client.update_status(resources::PERSISTENT_VOLUMES, key, Bytes::from(volume.to_string())).await {
        Err(error) if error.is_not_found() => Ok(()),
        written => Ok(written.map(drop)?),
    }
}
