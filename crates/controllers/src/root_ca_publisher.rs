//! Every namespace has the config map `kube-root-ca.crt`, by which its pods know the API server.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "root-ca-cert-publisher",
    reconciles: resources::NAMESPACES,
    owns: &[],
    watches: &[Trigger { resource: resources::CONFIG_MAPS, keys: namespace_of_ours }],
    reads: &[],
    workers_max: 2,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

fn namespace_of_ours(_: &Informers, map: &Object) -> Vec<Key> {
    let ours = *map.key().name == *NAME;
    ours.then(|| Key::new("", map.key().namespace.clone())).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let namespace = ctx.cache(resources::NAMESPACES).get(key).filter(|namespace| !namespace.is_deleting());
    if namespace.is_none() {
        return Ok(Next::OnChange);
    }
    let (maps, map_key) = (ctx.cache(resources::CONFIG_MAPS), Key::new(key.name.clone(), NAME));
    let wanted = json!({ "ca.crt": ctx.settings.root_ca_pem });
    let done = match plan(maps.get(&map_key).map(|map| map.to_value()).as_ref(), &wanted) {
        Plan::Nothing => return Ok(Next::OnChange),
        Plan::Create => {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": &*key.name,
                    "annotations": {"kubernetes.io/description": DESCRIPTION}},
                "data": wanted});
            ctx.client.create(resources::CONFIG_MAPS, &key.name, Bytes::from(map.to_string())).await
        }
        Plan::Update(map) => ctx.client.update(resources::CONFIG_MAPS, &map_key, Bytes::from(map.to_string())).await,
    };
    match done {
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
        done => drop(done?),
    }
    Ok(Next::OnChange)
}

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Create,
    Update(Value),
}

fn plan(map: Option<&Value>, wanted: &Value) -> Plan {
    let Some(map) = map else { return Plan::Create };
    if map["data"] == *wanted {
        return Plan::Nothing;
    }
    let mut map = map.clone();
    map["metadata"]["annotations"]["kubernetes.io/description"] = DESCRIPTION.into();
    map["data"] = wanted.clone();
    Plan::Update(map)
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::{namespace, settings};

    #[tokio::test(start_paused = true)]
    async fn the_map_is_made_and_mended() {
        let spoil = |map: &mut Value| {
            map["data"] = json!({"other": "x"});
            true
        };
        let steps = [Step::Do(&|api| assert!(api.change_each(resources::CONFIG_MAPS, spoil)))];
        let end = check_converges(&CONTROLLER, settings(), &[namespace("a")], &steps).await;
        let map = end.get(resources::CONFIG_MAPS, "a", NAME).expect("the map");
        assert_eq!(map["data"], json!({"ca.crt": settings().root_ca_pem}));
    }
}
