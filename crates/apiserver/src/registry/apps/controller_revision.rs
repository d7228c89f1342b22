//! Controller revisions: their data never changes.

use std::sync::Arc;

use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::tree::{immutable, not_negative};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::CONTROLLER_REVISIONS, strategy: |_| Arc::new(ControllerRevisionStrategy) };

struct ControllerRevisionStrategy;

impl Strategy for ControllerRevisionStrategy {
    fn validate(&self, _: &Context<'_>, revision: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        not_negative(&mut errors, &revision["revision"], "revision");
        match &revision["data"] {
            Value::Object(_) => {}
            Value::Null => errors.push(FieldError::required("data", "data is mandatory")),
            _ => errors.push(FieldError::required("data", "data must be a valid JSON object")),
        }
        errors
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        not_negative(&mut errors, &new["revision"], "revision");
        immutable(&mut errors, &new["data"], &old["data"], "data");
        errors
    }
}
