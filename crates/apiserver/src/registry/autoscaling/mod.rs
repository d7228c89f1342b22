//! Strategies of the `autoscaling` group.

use std::sync::Arc;

use serde_json::{Value, json};

use super::tree::{child, list, not_negative, set, set_default, text};
use super::{Context, Descriptor, Strategy};
use crate::invalid::FieldError;

/// Horizontal pod autoscalers.
pub const HORIZONTAL_POD_AUTOSCALER: Descriptor =
    Descriptor { resource: api::resources::HORIZONTAL_POD_AUTOSCALERS, strategy: |_| Arc::new(AutoscalerStrategy) };

/// Horizontal pod autoscalers in their older form, which knows CPU utilization only.
pub const HORIZONTAL_POD_AUTOSCALER_V1: Descriptor = Descriptor {
    resource: api::resources::HORIZONTAL_POD_AUTOSCALERS_V1,
    strategy: |_| Arc::new(AutoscalerV1Strategy),
};

struct AutoscalerStrategy;
struct AutoscalerV1Strategy;

impl Strategy for AutoscalerStrategy {
    fn default(&self, autoscaler: &mut Value) {
        let Some(spec) = child(autoscaler, "spec") else { return };
        set_default(spec, "minReplicas", 1);
        if list(&spec["metrics"]).is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, autoscaler: &mut Value) {
        set(autoscaler, "status", json!({"currentMetrics": null, "desiredReplicas": 0}));
    }

    fn validate(&self, _: &Context<'_>, autoscaler: &Value) -> Vec<FieldError> {
        validate(&autoscaler["spec"])
    }
}

impl Strategy for AutoscalerV1Strategy {
    fn default(&self, autoscaler: &mut Value) {
        // Other metrics than CPU are in an annotation of this form.
        let others = autoscaler["metadata"]["annotations"].get("autoscaling.alpha.kubernetes.io/metrics").is_some();
        let Some(spec) = child(autoscaler, "spec") else { return };
        set_default(spec, "minReplicas", 1);
        if !others {
            set_default(spec, "targetCPUUtilizationPercentage", 80);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, autoscaler: &mut Value) {
        set(autoscaler, "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
    }

    fn validate(&self, _: &Context<'_>, autoscaler: &Value) -> Vec<FieldError> {
        validate(&autoscaler["spec"])
    }
}

fn validate(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (low, high) = (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    not_negative(&mut errors, &spec["minReplicas"], "spec.minReplicas");
    if high < 1 {
        errors.push(FieldError::invalid("spec.maxReplicas", &high.into(), "must be greater than 0"));
    } else if high < low {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", &high.into(), why));
    }
    for field in ["kind", "name"] {
        if text(&spec["scaleTargetRef"][field]).is_empty() {
            errors.push(FieldError::required(format!("spec.scaleTargetRef.{field}"), ""));
        }
    }
    errors
}
