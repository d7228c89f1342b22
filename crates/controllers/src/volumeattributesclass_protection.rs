//! A class of volume attributes that is deleted stays while a claim or a volume has it.
//!
//! The behaviour is upstream's volumeattributesclass-protection-controller.

use std::time::Duration;

use api::{Key, Object, resources};
use control::{CustomIndex, Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;

use crate::volume_claims::{self, Protection};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "volumeattributesclass-protection-controller",
    reconciles: resources::VOLUME_ATTRIBUTES_CLASSES,
    owns: &[],
    watches: &[
        Trigger { resource: resources::PERSISTENT_VOLUME_CLAIMS, keys: named_by },
        Trigger { resource: resources::PERSISTENT_VOLUMES, keys: named_by },
    ],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const FINALIZER: &str = "kubernetes.io/vac-protection";

/// Finds claims and volumes by the classes that they have, are given or were given.
const BY_ATTRIBUTES: CustomIndex = CustomIndex { name: "volume attributes classes", values: names };

fn names(object: &Object) -> Vec<String> {
    let tree = object.to_value();
    let status = &tree["status"];
    let places = [
        &tree["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    let mut names: Vec<String> = places.iter().filter_map(|place| place.as_str()).map(str::to_owned).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

fn named_by(_: &Informers, object: &Object) -> Vec<Key> {
    names(object).into_iter().map(|name| Key::new("", name)).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(class) = ctx.cache(resources::VOLUME_ATTRIBUTES_CLASSES).get(key) else { return Ok(Next::OnChange) };
    let class = class.to_value();
    let users = |resource| ctx.cache(resource).by_index(&BY_ATTRIBUTES, &key.name).len();
    let wanted = match volume_claims::protection(&class, FINALIZER) {
        Protection::Add => true,
        Protection::MayGo if users(resources::PERSISTENT_VOLUMES) + users(resources::PERSISTENT_VOLUME_CLAIMS) == 0 => {
            false
        }
        Protection::MayGo | Protection::Keep => return Ok(Next::OnChange),
    };
    volume_claims::set_finalizer(ctx, resources::VOLUME_ATTRIBUTES_CLASSES, key, class, FINALIZER, wanted).await?;
    Ok(Next::OnChange)
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::json;

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn a_class_goes_with_its_last_user() {
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "gold"},
            "driverName": "d"});
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "n"},
            "spec": {}, "status": {"currentVolumeAttributesClassName": "gold"}});
        let left = |api: &control::harness::Api| api.list(resources::VOLUME_ATTRIBUTES_CLASSES).len();
        let steps = [
            Step::Do(&|api| api.delete(resources::VOLUME_ATTRIBUTES_CLASSES, "", "gold")),
            Step::Do(&|api| {
                assert_eq!(left(api), 1);
                api.delete(resources::PERSISTENT_VOLUME_CLAIMS, "n", "c");
            }),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[class, claim], &steps).await;
        assert_eq!(left(&end), 0);
    }
}
