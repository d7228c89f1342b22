//! Config maps.

use std::sync::Arc;

use machinery::names::config_map_key;
use serde_json::Value;

use super::{DATA_BYTES_MAX, decoded_length, validate_frozen};
use crate::invalid::FieldError;
use crate::registry::at::At;
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::CONFIG_MAPS, strategy: |_| Arc::new(ConfigMapStrategy) };

struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, map: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(map, "");
        let (plain, binary) = (root.at("data"), root.at("binaryData"));
        let mut total = 0;
        for (key, value) in plain.entries().chain(binary.entries()) {
            errors.extend(config_map_key(key).iter().map(|why| value.invalid_as(key, why)));
        }
        for (key, value) in plain.entries() {
            if binary.at(key).is_set() {
                errors.push(value.invalid_as(key, "duplicate of key present in binaryData"));
            }
            total += value.text().len();
        }
        total += binary.entries().map(|(_, value)| decoded_length(value.text())).sum::<usize>();
        if total > DATA_BYTES_MAX {
            // Upstream names the whole object.
            errors.push(FieldError::too_long("", DATA_BYTES_MAX));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        validate_frozen(&mut errors, new, old, &["data", "binaryData"]);
        errors
    }
}
