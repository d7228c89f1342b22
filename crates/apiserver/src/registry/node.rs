//! Strategies of the `node.k8s.io` group.

use std::collections::BTreeSet;
use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use super::at::At;
use super::{Context, Descriptor, Strategy, check, node_labels, pod_spec};
use crate::invalid::FieldError;

/// Runtime classes.
pub const RUNTIME_CLASS: Descriptor =
    Descriptor { resource: api::resources::RUNTIME_CLASSES, strategy: |_| Arc::new(RuntimeClassStrategy) };

struct RuntimeClassStrategy;

impl Strategy for RuntimeClassStrategy {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, class: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(class, "");
        check::required_text(&mut errors, &root.at("handler"), names::dns1123_label);
        let overhead = root.at("overhead");
        if overhead.is_set() {
            pod_spec::overhead(&mut errors, &overhead.with(overhead.at("podFixed").value()));
        }
        let scheduling = root.at("scheduling");
        check::labels(&mut errors, &scheduling.at("nodeSelector"));
        let tolerations = scheduling.at("tolerations");
        pod_spec::tolerations(&mut errors, &tolerations);
        let mut seen = BTreeSet::new();
        for toleration in tolerations.items() {
            let fields = ["key", "operator", "value", "effect"].map(|field| toleration.at(field).text().to_owned());
            let [key, operator, value, effect] = &fields;
            let shown = json!({"Key": key, "Operator": operator, "Value": value, "Effect": effect,
                "TolerationSeconds": toleration.at("tolerationSeconds").value()});
            if !seen.insert(fields) {
                errors.push(toleration.duplicate_as(shown));
            }
        }
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check::immutable(&mut errors, &At::new(new, "").at("handler"), &old["handler"]);
        errors
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let root = At::new(new, "");
        let scheduling = root.at("scheduling");
        let labels = scheduling.at("nodeSelector");
        let deprecated = labels.entries().filter_map(|(key, _)| node_labels::deprecation(key));
        deprecated.map(|message| format!("scheduling.nodeSelector: {message}")).collect()
    }
}
