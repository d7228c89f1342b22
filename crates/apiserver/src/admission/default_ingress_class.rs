//! `DefaultIngressClass`: an ingress that names no class gets the cluster's default one, if there is one.

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
    name: "DefaultIngressClass",
    plugin: |parts| Arc::new(DefaultIngressClass { caches: parts.caches.clone() }),
};

const MARKS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];

struct DefaultIngressClass {
    caches: Arc<Caches>,
}

impl Plugin for DefaultIngressClass {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, ingress: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let is_new = attempt.operation == Operation::Create && is_main(attempt, resources::INGRESSES);
            let annotated = ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some();
            if !is_new || annotated || is_set(&ingress["spec"], "ingressClassName") {
                return Ok(());
            }
            let default = default_class(&self.caches, resources::INGRESS_CLASSES, &MARKS).await?;
            if let (Some(name), Some(spec)) = (default, present(ingress, "spec")) {
                set(spec, "ingressClassName", name);
            }
            Ok(())
        }
        .boxed()
    }
}
