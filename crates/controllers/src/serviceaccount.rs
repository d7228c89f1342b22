//! Every namespace has the service account `default`, which pods run as that name no other.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::json;

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "service-account-controller",
    reconciles: resources::NAMESPACES,
    owns: &[],
    watches: &[Trigger { resource: resources::SERVICE_ACCOUNTS, keys: namespace_of_default }],
    reads: &[],
    workers_max: 2,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const NAME: &str = "default";

fn namespace_of_default(_: &Informers, account: &Object) -> Vec<Key> {
    let ours = *account.key().name == *NAME;
    ours.then(|| Key::new("", account.key().namespace.clone())).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let accounts = ctx.cache(resources::SERVICE_ACCOUNTS);
    if is_wanted(
        ctx.cache(resources::NAMESPACES).get(key).as_ref(),
        accounts.get(&Key::new(key.name.clone(), NAME)).as_ref(),
    ) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": NAME, "namespace": &*key.name}});
        let body = Bytes::from(account.to_string());
        match ctx.client.create(resources::SERVICE_ACCOUNTS, &key.name, body).await {
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
            created => drop(created?),
        }
    }
    Ok(Next::OnChange)
}

fn is_wanted(namespace: Option<&Object>, account: Option<&Object>) -> bool {
    namespace.is_some_and(|namespace| !namespace.is_deleting()) && account.is_none()
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::{namespace, settings};

    #[tokio::test(start_paused = true)]
    async fn every_namespace_gets_its_account_and_gets_it_back() {
        let steps = [
            Step::Do(&|api| api.delete(resources::SERVICE_ACCOUNTS, "a", NAME)),
            Step::Do(&|api| drop(api.put(namespace("b")))),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[namespace("a")], &steps).await;
        assert_eq!(end.list(resources::SERVICE_ACCOUNTS).len(), 2);
    }
}
