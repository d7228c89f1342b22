//! Storage classes and volume attributes classes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{parameters, provisioner};
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::set_default;
use crate::registry::{Context, Descriptor, Strategy, check, node_labels};

/// Storage classes.
pub const STORAGE_CLASS: Descriptor =
    Descriptor { resource: api::resources::STORAGE_CLASSES, strategy: |_| Arc::new(StorageClassStrategy) };
/// Volume attributes classes.
pub const VOLUME_ATTRIBUTES_CLASS: Descriptor =
    Descriptor { resource: api::resources::VOLUME_ATTRIBUTES_CLASSES, strategy: |_| Arc::new(AttributesClassStrategy) };

struct StorageClassStrategy;

impl Strategy for StorageClassStrategy {
    fn default(&self, class: &mut Value) {
        set_default(class, "reclaimPolicy", "Delete");
        set_default(class, "volumeBindingMode", "Immediate");
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, class: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(class, "");
        provisioner(&mut errors, &root.at("provisioner"));
        parameters(&mut errors, &root.at("parameters"));
        check::one_of(&mut errors, &root.at("reclaimPolicy"), &["Delete", "Retain"]);
        check::required_one_of(&mut errors, &root.at("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
        topologies(&mut errors, &root.at("allowedTopologies"));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            check::immutable(&mut errors, &root.at(field), old.get(field).unwrap_or(&Value::Null));
        }
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        false
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        for term in root.at("allowedTopologies").items() {
            for expression in term.at("matchLabelExpressions").items() {
                let key = expression.at("key");
                if let Some(message) = node_labels::deprecation(key.text()) {
                    warnings.push(format!("{}: {message}", key.path()));
                }
            }
        }
        warnings
    }
}

/// Where volumes may be made: terms of labels and values, no two of them the same.
fn topologies(errors: &mut Errors, at: &At<'_>) {
    let mut seen: Vec<BTreeMap<String, BTreeSet<String>>> = Vec::new();
    for term in at.items() {
        let mut this = BTreeMap::new();
        let expressions = term.at("matchLabelExpressions");
        for expression in expressions.items() {
            let (key, values) = (expression.text_at("key"), expression.at("values"));
            if values.count() == 0 {
                errors.push(values.required(""));
            }
            let mut set = BTreeSet::new();
            for value in values.items() {
                if !set.insert(value.text().to_owned()) {
                    errors.push(value.duplicate());
                }
            }
            check::label_key(errors, &key);
            if this.insert(key.text().to_owned(), set).is_some() {
                errors.push(key.duplicate());
            }
        }
        // Upstream starts with as many empty terms as there are terms.
        if seen.contains(&this) || this.is_empty() {
            errors.push(expressions.duplicate_as(""));
        }
        seen.push(this);
    }
}

struct AttributesClassStrategy;

impl Strategy for AttributesClassStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, class: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(class, "");
        provisioner(&mut errors, &root.at("driverName"));
        parameters(&mut errors, &root.at("parameters"));
        if root.at("parameters").count() == 0 {
            errors.push(root.at("parameters").required("must contain at least one key/value pair"));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        for field in ["driverName", "parameters"] {
            if *root.at(field).value() != *old.get(field).unwrap_or(&Value::Null) {
                errors.push(root.at(field).forbidden(&format!("updates to {field} are forbidden.")));
            }
        }
        errors
    }
}
