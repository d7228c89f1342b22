//! Deployments.

use std::sync::Arc;

use serde_json::{Value, json};

use super::workload::{AtMost, Bounded, Workload, WorkloadStrategy, default_strategy, is_none, share, warn_of_name};
use crate::invalid::FieldError;
use crate::registry::Descriptor;
use crate::registry::tree::{is_set, not_negative, one_of, set_default, text};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::DEPLOYMENTS, strategy: |_| Arc::new(WorkloadStrategy(Deployment)) };

struct Deployment;

impl Workload for Deployment {
    const SELECTS_FOR: &'static str = "deployment";
    const COUNTS: &'static [&'static str] = &[
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
    ];
    const AT_MOST: &'static [AtMost] = &[
        ("updatedReplicas", "replicas", "status.replicas"),
        ("readyReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "readyReplicas", "readyReplicas"),
    ];

    const STATUS_RESET: &'static [&'static [&'static str]] = &[&["spec"], &["metadata", "labels"]];

    fn default_spec(&self, spec: &mut Value) {
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        if let Some(rolling) = default_strategy(spec, "strategy") {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        warn_of_name(&mut warnings, new, old);
        warnings
    }

    fn new_status(&self) -> Value {
        json!({})
    }

    fn validate_spec(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            not_negative(&mut errors, &spec[field], &format!("spec.{field}"));
        }
        validate_strategy(&mut errors, &spec["strategy"]);
        let (ready, deadline) = (&spec["minReadySeconds"], &spec["progressDeadlineSeconds"]);
        if deadline.as_i64().is_some_and(|deadline| deadline <= ready.as_i64().unwrap_or(0)) {
            let why = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, why));
        }
        errors
    }
}

fn validate_strategy(errors: &mut Vec<FieldError>, strategy: &Value) {
    one_of(errors, &strategy["type"], "spec.strategy", &["Recreate", "RollingUpdate"]);
    if text(&strategy["type"]) == "Recreate" && is_set(strategy, "rollingUpdate") {
        let why = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
    }
    if text(&strategy["type"]) != "RollingUpdate" {
        return;
    }
    let (surge, unavailable) = (&strategy["rollingUpdate"]["maxSurge"], &strategy["rollingUpdate"]["maxUnavailable"]);
    let path = "spec.strategy.rollingUpdate.maxUnavailable";
    share(errors, unavailable, path, Bounded::To100Percent);
    share(errors, surge, "spec.strategy.rollingUpdate.maxSurge", Bounded::Not);
    if is_none(unavailable) && is_none(surge) {
        errors.push(FieldError::invalid(path, unavailable, "may not be 0 when `maxSurge` is 0"));
    }
}
