//! What a pod's status may say.

use std::collections::BTreeSet;

use machinery::names;
use serde_json::Value;

use super::update::annotation_changes;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{list, list_mut, set, text};
use crate::registry::{check, ip};

const HEALTH_MESSAGE_MAX: usize = 1024;
/// The lists of statuses with the lists of containers that they are about.
const STATUSES: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

/// A writer that does not know of the observed generation does not take it away.
pub(crate) fn keep_observed_generation(status: &mut Value, old: &Value) {
    if status["observedGeneration"].as_i64().unwrap_or(0) == 0 && old["observedGeneration"].is_i64() {
        set(status, "observedGeneration", old["observedGeneration"].clone());
    }
    let mut before: Vec<&Value> = list(&old["conditions"]).iter().collect();
    for condition in list_mut(status, "conditions") {
        let Some(at) = before.iter().position(|old| old["type"] == condition["type"]) else { continue };
        let old = before.remove(at);
        if condition["observedGeneration"].as_i64().unwrap_or(0) == 0 && old["observedGeneration"].is_i64() {
            set(condition, "observedGeneration", old["observedGeneration"].clone());
        }
    }
}

/// All that is wrong with a pod whose status was changed.
pub(crate) fn validate(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    annotation_changes(&mut errors, new, old);
    let root = At::new(new, "");
    let (at, was) = (root.at("status"), &old["status"]);
    conditions(&mut errors, &at.at("conditions"));
    nomination(&mut errors, &at.at("nominatedNodeName"), text(&was["nominatedNodeName"]), &old["spec"]["nodeName"]);
    if at.at("observedGeneration").number().is_some_and(|generation| generation < 0) {
        errors.push(at.at("observedGeneration").invalid("must be a non-negative integer"));
    }
    check::immutable(&mut errors, &at.at("qosClass"), &was["qosClass"]);
    for (statuses, containers) in STATUSES {
        transitions(&mut errors, &at.at(statuses), &was[statuses], &old["spec"], containers);
    }
    claims(&mut errors, &at.at("resourceClaimStatuses"), &new["spec"]["resourceClaims"]);
    addresses(&mut errors, &at.at("podIPs"), &was["podIPs"]);
    host_addresses(&mut errors, &at, was);
    for (statuses, containers) in STATUSES {
        for status in at.at(statuses).items() {
            user(&mut errors, &status, text(&new["spec"]["os"]["name"]));
            allocated(&mut errors, &status, &new["spec"][containers], containers);
        }
    }
    errors
}

fn conditions(errors: &mut Errors, at: &At<'_>) {
    for condition in at.items() {
        let (kind, generation) = (condition.at("type").text(), condition.at("observedGeneration"));
        if generation.number().is_some_and(|generation| generation < 0) {
            errors.push(generation.invalid("must be a non-negative integer"));
        }
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            let complaints = names::qualified_name(kind);
            errors.extend(complaints.iter().map(|why| condition.at("Type").invalid_as(kind, why)));
        }
    }
}

fn nomination(errors: &mut Errors, at: &At<'_>, before: &str, bound_to: &Value) {
    if at.text() == before || !at.has_text() {
        return;
    }
    check::text(errors, at, names::dns1123_subdomain);
    if !text(bound_to).is_empty() {
        errors.push(at.forbidden("may not be set on pods that are already bound to a node"));
    }
}

/// A container that ended and is not to be restarted stays ended.
fn transitions(errors: &mut Errors, at: &At<'_>, before: &Value, spec: &Value, containers: &str) {
    if containers != "ephemeralContainers" && restarts_all(spec) {
        return;
    }
    for (index, old) in list(before).iter().enumerate() {
        let ended = &old["state"]["terminated"];
        if ended.is_null() {
            continue;
        }
        let Some(new) = list(at.value()).iter().find(|new| new["name"] == old["name"]) else { continue };
        let container = list(&spec[containers]).iter().find(|container| container["name"] == old["name"]);
        let may = container.is_some_and(|container| {
            containers != "ephemeralContainers" && restarts(container, spec, ended["exitCode"].as_i64().unwrap_or(0))
        });
        if new["state"]["terminated"].is_null() && !may {
            errors.push(at.index(index).at("state").forbidden("may not be transitioned to non-terminated state"));
        }
    }
}

/// Whether the end of some container restarts all of them.
fn restarts_all(spec: &Value) -> bool {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|kind| list(&spec[kind]));
    let mut rules = containers.flat_map(|container| list(&container["restartPolicyRules"]));
    rules.any(|rule| rule["action"] == "RestartAllContainers")
}

fn restarts(container: &Value, spec: &Value, exit_code: i64) -> bool {
    let own = text(&container["restartPolicy"]);
    for rule in list(&container["restartPolicyRules"]) {
        let listed = list(&rule["exitCodes"]["values"]).iter().any(|code| code.as_i64() == Some(exit_code));
        let matches = listed == (rule["exitCodes"]["operator"] == "In");
        if rule["exitCodes"].is_object() && matches && rule["action"] == "Restart" {
            return true;
        }
    }
    match if own.is_empty() { text(&spec["restartPolicy"]) } else { own } {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn claims(errors: &mut Errors, at: &At<'_>, wanted: &Value) {
    let mut seen = BTreeSet::new();
    for status in at.items() {
        let name = status.text_at("name");
        if !list(wanted).iter().any(|claim| text(&claim["name"]) == name.text()) {
            errors.push(name.invalid("must match the name of an entry in `spec.resourceClaims`"));
        }
        if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
        if status.at("resourceClaimName").is_set() {
            check::text(errors, &status.at("resourceClaimName"), names::dns1123_subdomain);
        }
    }
}

/// At most one address of each family, and no ambiguous ones but those that were there.
fn addresses(errors: &mut Errors, at: &At<'_>, before: &Value) {
    let kept: Vec<&str> = list(before).iter().map(|old| text(&old["ip"])).collect();
    for address in at.items() {
        ip::address_or_kept(errors, &address.with(address.at("ip").value()), &kept);
    }
    let families: Vec<bool> = at.items().map(|address| address.at("ip").text().contains(':')).collect();
    if families.len() > 1 && (families.len() > 2 || families[0] == families[1]) {
        let shown: Vec<Value> = at.items().map(|address| serde_json::json!({"IP": address.at("ip").text()})).collect();
        errors.push(at.invalid_as(shown, "may specify no more than one IP for each IP family"));
    }
}

fn host_addresses(errors: &mut Errors, at: &At<'_>, before: &Value) {
    let all = at.at("hostIPs");
    if all.count() == 0 {
        return;
    }
    let first = all.index(0);
    if first.at("ip").text() != at.at("hostIP").text() {
        errors.push(first.at("ip").invalid("must be equal to `hostIP`"));
    }
    addresses(errors, &all, &before["hostIPs"]);
}

fn user(errors: &mut Errors, status: &At<'_>, os: &str) {
    let user = status.at("user");
    let linux = user.at("linux");
    if !linux.is_set() {
        return;
    }
    if os == "windows" {
        errors.push(linux.forbidden("cannot be set for a windows pod"));
        return;
    }
    check::user_or_group(errors, &linux.at("uid"));
    check::user_or_group(errors, &linux.at("gid"));
    for group in linux.at("supplementalGroups").items() {
        check::user_or_group(errors, &group);
    }
}

/// The health of devices that a container was given.
fn allocated(errors: &mut Errors, status: &At<'_>, containers: &Value, kind: &str) {
    let at = status.at("allocatedResourcesStatus");
    if kind == "ephemeralContainers" {
        if at.count() > 0 {
            errors.push(at.forbidden("must not be specified in container status"));
        }
        return;
    }
    let container = list(containers).iter().find(|container| container["name"] == *status.at("name").value());
    for resource in at.items() {
        if let Some(container) = container {
            known_resource(errors, &resource.text_at("name"), container);
        }
        let mut seen = BTreeSet::new();
        for device in resource.at("resources").items() {
            check::one_of(errors, &device.text_at("health"), &["Healthy", "Unhealthy", "Unknown"]);
            let message = device.at("message");
            if message.is_set() && !message.has_text() {
                errors.push(message.required("must be non-empty if specified"));
            } else if message.text().len() > HEALTH_MESSAGE_MAX {
                errors.push(message.too_long(HEALTH_MESSAGE_MAX));
            }
            let id = device.text_at("resourceID");
            if !seen.insert(id.text().to_owned()) {
                errors.push(id.duplicate());
            }
        }
    }
}

fn known_resource(errors: &mut Errors, name: &At<'_>, container: &Value) {
    let resources = &container["resources"];
    let (known, why) = if name.text().starts_with("claim:") {
        let claims = list(&resources["claims"]).iter().map(|claim| match text(&claim["request"]) {
            "" => format!("claim:{}", text(&claim["name"])),
            request => format!("claim:{}/{request}", text(&claim["name"])),
        });
        let why = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
                   'claim:<claimName>' if request is empty";
        (claims.into_iter().any(|claim| claim == name.text()), why)
    } else {
        (!resources["requests"][name.text()].is_null(), "must match one of the container's resource requests")
    };
    if !known {
        errors.push(name.invalid(why));
    }
}
