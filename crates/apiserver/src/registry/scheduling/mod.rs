//! Strategies of the `scheduling.k8s.io` group.

use std::sync::Arc;

use serde_json::Value;

use super::at::At;
use super::tree::set_default;
use super::{Context, Descriptor, Strategy, check};
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
        let root = At::new(class, "");
        let (metadata, value) = (root.at("metadata"), root.at("value"));
        let (name, given) = (metadata.at("name"), value.number().unwrap_or(0));
        if name.text().starts_with("system-") {
            if let Some(why) = wrong_system_class(name.text(), given, root.at("globalDefault").is_true()) {
                let why = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.push(name.forbidden(&why));
            }
        } else if given > USER_PRIORITY_MAX {
            let why = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.push(value.forbidden(&why));
        }
        check::one_of(&mut errors, &root.at("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        if new["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
            errors.push(root.at("value").forbidden("may not be changed in an update."));
        }
        check::immutable(&mut errors, &root.at("preemptionPolicy"), &old["preemptionPolicy"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn wrong_system_class(name: &str, value: i64, global: bool) -> Option<String> {
    let Some((_, expected)) = SYSTEM.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *expected {
        return Some(format!("value of {name} PriorityClass must be {expected}"));
    }
    global.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}
