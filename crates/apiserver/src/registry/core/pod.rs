//! Pods: defaults, what may change after creation, and how long a deleted pod is given to end.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{child, immutable, keep, list, list_mut, present, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, keep_all_but_status, keep_status, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { resource: api::resources::PODS, strategy: |_| Arc::new(PodStrategy) };

struct PodStrategy;

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

impl Strategy for PodStrategy {
    fn default(&self, pod: &mut Value) {
        let Some(spec) = child(pod, "spec") else { return };
        pod_spec::default(spec);
        pod_spec::default_requests(spec);
        set_default(spec, "enableServiceLinks", true);
    }

    fn prepare_for_create(&self, _: &Context<'_>, pod: &mut Value) {
        let mut status = json!({"phase": "Pending", "qosClass": pod_spec::quality_of_service(&pod["spec"])});
        if !list(&pod["spec"]["schedulingGates"]).is_empty() {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            status["conditions"] =
                json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": message}]);
        }
        set(pod, "status", status);
    }

    fn validate(&self, _: &Context<'_>, pod: &Value) -> Vec<FieldError> {
        let mut errors = pod_spec::validate(&pod["spec"], "spec");
        if !list(&pod["spec"]["ephemeralContainers"]).is_empty() {
            errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
        }
        if !list(&pod["spec"]["schedulingGates"]).is_empty() && !text(&pod["spec"]["nodeName"]).is_empty() {
            let why = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden("spec.nodeName", why));
        }
        errors
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        // These have subresources of their own.
        if let Some(spec) = present(new, "spec") {
            keep(spec, &old["spec"], "ephemeralContainers");
        }
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if unchangeable(new) != unchangeable(old) {
            errors.push(FieldError::forbidden("spec", FIXED));
        }
        let (tolerated, before) = (list(&new["spec"]["tolerations"]), list(&old["spec"]["tolerations"]));
        if before.iter().any(|toleration| !tolerated.contains(toleration)) {
            let why = "existing toleration can not be modified except its tolerationSeconds";
            let only_seconds = before.iter().all(|old| tolerated.iter().any(|new| same_but_seconds(new, old)));
            if !only_seconds {
                errors.push(FieldError::forbidden("spec.tolerations", why));
            }
        }
        let (gates, before) = (list(&new["spec"]["schedulingGates"]), list(&old["spec"]["schedulingGates"]));
        if gates.iter().any(|gate| !before.contains(gate)) {
            let why = "only deletion is allowed, but found new scheduling gate";
            errors.push(FieldError::forbidden("spec.schedulingGates", why));
        }
        if errors.is_empty() {
            errors.extend(pod_spec::validate(&new["spec"], "spec"));
        }
        errors
    }

    fn prepare_for_subresource_update(&self, _: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        if subresource == "status" {
            let quality = old["status"]["qosClass"].clone();
            keep_all_but_status(new, old);
            if let Some(status) = present(new, "status") {
                set_default(status, "qosClass", quality);
            }
            return;
        }
        let mut kept = old.clone();
        if let Some(spec) = present(&mut kept, "spec") {
            match subresource {
                "ephemeralcontainers" => keep(spec, &new["spec"], "ephemeralContainers"),
                "resize" => take_resources(spec, &new["spec"]),
                _ => {}
            }
        }
        *new = kept;
    }

    fn validate_subresource_update(
        &self,
        _: &Context<'_>,
        subresource: &str,
        new: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match subresource {
            "status" => {}
            "ephemeralcontainers" => {
                let after = list(&new["spec"]["ephemeralContainers"]);
                for container in list(&old["spec"]["ephemeralContainers"]) {
                    if !after.contains(container) {
                        let why = format!(
                            "existing ephemeral containers {:?} may not be changed or removed",
                            text(&container["name"])
                        );
                        errors.push(FieldError::forbidden("spec.ephemeralContainers", &why));
                    }
                }
                errors.extend(pod_spec::validate(&new["spec"], "spec"));
            }
            _ => {
                errors.extend(pod_spec::validate(&new["spec"], "spec"));
                let (after, before) =
                    (pod_spec::quality_of_service(&new["spec"]), pod_spec::quality_of_service(&old["spec"]));
                immutable(&mut errors, &after.into(), &before.into(), "metadata.qosClass");
            }
        }
        errors
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
}

/// The spec without what an update may change.
fn unchangeable(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates", "ephemeralContainers"] {
        crate::registry::tree::remove(&mut spec, field);
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        set(&mut spec, "terminationGracePeriodSeconds", 1);
    }
    // A gated pod has not been looked at by the scheduler: its node selection may still be narrowed.
    if !list(&pod["spec"]["schedulingGates"]).is_empty() {
        crate::registry::tree::remove(&mut spec, "nodeSelector");
        crate::registry::tree::remove(&mut spec, "affinity");
    }
    for kind in ["containers", "initContainers"] {
        for container in list_mut(&mut spec, kind) {
            crate::registry::tree::remove(container, "image");
        }
    }
    spec
}

fn same_but_seconds(a: &Value, b: &Value) -> bool {
    let without = |toleration: &Value| {
        let mut toleration = toleration.clone();
        crate::registry::tree::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    without(a) == without(b)
}

fn take_resources(spec: &mut Value, from: &Value) {
    for kind in ["containers", "initContainers"] {
        for container in list_mut(spec, kind) {
            let wanted = list(&from[kind]).iter().find(|wanted| wanted["name"] == container["name"]);
            if let Some(wanted) = wanted {
                keep(container, wanted, "resources");
                keep(container, wanted, "resizePolicy");
            }
        }
    }
}
