//! Replication controllers: replica sets of an older shape, whose selector is a plain map.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::apps::workload::{AtMost, validate_counts, warn_of_name};
use crate::registry::tree::{child, entries, is_set, not_negative, present, set, set_default};
use crate::registry::{Context, Descriptor, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    resource: api::resources::REPLICATION_CONTROLLERS,
    strategy: |_| Arc::new(ReplicationControllerStrategy),
};

const COUNTS: &[&str] = &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
const AT_MOST: &[AtMost] = &[
    ("fullyLabeledReplicas", "replicas", "status.replicas"),
    ("readyReplicas", "replicas", "status.replicas"),
    ("availableReplicas", "replicas", "status.replicas"),
    ("availableReplicas", "readyReplicas", "readyReplicas"),
];

struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    fn default(&self, controller: &mut Value) {
        let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
        if entries(&labels).next().is_some() {
            if let Some(metadata) = child(controller, "metadata") {
                set_default(metadata, "labels", labels.clone());
            }
            if let Some(spec) = child(controller, "spec") {
                set_default(spec, "selector", labels);
            }
        }
        let Some(spec) = child(controller, "spec") else { return };
        set_default(spec, "replicas", 1);
        // Unlike those of the younger kinds, this template may be absent: then it is missed.
        if is_set(spec, "template") {
            pod_spec::default_template(spec);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, controller: &mut Value) {
        set(controller, "status", json!({"replicas": 0}));
        if let Some(spec) = present(controller, "spec") {
            pod_spec::drop_disabled_in_template(spec, None);
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        crate::registry::keep_status(new, old);
        if let Some(spec) = present(new, "spec") {
            pod_spec::drop_disabled_in_template(spec, Some(&old["spec"]));
        }
    }

    fn validate(&self, _: &Context<'_>, controller: &Value) -> Vec<FieldError> {
        let spec = &controller["spec"];
        let mut errors = Vec::new();
        not_negative(&mut errors, &spec["minReadySeconds"], "spec.minReadySeconds");
        if entries(&spec["selector"]).next().is_none() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        not_negative(&mut errors, &spec["replicas"], "spec.replicas");
        if !is_set(spec, "template") {
            errors.push(FieldError::required("spec.template", ""));
            return errors;
        }
        let labels = &spec["template"]["metadata"]["labels"];
        if entries(&spec["selector"]).any(|(key, value)| labels.get(key) != Some(value)) {
            let why = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
        }
        errors.extend(pod_spec::validate_template(&spec["template"], "spec.template", &["Always"]));
        if is_set(&spec["template"]["spec"], "activeDeadlineSeconds") {
            let why = "activeDeadlineSeconds in ReplicationController is not Supported";
            errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", why));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        warn_of_name(&mut warnings, new, old);
        if old.is_none_or(|old| old["spec"] != new["spec"]) {
            warnings.extend(pod_spec::template_warnings(&new["spec"]["template"], "spec.template"));
        }
        warnings
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        validate_counts(&new["status"], &old["status"], COUNTS, AT_MOST)
    }

    /// As the first clients of this version expect it.
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        true
    }
}
