//! Namespaces: a deleted one stays, terminating, until the namespace controller has emptied it and taken its finalizer.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, keep, list, set};
use crate::registry::{Context, Descriptor, Strategy, check, keep_status, reset};

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

    fn validate(&self, _: &Context<'_>, namespace: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(namespace, "spec");
        let at = root.with(&namespace["spec"]);
        let finalizers = at.at("finalizers");
        // Upstream's path leaves the index out here, but not in the subresource.
        for finalizer in finalizers.items() {
            validate_finalizer(&mut errors, &finalizers.with(finalizer.value()));
        }
        errors
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        keep(new, old, "spec");
    }

    fn validate_update(&self, _: &Context<'_>, _: &Value, _: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "status" => &[&["spec"]],
            _ => &[&["status"]],
        }
    }

    fn prepare_for_subresource_update(&self, _: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        if subresource != "finalize" {
            return reset(new, old, self.reset_fields(subresource));
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
        let mut errors = Vec::new();
        let root = At::new(new, "");
        if subresource == "finalize" {
            let spec = root.at("spec");
            spec.at("finalizers").items().for_each(|finalizer| validate_finalizer(&mut errors, &finalizer));
        } else {
            let (status, metadata) = (root.at("status"), root.at("metadata"));
            let (phase, why) = match metadata.at("deletionTimestamp").is_set() {
                false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
                true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
            };
            let given = status.at("phase");
            if given.has_text() && given.text() != phase {
                errors.push(status.at("Phase").with(given.value()).invalid(why));
            }
        }
        errors
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

fn validate_finalizer(errors: &mut Errors, at: &At<'_>) {
    check::text(errors, at, machinery::names::qualified_name);
    if !at.text().contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&at.text()) {
        errors.push(at.invalid("name is neither a standard finalizer name nor is it fully qualified"));
    }
}
