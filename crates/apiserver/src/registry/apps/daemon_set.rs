//! Daemon sets.

use std::sync::Arc;

use serde_json::{Value, json};

use super::workload::{Bounded, Workload, WorkloadStrategy, default_strategy, is_none, share};
use crate::invalid::FieldError;
use crate::registry::Descriptor;
use crate::registry::tree::{child, not_negative, one_of, set, set_default, text};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::DAEMON_SETS, strategy: |_| Arc::new(WorkloadStrategy(DaemonSet)) };

/// Counts the templates that the set has had; a field of the spec in older versions of the API.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSet;

impl Workload for DaemonSet {
    const SELECTS_FOR: &'static str = "daemonset";
    const WITHOUT_DEADLINE: Option<&'static str> = Some("DaemonSet");
    const COUNTS: &'static [&'static str] = &[
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    ];

    fn default_spec(&self, spec: &mut Value) {
        set_default(spec, "revisionHistoryLimit", 10);
        if let Some(rolling) = default_strategy(spec, "updateStrategy") {
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
    }

    fn new_status(&self) -> Value {
        json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
    }

    fn prepare(&self, object: &mut Value, old: Option<&Value>) {
        let generation = match old {
            None => 1,
            Some(old) => {
                let before = text(&old["metadata"]["annotations"][TEMPLATE_GENERATION]).parse().unwrap_or(0);
                before + i64::from(object["spec"]["template"] != old["spec"]["template"])
            }
        };
        let annotations = child(object, "metadata").and_then(|meta| child(meta, "annotations"));
        if let Some(annotations) = annotations {
            set(annotations, TEMPLATE_GENERATION, generation.to_string());
        }
    }

    fn validate_spec(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        not_negative(&mut errors, &spec["revisionHistoryLimit"], "spec.revisionHistoryLimit");
        let strategy = &spec["updateStrategy"];
        one_of(&mut errors, &strategy["type"], "spec.updateStrategy", &["RollingUpdate", "OnDelete"]);
        if text(&strategy["type"]) == "RollingUpdate" {
            validate_rolling_update(&mut errors, &strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate");
        }
        errors
    }
}

fn validate_rolling_update(errors: &mut Vec<FieldError>, rolling: &Value, path: &str) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let (unavailable_path, surge_path) = (format!("{path}.maxUnavailable"), format!("{path}.maxSurge"));
    share(errors, unavailable, &unavailable_path, Bounded::To100Percent);
    share(errors, surge, &surge_path, Bounded::To100Percent);
    match (is_none(unavailable), is_none(surge)) {
        (false, false) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(surge_path, surge, why));
        }
        (true, true) => errors.push(FieldError::required(unavailable_path, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
}
