//! Persistent volume claims: after creation only the wish for space may change, and only upwards.

use std::sync::Arc;

use machinery::{Quantity, names};
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::diff::difference;
use crate::registry::tree::{child, is_set, keep, present, quantity, remove, set, text};
use crate::registry::{Context, Descriptor, Strategy, check, claim_spec, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::PERSISTENT_VOLUME_CLAIMS, strategy: |_| Arc::new(ClaimStrategy) };

/// Where the class was named before it had a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

struct ClaimStrategy;

impl Strategy for ClaimStrategy {
    fn default(&self, claim: &mut Value) {
        let Some(spec) = child(claim, "spec") else { return };
        claim_spec::default(spec);
        // The older field can only name what the newer one can.
        let (old, new) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
        if old.is_object() && new.is_null() {
            set(spec, "dataSourceRef", old);
        } else if old.is_null() && new.is_object() && text(&new["namespace"]).is_empty() && is_old_source(&new) {
            set(spec, "dataSource", new);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, claim: &mut Value) {
        set(claim, "status", json!({"phase": "Pending"}));
    }

    fn validate(&self, _: &Context<'_>, claim: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(claim, "");
        claim_spec::validate(&mut errors, &root.at("spec"));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        let (spec, before) = (root.at("spec"), &old["spec"]);
        let mut kept = spec.value().clone();
        forgive(&mut errors, &mut kept, &root, old);
        if kept != *before {
            let why = format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                 claims\n{}",
                difference(before, &kept)
            );
            errors.push(spec.forbidden(&why));
        }
        let size =
            |claim: &Value| quantity(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or(Quantity::ZERO);
        let reached = quantity(&old["status"]["capacity"]["storage"]).unwrap_or(Quantity::ZERO);
        if size(new) < size(old) && size(new) <= reached {
            let (resources, why) = (spec.at("resources"), "field can not be less than status.capacity");
            errors.push(resources.at("requests").at("storage").forbidden(why));
        }
        check::immutable(
            &mut errors,
            &root.at("volumeMode").with(spec.at("volumeMode").value()),
            &before["volumeMode"],
        );
        let class = spec.at("volumeAttributesClassName");
        let changed = *class.value() != *before.get("volumeAttributesClassName").unwrap_or(&Value::Null);
        if changed && is_set(&old["status"], "currentVolumeAttributesClassName") && !class.has_text() {
            let what = if class.is_set() { "empty string" } else { "nil" };
            let why = format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
            errors.push(class.forbidden(&why));
        }
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        let status = root.at("status");
        for (_, amount) in status.at("capacity").entries() {
            if let Some(given) = amount.quantity().filter(|given| given.value() < 0) {
                errors.push(amount.invalid_as(given.value(), "must be a valid resource quantity"));
            }
        }
        resizing(&mut errors, &status);
        errors
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        if is_set(&new["metadata"]["annotations"], CLASS) {
            warnings.push(format!(
                "metadata.annotations[{CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        claim_spec::warn(&mut warnings, &root.at("spec"));
        warnings
    }
}

/// Whether the older field may name it: a claim, or a snapshot.
fn is_old_source(source: &Value) -> bool {
    match (text(&source["apiGroup"]), text(&source["kind"])) {
        ("", kind) => kind == "PersistentVolumeClaim",
        (group, kind) => group == "snapshot.storage.k8s.io" && kind == "VolumeSnapshot",
    }
}

/// Puts back what may change: the volume and the class of a claim that has none, and of a bound claim its size and attributes.
fn forgive(errors: &mut Errors, spec: &mut Value, root: &At<'_>, old: &Value) {
    let before = &old["spec"];
    if text(&before["volumeName"]).is_empty() {
        keep(spec, before, "volumeName");
    }
    let metadata = root.at("metadata");
    let annotation = metadata.at("annotations").at(CLASS).value().clone();
    let was = old["metadata"]["annotations"].get(CLASS).cloned().unwrap_or(Value::Null);
    let class = spec["storageClassName"].clone();
    let unset = !is_set(before, "storageClassName");
    let from_annotation = !was.is_null() && unset && class == was && (annotation.is_null() || annotation == was);
    if !from_annotation && text(&annotation) != text(&was) {
        let why = "field is immutable";
        let path = metadata.at("annotations");
        errors.push(path.at(CLASS).invalid_as(text(&annotation), why));
    }
    if unset && (was.is_null() || class == was) {
        remove(spec, "storageClassName");
    }
    if root.at("status").at("phase").text() != "Bound" {
        return;
    }
    keep(spec, before, "volumeAttributesClassName");
    if let Some(requests) = present(spec, "resources").and_then(|resources| present(resources, "requests")) {
        keep(requests, &before["resources"]["requests"], "storage");
    }
}

fn resizing(errors: &mut Errors, status: &At<'_>) {
    const STATES: &[&str] = &[
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let states = status.at("allocatedResourceStatuses");
    for (name, state) in states.entries() {
        resource_key(errors, &states, name);
        if !STATES.contains(&state.text()) {
            let mut sorted = STATES.to_vec();
            sorted.sort_unstable();
            errors.push(states.with(&name.into()).not_supported(&sorted));
        }
    }
    let amounts = status.at("allocatedResources");
    for (name, amount) in amounts.entries() {
        if !resource_key(errors, &amounts, name) {
            continue;
        }
        match amount.quantity() {
            Some(given) if given.value() < 0 => {
                errors.push(amount.invalid_as(given.value(), "must be a valid resource quantity"));
            }
            _ => pod_spec::resource_quantity(errors, &amount, "storage"),
        }
    }
}

fn resource_key(errors: &mut Errors, at: &At<'_>, name: &str) -> bool {
    let before = errors.len();
    errors.extend(names::qualified_name(name).iter().map(|why| at.invalid_as(name, why)));
    if errors.len() == before && crate::registry::resource_names::is_native(name) && name != "storage" {
        errors.push(at.with(&name.into()).not_supported(&["storage"]));
    }
    errors.len() == before
}
