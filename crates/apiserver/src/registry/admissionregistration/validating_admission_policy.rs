//! ValidatingAdmissionPolicies and their bindings: defaults, and what must hold of them. What they say of writes is in
//! [`crate::admission::validating_admission_policy`].

use std::sync::Arc;

use api::resources;
use serde_json::{Value, json};

use crate::admission::validating_admission_policy::Compiled;
use crate::invalid::FieldError;
use crate::registry::tree::{child, list, list_mut, one_of, remove, set_default, text};
use crate::registry::{Context, Descriptor, Strategy, keep_status};

/// The policies.
pub const POLICY: Descriptor =
    Descriptor { resource: resources::VALIDATING_ADMISSION_POLICIES, strategy: |_| Arc::new(PolicyStrategy) };
/// The bindings.
pub const BINDING: Descriptor =
    Descriptor { resource: resources::VALIDATING_ADMISSION_POLICY_BINDINGS, strategy: |_| Arc::new(BindingStrategy) };

struct PolicyStrategy;
struct BindingStrategy;

/// What `matchConstraints` and `matchResources` leave out.
fn default_matches(matches: &mut Value) {
    set_default(matches, "matchPolicy", "Equivalent");
    set_default(matches, "namespaceSelector", json!({}));
    set_default(matches, "objectSelector", json!({}));
    for field in ["resourceRules", "excludeResourceRules"] {
        for rule in list_mut(matches, field) {
            set_default(rule, "scope", "*");
        }
    }
}

impl Strategy for PolicyStrategy {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = child(policy, "spec") else { return };
        set_default(spec, "failurePolicy", "Fail");
        if let Some(matches) = child(spec, "matchConstraints") {
            default_matches(matches);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, policy: &mut Value) {
        remove(policy, "status");
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate(&self, _: &Context<'_>, policy: &Value) -> Vec<FieldError> {
        policy_errors(policy)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        // What was taken once can be kept.
        if new["spec"] == old["spec"] { Vec::new() } else { policy_errors(new) }
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn policy_errors(policy: &Value) -> Vec<FieldError> {
    let spec = &policy["spec"];
    let mut errors = Vec::new();
    if list(&spec["validations"]).is_empty() && list(&spec["auditAnnotations"]).is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required("spec.validations", why));
    }
    if list(&spec["matchConstraints"]["resourceRules"]).is_empty() {
        let at = if spec["matchConstraints"].is_object() { ".resourceRules" } else { "" };
        errors.push(FieldError::required(format!("spec.matchConstraints{at}"), ""));
    }
    one_of(&mut errors, &spec["failurePolicy"], "spec.failurePolicy", &["Fail", "Ignore"]);
    for (at, validation) in list(&spec["validations"]).iter().enumerate() {
        let path = |field: &str| format!("spec.validations[{at}].{field}");
        if text(&validation["expression"]).trim().is_empty() {
            errors.push(FieldError::required(path("expression"), "expression is not specified"));
        }
        let reason = &validation["reason"];
        if !reason.is_null() {
            const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
            one_of(&mut errors, reason, &path("reason"), REASONS);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (at, variable) in list(&spec["variables"]).iter().enumerate() {
        let (path, name) = (format!("spec.variables[{at}].name"), text(&variable["name"]));
        let first = name.chars().next().is_some_and(|sign| sign.is_ascii_alphabetic() || sign == '_');
        if name.is_empty() {
            errors.push(FieldError::required(path, "name is not specified"));
        } else if !first || !name.chars().all(|sign| sign.is_ascii_alphanumeric() || sign == '_') {
            errors.push(FieldError::invalid(path, &variable["name"], "name is not a valid CEL identifier"));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(path, &variable["name"]));
        }
        seen.push(name);
    }
    if errors.is_empty() {
        let wrong = Compiled::of(policy).errors;
        errors.extend(wrong.iter().map(|(path, source, why)| FieldError::invalid(&**path, source, why)));
    }
    errors
}

impl Strategy for BindingStrategy {
    fn default(&self, binding: &mut Value) {
        if let Some(matches) = child(binding, "spec").and_then(|spec| child(spec, "matchResources")) {
            default_matches(matches);
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, binding: &Value) -> Vec<FieldError> {
        let spec = &binding["spec"];
        let mut errors = Vec::new();
        if text(&spec["policyName"]).is_empty() {
            errors.push(FieldError::required("spec.policyName", ""));
        }
        let actions = list(&spec["validationActions"]);
        if actions.is_empty() {
            errors.push(FieldError::required("spec.validationActions", "at least one validation action is required"));
        }
        for (at, action) in actions.iter().enumerate() {
            let path = format!("spec.validationActions[{at}]");
            one_of(&mut errors, action, &path, &["Audit", "Deny", "Warn"]);
            if actions[..at].contains(action) {
                errors.push(FieldError::duplicate(path, action));
            }
        }
        if actions.iter().any(|action| action == "Deny") && actions.iter().any(|action| action == "Warn") {
            let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                       response and headers serves no purpose)";
            errors.push(FieldError::invalid("spec.validationActions", &spec["validationActions"], why));
        }
        param_errors(&spec["paramRef"], &mut errors);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn param_errors(wanted: &Value, errors: &mut Vec<FieldError>) {
    if wanted.is_null() {
        return;
    }
    let (name, selector) = (!text(&wanted["name"]).is_empty(), !wanted["selector"].is_null());
    if name && selector {
        errors.push(FieldError::forbidden("spec.paramRef.name", "name and selector are mutually exclusive"));
    }
    if !name && !selector {
        errors.push(FieldError::required("spec.paramRef", "one of name or selector must be specified"));
    }
    let (path, action) = ("spec.paramRef.parameterNotFoundAction", &wanted["parameterNotFoundAction"]);
    one_of(errors, action, path, &["Allow", "Deny"]);
}
