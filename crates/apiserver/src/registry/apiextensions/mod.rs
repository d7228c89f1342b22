//! CustomResourceDefinitions: what one may say. Serving what it says is in [`crate::custom`].

mod definition;
mod expressions;
mod open_api;
mod structural;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Value, json};

use super::tree::{child, is_set, list, set, set_default, text};
use super::{Context, Descriptor, Strategy, keep_status};
use crate::custom::schema::{Type, is_supported_format};
use crate::custom::status;
use crate::invalid::FieldError;

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    resource: api::resources::CUSTOM_RESOURCE_DEFINITIONS,
    strategy: |_| Arc::new(CustomResourceDefinitionStrategy),
};

struct CustomResourceDefinitionStrategy;

impl Strategy for CustomResourceDefinitionStrategy {
    fn default(&self, definition: &mut Value) {
        let Some(spec) = child(definition, "spec") else { return };
        if let Some(names) = child(spec, "names") {
            let kind = text(&names["kind"]).to_owned();
            set_default(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                set_default(names, "listKind", format!("{kind}List"));
            }
        }
        if !is_set(spec, "conversion") {
            set(spec, "conversion", json!({"strategy": "None"}));
        }
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service")
            && !is_set(service, "port")
        {
            set(service, "port", 443);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, definition: &mut Value) {
        set(definition, "status", json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}}));
        add_stored_version(definition);
    }

    fn validate(&self, _: &Context<'_>, definition: &Value) -> Vec<FieldError> {
        definition::validate(definition, None)
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        add_stored_version(new);
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        definition::validate(new, Some(old))
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = definition::name_errors(&new["status"]["acceptedNames"], "status.acceptedNames");
        errors.extend(definition::stored_version_errors(new));
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn deletion_finalizers(&self) -> &'static [&'static str] {
        &[status::CLEANUP_FINALIZER]
    }

    fn prepare_for_deletion(&self, definition: &mut Value) {
        let at = text(&definition["metadata"]["deletionTimestamp"]).to_owned();
        status::set_condition(&mut definition["status"], &status::DELETION_PENDING, &at);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let known = old.map(unknown_formats).unwrap_or_default();
        let formats = unknown_formats(new).into_iter().filter(|format| !known.contains(format));
        formats.map(|format| format!("unrecognized format {format:?}")).collect()
    }
}

/// Notes the version that is stored from now on.
fn add_stored_version(definition: &mut Value) {
    let versions = list(&definition["spec"]["versions"]);
    let Some(stored) = versions.iter().find(|version| version["storage"] == true) else { return };
    let name = stored["name"].clone();
    let mut all = list(&definition["status"]["storedVersions"]).to_vec();
    if !all.contains(&name) {
        all.push(name);
    }
    if let Some(status) = child(definition, "status") {
        set(status, "storedVersions", all);
    }
}

/// The formats that mean nothing, in all schemas.
fn unknown_formats(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for version in list(&definition["spec"]["versions"]) {
        open_api::visit(&version["schema"]["openAPIV3Schema"], &mut |schema| {
            let (kind, format) = (text(&schema["type"]), text(&schema["format"]));
            if !format.is_empty() && !is_supported_format(Type::parse(kind), format) {
                found.push(format.to_owned());
            }
        });
    }
    found
}
