//! Ingress classes.

use std::sync::Arc;

use machinery::names;
use serde_json::Value;

use super::ingress::object_reference;
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{present, set_default};
use crate::registry::{Context, Descriptor, Strategy, check};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::INGRESS_CLASSES, strategy: |_| Arc::new(IngressClassStrategy) };

const CONTROLLER_LENGTH_MAX: usize = 250;

struct IngressClassStrategy;

impl Strategy for IngressClassStrategy {
    fn default(&self, class: &mut Value) {
        if let Some(parameters) = present(class, "spec").and_then(|spec| present(spec, "parameters")) {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, class: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(class, "");
        let spec = root.at("spec");
        let controller = spec.text_at("controller");
        if controller.text().len() > CONTROLLER_LENGTH_MAX {
            errors.push(controller.too_long(CONTROLLER_LENGTH_MAX));
        }
        domain_prefixed_path(&mut errors, &controller);
        if spec.at("parameters").is_set() {
            parameters(&mut errors, &spec.at("parameters"));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        let spec = root.at("spec");
        check::immutable(&mut errors, &spec.at("controller"), &old["spec"]["controller"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// `example.com/some/path`
fn domain_prefixed_path(errors: &mut Errors, at: &At<'_>) {
    if !at.has_text() {
        errors.push(at.required(""));
        return;
    }
    let Some((domain, path)) =
        at.text().split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        errors.push(at.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    errors.extend(names::dns1123_subdomain(domain).iter().map(|why| at.invalid_as(domain, why)));
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
    if !path.bytes().all(allowed) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(at.invalid_as(path, why));
    }
}

fn parameters(errors: &mut Errors, at: &At<'_>) {
    object_reference(errors, at);
    let (scope, namespace) = (at.at("scope"), at.at("namespace"));
    check::one_of(errors, &scope, &["Cluster", "Namespace"]);
    match (scope.text(), namespace.is_set()) {
        ("Namespace", false) => errors.push(namespace.required("`parameters.scope` is set to 'Namespace'")),
        ("Namespace", true) => check::text(errors, &namespace, names::dns1123_label),
        ("Cluster", true) => errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'")),
        _ => {}
    }
}
