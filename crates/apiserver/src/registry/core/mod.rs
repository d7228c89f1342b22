//! Strategies of the core group.

pub mod config_map;
pub mod endpoints;
pub mod event;
pub mod namespace;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod replication_controller;
pub mod secret;
pub mod service;
pub mod service_account;

use serde_json::Value;

use super::tree::{entries, text};
use crate::invalid::FieldError;

/// All values of a config map or secret together.
const DATA_BYTES_MAX: usize = 1 << 20;

/// What the keys and the size of a config map or secret must be. `base64`: fields whose values are encoded so.
fn validate_data(object: &Value, plain: &[&str], base64: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut total = 0;
    for field in plain.iter().chain(base64) {
        for (key, value) in entries(&object[*field]) {
            let complaints = machinery::names::config_map_key(key);
            let path = format!("{field}[{key}]");
            errors.extend(complaints.iter().map(|why| FieldError::invalid(path.as_str(), &key.as_str().into(), why)));
            if *field == "binaryData" && object["data"].get(key).is_some() {
                errors.push(FieldError::invalid(path, &key.as_str().into(), "duplicate of key present in data"));
            }
            let length = text(value).len();
            total += if base64.contains(field) { length / 4 * 3 } else { length };
        }
    }
    if total > DATA_BYTES_MAX {
        errors.push(FieldError::too_long(if base64.contains(&"data") { "data" } else { "" }, DATA_BYTES_MAX));
    }
    errors
}

/// What an immutable config map or secret may not change.
fn validate_frozen(errors: &mut Vec<FieldError>, new: &Value, old: &Value, fields: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", WHY));
    }
    for field in fields {
        if new[*field] != old[*field] {
            errors.push(FieldError::forbidden(*field, WHY));
        }
    }
}
