//! `NamespaceLifecycle`: nothing is made in a namespace that is missing or being terminated, and the namespaces that every
//! cluster needs stay.

use std::sync::Arc;

use api::{ApiError, Key, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attempt, Descriptor, Operation, Plugin, forbidden};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "NamespaceLifecycle",
    plugin: |parts| Arc::new(NamespaceLifecycle { caches: parts.caches.clone() }),
};

/// Namespaces that every cluster needs.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

struct NamespaceLifecycle {
    caches: Arc<Caches>,
}

impl Plugin for NamespaceLifecycle {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, _: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let of_namespaces = attempt.resource.group.is_empty() && attempt.resource.plural == "namespaces";
            if of_namespaces {
                let deletes = attempt.operation == Operation::Delete && IMMORTAL.contains(&&*attempt.key.name);
                return if deletes { Err(forbidden(attempt, "this namespace may not be deleted")) } else { Ok(()) };
            }
            if attempt.operation != Operation::Create || attempt.key.namespace.is_empty() {
                return Ok(());
            }
            self.check(attempt).await
        }
        .boxed()
    }
}

impl NamespaceLifecycle {
    async fn check(&self, attempt: &Attempt<'_>) -> Result<(), ApiError> {
        let name = &*attempt.key.namespace;
        let cache = self.caches.of(resources::NAMESPACES).await?;
        let key = Key::new("", name);
        let namespace = match cache.get(&key) {
            Some(namespace) => namespace,
            None => {
                // It may have been made a moment ago.
                self.caches.fresh().await;
                cache.get(&key).ok_or_else(|| ApiError::not_found("", "namespaces", name))?
            }
        };
        if !namespace.is_deleting() {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = forbidden(attempt, &why);
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(error)
    }
}
