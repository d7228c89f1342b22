//! Replica sets.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{validate_selector, validate_template};
use crate::invalid::FieldError;
use crate::registry::tree::{child, immutable, not_negative, set, set_default};
use crate::registry::{Context, Descriptor, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::REPLICA_SETS, strategy: |_| Arc::new(ReplicaSetStrategy) };

struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    fn default(&self, set: &mut Value) {
        let Some(spec) = child(set, "spec") else { return };
        set_default(spec, "replicas", 1);
        pod_spec::default_template(spec);
    }

    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        set(object, "status", json!({"replicas": 0}));
    }

    fn validate(&self, _: &Context<'_>, set: &Value) -> Vec<FieldError> {
        let spec = &set["spec"];
        let mut errors = Vec::new();
        not_negative(&mut errors, &spec["replicas"], "spec.replicas");
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        validate_selector(&mut errors, spec);
        errors.extend(validate_template(spec));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        immutable(&mut errors, &new["spec"]["selector"], &old["spec"]["selector"], "spec.selector");
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
