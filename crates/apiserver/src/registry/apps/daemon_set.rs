//! Daemon sets.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{validate_selector, validate_template};
use crate::invalid::FieldError;
use crate::registry::tree::{child, immutable, not_negative, one_of, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::DAEMON_SETS, strategy: |_| Arc::new(DaemonSetStrategy) };

struct DaemonSetStrategy;

impl Strategy for DaemonSetStrategy {
    fn default(&self, set: &mut Value) {
        let Some(spec) = child(set, "spec") else { return };
        set_default(spec, "revisionHistoryLimit", 10);
        if let Some(strategy) = child(spec, "updateStrategy") {
            set_default(strategy, "type", "RollingUpdate");
            if text(&strategy["type"]) == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                set_default(rolling, "maxUnavailable", 1);
                set_default(rolling, "maxSurge", 0);
            }
        }
        pod_spec::default_template(spec);
    }

    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        let status = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
        set(object, "status", status);
    }

    fn validate(&self, _: &Context<'_>, set: &Value) -> Vec<FieldError> {
        let spec = &set["spec"];
        let mut errors = Vec::new();
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        not_negative(&mut errors, &spec["revisionHistoryLimit"], "spec.revisionHistoryLimit");
        one_of(
            &mut errors,
            &spec["updateStrategy"]["type"],
            "spec.updateStrategy.type",
            &["RollingUpdate", "OnDelete"],
        );
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
