//! Persistent volumes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::tree::{child, entries, is_set, list, one_of, present, set, set_default};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::PERSISTENT_VOLUMES, strategy: |_| Arc::new(PersistentVolumeStrategy) };

pub(super) const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// What a volume's spec says besides its one source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

struct PersistentVolumeStrategy;

impl Strategy for PersistentVolumeStrategy {
    fn default(&self, volume: &mut Value) {
        let Some(spec) = child(volume, "spec") else { return };
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(host_path) = present(spec, "hostPath")
            && !is_set(host_path, "type")
        {
            set(host_path, "type", "");
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, volume: &mut Value) {
        set(volume, "status", json!({"phase": "Pending"}));
    }

    fn validate(&self, _: &Context<'_>, volume: &Value) -> Vec<FieldError> {
        let spec = &volume["spec"];
        let mut errors = Vec::new();
        if list(&spec["accessModes"]).is_empty() {
            errors.push(FieldError::required("spec.accessModes", ""));
        }
        for mode in list(&spec["accessModes"]) {
            one_of(&mut errors, mode, "spec.accessModes", &ACCESS_MODES);
        }
        if entries(&spec["capacity"]).next().is_none() {
            errors.push(FieldError::required("spec.capacity", ""));
        } else if !is_set(&spec["capacity"], "storage") {
            errors.push(FieldError::not_supported("spec.capacity", &spec["capacity"], &["storage"]));
        }
        let policies = ["Delete", "Recycle", "Retain"];
        one_of(&mut errors, &spec["persistentVolumeReclaimPolicy"], "spec.persistentVolumeReclaimPolicy", &policies);
        one_of(&mut errors, &spec["volumeMode"], "spec.volumeMode", &["Block", "Filesystem"]);
        let sources = entries(spec).filter(|(field, value)| !NOT_SOURCES.contains(&field.as_str()) && !value.is_null());
        match sources.count() {
            0 => errors.push(FieldError::required("spec", "must specify a volume type")),
            1 => {}
            _ => errors.push(FieldError::forbidden("spec", "may not specify more than 1 volume type")),
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let source = |volume: &Value| -> Vec<(String, Value)> {
            let fields = entries(&volume["spec"]).filter(|(field, _)| !NOT_SOURCES.contains(&field.as_str()));
            fields.map(|(field, value)| (field.clone(), value.clone())).collect()
        };
        let mut errors = self.validate(context, new);
        if source(new) != source(old) {
            let why = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
        }
        crate::registry::tree::immutable(
            &mut errors,
            &new["spec"]["volumeMode"],
            &old["spec"]["volumeMode"],
            "spec.volumeMode",
        );
        errors
    }
}
