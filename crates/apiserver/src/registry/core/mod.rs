//! Strategies of the core group.

pub mod component_status;
pub mod config_map;
pub mod endpoints;
pub mod event;
pub mod limit_range;
pub mod namespace;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_template;
pub mod replication_controller;
pub mod resource_quota;
pub mod secret;
pub mod service;
pub mod service_account;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::at::At;
use crate::invalid::FieldError;

/// All values of a config map or secret together.
const DATA_BYTES_MAX: usize = 1 << 20;

/// How many bytes a text in base64 stands for.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|c| *c == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

/// What an immutable config map or secret may not change.
fn validate_frozen(errors: &mut Vec<FieldError>, new: &Value, old: &Value, fields: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old["immutable"] != true {
        return;
    }
    let root = At::new(new, "");
    if !root.at("immutable").is_true() {
        errors.push(root.at("immutable").forbidden(WHY));
    }
    for field in fields {
        if *root.at(field).value() != old[*field] {
            errors.push(root.at(field).forbidden(WHY));
        }
    }
}
