//! Strategies of the `flowcontrol.apiserver.k8s.io` group: which requests belong together, and how many of them at a time.
//!
//! Defaults, paths and texts are upstream's. The objects that every cluster must have (`exempt`, `catch-all`) can be
//! annotated, but say nothing else than what they always said.

mod flow_schema;
mod priority_level;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use super::Descriptor;
use super::at::{At, Errors};
use super::tree::text;

/// Flow schemas.
pub const FLOW_SCHEMA: Descriptor = flow_schema::DESCRIPTOR;
/// Priority levels.
pub const PRIORITY_LEVEL: Descriptor = priority_level::DESCRIPTOR;

/// The names of the schemas and levels that are what they are, in every cluster.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// What the object of this name must be, where it is one of the mandatory ones.
fn mandatory(all: Vec<Value>, name: &str, default: impl Fn(&mut Value)) -> Option<Value> {
    let found = all.into_iter().find(|object| MANDATORY.contains(&name) && text(&object["metadata"]["name"]) == name);
    let mut found = found?;
    default(&mut found);
    Some(found["spec"].take())
}

/// The conditions of a status: each has a type of its own.
fn conditions(errors: &mut Errors, status: &At<'_>) {
    let mut seen = BTreeSet::new();
    for condition in status.at("conditions").items() {
        let kind = condition.text_at("type");
        if !seen.insert(kind.text().to_owned()) {
            errors.push(kind.duplicate());
        }
        if !kind.has_text() {
            errors.push(kind.required(""));
        }
    }
}
