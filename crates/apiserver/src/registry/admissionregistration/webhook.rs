//! Webhook configurations, of both kinds.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::resources;
use machinery::names;
use serde_json::Value;

use super::{FAILURE_POLICIES, MATCH_POLICIES, conditions, default_matching, new_errors, rule, selectors};
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::check;
use crate::registry::tree::{list_mut, present, set_default};
use crate::registry::{Context, Descriptor, Strategy};

pub(super) const MUTATING: Descriptor = Descriptor {
    resource: resources::MUTATING_WEBHOOK_CONFIGURATIONS,
    strategy: |_| Arc::new(Webhooks { mutating: true }),
};
pub(super) const VALIDATING: Descriptor = Descriptor {
    resource: resources::VALIDATING_WEBHOOK_CONFIGURATIONS,
    strategy: |_| Arc::new(Webhooks { mutating: false }),
};

const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

struct Webhooks {
    mutating: bool,
}

impl Strategy for Webhooks {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn default(&self, configuration: &mut Value) {
        for hook in list_mut(configuration, "webhooks") {
            set_default(hook, "failurePolicy", "Fail");
            set_default(hook, "timeoutSeconds", 10);
            default_matching(hook);
            if self.mutating {
                set_default(hook, "reinvocationPolicy", "Never");
            }
            rule::default(hook, "rules");
            if let Some(service) = present(hook, "clientConfig").and_then(|client| present(client, "service")) {
                set_default(service, "port", 443);
            }
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, configuration: &Value) -> Vec<FieldError> {
        errors(configuration)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        new_errors(errors(new), &errors(old))
    }
}

fn errors(configuration: &Value) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for hook in At::new(configuration, "").at("webhooks").items() {
        webhook(&mut errors, &hook);
        let name = hook.at("name");
        if name.has_text() && !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
    }
    errors
}

fn webhook(errors: &mut Errors, hook: &At<'_>) {
    fully_qualified(errors, &hook.at("name"));
    for rule in hook.at("rules").items() {
        rule::with_operations(errors, &rule);
    }
    check::one_of(errors, &hook.at("failurePolicy"), FAILURE_POLICIES);
    check::one_of(errors, &hook.at("matchPolicy"), MATCH_POLICIES);
    let side_effects = hook.at("sideEffects");
    if side_effects.is_set() {
        check::one_of(errors, &side_effects, SIDE_EFFECTS);
    } else {
        errors.push(side_effects.required("must specify one of None, NoneOnDryRun"));
    }
    let timeout = hook.at("timeoutSeconds");
    if timeout.number().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    selectors(errors, hook);
    if hook.at("reinvocationPolicy").is_set() {
        check::one_of(errors, &hook.at("reinvocationPolicy"), &["IfNeeded", "Never"]);
    }
    client(errors, &hook.at("clientConfig"));
    conditions(errors, &hook.at("matchConditions"));
    review_versions(errors, &hook.at("admissionReviewVersions"));
}

fn fully_qualified(errors: &mut Errors, name: &At<'_>) {
    if !name.has_text() {
        return errors.push(name.required(""));
    }
    let wrong = names::dns1123_subdomain(name.text());
    if !wrong.is_empty() {
        errors.push(name.invalid(&wrong.join(",")));
    } else if name.text().split('.').count() < 3 {
        errors.push(name.invalid("should be a domain with at least three segments separated by dots"));
    }
}

fn client(errors: &mut Errors, at: &At<'_>) {
    let (url, service) = (at.at("url"), at.at("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => address(errors, &url),
        (false, true) => reference(errors, &service),
        _ => errors.push(at.required("exactly one of url or service is required")),
    }
}

/// `https://host[/path]`
fn address(errors: &mut Errors, at: &At<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = at.text().split_once("://").unwrap_or(("", at.text()));
    if !scheme.eq_ignore_ascii_case("https") {
        errors.push(at.invalid_as(scheme, &format!("'https' is the only allowed URL scheme{FORM}")));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.push(at.invalid_as("", &format!("host must be specified{FORM}")));
    }
    for (part, what) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(at.invalid_as(part, what));
        }
    }
}

fn reference(errors: &mut Errors, service: &At<'_>) {
    check::required(errors, &service.at("name"));
    check::required(errors, &service.at("namespace"));
    let port = service.at("port");
    let wrong = names::port_number(port.number().unwrap_or(0));
    if !wrong.is_empty() {
        errors.push(port.invalid(&format!("port is not valid: {}", wrong.join(", "))));
    }
    path(errors, &service.at("path"));
}

fn path(errors: &mut Errors, at: &At<'_>) {
    let text = at.text();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        return errors.push(at.invalid("segment[0] may not be empty"));
    }
    if !text.starts_with('/') {
        errors.push(at.invalid("must start with a '/'"));
    }
    let steps = text.get(1..).unwrap_or_default();
    for (number, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errors.push(at.invalid(&format!("segment[{number}] may not be empty")));
            continue;
        }
        for wrong in names::dns1123_subdomain(step) {
            errors.push(at.invalid(&format!("segment[{number}]: {wrong}")));
        }
    }
}

fn review_versions(errors: &mut Errors, at: &At<'_>) {
    if at.count() == 0 {
        return errors.push(at.required("must specify one of v1, v1beta1"));
    }
    let mut seen = BTreeSet::new();
    for version in at.items() {
        if !seen.insert(version.text().to_owned()) {
            errors.push(version.invalid("duplicate version"));
            continue;
        }
        check::text(errors, &version, names::dns1035_label);
    }
    if !REVIEW_VERSIONS.iter().any(|known| seen.contains(*known)) {
        errors.push(at.invalid("must include at least one of v1, v1beta1"));
    }
}
