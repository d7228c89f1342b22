//! `PersistentVolumeClaimResize`: only a bound claim of a class that allows it can grow.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Quantity;
use machinery::pod_resources::amounts;
use serde_json::Value;

use super::{Attempt, Descriptor, Operation, Plugin, find, forbidden, is_main};
use crate::registry::tree::text;
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "PersistentVolumeClaimResize",
    plugin: |parts| Arc::new(PersistentVolumeClaimResize { caches: parts.caches.clone() }),
};

struct PersistentVolumeClaimResize {
    caches: Arc<Caches>,
}

impl Plugin for PersistentVolumeClaimResize {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, claim: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let Some(old) = attempt.old.filter(|old| {
                attempt.operation == Operation::Update
                    && is_main(attempt, resources::PERSISTENT_VOLUME_CLAIMS)
                    && size(claim) > size(old)
            }) else {
                return Ok(());
            };
            if old["status"]["phase"] != "Bound" {
                return Err(forbidden(attempt, "Only bound persistent volume claims can be expanded"));
            }
            let (class, before) = (class(claim), class(old));
            if !class.is_empty() && class == before {
                let class = find(&self.caches, resources::STORAGE_CLASSES, "", class).await?;
                if class.is_some_and(|class| class.to_value()["allowVolumeExpansion"] == true) {
                    return Ok(());
                }
            }
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                       support resize";
            Err(forbidden(attempt, why))
        }
        .boxed()
    }
}

fn size(claim: &Value) -> Quantity {
    amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied().unwrap_or(Quantity::ZERO)
}

fn class(claim: &Value) -> &str {
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    annotated.unwrap_or(text(&claim["spec"]["storageClassName"]))
}
