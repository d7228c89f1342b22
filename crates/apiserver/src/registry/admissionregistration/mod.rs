//! Strategies of the `admissionregistration.k8s.io` group: who is asked about writes, and which rules they are held to.
//!
//! Defaults, paths and texts are upstream's. Expressions of policies must compile; those in the conditions of webhooks are
//! only looked at for being there.

mod mutating_admission_policy;
mod rule;
#[cfg(test)]
mod tests;
mod validating_admission_policy;
mod webhook;

use std::collections::BTreeSet;

use machinery::names;
use serde_json::{Value, json};

use super::at::{At, Errors};
use super::tree::set_default;
use super::{Descriptor, check};

pub use self::mutating_admission_policy::{BINDING as MUTATING_BINDING, POLICY as MUTATING_POLICY};
pub use self::validating_admission_policy::{BINDING, POLICY};

/// Webhooks that may change what is written.
pub const MUTATING_WEBHOOKS: Descriptor = webhook::MUTATING;
/// Webhooks that may refuse what is written.
pub const VALIDATING_WEBHOOKS: Descriptor = webhook::VALIDATING;

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const CONDITIONS_MAX: usize = 64;

/// `matchConditions`.
fn conditions(errors: &mut Errors, at: &At<'_>) {
    if at.count() > CONDITIONS_MAX {
        errors.push(at.too_many(CONDITIONS_MAX));
    }
    let mut seen = BTreeSet::new();
    for condition in at.items() {
        if condition.at("expression").text().trim().is_empty() {
            errors.push(condition.at("expression").required(""));
        }
        let name = condition.at("name");
        check::required_text(errors, &name, names::qualified_name);
        if name.has_text() && !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
    }
}

/// What is wrong with a changed object: what was wrong with it before is not held against the change.
fn new_errors(new: Errors, old: &Errors) -> Errors {
    new.into_iter().filter(|error| !old.contains(error)).collect()
}

/// Both selectors of a webhook or of a policy's constraints.
fn selectors(errors: &mut Errors, at: &At<'_>) {
    for field in ["namespaceSelector", "objectSelector"] {
        check::label_selector(errors, &at.at(field));
    }
}

/// What rules and constraints leave out.
fn default_matching(object: &mut Value) {
    set_default(object, "matchPolicy", "Equivalent");
    for field in ["namespaceSelector", "objectSelector"] {
        set_default(object, field, json!({}));
    }
}
