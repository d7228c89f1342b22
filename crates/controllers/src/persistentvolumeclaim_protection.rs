//! A claim that is deleted stays until no pod uses it.
//!
//! Only pods with a node count: no node starts a pod with a claim that is being deleted. Where the cache shows none, the API
//! is asked for the namespace's pods, since a finalizer that is gone does not come back. The behaviour is upstream's
//! persistentvolumeclaim-protection-controller.

use std::time::Duration;

use api::{Key, Object, resources};
use control::{Informers, Next, ReconcileError, Trigger, WatchScope};
use futures::FutureExt;

use crate::volume_claims::{self, PODS_BY_CLAIM, PodVolumes, Protection};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "pvc-protection-controller",
    reconciles: resources::PERSISTENT_VOLUME_CLAIMS,
    owns: &[],
    watches: &[Trigger { resource: resources::PODS, keys: freed_by }],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// The claims of a pod that are being deleted: others do not wait for it.
fn freed_by(informers: &Informers, pod: &Object) -> Vec<Key> {
    let claims = informers.all(resources::PERSISTENT_VOLUME_CLAIMS);
    let waits = |key: &Key| claims.get(key).is_some_and(|claim| claim.is_deleting());
    volume_claims::claim_keys(pod).into_iter().filter(waits).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(claim) = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS).get(key) else { return Ok(Next::OnChange) };
    let tree = claim.to_value();
    let wanted = match volume_claims::protection(&tree, FINALIZER) {
        Protection::Keep => return Ok(Next::OnChange),
        Protection::Add => true,
        Protection::MayGo if is_used(&claim, ctx).await? => return Ok(Next::OnChange),
        Protection::MayGo => false,
    };
    volume_claims::set_finalizer(ctx, resources::PERSISTENT_VOLUME_CLAIMS, key, tree, FINALIZER, wanted).await?;
    Ok(Next::OnChange)
}

async fn is_used(claim: &Object, ctx: &Ctx) -> Result<bool, ReconcileError> {
    let key = claim.key();
    let cached = ctx.cache(resources::PODS).by_index(&PODS_BY_CLAIM, &format!("{}/{}", key.namespace, key.name));
    if cached.iter().any(|pod| uses(pod, claim)) {
        return Ok(true);
    }
    let live = ctx.client.list(resources::PODS, &WatchScope::namespace(&*key.namespace)).await?;
    Ok(live.items.iter().any(|pod| uses(pod, claim)))
}

/// Whether a pod that has a node uses the claim. An ephemeral volume's claim goes as soon as the node is done with its pod.
fn uses(pod: &Object, claim: &Object) -> bool {
    let Some(volumes) = PodVolumes::of(pod).filter(PodVolumes::is_scheduled) else { return false };
    let owned = claim.controller().is_some_and(|owner| *owner.uid == *pod.uid());
    volumes
        .claims()
        .any(|used| *used.name == *claim.key().name && (!used.ephemeral || (owned && !volumes.is_shut_down())))
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::settings;

    fn claim(name: &str, finalizers: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "n", "finalizers": finalizers}, "spec": {}, "status": {}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_goes_with_the_last_pod_that_uses_it() {
        let pod = |name: &str, claim: &str, node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": node, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
                "status": {}})
        };
        let objects = [
            claim("used", &json!([FINALIZER])),
            claim("unused", &json!([FINALIZER])),
            claim("unscheduled", &json!([FINALIZER])),
            claim("old", &json!([])),
            pod("a", "used", "node"),
            pod("b", "used", "node"),
            pod("c", "unscheduled", ""),
        ];
        let names = |api: &control::harness::Api| {
            let claims = api.list(resources::PERSISTENT_VOLUME_CLAIMS).into_iter();
            claims.map(|claim| claim["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let steps = [
            Step::Do(&|api| {
                for name in ["used", "unused", "unscheduled"] {
                    api.delete(resources::PERSISTENT_VOLUME_CLAIMS, "n", name);
                }
            }),
            Step::Do(&|api| {
                assert_eq!(names(api), ["old", "used"]);
                api.delete(resources::PODS, "n", "a");
            }),
            Step::Do(&|api| {
                assert_eq!(names(api), ["old", "used"]);
                api.delete(resources::PODS, "n", "b");
            }),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert_eq!(names(&end), ["old"]);
        let old = end.get(resources::PERSISTENT_VOLUME_CLAIMS, "n", "old").expect("nobody deleted it");
        assert_eq!(old["metadata"]["finalizers"], json!([FINALIZER]));
    }
}
