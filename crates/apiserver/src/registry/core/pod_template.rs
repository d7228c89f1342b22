//! Pod templates that are objects of their own.

use std::sync::Arc;

use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::at::At;
use crate::registry::tree::child;
use crate::registry::{Context, Descriptor, Strategy, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::POD_TEMPLATES, strategy: |_| Arc::new(PodTemplateStrategy) };

struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    fn default(&self, template: &mut Value) {
        pod_spec::default_template(template);
        child(template, "template").and_then(|template| child(template, "metadata"));
    }

    fn prepare_for_create(&self, _: &Context<'_>, template: &mut Value) {
        pod_spec::drop_disabled_in_template(template, None);
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        pod_spec::drop_disabled_in_template(new, Some(old));
    }

    fn validate(&self, _: &Context<'_>, template: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        pod_spec::template_spec(&mut errors, &At::new(&template["template"], "template"));
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        pod_spec::template_warnings(&new["template"], "template")
    }
}
