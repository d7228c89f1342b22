//! What the kubelet does to a container while it runs: hooks and probes.

use machinery::names;

use super::Scope;
use crate::registry::at::{At, Errors};
use crate::registry::check;

/// Checks hooks and probes.
pub(super) fn lifecycle_and_probes(errors: &mut Errors, container: &At<'_>, scope: &Scope<'_>) {
    let lifecycle = container.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.at(hook);
        if hook.is_set() {
            handler(errors, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], scope.grace_seconds);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(kind);
        if !probe.is_set() {
            continue;
        }
        validate_probe(errors, &probe, scope.grace_seconds);
        let grace = probe.at("terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            if grace.is_set() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else if probe.at("successThreshold").number() != Some(1) {
            errors.push(probe.number_at("successThreshold").invalid("must be 1"));
        }
    }
}

fn validate_probe(errors: &mut Errors, probe: &At<'_>, grace_seconds: Option<i64>) {
    handler(errors, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace_seconds);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check::not_negative(errors, &probe.at(field));
    }
    let grace = probe.at("terminationGracePeriodSeconds");
    if grace.number().is_some_and(|seconds| seconds <= 0) {
        errors.push(grace.invalid("must be greater than 0"));
    }
}

fn handler(errors: &mut Errors, at: &At<'_>, kinds: &[&str], grace_seconds: Option<i64>) {
    let mut found = 0;
    for kind in kinds {
        let action = at.at(kind);
        if !action.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" if action.at("command").count() == 0 => errors.push(action.at("command").required("")),
            "exec" => {}
            "httpGet" => http_get(errors, &action),
            "sleep" => sleep(errors, &action, grace_seconds),
            _ => check::port(errors, &action.number_at("port")),
        }
    }
    if found == 0 {
        errors.push(at.required("must specify a handler type"));
    }
}

fn http_get(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("path"));
    check::port(errors, &at.number_at("port"));
    check::one_of(errors, &at.text_at("scheme"), &["HTTP", "HTTPS"]);
    let headers = at.at("httpHeaders");
    for header in headers.items() {
        let name = header.at("name").text();
        errors.extend(names::http_header(name).iter().map(|why| headers.invalid_as(name, why)));
    }
}

/// A pod that is to be gone by then does not sleep longer than it is given.
fn sleep(errors: &mut Errors, at: &At<'_>, grace_seconds: Option<i64>) {
    let (seconds, Some(grace)) = (at.at("seconds").number().unwrap_or(0), grace_seconds) else { return };
    if !(0..=grace).contains(&seconds) {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(at.invalid_as(seconds, &why));
    }
}
