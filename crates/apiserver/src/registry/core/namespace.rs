//! Namespaces: a deleted one stays, terminating, until the namespace controller has emptied it and taken its finalizer.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{child, keep, list, set};
use crate::registry::{Context, Descriptor, Strategy, keep_all_but_status, keep_status};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::NAMESPACES, strategy: |_| Arc::new(NamespaceStrategy) };

/// The label by which selectors find a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    fn default(&self, namespace: &mut Value) {
        let name = namespace["metadata"]["name"].clone();
        if name.as_str().is_some_and(|name| !name.is_empty())
            && let Some(labels) = child(namespace, "metadata").and_then(|metadata| child(metadata, "labels"))
        {
            set(labels, NAME_LABEL, name);
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::dns1123_label(name)
    }

    fn prepare_for_create(&self, _: &Context<'_>, namespace: &mut Value) {
        set(namespace, "status", json!({"phase": "Active"}));
        if let Some(spec) = child(namespace, "spec") {
            let mut finalizers = list(&spec["finalizers"]).to_vec();
            if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
                finalizers.push("kubernetes".into());
            }
            set(spec, "finalizers", finalizers);
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        keep(new, old, "spec");
    }

    fn prepare_for_subresource_update(&self, _: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        if subresource != "finalize" {
            return keep_all_but_status(new, old);
        }
        let mut kept = old.clone();
        let finalizers = list(&new["spec"]["finalizers"]).to_vec();
        if let Some(spec) = child(&mut kept, "spec") {
            set(spec, "finalizers", finalizers);
        }
        *new = kept;
    }

    fn validate_subresource_update(
        &self,
        _: &Context<'_>,
        subresource: &str,
        new: &Value,
        _: &Value,
    ) -> Vec<FieldError> {
        let deleted = new["metadata"].get("deletionTimestamp").is_some();
        let phase = &new["status"]["phase"];
        let wrong = match (deleted, phase.as_str()) {
            (false, Some("Terminating")) => "may only be 'Active' if `deletionTimestamp` is empty",
            (true, Some("Active")) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
            _ => return Vec::new(),
        };
        if subresource == "status" { vec![FieldError::invalid("status.Phase", phase, wrong)] } else { Vec::new() }
    }

    fn stays_when_deleted(&self, namespace: &Value) -> bool {
        !list(&namespace["spec"]["finalizers"]).is_empty()
    }

    fn prepare_for_deletion(&self, namespace: &mut Value) {
        if let Some(status) = child(namespace, "status") {
            set(status, "phase", "Terminating");
        }
    }
}
