//! Node selectors: of pods, persistent volumes and others.

use machinery::names;

use super::at::{At, Errors};
use super::check;

/// Checks a node selector.
pub fn validate(errors: &mut Errors, at: &At<'_>) {
    let terms = at.at("nodeSelectorTerms");
    if terms.count() == 0 {
        errors.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        validate_term(errors, &term, Values::MustBeLabels);
    }
}

/// Checks a term that only prefers: there, a value that no label has is no error.
pub fn preference(errors: &mut Errors, at: &At<'_>) {
    validate_term(errors, at, Values::MayBeAnything);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    MustBeLabels,
    MayBeAnything,
}

fn validate_term(errors: &mut Errors, at: &At<'_>, values: Values) {
    for requirement in at.at("matchExpressions").items() {
        label(errors, &requirement, values);
    }
    for requirement in at.at("matchFields").items() {
        field(errors, &requirement);
    }
}

fn label(errors: &mut Errors, at: &At<'_>, allowed: Values) {
    let values = at.at("values");
    match (at.at("operator").text(), values.count()) {
        ("In" | "NotIn", 0) => {
            errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        ("Exists" | "DoesNotExist", 1..) => {
            errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        ("Gt" | "Lt", 0 | 2..) => {
            errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        _ => errors.push(at.at("operator").invalid("not a valid selector operator")),
    }
    check::label_key(errors, &at.text_at("key"));
    if allowed == Values::MustBeLabels {
        for value in values.items() {
            check::text(errors, &value, names::label_value);
        }
    }
}

fn field(errors: &mut Errors, at: &At<'_>) {
    let (key, values) = (at.at("key"), at.at("values"));
    match at.at("operator").text() {
        "In" | "NotIn" if values.count() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(values.required(why));
        }
        "In" | "NotIn" => {}
        _ => errors.push(at.at("operator").invalid("not a valid selector operator")),
    }
    if key.text() != "metadata.name" {
        errors.push(key.invalid("not a valid field selector key"));
        return;
    }
    for value in values.items() {
        check::text(errors, &value, names::dns1123_subdomain);
    }
}
