//! Strategies of the `scheduling.k8s.io` group.

use std::sync::Arc;

use serde_json::Value;

use super::tree::{immutable, one_of, set_default, text};
use super::{Context, Descriptor, Strategy};
use crate::invalid::FieldError;

/// Priority classes.
pub const PRIORITY_CLASS: Descriptor =
    Descriptor { resource: api::resources::PRIORITY_CLASSES, strategy: |_| Arc::new(PriorityClassStrategy) };

/// The highest value that users may give; above it are the classes of the system.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes of the system, which have values above it.
const SYSTEM: [(&str, i64); 2] = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

struct PriorityClassStrategy;

impl Strategy for PriorityClassStrategy {
    fn default(&self, class: &mut Value) {
        set_default(class, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, class: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (name, value) = (text(&class["metadata"]["name"]), class["value"].as_i64().unwrap_or(0));
        let known = SYSTEM.contains(&(name, value));
        if name.starts_with("system-") && !known {
            let why = "priority class names with 'system-' prefix are reserved for system use only. error: only a few known \
                       system priority classes are allowed";
            errors.push(FieldError::forbidden("metadata.name", why));
        } else if value > USER_PRIORITY_MAX && !known {
            let why = "maximum allowed value of a user defined priority is 1000000000";
            errors.push(FieldError::forbidden("value", why));
        }
        one_of(&mut errors, &class["preemptionPolicy"], "preemptionPolicy", &["Never", "PreemptLowerPriority"]);
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new["value"] != old["value"] {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        immutable(&mut errors, &new["preemptionPolicy"], &old["preemptionPolicy"], "preemptionPolicy");
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
