//! How objects of custom resources are prepared and validated: one strategy for all of them, over their schema.

use std::sync::Arc;

use machinery::apply::Versions;
use machinery::names;
use serde_json::{Value, json};

use super::definition::{ScalePaths, Version};
use super::scale;
use crate::invalid::{FieldError, FieldErrorKind};
use crate::registry::tree::{remove, set};
use crate::registry::{Context, Strategy, keep_status};

/// The strategy of one version.
pub struct CustomStrategy(pub Arc<Version>);

const BLOCKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

impl Strategy for CustomStrategy {
    fn default(&self, object: &mut Value) {
        self.0.schema().set_defaults(object);
    }

    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        if self.0.has_status {
            remove(object, "status");
        }
    }

    fn validate(&self, context: &Context<'_>, object: &Value) -> Vec<FieldError> {
        self.errors(context, object, None)
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        if self.0.has_status {
            keep_status(new, old);
        }
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        self.errors(context, new, Some(old))
    }

    fn prepare_for_subresource_update(&self, _: &Context<'_>, _: &str, new: &mut Value, old: &Value) {
        // Of the metadata only what says who wrote the status is the writer's.
        let mut kept = old.clone();
        match new.get_mut("status") {
            Some(status) => set(&mut kept, "status", status.take()),
            None => remove(&mut kept, "status"),
        }
        if let Some(managed) = new["metadata"].get_mut("managedFields") {
            kept["metadata"]["managedFields"] = managed.take();
        }
        *new = kept;
    }

    fn validate_subresource_update(&self, context: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let (Some(status), Some(place)) = (new.get("status"), self.0.schema().property("status")) {
            errors.extend(place.validate(status, old.get("status"), "status"));
        }
        if let Some(paths) = &self.0.scale {
            errors.extend(scale::status_errors(paths, new));
        }
        self.duplicate_errors(new, Some(old), &mut errors);
        self.expression_errors(context, new, Some(old), &mut errors);
        errors
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" if self.0.has_status => &[&["status"]],
            "" => &[],
            _ => &[&["spec"]],
        }
    }

    fn versions(&self) -> Option<&dyn Versions> {
        Some(&*self.0.storage.schemas)
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn counts_status(&self) -> bool {
        !self.0.has_status
    }

    fn keeps_nulls(&self) -> bool {
        true
    }

    fn scale_paths(&self) -> Option<&ScalePaths> {
        self.0.scale.as_ref()
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let finalizers = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let before = old.map(finalizers).unwrap_or_default();
        let added = finalizers(new).into_iter().filter(|name| !before.contains(name));
        added.filter_map(|name| finalizer_warning(name.as_str()?)).collect()
    }
}

impl CustomStrategy {
    fn errors(&self, context: &Context<'_>, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let schema = self.0.schema();
        let mut errors = schema.validate(object, old, "");
        if let Some(paths) = &self.0.scale {
            errors.extend(scale::spec_errors(paths, object));
            errors.extend(scale::status_errors(paths, object));
        }
        errors.extend(schema.embedded_errors(object));
        self.duplicate_errors(object, old, &mut errors);
        self.expression_errors(context, object, old, &mut errors);
        errors
    }

    /// What rules say. They are not asked about an object whose shape is wrong.
    fn expression_errors(
        &self,
        context: &Context<'_>,
        object: &Value,
        old: Option<&Value>,
        errors: &mut Vec<FieldError>,
    ) {
        let blocking = |error: &FieldError| {
            use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if !self.0.schema().has_expressions() {
            return;
        }
        if errors.iter().any(blocking) {
            return errors.push(FieldError::invalid("<nil>", &Value::Null, BLOCKED));
        }
        if let Some(expressions) = self.0.lazy_schema().expressions() {
            errors.extend(expressions.errors(object, old, "", &|error| context.notes.warn(error.to_string())));
        }
    }

    /// Lists with elements twice; not where they were so before.
    fn duplicate_errors(&self, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        let schema = self.0.schema();
        if old.is_none_or(|old| schema.duplicates(old).is_empty()) {
            errors.extend(schema.duplicates(object));
        }
    }
}

fn finalizer_warning(name: &str) -> Option<String> {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    if name.contains('/') || STANDARD.contains(&name) {
        return None;
    }
    let path = if name.contains('.') { " including a path (/)" } else { "" };
    Some(format!(
        "metadata.finalizers: {}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other \
         finalizer writers",
        json!(name)
    ))
}
