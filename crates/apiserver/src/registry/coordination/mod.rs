//! Strategies of the `coordination.k8s.io` group.

use std::sync::Arc;

use serde_json::Value;

use super::at::{At, Errors};
use super::{Context, Descriptor, Strategy, check};
use crate::invalid::FieldError;

/// Leases.
pub const LEASE: Descriptor = Descriptor { resource: api::resources::LEASES, strategy: |_| Arc::new(LeaseStrategy) };

const STRATEGIES: &[&str] = &["OldestEmulationVersion"];

struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, lease: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(lease, "");
        let spec = root.at("spec");
        let seconds = spec.at("leaseDurationSeconds");
        if seconds.number().is_some_and(|seconds| seconds <= 0) {
            errors.push(seconds.invalid("must be greater than 0"));
        }
        check::not_negative(&mut errors, &spec.at("leaseTransitions"));
        let (strategy, holder) = (spec.at("strategy"), spec.at("preferredHolder"));
        if strategy.is_set() {
            validate_strategy(&mut errors, &strategy);
        }
        if holder.has_text() && !strategy.has_text() {
            errors.push(holder.forbidden("may only be specified if `strategy` is defined"));
        }
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// A name of ours, or somebody's own with a domain. Upstream's path names the field twice.
fn validate_strategy(errors: &mut Errors, at: &At<'_>) {
    let shown = at.at("strategy").with(at.value());
    if at.text().contains('/') {
        check::text(errors, &shown, machinery::names::qualified_name);
    } else if !STRATEGIES.contains(&at.text()) {
        errors.push(shown.not_supported(STRATEGIES));
    }
}
