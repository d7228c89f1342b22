//! Bootstrap tokens go when they have expired: their secrets in `kube-system` are deleted.
//!
//! The behaviour is upstream's token cleaner; what a token lets in is decided by the API server, which refuses it from the
//! same moment on.

use std::time::Duration;

use api::{Key, Object, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::{DeleteOptions, Next, ReconcileError};
use futures::FutureExt;
use jiff::Timestamp;
use machinery::time;

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "token-cleaner",
    reconciles: resources::SECRETS,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const TYPE: &str = "bootstrap.kubernetes.io/token";

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(secret) = ctx.cache(resources::SECRETS).get(key) else { return Ok(Next::OnChange) };
    let Some(expires) = expiry(&secret) else { return Ok(Next::OnChange) };
    let rest = expires.duration_since(ctx.clock.now());
    if rest.is_positive() {
        return Ok(Next::After(rest.unsigned_abs()));
    }
    // At the version that was read: a token that was prolonged meanwhile stays.
    let options = DeleteOptions { resource_version: Some(secret.revision()), ..DeleteOptions::of_uid(secret.uid()) };
    match ctx.client.delete(resources::SECRETS, key, &options).await {
        Err(error) if error.is_not_found() => Ok(Next::OnChange),
        deleted => Ok(deleted.map(|()| Next::OnChange)?),
    }
}

/// When a bootstrap token's secret is to go. A time that cannot be read lets nobody in, and is left for its author to see.
fn expiry(secret: &Object) -> Option<Timestamp> {
    let ours = &*secret.key().namespace == "kube-system" && secret.field(resources::SECRETS, "type") == Some(TYPE);
    if !ours || secret.is_deleting() {
        return None;
    }
    let encoded = secret.to_value()["data"]["expiration"].as_str().map(str::to_owned)?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    time::parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn expired_tokens_go_and_nothing_else() {
        let secret = |name: &str, kind: &str, expiration: &str| -> Value {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "kube-system"},
                "type": kind, "data": {"expiration": STANDARD.encode(expiration)}})
        };
        let objects = [
            secret("soon", TYPE, "2030-01-01T00:01:00Z"),
            secret("past", TYPE, "2029-01-01T00:01:00Z"),
            secret("later", TYPE, "2031-01-01T00:00:00Z"),
            secret("odd", TYPE, "tomorrow"),
            secret("other", "Opaque", "2029-01-01T00:00:00Z"),
        ];
        let steps = [Step::Wait(Duration::from_secs(61))];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let left = end.list(resources::SECRETS);
        let mut names: Vec<_> = left.iter().filter_map(|secret| secret["metadata"]["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["later", "odd", "other"]);
    }
}
