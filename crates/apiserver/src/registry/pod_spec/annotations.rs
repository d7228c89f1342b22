//! The annotations of pods that mean something to Kubernetes, most of them older than the fields that took their place.

use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::registry::at::{At, Errors};
use crate::registry::check;

/// The kubelet's mark of a pod that it made from a file.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Checks the annotations of a pod or template.
pub(super) fn validate(errors: &mut Errors, at: &At<'_>, spec: &At<'_>) {
    let mirror = at.key(MIRROR);
    if mirror.is_set() && !spec.at("nodeName").has_text() {
        errors.push(mirror.invalid("must set spec.nodeName if mirror pod annotation is set"));
    }
    tolerations(errors, at);
    let cost = at.key(DELETION_COST);
    if cost.is_set() && !is_cost(cost.text()) {
        errors.push(cost.invalid("must be a 32bit integer"));
    }
    for (key, value) in at.entries() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(errors, &at.at(key).with(value.value()));
        }
        if let Some(name) = key.strip_prefix(APP_ARMOR) {
            if !containers(spec).any(|container| container["name"] == name) {
                errors.push(value.invalid_as(name, "container not found"));
            }
            let profile = value.text();
            let known = matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
            if !known {
                errors.push(value.invalid(&format!("invalid AppArmor profile name: {profile:?}")));
            }
        }
    }
}

fn tolerations(errors: &mut Errors, at: &At<'_>) {
    let given = at.at(TOLERATIONS);
    if !given.has_text() {
        return;
    }
    match serde_json::from_str::<Value>(given.text()) {
        Ok(list) if list.is_array() || list.is_null() => super::tolerations(errors, &given.with(&list)),
        _ => errors.push(at.invalid_as(TOLERATIONS, "the value is not a JSON list of tolerations")),
    }
}

/// No plus sign and no leading zeros: each number has one spelling.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = digits == "0" || !digits.starts_with('0');
    canonical && !text.starts_with('+') && text != "-0" && text.parse::<i32>().is_ok()
}

fn seccomp(errors: &mut Errors, at: &At<'_>) {
    match at.text() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix("localhost/") {
            Some(path) => check::descending_path(errors, &at.with(&path.into())),
            None => errors.push(at.invalid("must be a valid seccomp profile")),
        },
    }
}

/// Where both the annotation and the field are there, they must say the same.
pub(super) fn seccomp_matches(errors: &mut Errors, annotations: &At<'_>, spec: &At<'_>) {
    let context = spec.at("securityContext");
    let pod = annotations.key(SECCOMP_POD);
    matches(errors, &context.at("seccompProfile"), &pod, "seccomp", &["runtime/default", "docker/default"]);
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            let key = format!("{SECCOMP_CONTAINER}{}", container.at("name").text());
            let context = container.at("securityContext");
            let annotation = annotations.key(&key);
            let defaults = ["runtime/default", "docker/default"];
            matches(errors, &context.at("seccompProfile"), &annotation, "seccomp", &defaults);
        }
    }
}

/// As [`seccomp_matches`]; a container without a profile has its pod's.
pub(super) fn app_armor_matches(errors: &mut Errors, annotations: &At<'_>, spec: &At<'_>) {
    if spec.at("os").at("name").text() == "windows" {
        return;
    }
    let pod = &spec.value()["securityContext"]["appArmorProfile"];
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            let key = format!("{APP_ARMOR}{}", container.at("name").text());
            let context = container.at("securityContext");
            let own = context.at("appArmorProfile");
            let profile = if own.is_set() { own } else { own.with(pod) };
            matches(errors, &profile, &annotations.key(&key), "apparmor", &["runtime/default"]);
        }
    }
}

fn matches(errors: &mut Errors, profile: &At<'_>, annotation: &At<'_>, what: &str, defaults: &[&str]) {
    if !profile.is_set() || !annotation.is_set() {
        return;
    }
    let given = annotation.text();
    let same = match profile.at("type").text() {
        "Unconfined" => given == "unconfined",
        "RuntimeDefault" => defaults.contains(&given),
        "Localhost" => match given.strip_prefix("localhost/") {
            Some(path) if path == profile.at("localhostProfile").text() => true,
            Some(_) => {
                let why = format!("{what} profile in annotation and field must match");
                errors.push(profile.at("localhostProfile").forbidden(&why));
                true
            }
            None => false,
        },
        _ => true,
    };
    if !same {
        errors.push(profile.at("type").forbidden(&format!("{what} type in annotation and field must match")));
    }
}

fn containers<'a>(spec: &At<'a>) -> impl Iterator<Item = &'a Value> {
    let spec = spec.value();
    CONTAINER_LISTS.into_iter().flat_map(move |kind| crate::registry::tree::list(&spec[kind]))
}
