//! Pod disruption budgets.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{is_set, label_selector, not_negative, one_of, set};
use crate::registry::{Context, Descriptor, Strategy, conditions};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::POD_DISRUPTION_BUDGETS, strategy: |_| Arc::new(BudgetStrategy) };

struct BudgetStrategy;

const PERCENT_SHAPE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
    '93%', regex used for validation is '[0-9]+%')";

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
            number_or_percent(&mut errors, &spec[field], &format!("spec.{field}"));
        }
        label_selector(&mut errors, &spec["selector"], "spec.selector");
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        one_of(&mut errors, &spec["unhealthyPodEvictionPolicy"], "spec.unhealthyPodEvictionPolicy", &policies);
        errors
    }

    fn validate_subresource_update(
        &self,
        _: &Context<'_>,
        _subresource: &str,
        new: &Value,
        _old: &Value,
    ) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let status = &new["status"];
        conditions::validate(&mut errors, &status["conditions"], "status.conditions");
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            not_negative(&mut errors, &status[field], &format!("status.{field}"));
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn number_or_percent(errors: &mut Vec<FieldError>, value: &Value, path: &str) {
    not_negative(errors, value, path);
    let Some(given) = value.as_str() else { return };
    let digits = given.strip_suffix('%').filter(|digits| !digits.is_empty());
    match digits.filter(|digits| digits.bytes().all(|c| c.is_ascii_digit())) {
        None => errors.push(FieldError::invalid(path, value, PERCENT_SHAPE)),
        // What is too long to be read is too much as well.
        Some(digits) if digits.parse::<u32>().map_or(true, |percent| percent > 100) => {
            errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_numbers_and_percentages_may_be() {
        let rows = [
            (json!(0), None),
            (json!(7), None),
            (json!(-1), Some("p: Invalid value: -1: must be greater than or equal to 0".to_owned())),
            (json!("50%"), None),
            (json!("100%"), None),
            (json!("101%"), Some(r#"p: Invalid value: "101%": must not be greater than 100%"#.to_owned())),
            (json!("5"), Some(format!(r#"p: Invalid value: "5": {PERCENT_SHAPE}"#))),
            (json!("-5%"), Some(format!(r#"p: Invalid value: "-5%": {PERCENT_SHAPE}"#))),
            (json!("%"), Some(format!(r#"p: Invalid value: "%": {PERCENT_SHAPE}"#))),
        ];
        for (value, expected) in rows {
            let mut errors = Vec::new();
            number_or_percent(&mut errors, &value, "p");
            assert_eq!(errors.first().map(ToString::to_string), expected, "{value}");
        }
    }
}
