//! The containers of a pod: what holds of all, and what only of regular, init and ephemeral ones.

use std::collections::BTreeSet;

use machinery::names;

use super::{Scope, env, mounts, probes, resources, security};
use crate::registry::at::{At, Errors};
use crate::registry::check;

const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
/// What an ephemeral container has in common with others; the rest needs a pod that was started with it.
const NOT_FOR_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Checks `containers`.
pub(super) fn regular(errors: &mut Errors, at: &At<'_>, scope: &Scope<'_>) {
    if at.count() == 0 {
        errors.push(at.required(""));
        return;
    }
    let mut seen = BTreeSet::new();
    for container in at.items() {
        common(errors, &container, scope);
        if !seen.insert(container.at("name").text().to_owned()) {
            errors.push(container.text_at("name").duplicate());
        }
        probes::lifecycle_and_probes(errors, &container, scope);
        restart_policy(errors, &container);
    }
    let mut ports = BTreeSet::new();
    for container in at.items() {
        host_ports(errors, &container, &mut ports);
    }
}

/// Checks `initContainers`, whose names must differ from those of `regular`.
pub(super) fn init(errors: &mut Errors, at: &At<'_>, regular: &At<'_>, scope: &Scope<'_>) {
    let mut seen: BTreeSet<String> = regular.items().map(|one| one.at("name").text().to_owned()).collect();
    for container in at.items() {
        common(errors, &container, scope);
        let name = container.text_at("name");
        let sidecar = container.at("restartPolicy").text() == "Always";
        restart_policy(errors, &container);
        if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
        // Upstream checks each init container as the first of a list of its own, and names that place.
        host_ports(errors, &at.index(0).with(container.value()), &mut BTreeSet::new());
        if sidecar {
            probes::lifecycle_and_probes(errors, &container, scope);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.at(field).is_set() {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    errors.push(container.at(field).forbidden(why));
                }
            }
            for policy in container.at("resizePolicy").items() {
                if policy.at("restartPolicy").text() == "RestartContainer" {
                    let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.push(policy.at("restartPolicy").invalid(why));
                }
            }
        }
    }
}

/// Checks `ephemeralContainers`, whose names must differ from all others.
pub(super) fn ephemeral(errors: &mut Errors, at: &At<'_>, others: &[At<'_>], scope: &Scope<'_>) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let names: BTreeSet<String> = others
        .iter()
        .flat_map(|list| list.items().map(|one| one.at("name").text().to_owned()).collect::<Vec<_>>())
        .collect();
    let mut seen = names.clone();
    for container in at.items() {
        common(errors, &container, scope);
        untrimmed_image(errors, &container);
        let name = container.text_at("name");
        if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
        let target = container.at("targetContainerName");
        if target.has_text() && !names.contains(target.text()) {
            errors.push(target.not_found());
        }
        for field in NOT_FOR_EPHEMERAL {
            let empty_resources = *field == "resources" && container.at(field).count() == 0;
            if container.at(field).is_set() && !empty_resources {
                errors.push(container.at(field).forbidden(WHY));
            }
        }
        for mount in container.at("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if mount.at(field).has_text() {
                    errors.push(mount.at(field).forbidden(WHY));
                }
            }
        }
    }
}

/// Pods only: templates have always been let through with such an image.
pub(super) fn untrimmed_image(errors: &mut Errors, container: &At<'_>) {
    let image = container.at("image");
    if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn common(errors: &mut Errors, at: &At<'_>, scope: &Scope<'_>) {
    check::required_text(errors, &at.at("name"), names::dns1123_label);
    check::required(errors, &at.at("image"));
    let policy = at.at("terminationMessagePolicy");
    check::required_one_of(errors, &policy, &["File", "FallbackToLogsOnError"]);
    ports(errors, &at.at("ports"));
    env::variables(errors, &at.at("env"));
    env::sources(errors, &at.at("envFrom"));
    mounts::mounts(errors, at, &scope.volumes);
    mounts::devices(errors, at, &scope.volumes);
    pull_policy(errors, &at.at("imagePullPolicy"));
    resources::of_container(errors, &at.at("resources"), &scope.claims);
    resize_policy(errors, &at.at("resizePolicy"), scope.restart_policy);
    security::of_container(errors, &at.at("securityContext"), scope.host_users);
}

pub(super) fn pull_policy(errors: &mut Errors, at: &At<'_>) {
    check::required_one_of(errors, at, &["Always", "IfNotPresent", "Never"]);
}

fn ports(errors: &mut Errors, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for port in at.items() {
        let name = port.at("name");
        if name.has_text() {
            let before = errors.len();
            check::text(errors, &name, names::port_name);
            if errors.len() == before && !seen.insert(name.text().to_owned()) {
                errors.push(name.duplicate());
            }
        }
        let number = port.at("containerPort");
        match number.number().unwrap_or(0) {
            0 => errors.push(number.required("")),
            _ => check::port_number(errors, &number),
        }
        if port.at("hostPort").number().unwrap_or(0) != 0 {
            check::port_number(errors, &port.at("hostPort"));
        }
        check::required_one_of(errors, &port.at("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports(errors: &mut Errors, container: &At<'_>, taken: &mut BTreeSet<String>) {
    for port in container.at("ports").items() {
        let number = port.at("hostPort").number().unwrap_or(0);
        if number == 0 {
            continue;
        }
        let shown = format!("{}/{}/{number}", port.at("protocol").text(), port.at("hostIP").text());
        if !taken.insert(shown.clone()) {
            errors.push(port.at("hostPort").duplicate_as(shown));
        }
    }
}

fn resize_policy(errors: &mut Errors, at: &At<'_>, pod_restart_policy: &str) {
    let mut seen = BTreeSet::new();
    for policy in at.items() {
        let (resource, restart) = (policy.at("resourceName"), policy.at("restartPolicy"));
        if !seen.insert(resource.text().to_owned()) {
            errors.push(policy.duplicate_as(resource.text()));
        }
        // Upstream names the list here, not the entry.
        check::required_one_of(errors, &at.with(resource.value()), &["cpu", "memory"]);
        check::required_one_of(errors, &at.with(restart.value()), &["NotRequired", "RestartContainer"]);
        if pod_restart_policy == "Never" && restart.text() != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(at.invalid_as(restart.text(), why));
        }
    }
}

fn restart_policy(errors: &mut Errors, container: &At<'_>) {
    let (policy, rules) = (container.at("restartPolicy"), container.at("restartPolicyRules"));
    if policy.is_set() {
        check::one_of(errors, &policy, &["Always", "Never", "OnFailure"]);
    } else if rules.count() > 0 {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    if rules.count() > RESTART_RULES_MAX {
        errors.push(rules.too_many(RESTART_RULES_MAX));
    }
    for rule in rules.items() {
        let action = rule.text_at("action");
        check::one_of(errors, &action, &["Restart", "RestartAllContainers"]);
        let codes = rule.at("exitCodes");
        if !codes.is_set() {
            errors.push(codes.required("must be specified"));
            continue;
        }
        check::one_of(errors, &codes.text_at("operator"), &["In", "NotIn"]);
        if codes.at("values").count() > EXIT_CODES_MAX {
            errors.push(codes.at("values").too_many(EXIT_CODES_MAX));
        }
    }
}
