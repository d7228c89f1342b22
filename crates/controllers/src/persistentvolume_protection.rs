//! A volume that is deleted stays while it is bound to a claim.
//!
//! The behaviour is upstream's persistentvolume-protection-controller.

use std::time::Duration;

use api::{Key, resources};
use control::{Next, ReconcileError};
use futures::FutureExt;

use crate::volume_claims::{self, Protection};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "pv-protection-controller",
    reconciles: resources::PERSISTENT_VOLUMES,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 2,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const FINALIZER: &str = "kubernetes.io/pv-protection";

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(volume) = ctx.cache(resources::PERSISTENT_VOLUMES).get(key) else { return Ok(Next::OnChange) };
    let volume = volume.to_value();
    let wanted = match volume_claims::protection(&volume, FINALIZER) {
        Protection::Add => true,
        Protection::MayGo if volume["status"]["phase"] != "Bound" => false,
        Protection::MayGo | Protection::Keep => return Ok(Next::OnChange),
    };
    volume_claims::set_finalizer(ctx, resources::PERSISTENT_VOLUMES, key, volume, FINALIZER, wanted).await?;
    Ok(Next::OnChange)
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::json;

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn a_bound_volume_stays_and_an_unused_one_goes() {
        let volume = |name: &str, phase: &str| {
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {},
                "status": {"phase": phase}})
        };
        let steps = [
            Step::Do(&|api| {
                api.delete(resources::PERSISTENT_VOLUMES, "", "bound");
                api.delete(resources::PERSISTENT_VOLUMES, "", "free");
            }),
            Step::Do(&|api| {
                assert_eq!(api.list(resources::PERSISTENT_VOLUMES).len(), 1);
                api.change_each(resources::PERSISTENT_VOLUMES, |volume| {
                    volume["status"]["phase"] = "Released".into();
                    true
                });
            }),
        ];
        let objects = [volume("bound", "Bound"), volume("free", "Available")];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert!(end.list(resources::PERSISTENT_VOLUMES).is_empty());
    }
}
