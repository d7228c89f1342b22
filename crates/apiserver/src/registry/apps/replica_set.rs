//! Replica sets.

use std::sync::Arc;

use serde_json::{Value, json};

use super::workload::{AtMost, Workload, WorkloadStrategy, warn_of_name};
use crate::invalid::FieldError;
use crate::registry::Descriptor;
use crate::registry::tree::{not_negative, set_default};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::REPLICA_SETS, strategy: |_| Arc::new(WorkloadStrategy(ReplicaSet)) };

struct ReplicaSet;

impl Workload for ReplicaSet {
    const SELECTS_FOR: &'static str = "deployment";
    const COUNTS: &'static [&'static str] =
        &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas"];
    const AT_MOST: &'static [AtMost] = &[
        ("fullyLabeledReplicas", "replicas", "status.replicas"),
        ("readyReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "readyReplicas", "readyReplicas"),
    ];

    fn default_spec(&self, spec: &mut Value) {
        set_default(spec, "replicas", 1);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        warn_of_name(&mut warnings, new, old);
        warnings
    }

    fn new_status(&self) -> Value {
        json!({"replicas": 0})
    }

    fn validate_spec(&self, spec: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        not_negative(&mut errors, &spec["replicas"], "spec.replicas");
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        errors
    }
}
