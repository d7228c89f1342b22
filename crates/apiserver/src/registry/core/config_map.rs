//! Config maps.

use std::sync::Arc;

use serde_json::Value;

use super::{validate_data, validate_frozen};
use crate::invalid::FieldError;
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::CONFIG_MAPS, strategy: |_| Arc::new(ConfigMapStrategy) };

struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, map: &Value) -> Vec<FieldError> {
        validate_data(map, &["data"], &["binaryData"])
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        validate_frozen(&mut errors, new, old, &["data", "binaryData"]);
        errors
    }
}
