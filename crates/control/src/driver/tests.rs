//! The rule that a key rests until its writes are seen, by a controller that trusts it blindly.

use api::resources;
use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::harness::{Step, check_converges};

/// Gives every config map two secrets with random names, and never takes one away: one too many stays.
const CONTROLLER: Descriptor<()> = Descriptor {
    name: "twins",
    reconciles: resources::CONFIG_MAPS,
    owns: &[resources::SECRETS],
    watches: &[],
    reads: &[],
    workers_max: 3,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

async fn reconcile(key: &Key, ctx: &Ctx<()>) -> Result<Next, ReconcileError> {
    let Some(map) = ctx.cache(resources::CONFIG_MAPS).get(key) else { return Ok(Next::OnChange) };
    for _ in ctx.cache(resources::SECRETS).owned_by(map.uid()).len()..2 {
        let name = format!("twin-{}", ctx.random.name_suffix(5));
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": &*key.name, "uid": map.uid(),
            "controller": true});
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "generateName": "twin-", "ownerReferences": [owner]}});
        ctx.client.create(resources::SECRETS, &key.namespace, Bytes::from(secret.to_string())).await?;
    }
    Ok(Next::OnChange)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_twice_with_stale_caches_and_lost_answers() {
    let map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}});
    // A change of the map brings it back while its secrets are not in the cache yet.
    let touch = |map: &mut serde_json::Value| {
        map["data"] = json!({"touched": "yes"});
        true
    };
    let steps = [
        Step::Do(&|api| drop(api.put(map("b")))),
        Step::Do(&|api| assert!(api.change_each(resources::CONFIG_MAPS, touch))),
        Step::Do(&|api| {
            let secret = api.list(resources::SECRETS).remove(0);
            api.delete(resources::SECRETS, "n", secret["metadata"]["name"].as_str().unwrap());
        }),
    ];
    let end = check_converges(&CONTROLLER, Arc::new(()), &[map("a")], &steps).await;
    assert_eq!(end.list(resources::SECRETS).len(), 4);
}
