//! Deployments.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{validate_selector, validate_template};
use crate::invalid::FieldError;
use crate::registry::tree::{child, immutable, is_set, not_negative, one_of, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::DEPLOYMENTS, strategy: |_| Arc::new(DeploymentStrategy) };

struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    fn default(&self, deployment: &mut Value) {
        let Some(spec) = child(deployment, "spec") else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        if let Some(strategy) = child(spec, "strategy") {
            set_default(strategy, "type", "RollingUpdate");
            if text(&strategy["type"]) == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                set_default(rolling, "maxUnavailable", "25%");
                set_default(rolling, "maxSurge", "25%");
            }
        }
        pod_spec::default_template(spec);
    }

    fn prepare_for_create(&self, _: &Context<'_>, deployment: &mut Value) {
        set(deployment, "status", json!({}));
    }

    fn validate(&self, _: &Context<'_>, deployment: &Value) -> Vec<FieldError> {
        let spec = &deployment["spec"];
        let mut errors = Vec::new();
        not_negative(&mut errors, &spec["replicas"], "spec.replicas");
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        not_negative(&mut errors, &spec["revisionHistoryLimit"], "spec.revisionHistoryLimit");
        not_negative(&mut errors, &spec["progressDeadlineSeconds"], "spec.progressDeadlineSeconds");
        validate_selector(&mut errors, spec);
        errors.extend(validate_template(spec));
        let strategy = &spec["strategy"];
        one_of(&mut errors, &strategy["type"], "spec.strategy.type", &["Recreate", "RollingUpdate"]);
        if text(&strategy["type"]) == "Recreate" && is_set(strategy, "rollingUpdate") {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        let rolling = &strategy["rollingUpdate"];
        let none = |value: &Value| *value == 0 || *value == "0%" || *value == "0";
        if none(&rolling["maxUnavailable"]) && none(&rolling["maxSurge"]) {
            let why = "may not be 0 when `maxSurge` is 0";
            let path = "spec.strategy.rollingUpdate.maxUnavailable";
            errors.push(FieldError::invalid(path, &rolling["maxUnavailable"], why));
        }
        let (ready, deadline) = (&spec["minReadySeconds"], &spec["progressDeadlineSeconds"]);
        if deadline.as_i64().is_some_and(|deadline| deadline <= ready.as_i64().unwrap_or(0)) {
            errors.push(FieldError::invalid(
                "spec.progressDeadlineSeconds",
                deadline,
                "must be greater than minReadySeconds",
            ));
        }
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
