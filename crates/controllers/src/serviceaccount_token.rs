//! Secrets of type `kubernetes.io/service-account-token` hold a token of the account that they name, for as long as there is
//! that account: they are filled when they are made and deleted with it.
//!
//! Such tokens do not expire; new software asks for those of `serviceaccounts/NAME/token`. Defined by "Managing Service
//! Accounts" in the Kubernetes documentation; upstream's tokens-controller.

mod signer;

use std::time::Duration;

use api::{Key, Object, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use control::{CustomIndex, DeleteOptions, Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

pub use self::signer::{TokenKeyError, TokenSigner};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "serviceaccount-token-controller",
    reconciles: resources::SERVICE_ACCOUNTS,
    owns: &[],
    watches: &[Trigger { resource: resources::SECRETS, keys: account_of }],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Finds token secrets by the account that they name.
const BY_ACCOUNT: CustomIndex = CustomIndex { name: ACCOUNT_NAME, values: account_text };

fn account_text(secret: &Object) -> Vec<String> {
    account_key(secret).map(|key| key.to_string()).into_iter().collect()
}

fn account_of(_: &Informers, secret: &Object) -> Vec<Key> {
    account_key(secret).into_iter().collect()
}

fn account_key(secret: &Object) -> Option<Key> {
    if secret.field(resources::SECRETS, "type") != Some(TYPE) {
        return None;
    }
    let tree = secret.to_value();
    let name = tree["metadata"]["annotations"][ACCOUNT_NAME].as_str().filter(|name| !name.is_empty())?;
    Some(Key::new(secret.key().namespace.clone(), name))
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(signer) = &ctx.settings.token_signer else { return Ok(Next::OnChange) };
    let secrets = ctx.cache(resources::SECRETS).by_index(&BY_ACCOUNT, &key.to_string());
    if secrets.is_empty() {
        return Ok(Next::OnChange);
    }
    let cached = ctx.cache(resources::SERVICE_ACCOUNTS).get(key);
    let account = match cached {
        Some(account) => Some(account),
        // A secret may be seen before its account: nothing is deleted before the server has said that there is none.
        None => match ctx.client.get(resources::SERVICE_ACCOUNTS, key).await {
            Err(error) if error.is_not_found() => None,
            account => Some(account?),
        },
    };
    for secret in secrets.iter().filter(|secret| !secret.is_deleting()) {
        match plan(signer, &ctx.settings.root_ca_pem, account.as_ref(), secret) {
            Plan::Nothing => {}
            Plan::Fill(filled) => {
                ctx.client.update(resources::SECRETS, secret.key(), Bytes::from(filled.to_string())).await?;
            }
            Plan::Delete => {
                match ctx.client.delete(resources::SECRETS, secret.key(), &DeleteOptions::of_uid(secret.uid())).await {
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    deleted => deleted?,
                }
            }
        }
    }
    Ok(Next::OnChange)
}

enum Plan {
    Nothing,
    Fill(Value),
    Delete,
}

fn plan(signer: &TokenSigner, root_ca_pem: &str, account: Option<&Object>, secret: &Object) -> Plan {
    let tree = secret.to_value();
    let uid = tree["metadata"]["annotations"][ACCOUNT_UID].as_str().unwrap_or_default();
    let Some(account) = account.filter(|account| uid.is_empty() || *uid == *account.uid()) else { return Plan::Delete };
    let mut filled = tree.clone();
    if !filled["data"].is_object() {
        filled["data"] = json!({});
    }
    filled["data"]["ca.crt"] = STANDARD.encode(root_ca_pem).into();
    let empty = |value: &Value| value.as_str().is_none_or(str::is_empty);
    if empty(&filled["data"]["namespace"]) {
        filled["data"]["namespace"] = STANDARD.encode(&*secret.key().namespace).into();
    }
    if empty(&filled["data"]["token"]) {
        filled["data"]["token"] = STANDARD.encode(signer.sign(account, &secret.key().name)).into();
    }
    filled["metadata"]["annotations"][ACCOUNT_UID] = account.uid().into();
    if filled == tree { Plan::Nothing } else { Plan::Fill(filled) }
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_filled_and_goes_with_its_account() {
        let account = |uid: &str| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "builder", "namespace": "n", "uid": uid}})
        };
        let secret = |name: &str, kind: &str, account: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
                "metadata": {"name": name, "namespace": "n", "annotations": {ACCOUNT_NAME: account}}})
        };
        let names = |api: &Api| {
            let all = api.list(resources::SECRETS).into_iter();
            all.map(|secret| secret["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let steps = [
            Step::Do(&|api| {
                assert_eq!(names(api), ["opaque", "token"], "one of no account goes");
                let token = api.get(resources::SECRETS, "n", "token").expect("the secret");
                assert_eq!(token["metadata"]["annotations"][ACCOUNT_UID], "u");
                assert_eq!(token["data"]["namespace"], STANDARD.encode("n"));
                let jwt = STANDARD.decode(token["data"]["token"].as_str().expect("a token")).expect("base64");
                assert_eq!(jwt.split(|byte| *byte == b'.').count(), 3);
            }),
            // Another account of the same name is not the one that the token is for.
            Step::Do(&|api| {
                api.delete(resources::SERVICE_ACCOUNTS, "n", "builder");
                api.put(account("v"));
            }),
            Step::Do(&|api| assert_eq!(names(api), ["opaque"])),
        ];
        let objects = [
            account("u"),
            secret("token", TYPE, "builder"),
            secret("orphan", TYPE, "nobody"),
            secret("opaque", "Opaque", "nobody"),
        ];
        check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    }
}
