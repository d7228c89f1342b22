//! Horizontal pod autoscalers, in both versions.

use std::sync::Arc;

use serde_json::{Value, json};

use super::spec;
use crate::invalid::FieldError;
use crate::registry::tree::{child, is_set, list, not_negative, present, set, set_default};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::HORIZONTAL_POD_AUTOSCALERS, strategy: |_| Arc::new(AutoscalerStrategy) };

/// The older form, which knows CPU utilization only.
pub const DESCRIPTOR_V1: Descriptor = Descriptor {
    resource: api::resources::HORIZONTAL_POD_AUTOSCALERS_V1,
    strategy: |_| Arc::new(AutoscalerV1Strategy),
};

/// The use of CPU that an autoscaler without metrics aims at.
const CPU_PERCENT: i64 = 80;

struct AutoscalerStrategy;
struct AutoscalerV1Strategy;

impl Strategy for AutoscalerStrategy {
    fn default(&self, autoscaler: &mut Value) {
        let Some(spec) = child(autoscaler, "spec") else { return };
        set_default(spec, "minReplicas", 1);
        if list(&spec["metrics"]).is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
            set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
        }
        if let Some(behavior) = present(spec, "behavior") {
            default_behavior(behavior);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, autoscaler: &mut Value) {
        set(autoscaler, "status", json!({"currentMetrics": null, "desiredReplicas": 0}));
    }

    fn validate(&self, _: &Context<'_>, autoscaler: &Value) -> Vec<FieldError> {
        spec::validate(&autoscaler["spec"])
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        validate_status(&new["status"])
    }
}

impl Strategy for AutoscalerV1Strategy {
    fn default(&self, autoscaler: &mut Value) {
        // Other metrics than CPU are in an annotation of this form.
        let others = autoscaler["metadata"]["annotations"].get("autoscaling.alpha.kubernetes.io/metrics").is_some();
        let Some(spec) = child(autoscaler, "spec") else { return };
        set_default(spec, "minReplicas", 1);
        if !others {
            set_default(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, autoscaler: &mut Value) {
        set(autoscaler, "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
    }

    fn validate(&self, _: &Context<'_>, autoscaler: &Value) -> Vec<FieldError> {
        let mut spec = autoscaler["spec"].clone();
        let percent = &autoscaler["spec"]["targetCPUUtilizationPercentage"];
        if !percent.is_null() {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            set(&mut spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
        }
        spec::validate(&spec)
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        validate_status(&new["status"])
    }
}

fn validate_status(status: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        not_negative(&mut errors, &status[field], &format!("status.{field}"));
    }
    errors
}

/// Fills in what a behaviour leaves out, in both directions. How long scaling down waits is the controller's to say.
fn default_behavior(behavior: &mut Value) {
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    for (direction, window, policies) in
        [("scaleUp", Some(0), json!([pods, percent.clone()])), ("scaleDown", None, json!([percent]))]
    {
        let Some(rules) = child(behavior, direction) else { continue };
        if let Some(seconds) = window {
            set_default(rules, "stabilizationWindowSeconds", seconds);
        }
        set_default(rules, "selectPolicy", "Max");
        if !is_set(rules, "policies") {
            set(rules, "policies", policies);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_is_filled_in_both_ways() {
        let mut autoscaler = json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}});
        AutoscalerStrategy.default(&mut autoscaler);
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        assert_eq!(
            autoscaler["spec"]["behavior"],
            json!({"scaleDown": {"selectPolicy": "Disabled", "policies": [percent]},
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]}})
        );
        assert_eq!(autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    }
}
