//! `DefaultStorageClass`: a claim that names no storage class gets the cluster's default one, if there is one.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Descriptor, Operation, Plugin, default_class, is_main};
use crate::registry::tree::{is_set, present, set};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "DefaultStorageClass",
    plugin: |parts| Arc::new(DefaultStorageClass { caches: parts.caches.clone() }),
};

const MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

struct DefaultStorageClass {
    caches: Arc<Caches>,
}

impl Plugin for DefaultStorageClass {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, claim: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let is_new =
                attempt.operation == Operation::Create && is_main(attempt, resources::PERSISTENT_VOLUME_CLAIMS);
            let annotated = claim["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class").is_some();
            // An empty name is a choice: no class at all.
            if !is_new || annotated || is_set(&claim["spec"], "storageClassName") {
                return Ok(());
            }
            let default = default_class(&self.caches, resources::STORAGE_CLASSES, &MARKS).await?;
            if let (Some(name), Some(spec)) = (default, present(claim, "spec")) {
                set(spec, "storageClassName", name);
            }
            Ok(())
        }
        .boxed()
    }
}
