//! Ingresses.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{is_set, list, one_of, set, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::INGRESSES, strategy: |_| Arc::new(IngressStrategy) };

struct IngressStrategy;

impl Strategy for IngressStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, ingress: &mut Value) {
        set(ingress, "status", json!({"loadBalancer": {}}));
    }

    fn validate(&self, _: &Context<'_>, ingress: &Value) -> Vec<FieldError> {
        let spec = &ingress["spec"];
        let mut errors = Vec::new();
        if !is_set(spec, "defaultBackend") && list(&spec["rules"]).is_empty() {
            let why = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid("spec", spec, why));
        }
        if is_set(spec, "defaultBackend") {
            validate_backend(&mut errors, &spec["defaultBackend"], "spec.defaultBackend");
        }
        for (at, rule) in list(&spec["rules"]).iter().enumerate() {
            let host = text(&rule["host"]);
            let complaints = machinery::names::dns1123_subdomain(host.strip_prefix("*.").unwrap_or(host));
            let path = format!("spec.rules[{at}]");
            if !host.is_empty() {
                errors.extend(
                    complaints.iter().map(|why| FieldError::invalid(format!("{path}.host"), &rule["host"], why)),
                );
            }
            let paths = list(&rule["http"]["paths"]);
            if is_set(rule, "http") && paths.is_empty() {
                errors.push(FieldError::required(format!("{path}.http.paths"), ""));
            }
            for (at, entry) in paths.iter().enumerate() {
                validate_path(&mut errors, entry, &format!("{path}.http.paths[{at}]"));
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate_path(errors: &mut Vec<FieldError>, entry: &Value, path: &str) {
    if is_set(entry, "pathType") {
        one_of(errors, &entry["pathType"], &format!("{path}.pathType"), &["Exact", "ImplementationSpecific", "Prefix"]);
    } else {
        errors.push(FieldError::required(format!("{path}.pathType"), "pathType must be specified"));
    }
    if matches!(text(&entry["pathType"]), "Exact" | "Prefix") && !text(&entry["path"]).starts_with('/') {
        errors.push(FieldError::invalid(format!("{path}.path"), &entry["path"], "must be an absolute path"));
    }
    validate_backend(errors, &entry["backend"], &format!("{path}.backend"));
}

fn validate_backend(errors: &mut Vec<FieldError>, backend: &Value, path: &str) {
    match (is_set(backend, "service"), is_set(backend, "resource")) {
        (true, true) => {
            let why = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, &Value::from(""), why));
        }
        (true, false) => {
            let service = &backend["service"];
            if text(&service["name"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.service.name"), ""));
            }
            let port = &service["port"];
            match (port["number"].as_i64().unwrap_or(0) != 0, !text(&port["name"]).is_empty()) {
                (true, true) => {
                    errors.push(FieldError::invalid(path, &Value::from(""), "cannot set both port name & port number"));
                }
                (false, false) => errors.push(FieldError::required(path, "port name or number is required")),
                _ => {}
            }
        }
        (false, true) => {}
        (false, false) => errors.push(FieldError::required(path, "resource or service backend is required")),
    }
}
