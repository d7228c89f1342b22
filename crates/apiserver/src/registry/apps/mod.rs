//! Strategies of the `apps` group.

pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod stateful_set;

use serde_json::Value;

use super::pod_spec;
use super::tree::{entries, is_set, label_selector};
use crate::invalid::FieldError;

/// What every workload's selector must be: not empty, well formed, and matching the template's labels.
pub(super) fn validate_selector(errors: &mut Vec<FieldError>, spec: &Value) {
    let selector = &spec["selector"];
    if !is_set(spec, "selector") {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    label_selector(errors, selector, "spec.selector");
    let empty = entries(&selector["matchLabels"]).next().is_none()
        && super::tree::list(&selector["matchExpressions"]).is_empty();
    if empty {
        let why = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid("spec.selector", selector, why));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let matches = machinery::Selector::from_label_selector(selector)
        .is_ok_and(|selector| selector.matches(|key| labels.get(key).and_then(Value::as_str)));
    if !matches {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
    }
}

/// What every long-running workload's template must be.
pub(super) fn validate_template(spec: &Value) -> Vec<FieldError> {
    pod_spec::validate_template(&spec["template"], "spec.template", &["Always"])
}
