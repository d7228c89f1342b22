//! MutatingAdmissionPolicies and their bindings: defaults, and what must hold of them. What they make of writes is in
//! [`crate::admission::mutating_admission_policy`].

use std::sync::Arc;

use api::resources;
use machinery::names;
use serde_json::Value;

use super::validating_admission_policy::{constraints, default_constraints, given, param_kind, parameters, variables};
use super::{FAILURE_POLICIES, conditions, new_errors};
use crate::admission::mutating_admission_policy::Compiled;
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::check;
use crate::registry::tree::{child, present, set_default};
use crate::registry::{Context, Descriptor, Strategy};

/// The policies.
pub const POLICY: Descriptor =
    Descriptor { resource: resources::MUTATING_ADMISSION_POLICIES, strategy: |_| Arc::new(PolicyStrategy) };
/// The bindings.
pub const BINDING: Descriptor =
    Descriptor { resource: resources::MUTATING_ADMISSION_POLICY_BINDINGS, strategy: |_| Arc::new(BindingStrategy) };

/// A deletion has no object to change.
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

struct PolicyStrategy;

impl Strategy for PolicyStrategy {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn default(&self, policy: &mut Value) {
        if let Some(spec) = child(policy, "spec") {
            set_default(spec, "failurePolicy", "Fail");
            default_constraints(spec, "matchConstraints");
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, policy: &Value) -> Vec<FieldError> {
        policy_errors(policy)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        // What was taken once can be kept.
        new_errors(policy_errors(new), &policy_errors(old))
    }
}

struct BindingStrategy;

impl Strategy for BindingStrategy {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn default(&self, binding: &mut Value) {
        if let Some(spec) = present(binding, "spec") {
            default_constraints(spec, "matchResources");
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, binding: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(binding, "");
        let spec = root.at("spec");
        check::required_text(&mut errors, &spec.at("policyName"), names::dns1123_subdomain);
        parameters(&mut errors, &spec.at("paramRef"));
        let matching = spec.at("matchResources");
        if matching.is_set() {
            constraints(&mut errors, &matching);
            operations(&mut errors, &matching);
        }
        errors
    }
}

fn policy_errors(policy: &Value) -> Errors {
    let mut errors = structural_errors(policy);
    if errors.is_empty() {
        let wrong = Compiled::of(policy).errors;
        errors.extend(wrong.iter().map(|(path, source, why)| FieldError::invalid(&**path, source, why)));
    }
    errors
}

/// All that is wrong but for what expressions say.
fn structural_errors(policy: &Value) -> Errors {
    let mut errors = Vec::new();
    let root = At::new(policy, "");
    let spec = root.at("spec");
    check::required_one_of(&mut errors, &spec.at("failurePolicy"), FAILURE_POLICIES);
    if spec.at("paramKind").is_set() {
        param_kind(&mut errors, &spec.at("paramKind"));
    }
    let matching = spec.at("matchConstraints");
    if matching.is_set() {
        constraints(&mut errors, &matching);
        if matching.at("resourceRules").count() == 0 {
            errors.push(matching.at("resourceRules").required(""));
        }
        operations(&mut errors, &matching);
    } else {
        errors.push(matching.required(""));
    }
    conditions(&mut errors, &spec.at("matchConditions"));
    variables(&mut errors, &spec.at("variables"));
    let mutations = spec.at("mutations");
    if mutations.count() == 0 {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    mutations.items().for_each(|mutation| self::mutation(&mut errors, &mutation));
    check::required_one_of(&mut errors, &spec.at("reinvocationPolicy"), &["IfNeeded", "Never"]);
    errors
}

/// Upstream's path names no rule.
fn operations(errors: &mut Errors, matching: &At<'_>) {
    let rules = matching.at("resourceRules");
    for rule in rules.items() {
        for operation in rule.at("operations").items().filter(|operation| !OPERATIONS.contains(&operation.text())) {
            errors.push(rules.at("operations").with(operation.value()).not_supported(OPERATIONS));
        }
    }
}

fn mutation(errors: &mut Errors, at: &At<'_>) {
    let kind = at.at("patchType");
    let (own, other) = match kind.text() {
        "" => return errors.push(kind.required("")),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => return errors.push(kind.not_supported(&["ApplyConfiguration", "JSONPatch"])),
    };
    if at.at(own).is_set() {
        given(errors, &at.at(own).at("expression"), "");
    } else {
        errors.push(at.at(own).required(&format!("must be specified when patchType is {}", kind.text())));
    }
    if at.at(other).is_set() {
        let why = format!("must not be specified when patchType is {}", kind.text());
        errors.push(at.at(other).invalid_as(format!("{{{other}}}"), &why));
    }
}
