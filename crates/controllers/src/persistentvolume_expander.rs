//! A bound claim that asks for more than it has gets it, where its volume can grow.
//!
//! A volume of this cluster's own provisioner is a directory, which has no size to change: the figures of volume and claim
//! grow, first the volume's. Any other volume is an external controller's to expand. Whether a claim may ask at all is
//! admission's to say. The behaviour is upstream's persistentvolume-expander-controller.

use std::time::Duration;

use api::{Key, Object, resources};
use control::{EventType, Informers, Next, ObjectReference, PatchType, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::local_volume_provisioner::PROVISIONER;
use crate::volume_claims::{self, CLAIMS, PROVISIONED_BY, annotation, by_volume, refers_to, size};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "expand-controller",
    reconciles: resources::PERSISTENT_VOLUME_CLAIMS,
    owns: &[],
    watches: &[Trigger { resource: resources::PERSISTENT_VOLUMES, keys: of_volume }],
    reads: &[],
    workers_max: 2,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// What events name as their source.
pub(crate) const EVENT_SOURCE: &str = "volume_expand";

fn of_volume(informers: &Informers, volume: &Object) -> Vec<Key> {
    let claims = informers.all(resources::PERSISTENT_VOLUME_CLAIMS);
    volume_claims::keys(&claims.by_index(&CLAIMS, &by_volume(&volume.key().name)))
}

/// What is to be done.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    /// The volume and then the claim have this size.
    Grow(Value),
    /// Somebody else expands it.
    Wait,
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS).get(key) else { return Ok(Next::OnChange) };
    let claim = object.to_value();
    let volume_key = Key::new("", claim["spec"]["volumeName"].as_str().unwrap_or_default());
    let Some(volume) = ctx.cache(resources::PERSISTENT_VOLUMES).get(&volume_key) else { return Ok(Next::OnChange) };
    match plan(&claim, &volume.to_value()) {
        Plan::Nothing => {}
        Plan::Grow(size) => grow(ctx, &object, &volume, &size).await?,
        Plan::Wait => {
            let about = ObjectReference::from((resources::PERSISTENT_VOLUME_CLAIMS, &object));
            let message = "waiting for an external controller to expand this PVC";
            ctx.recorder.event(&about, EventType::Normal, "ExternalExpanding", message);
        }
    }
    Ok(Next::OnChange)
}

fn plan(claim: &Value, volume: &Value) -> Plan {
    let asked = &claim["spec"]["resources"]["requests"];
    let bound = claim["status"]["phase"] == "Bound" && refers_to(volume, claim);
    if !bound || size(asked) <= size(&claim["status"]["capacity"]) {
        return Plan::Nothing;
    }
    match annotation(volume, PROVISIONED_BY) {
        Some(PROVISIONER) => Plan::Grow(asked["storage"].clone()),
        _ => Plan::Wait,
    }
}

async fn grow(ctx: &Ctx, claim: &Object, volume: &Object, wanted: &Value) -> Result<(), ReconcileError> {
    let capacity = json!({"capacity": {"storage": wanted}});
    if size(&volume.to_value()["spec"]["capacity"]) < size(&capacity["capacity"]) {
        let patch = json!({"metadata": {"uid": volume.uid()}, "spec": &capacity});
        ctx.client.patch(resources::PERSISTENT_VOLUMES, volume.key(), None, PatchType::Merge, &patch).await?;
    }
    let patch = json!({"metadata": {"uid": claim.uid()}, "status": &capacity});
    let resource = resources::PERSISTENT_VOLUME_CLAIMS;
    ctx.client.patch(resource, claim.key(), Some("status"), PatchType::Merge, &patch).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    fn pair(name: &str, provisioner: &str) -> [Value; 2] {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")},
            "spec": {"volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {PROVISIONED_BY: provisioner}},
            "spec": {"capacity": {"storage": "1Gi"}, "claimRef": {"name": name, "namespace": "n"}},
            "status": {"phase": "Bound"}});
        [claim, volume]
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_grows_by_its_figures_and_others_are_left_to_others() {
        let steps = [Step::Do(&|api| {
            api.change_each(resources::PERSISTENT_VOLUME_CLAIMS, |claim| {
                claim["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
                true
            });
        })];
        let objects = [pair("ours", PROVISIONER), pair("theirs", "csi.example.com")].concat();
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let sizes = |name: &str| {
            let claim = end.get(resources::PERSISTENT_VOLUME_CLAIMS, "n", name).expect("the claim");
            let volume = end.get(resources::PERSISTENT_VOLUMES, "", name).expect("the volume");
            [claim["status"]["capacity"]["storage"].clone(), volume["spec"]["capacity"]["storage"].clone()]
        };
        assert_eq!(sizes("ours"), ["2Gi", "2Gi"]);
        assert_eq!(sizes("theirs"), ["1Gi", "1Gi"]);
    }
}
