//! Flow schemas.

use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use super::{conditions, mandatory};
use crate::flow::defaults;
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, set};
use crate::registry::{ALL_BUT_STATUS, Context, Descriptor, Strategy, check};

pub(super) const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::FLOW_SCHEMAS, strategy: |_| Arc::new(FlowSchemaStrategy) };

const PRECEDENCE: i64 = 1000;
const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

struct FlowSchemaStrategy;

fn default(schema: &mut Value) {
    let Some(spec) = child(schema, "spec") else { return };
    if spec["matchingPrecedence"].as_i64().unwrap_or(0) == 0 {
        set(spec, "matchingPrecedence", PRECEDENCE);
    }
}

impl Strategy for FlowSchemaStrategy {
    fn default(&self, schema: &mut Value) {
        default(schema);
    }

    fn prepare_for_create(&self, _: &Context<'_>, schema: &mut Value) {
        set(schema, "status", json!({}));
    }

    fn validate(&self, _: &Context<'_>, schema: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(schema, "");
        let (metadata, spec) = (root.at("metadata"), root.at("spec"));
        let name = metadata.at("name").text();
        validate_spec(&mut errors, name, &spec);
        if mandatory(defaults::schemas(), name, default).is_some_and(|fixed| fixed != *spec.value()) {
            errors.push(spec.invalid(&format!("spec of '{name}' must equal the fixed value")));
        }
        conditions(&mut errors, &root.at("status"));
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        conditions(&mut errors, &At::new(&new["status"], "status"));
        errors
    }

    /// Metadata is written with the object itself only.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        if subresource.is_empty() { &[&["status"]] } else { ALL_BUT_STATUS }
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate_spec(errors: &mut Errors, name: &str, spec: &At<'_>) {
    let precedence = spec.number_at("matchingPrecedence");
    let number = precedence.number().unwrap_or(0);
    if number <= 0 {
        errors.push(precedence.invalid("must be a positive value"));
    }
    if number > PRECEDENCE_MAX {
        errors.push(precedence.invalid(&format!("must not be greater than {PRECEDENCE_MAX}")));
    }
    if number == 1 && name != "exempt" {
        errors.push(precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
    }
    let method = spec.at("distinguisherMethod");
    let kind = method.text_at("type");
    if method.is_set() && !matches!(kind.text(), "ByNamespace" | "ByUser") {
        let shown = json!({"Type": kind.value()});
        errors.push(kind.with(&shown).not_supported(&["ByNamespace", "ByUser"]));
    }
    let level = spec.at("priorityLevelConfiguration");
    let level = level.at("name");
    if level.has_text() {
        check::text(errors, &level, names::dns1123_subdomain);
    } else {
        errors.push(level.required("must reference a priority level"));
    }
    spec.at("rules").items().for_each(|rule| validate_rule(errors, &rule));
}

fn validate_rule(errors: &mut Errors, rule: &At<'_>) {
    let (subjects, resources, paths) = (rule.at("subjects"), rule.at("resourceRules"), rule.at("nonResourceRules"));
    if subjects.count() == 0 {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    subjects.items().for_each(|subject| validate_subject(errors, &subject));
    if resources.count() == 0 && paths.count() == 0 {
        errors.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    resources.items().for_each(|rule| validate_resources(errors, &rule));
    paths.items().for_each(|rule| validate_paths(errors, &rule));
}

/// The kinds of subjects, and where each is described.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn validate_subject(errors: &mut Errors, subject: &At<'_>) {
    let kind = subject.text_at("kind");
    let Some((_, field)) = SUBJECTS.iter().find(|(name, _)| *name == kind.text()) else {
        return errors.push(kind.not_supported(&["Group", "ServiceAccount", "User"]));
    };
    let described = subject.at(field);
    if !described.is_set() {
        errors.push(described.required(&format!("{field} is required when subject kind is '{}'", kind.text())));
    } else if kind.text() == "ServiceAccount" {
        let (name, namespace) = (described.at("name"), described.at("namespace"));
        if name.text() != "*" {
            check::required_text(errors, &name, names::dns1123_subdomain);
        }
        if namespace.has_text() {
            check::text(errors, &namespace, names::dns1123_label);
        } else {
            errors.push(namespace.required("must specify namespace for service account"));
        }
    } else {
        check::required(errors, &described.at("name"));
    }
    for (name, other) in SUBJECTS.iter().filter(|(_, other)| other != field) {
        if subject.at(other).is_set() {
            errors
                .push(subject.at(other).forbidden(&format!("{other} is forbidden when subject kind is not '{name}'")));
        }
    }
}

fn has_all(at: &At<'_>) -> bool {
    at.items().any(|item| item.text() == "*")
}

fn validate_verbs(errors: &mut Errors, verbs: &At<'_>) {
    if verbs.count() == 0 {
        errors.push(verbs.required("verbs must contain at least one value"));
    } else if has_all(verbs) {
        if verbs.count() > 1 {
            errors.push(verbs.invalid("if '*' is present, must not specify other verbs"));
        }
    } else if verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        errors.push(verbs.not_supported(VERBS));
    }
}

fn validate_paths(errors: &mut Errors, rule: &At<'_>) {
    validate_verbs(errors, &rule.at("verbs"));
    let paths = rule.at("nonResourceURLs");
    if paths.count() == 0 {
        errors.push(paths.required("nonResourceURLs must contain at least one value"));
    } else if has_all(&paths) {
        if paths.count() > 1 {
            errors.push(paths.invalid("if '*' is present, must not specify other non-resource URLs"));
        }
    } else {
        errors.extend(paths.items().filter_map(|path| wrong_path(path.text()).map(|why| path.invalid(why))));
    }
}

fn wrong_path(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    if path.is_empty() {
        Some("must not be empty")
    } else if !path.starts_with('/') {
        Some("must start with slash")
    } else if path.contains(' ') {
        Some("must not contain white-space")
    } else if path.contains("//") {
        Some("must not contain double slash")
    } else if stars > 1 || (stars == 1 && !path.ends_with("/*")) {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

fn validate_resources(errors: &mut Errors, rule: &At<'_>) {
    validate_verbs(errors, &rule.at("verbs"));
    for (field, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let list = rule.at(field);
        if list.count() == 0 {
            errors.push(list.required(&format!("resource rules must supply at least one {one}")));
        } else if list.count() > 1 && has_all(&list) {
            errors.push(list.invalid(&format!("if '*' is present, must not specify other {many}")));
        }
    }
    let namespaces = rule.at("namespaces");
    if namespaces.count() == 0 && !rule.at("clusterScope").is_true() {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(namespaces.required(why));
    } else if has_all(&namespaces) {
        if namespaces.count() > 1 {
            errors.push(namespaces.invalid("if '*' is present, must not specify other namespaces"));
        }
    } else {
        for namespace in namespaces.items() {
            let wrong = names::dns1123_label(namespace.text());
            let told = |why: &String| format!("each member of this list must be '*' or a DNS-1123 label; {why}");
            errors.extend(wrong.iter().map(|why| namespace.invalid(&told(why))));
        }
    }
}
