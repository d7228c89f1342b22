//! Persistent volume claims: after creation only the wish for space may grow.

use std::sync::Arc;

use serde_json::{Value, json};

use super::persistent_volume::ACCESS_MODES;
use crate::invalid::FieldError;
use crate::registry::tree::{child, is_set, list, one_of, quantity, remove, set, set_default, text};
use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::PERSISTENT_VOLUME_CLAIMS, strategy: |_| Arc::new(ClaimStrategy) };

struct ClaimStrategy;

impl Strategy for ClaimStrategy {
    fn default(&self, claim: &mut Value) {
        if let Some(spec) = child(claim, "spec") {
            set_default(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, claim: &mut Value) {
        set(claim, "status", json!({"phase": "Pending"}));
    }

    fn validate(&self, _: &Context<'_>, claim: &Value) -> Vec<FieldError> {
        let spec = &claim["spec"];
        let mut errors = Vec::new();
        if list(&spec["accessModes"]).is_empty() {
            errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
        }
        for mode in list(&spec["accessModes"]) {
            one_of(&mut errors, mode, "spec.accessModes", &ACCESS_MODES);
        }
        match quantity(&spec["resources"]["requests"]["storage"]) {
            None => errors.push(FieldError::required("spec.resources[storage]", "")),
            Some(size) if size.is_negative() || size.is_zero() => {
                let value = &spec["resources"]["requests"]["storage"];
                errors.push(FieldError::invalid("spec.resources[storage]", value, "must be greater than zero"));
            }
            Some(_) => {}
        }
        one_of(&mut errors, &spec["volumeMode"], "spec.volumeMode", &["Block", "Filesystem"]);
        if is_set(spec, "selector") {
            crate::registry::tree::label_selector(&mut errors, &spec["selector"], "spec.selector");
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let fixed = |claim: &Value| {
            let mut spec = claim["spec"].clone();
            remove(&mut spec, "resources");
            remove(&mut spec, "volumeAttributesClassName");
            // A claim is bound once, and a claim without a class gets the default one.
            if text(&old["spec"]["volumeName"]).is_empty() {
                remove(&mut spec, "volumeName");
            }
            if !is_set(&old["spec"], "storageClassName") {
                remove(&mut spec, "storageClassName");
            }
            spec
        };
        if fixed(new) != fixed(old) {
            let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.push(FieldError::forbidden("spec", why));
        }
        let size =
            |claim: &Value| quantity(&claim["spec"]["resources"]["requests"]["storage"]).map(|size| size.nanos());
        let reported = quantity(&old["status"]["capacity"]["storage"]).map(|size| size.nanos());
        if size(new) < size(old) && size(new) < reported.or(size(old)) {
            let why = "field can not be less than status.capacity";
            errors.push(FieldError::forbidden("spec.resources.requests.storage", why));
        }
        errors
    }
}
