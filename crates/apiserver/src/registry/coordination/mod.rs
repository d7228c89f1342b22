//! Strategies of the `coordination.k8s.io` group.

use std::sync::Arc;

use serde_json::Value;

use super::{Context, Descriptor, Strategy};
use crate::invalid::FieldError;

/// Leases.
pub const LEASE: Descriptor = Descriptor { resource: api::resources::LEASES, strategy: |_| Arc::new(LeaseStrategy) };

struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, lease: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (seconds, transitions) = (&lease["spec"]["leaseDurationSeconds"], &lease["spec"]["leaseTransitions"]);
        if seconds.as_i64().is_some_and(|seconds| seconds <= 0) {
            errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
        }
        super::tree::not_negative(&mut errors, transitions, "spec.leaseTransitions");
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
