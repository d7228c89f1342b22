//! What may change in a pod after its creation: little by itself, and resources and ephemeral containers through
//! subresources of their own.

use serde_json::{Value, json};

use super::{annotations, defaults, tolerations};
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::diff::difference;
use crate::registry::tree::{entries, is_set, keep, list, list_mut, present, remove, text};

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

/// All that is wrong with a changed pod.
pub(crate) fn validate(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    super::validate_pod(&mut errors, new);
    annotation_changes(&mut errors, new, old);
    let root = At::new(new, "");
    let (spec, before) = (root.at("spec"), &old["spec"]);
    for kind in ["containers", "initContainers"] {
        let (list_at, was) = (spec.at(kind), list(&before[kind]));
        if list_at.count() != was.len() {
            errors.push(list_at.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
    }
    if let Some(error) = deadline_change(&spec.at("activeDeadlineSeconds"), &before["activeDeadlineSeconds"]) {
        errors.push(error);
        return errors;
    }
    only_added_tolerations(&mut errors, &spec.at("tolerations"), &before["tolerations"]);
    only_removed_gates(&mut errors, &spec.at("schedulingGates"), &before["schedulingGates"]);
    let mut kept = new["spec"].clone();
    forgive(&mut kept, before);
    if !list(&before["schedulingGates"]).is_empty() {
        narrowed_placement(&mut errors, &spec, before);
        keep(&mut kept, before, "nodeSelector");
        keep_node_affinity(&mut kept, before);
    }
    if kept != *before {
        errors.push(spec.forbidden(&format!("{FIXED}\n{}", difference(before, &kept))));
    }
    errors
}

/// Puts back what an update may change.
fn forgive(spec: &mut Value, before: &Value) {
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep(spec, before, field);
    }
    for kind in ["containers", "initContainers"] {
        for (container, was) in list_mut(spec, kind).iter_mut().zip(list(&before[kind])) {
            keep(container, was, "image");
        }
    }
    let negative = before["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0);
    if negative && spec["terminationGracePeriodSeconds"] == 1 {
        keep(spec, before, "terminationGracePeriodSeconds");
    }
}

/// A deadline may be set once and then only come nearer.
fn deadline_change(at: &At<'_>, before: &Value) -> Option<FieldError> {
    match (at.number(), before.as_i64()) {
        (None, Some(_)) => Some(at.invalid_as(Value::Null, "must not update from a positive integer to nil value")),
        (Some(new), Some(old)) if old < new => Some(at.invalid("must be less than or equal to previous value")),
        _ => None,
    }
}

fn only_added_tolerations(errors: &mut Errors, at: &At<'_>, before: &Value) {
    let same = |new: &Value, old: &Value| {
        let without = |toleration: &Value| {
            let mut toleration = toleration.clone();
            remove(&mut toleration, "tolerationSeconds");
            toleration
        };
        new == old || without(new) == without(old)
    };
    if list(before).iter().all(|old| list(at.value()).iter().any(|new| same(new, old))) {
        tolerations(errors, at);
    } else {
        errors.push(at.forbidden("existing toleration can not be modified except its tolerationSeconds"));
    }
}

fn only_removed_gates(errors: &mut Errors, at: &At<'_>, before: &Value) {
    for gate in at.items() {
        let name = gate.at("name");
        if !list(before).iter().any(|old| old["name"] == *name.value()) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
            errors.push(name.forbidden(&why));
        }
    }
}

/// A gated pod has not been looked at by the scheduler: where it may go can still be narrowed.
fn narrowed_placement(errors: &mut Errors, spec: &At<'_>, before: &Value) {
    let selector = spec.at("nodeSelector");
    if entries(&before["nodeSelector"]).any(|(key, value)| selector.at(key).value() != value) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(selector.invalid_as(selector.value().clone(), why));
    }
    let affinity = spec.at("affinity");
    let node = affinity.at("nodeAffinity");
    let required = node.at("requiredDuringSchedulingIgnoredDuringExecution");
    let terms = required.at("nodeSelectorTerms");
    let was =
        &before["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    if !list(was).is_empty() && list(was).len() != terms.count() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown: Vec<Value> = list(terms.value()).iter().map(internal_term).collect();
        errors.push(terms.invalid_as(if terms.is_set() { shown.into() } else { Value::Null }, why));
        return;
    }
    for (term, old) in terms.items().zip(list(was)) {
        if !only_adds(term.value(), old) {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(term.invalid_as(internal_term(term.value()), why));
        }
    }
}

/// A term as upstream shows it: its internal type has no JSON names.
fn internal_term(term: &Value) -> Value {
    let requirements = |field: &str| -> Value {
        let shown = |one: &Value| json!({"Key": one["key"], "Operator": one["operator"], "Values": one["values"]});
        term[field].as_array().map_or(Value::Null, |list| list.iter().map(shown).collect())
    };
    json!({"MatchExpressions": requirements("matchExpressions"), "MatchFields": requirements("matchFields")})
}

fn only_adds(new: &Value, old: &Value) -> bool {
    let fields = ["matchExpressions", "matchFields"];
    let was_empty = fields.iter().all(|field| list(&old[*field]).is_empty());
    if was_empty {
        return fields.iter().all(|field| list(&new[*field]).is_empty());
    }
    fields.iter().all(|field| list(&new[*field]).starts_with(list(&old[*field])))
}

fn keep_node_affinity(spec: &mut Value, before: &Value) {
    let old = &before["affinity"];
    if let Some(affinity) = present(spec, "affinity") {
        keep(affinity, old, "nodeAffinity");
        if affinity.as_object().is_some_and(serde_json::Map::is_empty) && !old.is_object() {
            remove(spec, "affinity");
        }
    } else if is_set(old, "nodeAffinity") {
        keep(spec, before, "affinity");
    }
}

/// Which annotations of a pod may not change.
pub(crate) fn annotation_changes(errors: &mut Errors, new: &Value, old: &Value) {
    let root = At::new(new, "");
    let metadata = root.at("metadata");
    let (at, before) = (metadata.at("annotations"), &old["metadata"]["annotations"]);
    for (key, _) in entries(before).filter(|(key, value)| at.at(key).value() != *value) {
        if key.starts_with(annotations::APP_ARMOR) {
            errors.push(at.key(key).forbidden("may not remove or update AppArmor annotations"));
        }
        if key == annotations::MIRROR {
            errors.push(at.key(key).forbidden("may not remove or update mirror pod annotation"));
        }
    }
    for (key, value) in at.entries().filter(|(key, _)| !is_set(before, key)) {
        if key.starts_with(annotations::APP_ARMOR) {
            errors.push(value.forbidden("may not add AppArmor annotations"));
        }
        if key == annotations::MIRROR {
            errors.push(value.forbidden("may not add mirror pod annotation"));
        }
    }
    annotations::validate(errors, &at, &root.at("spec"));
}

/// All that is wrong with a pod whose ephemeral containers were changed: they can only be added.
pub(crate) fn validate_ephemeral(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    super::validate_pod(&mut errors, new);
    annotation_changes(&mut errors, new, old);
    if is_mirror(old) {
        return vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
    }
    let root = At::new(new, "");
    let spec = root.at("spec");
    let at = spec.at("ephemeralContainers");
    for container in list(&old["spec"]["ephemeralContainers"]) {
        let name = text(&container["name"]);
        match list(at.value()).iter().find(|new| text(&new["name"]) == name) {
            None => {
                errors.push(at.forbidden(&format!("existing ephemeral containers {name:?} may not be removed\n")));
            }
            Some(new) if new != container => {
                let diff = difference(container, new);
                let why = format!("existing ephemeral containers {name:?} may not be changed\n{diff}");
                errors.push(at.forbidden(&why));
            }
            Some(_) => {}
        }
    }
    errors
}

/// What a resize takes over from the pod that was sent: resources and how containers bear their change.
pub(crate) fn resized(new: &Value, old: &Value) -> Value {
    let mut pod = old.clone();
    let kinds = ["containers", "initContainers"];
    let same_names = |kind: &str| {
        let names = |spec: &Value| list(&spec[kind]).iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
        names(&new["spec"]) == names(&old["spec"])
    };
    if kinds.iter().any(|kind| list(&new["spec"][*kind]).len() != list(&old["spec"][*kind]).len()) {
        return new.clone();
    }
    let Some(spec) = present(&mut pod, "spec") else { return pod };
    keep(spec, &new["spec"], "resources");
    for kind in kinds {
        if !same_names(kind) {
            // Refused by the validation that follows, which wants to see it.
            keep(spec, &new["spec"], kind);
            continue;
        }
        for (container, wanted) in list_mut(spec, kind).iter_mut().zip(list(&new["spec"][kind])) {
            keep(container, wanted, "resources");
            keep(container, wanted, "resizePolicy");
        }
    }
    pod
}

/// All that is wrong with a resized pod.
pub(crate) fn validate_resize(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    super::validate_pod(&mut errors, new);
    if is_mirror(old) {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    if old["spec"]["os"]["name"] == "windows" {
        return vec![FieldError::forbidden("", "windows pods cannot be resized")];
    }
    let root = At::new(new, "");
    let spec = root.at("spec");
    let class = match text(&old["status"]["qosClass"]) {
        "" => defaults::quality_of_service(&old["spec"]),
        class => class,
    };
    if class != defaults::quality_of_service(spec.value()) {
        let shown = text(&new["status"]["qosClass"]);
        errors.push(spec.invalid_as(shown, "Pod QOS Class may not change as a result of resizing"));
    }
    let unaware = list(&old["status"]["containerStatuses"]).iter().find(|status| is_set(&status["state"], "running"));
    if unaware.is_some_and(|status| !is_set(status, "resources")) {
        errors.push(spec.forbidden("Pod running on node without support for resize"));
    }
    pod_level_resize(&mut errors, &spec, &old["spec"]);
    if same_containers(&mut errors, &spec, &old["spec"]) {
        container_resizes(&mut errors, &spec, &old["spec"]);
    }
    errors
}

fn pod_level_resize(errors: &mut Errors, spec: &At<'_>, before: &Value) {
    let (at, was) = (spec.at("resources"), &before["resources"]);
    if was.is_object() && !at.is_set() {
        errors.push(at.forbidden("pod-level resources cannot be removed"));
        return;
    }
    for (kind, what) in [("requests", "requests"), ("limits", "limits")] {
        if entries(&was[kind]).any(|(name, _)| !at.at(kind).at(name).is_set()) {
            errors.push(at.at(kind).forbidden(&format!("pod-level resource {what} cannot be removed")));
        }
    }
    if at.is_set() && fixed_resources(at.value()) != fixed_resources(was) {
        errors.push(spec.forbidden("only cpu and memory resources are mutable at pod-level"));
    }
}

fn same_containers(errors: &mut Errors, spec: &At<'_>, before: &Value) -> bool {
    let found = errors.len();
    for kind in ["containers", "initContainers"] {
        let (at, was) = (spec.at(kind), list(&before[kind]));
        if at.count() != was.len() {
            errors.push(at.forbidden(&format!("{kind} may not be added or removed on resize")));
            continue;
        }
        for (container, old) in at.items().zip(was) {
            if *container.at("name").value() != old["name"] {
                let why = format!("{kind} may not be renamed or reordered on resize");
                errors.push(container.at("name").forbidden(&why));
            }
        }
    }
    errors.len() == found
}

fn container_resizes(errors: &mut Errors, spec: &At<'_>, before: &Value) {
    for kind in ["initContainers", "containers"] {
        for (container, old) in spec.at(kind).items().zip(list(&before[kind])) {
            let resources = container.at("resources");
            for part in ["requests", "limits"] {
                if entries(&old["resources"][part]).any(|(name, _)| !resources.at(part).at(name).is_set()) {
                    errors.push(resources.at(part).forbidden(&format!("resource {part} cannot be removed")));
                }
            }
        }
    }
    for (container, old) in spec.at("containers").items().zip(list(&before["containers"])) {
        if fixed_container(container.value()) != fixed_container(old) {
            errors.push(spec.forbidden(ONLY_CPU_AND_MEMORY));
        }
    }
    for (container, old) in spec.at("initContainers").items().zip(list(&before["initContainers"])) {
        if fixed_container(container.value()) != fixed_container(old) {
            let why = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(container.forbidden(why));
        }
    }
}

/// A container without the amounts that may change.
fn fixed_container(container: &Value) -> Value {
    let mut container = container.clone();
    let resources = fixed_resources(&container["resources"]);
    crate::registry::tree::set(&mut container, "resources", resources);
    container
}

fn fixed_resources(resources: &Value) -> Value {
    let mut resources = resources.clone();
    for kind in ["requests", "limits"] {
        let Some(amounts) = present(&mut resources, kind) else { continue };
        ["cpu", "memory"].iter().for_each(|name| remove(amounts, name));
        if amounts.as_object().is_some_and(serde_json::Map::is_empty) {
            remove(&mut resources, kind);
        }
    }
    // No resources and resources without any are the same.
    if resources.as_object().is_some_and(serde_json::Map::is_empty) { Value::Null } else { resources }
}

fn is_mirror(pod: &Value) -> bool {
    is_set(&pod["metadata"]["annotations"], annotations::MIRROR)
}
