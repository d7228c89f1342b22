//! Pods: defaults, what may change after creation, and how long a deleted pod is given to end.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{child, keep, list, present, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, keep_status, pod_spec, reset};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { resource: api::resources::PODS, strategy: |_| Arc::new(PodStrategy) };

struct PodStrategy;

impl Strategy for PodStrategy {
    fn default(&self, pod: &mut Value) {
        let Some(spec) = child(pod, "spec") else { return };
        pod_spec::default(spec);
        pod_spec::default_pod(spec);
    }

    fn prepare_for_create(&self, _: &Context<'_>, pod: &mut Value) {
        let mut status = json!({"phase": "Pending", "qosClass": pod_spec::quality_of_service(&pod["spec"])});
        if !list(&pod["spec"]["schedulingGates"]).is_empty() {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            status["conditions"] =
                json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": message}]);
        }
        set(pod, "status", status);
        if let Some(spec) = present(pod, "spec") {
            pod_spec::drop_disabled(spec, None);
        }
        pod_spec::select_own_labels(pod);
        pod_spec::take_app_armor_annotations(pod);
    }

    fn validate(&self, _: &Context<'_>, pod: &Value) -> Vec<FieldError> {
        pod_spec::validate_new_pod(pod)
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        if let Some(spec) = present(new, "spec") {
            pod_spec::drop_disabled(spec, Some(&old["spec"]));
        }
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        pod_spec::update::validate(new, old)
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "status" => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            _ => &[&["status"]],
        }
    }

    fn prepare_for_subresource_update(&self, _: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        match subresource {
            "status" => {
                reset(new, old, self.reset_fields(subresource));
                if let Some(status) = present(new, "status") {
                    set_default(status, "qosClass", old["status"]["qosClass"].clone());
                    pod_spec::status::keep_observed_generation(status, &old["status"]);
                }
            }
            "ephemeralcontainers" => {
                let mut kept = old.clone();
                if let Some(spec) = present(&mut kept, "spec") {
                    keep(spec, &new["spec"], "ephemeralContainers");
                    pod_spec::drop_disabled(spec, Some(&old["spec"]));
                }
                *new = with_metadata_of(kept, new);
            }
            _ => *new = with_metadata_of(pod_spec::update::resized(new, old), new),
        }
    }

    fn validate_subresource_update(
        &self,
        _: &Context<'_>,
        subresource: &str,
        new: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        match subresource {
            "status" => pod_spec::status::validate(new, old),
            "ephemeralcontainers" => pod_spec::update::validate_ephemeral(new, old),
            _ => pod_spec::update::validate_resize(new, old),
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn grace_seconds(&self, pod: &Value, asked: Option<i64>) -> i64 {
        let ended = matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
        if ended || text(&pod["spec"]["nodeName"]).is_empty() {
            return 0;
        }
        let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        match asked.unwrap_or(own) {
            // Upstream reads a negative period as one second.
            negative if negative < 0 => 1,
            seconds => seconds,
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        // People change pods through what makes them; what kubelets and schedulers write is not worth the time.
        if old.is_some() {
            return Vec::new();
        }
        let complaints = machinery::names::dns1123_label(text(&new["metadata"]["name"]));
        let mut warnings = Vec::new();
        if !complaints.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
                 recommended: [{}]",
                complaints.join(" ")
            ));
        }
        warnings.extend(pod_spec::pod_warnings(new));
        warnings
    }
}

/// A pod with what the server goes by in the metadata of a write; the rest a subresource does not change.
fn with_metadata_of(mut pod: Value, new: &Value) -> Value {
    if let Some(metadata) = present(&mut pod, "metadata") {
        for field in ["managedFields", "resourceVersion"] {
            keep(metadata, &new["metadata"], field);
        }
    }
    pod
}
