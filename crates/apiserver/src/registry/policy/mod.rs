//! Strategies of the `policy` group.

use std::sync::Arc;

use serde_json::{Value, json};

use super::tree::{is_set, label_selector, one_of, set};
use super::{Context, Descriptor, Strategy};
use crate::invalid::FieldError;

/// Pod disruption budgets.
pub const POD_DISRUPTION_BUDGET: Descriptor =
    Descriptor { resource: api::resources::POD_DISRUPTION_BUDGETS, strategy: |_| Arc::new(BudgetStrategy) };

struct BudgetStrategy;

impl Strategy for BudgetStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, budget: &mut Value) {
        let status = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        set(budget, "status", status);
    }

    fn validate(&self, _: &Context<'_>, budget: &Value) -> Vec<FieldError> {
        let spec = &budget["spec"];
        let mut errors = Vec::new();
        if is_set(spec, "minAvailable") && is_set(spec, "maxUnavailable") {
            let why = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid("spec", spec, why));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            super::tree::not_negative(&mut errors, &spec[field], &format!("spec.{field}"));
            let percent =
                spec[field].as_str().map(|text| text.strip_suffix('%').and_then(|text| text.parse::<u32>().ok()));
            if percent.is_some_and(|percent| percent.is_none_or(|percent| percent > 100)) {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                           regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(format!("spec.{field}"), &spec[field], why));
            }
        }
        label_selector(&mut errors, &spec["selector"], "spec.selector");
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        one_of(&mut errors, &spec["unhealthyPodEvictionPolicy"], "spec.unhealthyPodEvictionPolicy", &policies);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
