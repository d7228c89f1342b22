//! The rules that say which writes a webhook or a policy is about.

use std::collections::BTreeSet;

use machinery::names;
use serde_json::Value;

use crate::registry::at::{At, Errors};
use crate::registry::check;
use crate::registry::tree::{list, list_mut, set_default, text};

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// Sets what the rules in a field leave out.
pub(super) fn default(object: &mut Value, field: &str) {
    for rule in list_mut(object, field) {
        set_default(rule, "scope", "*");
    }
}

/// A rule with names of objects.
pub(super) fn named(errors: &mut Errors, rule: &At<'_>) {
    let mut seen = BTreeSet::new();
    for name in rule.at("resourceNames").items() {
        check::text(errors, &name, names::path_segment);
        if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
    }
    with_operations(errors, rule);
}

/// A rule.
pub(super) fn with_operations(errors: &mut Errors, rule: &At<'_>) {
    alone(errors, &rule.at("operations"), "operations");
    for operation in rule.at("operations").items() {
        check::one_of(errors, &operation, OPERATIONS);
    }
    alone(errors, &rule.at("apiGroups"), "API groups");
    alone(errors, &rule.at("apiVersions"), "API versions");
    for version in rule.at("apiVersions").items().filter(|version| !version.has_text()) {
        errors.push(version.required(""));
    }
    resources(errors, &rule.at("resources"));
    if rule.at("scope").is_set() {
        check::one_of(errors, &rule.at("scope"), SCOPES);
    }
}

/// A list that is not empty, in which `*` stands alone.
fn alone(errors: &mut Errors, at: &At<'_>, what: &str) {
    match at.count() {
        0 => errors.push(at.required("")),
        1 => {}
        _ if list(at.value()).iter().any(|one| one == "*") => {
            errors.push(at.invalid(&format!("if '*' is present, must not specify other {what}")));
        }
        _ => {}
    }
}

fn resources(errors: &mut Errors, at: &At<'_>) {
    if at.count() == 0 {
        errors.push(at.required(""));
    }
    let (mut all_below, mut below_all) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for resource in at.items() {
        let name = resource.text();
        let Some((of, sub)) = name.split_once('/') else {
            match name {
                "" => errors.push(resource.required("")),
                // Only the last one counts, as upstream has it.
                name => plain = name != "*",
            }
            continue;
        };
        if all_below.contains(of) {
            errors.push(resource.invalid(&format!("if '{of}/*' is present, must not specify {name}")));
        }
        if below_all.contains(sub) {
            errors.push(resource.invalid(&format!("if '*/{sub}' is present, must not specify {name}")));
        }
        if sub == "*" {
            all_below.insert(of.to_owned());
        }
        if of == "*" {
            below_all.insert(sub.to_owned());
        }
    }
    let has = |wanted: &str| list(at.value()).iter().any(|one| text(one) == wanted);
    if at.count() > 1 && has("*/*") {
        errors.push(at.invalid("if '*/*' is present, must not specify other resources"));
    }
    if has("*") && plain {
        errors.push(at.invalid("if '*' is present, must not specify other resources without subresources"));
    }
}
