//! ValidatingAdmissionPolicies and their bindings: defaults, and what must hold of them. What they say of writes is in
//! [`crate::admission::validating_admission_policy`].

use std::collections::BTreeSet;
use std::sync::Arc;

use api::resources;
use machinery::{cel, names};
use serde_json::Value;

use super::{FAILURE_POLICIES, MATCH_POLICIES, conditions, default_matching, new_errors, rule, selectors};
use crate::admission::validating_admission_policy::Compiled;
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::check;
use crate::registry::tree::{child, present, remove, set_default, text};
use crate::registry::{ALL_BUT_STATUS, Context, Descriptor, Strategy};

/// The policies.
pub const POLICY: Descriptor =
    Descriptor { resource: resources::VALIDATING_ADMISSION_POLICIES, strategy: |_| Arc::new(PolicyStrategy) };
/// The bindings.
pub const BINDING: Descriptor =
    Descriptor { resource: resources::VALIDATING_ADMISSION_POLICY_BINDINGS, strategy: |_| Arc::new(BindingStrategy) };

const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_BYTES_MAX: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
const NOTHING: &str = "validations or auditAnnotations must contain at least one item";

struct PolicyStrategy;

impl Strategy for PolicyStrategy {
    /// Metadata is written with the object itself only.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        if subresource.is_empty() { &[&["status"]] } else { ALL_BUT_STATUS }
    }

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

    fn prepare_for_create(&self, _: &Context<'_>, policy: &mut Value) {
        remove(policy, "status");
    }

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
        if spec.at("matchResources").is_set() {
            constraints(&mut errors, &spec.at("matchResources"));
        }
        actions(&mut errors, &spec.at("validationActions"));
        errors
    }
}

pub(super) fn default_constraints(spec: &mut Value, field: &str) {
    if let Some(constraints) = present(spec, field) {
        default_matching(constraints);
        rule::default(constraints, "resourceRules");
        rule::default(constraints, "excludeResourceRules");
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
    } else {
        errors.push(matching.required(""));
    }
    conditions(&mut errors, &spec.at("matchConditions"));
    variables(&mut errors, &spec.at("variables"));
    let (validations, annotations) = (spec.at("validations"), spec.at("auditAnnotations"));
    if validations.count() == 0 && annotations.count() == 0 {
        errors.extend([validations.required(NOTHING), annotations.required(NOTHING)]);
    }
    for validation in validations.items() {
        self::validation(&mut errors, &validation);
    }
    self::annotations(&mut errors, &annotations, text(&policy["metadata"]["name"]));
    errors
}

pub(super) fn param_kind(errors: &mut Errors, at: &At<'_>) {
    let (api_version, kind) = (at.at("apiVersion"), at.at("kind"));
    match api_version.text().split('/').collect::<Vec<_>>().as_slice() {
        [""] => errors.push(api_version.required("")),
        [version] => version_of(errors, &api_version, version),
        [group, version] => {
            let wrong = if group.is_empty() { vec![] } else { names::dns1123_subdomain(group) };
            if !wrong.is_empty() {
                errors.push(api_version.invalid_as(*group, &wrong.join(",")));
            }
            version_of(errors, &api_version, version);
        }
        _ => errors.push(api_version.invalid(&format!("unexpected GroupVersion string: {}", api_version.text()))),
    }
    let wrong = names::dns1035_label(&kind.text().to_lowercase());
    if !kind.has_text() {
        errors.push(kind.required(""));
    } else if !wrong.is_empty() {
        errors.push(kind.invalid(&format!("may have mixed case, but should otherwise match: {}", wrong.join(","))));
    }
}

fn version_of(errors: &mut Errors, at: &At<'_>, version: &str) {
    let wrong = names::dns1035_label(version);
    if version.is_empty() {
        errors.push(at.invalid("version must be specified"));
    } else if !wrong.is_empty() {
        errors.push(at.invalid_as(version, &wrong.join(",")));
    }
}

pub(super) fn constraints(errors: &mut Errors, at: &At<'_>) {
    check::required_one_of(errors, &at.at("matchPolicy"), MATCH_POLICIES);
    selectors(errors, at);
    for field in ["resourceRules", "excludeResourceRules"] {
        for rule in at.at(field).items() {
            rule::named(errors, &rule);
        }
    }
}

pub(super) fn variables(errors: &mut Errors, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for variable in at.items() {
        self::variable(errors, &variable);
        let name = variable.at("name");
        if name.has_text() && !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
    }
}

fn variable(errors: &mut Errors, at: &At<'_>) {
    let name = at.at("name");
    if name.text().trim().is_empty() {
        errors.push(name.required("name is not specified"));
    } else if !is_identifier(name.text()) {
        errors.push(name.invalid("must be a valid CEL identifier"));
    }
    given(errors, &at.at("expression"), "expression is not specified");
}

/// Whether a name may stand in an expression as it is: reserved words are said in another way.
fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first == '_' || first.is_ascii_alphabetic())
        && name.chars().all(|letter| letter == '_' || letter.is_ascii_alphanumeric())
        && cel::escape::escape(name).is_some_and(|said| said != format!("__{name}__"))
}

fn validation(errors: &mut Errors, at: &At<'_>) {
    given(errors, &at.at("expression"), "expression is not specified");
    for field in ["messageExpression", "message"] {
        let text = at.at(field);
        if text.has_text() && text.text().trim().is_empty() {
            errors.push(text.invalid("must be non-empty if specified"));
        }
    }
    if at.at("message").text().trim().contains(['\n', '\r']) {
        errors.push(at.at("message").invalid("must not contain line breaks"));
    }
    if at.at("reason").is_set() {
        check::one_of(errors, &at.at("reason"), REASONS);
    }
}

fn annotations(errors: &mut Errors, at: &At<'_>, policy: &str) {
    if at.count() > ANNOTATIONS_MAX {
        errors.push(at.invalid(&format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations")));
    }
    let mut seen = BTreeSet::new();
    for annotation in at.items() {
        let (key, value) = (annotation.at("key"), annotation.at("valueExpression"));
        let qualified = format!("{policy}/{}", key.text());
        for wrong in names::qualified_name(&qualified) {
            errors.push(key.invalid_as(qualified.as_str(), &wrong));
        }
        given(errors, &value, "valueExpression is not specified");
        if value.text().trim().len() > ANNOTATION_BYTES_MAX {
            errors.push(value.required(&format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length")));
        }
        if !seen.insert(key.text().to_owned()) {
            errors.push(key.duplicate());
        }
    }
}

pub(super) fn given(errors: &mut Errors, at: &At<'_>, why: &str) {
    if at.text().trim().is_empty() {
        errors.push(at.required(why));
    }
}

pub(super) fn parameters(errors: &mut Errors, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let (name, selector) = (at.at("name"), at.at("selector"));
    check::optional_text(errors, &name, names::path_segment);
    check::label_selector(errors, &selector);
    match (name.has_text(), selector.is_set()) {
        (true, true) => {
            const BOTH: &str = "name and selector are mutually exclusive";
            errors.extend([name.forbidden(BOTH), selector.forbidden(BOTH)]);
        }
        (false, false) => errors.push(at.required("one of name or selector must be specified")),
        _ => {}
    }
    check::required_one_of(errors, &at.at("parameterNotFoundAction"), &["Deny", "Allow"]);
}

fn actions(errors: &mut Errors, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for action in at.items() {
        check::one_of(errors, &action, ACTIONS);
        if !seen.insert(action.text().to_owned()) {
            errors.push(action.duplicate());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.push(at.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and \
             headers serves no purpose)",
        ));
    }
    if seen.is_empty() {
        errors.push(at.required("at least one validation action is required"));
    }
}
