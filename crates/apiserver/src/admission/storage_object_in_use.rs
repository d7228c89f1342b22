//! `StorageObjectInUseProtection`: volumes, claims and attribute classes get a finalizer, by which their controllers keep
//! them while they are in use.

use std::sync::Arc;

use api::{ApiError, resources};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attempt, Descriptor, Operation, Plugin, is_main};
use crate::registry::tree::{list, set};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { name: "StorageObjectInUseProtection", plugin: |_| Arc::new(StorageObjectInUseProtection) };

struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        let protected = [
            (resources::PERSISTENT_VOLUMES, "kubernetes.io/pv-protection"),
            (resources::PERSISTENT_VOLUME_CLAIMS, "kubernetes.io/pvc-protection"),
            (resources::VOLUME_ATTRIBUTES_CLASSES, "kubernetes.io/vac-protection"),
        ];
        if attempt.operation == Operation::Create
            && let Some((_, finalizer)) = protected.iter().find(|(resource, _)| is_main(attempt, resource))
        {
            let mut finalizers = list(&object["metadata"]["finalizers"]).to_vec();
            if !finalizers.iter().any(|own| own == finalizer) {
                finalizers.push(json!(finalizer));
                set(&mut object["metadata"], "finalizers", finalizers);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
