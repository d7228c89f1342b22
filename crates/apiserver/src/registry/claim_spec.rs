//! The spec of a claim to storage: of claims and of what makes them.

use machinery::names;

use serde_json::Value;

use super::at::{At, Errors};
use super::tree::{child, present, set_default};
use super::{check, pod_spec};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Sets what a claim's spec leaves out.
pub fn default(spec: &mut Value) {
    set_default(spec, "volumeMode", "Filesystem");
    if let Some(resources) = child(spec, "resources") {
        for kind in ["limits", "requests"] {
            if let Some(amounts) = present(resources, kind) {
                pod_spec::round_up(amounts);
            }
        }
    }
}

/// Checks access modes, of which one excludes all others.
pub fn access_modes(errors: &mut Errors, at: &At<'_>) {
    for mode in at.items().filter(|mode| !ACCESS_MODES.contains(&mode.text())) {
        errors.push(at.with(mode.value()).not_supported(ACCESS_MODES));
    }
    let has = |alone: bool| {
        at.items().any(|mode| ACCESS_MODES.contains(&mode.text()) && (mode.text() == "ReadWriteOncePod") == alone)
    };
    if has(true) && has(false) {
        errors.push(at.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// Checks a claim's spec.
pub fn validate(errors: &mut Errors, at: &At<'_>) {
    let modes = at.at("accessModes");
    if modes.count() == 0 {
        errors.push(modes.required("at least 1 access mode is required"));
    }
    check::label_selector(errors, &at.at("selector"));
    access_modes(errors, &modes);
    storage(errors, at);
    check::optional_text(errors, &at.at("storageClassName"), names::dns1123_subdomain);
    check::one_of(errors, &at.at("volumeMode"), &["Block", "Filesystem"]);
    let (source, reference) = (at.at("dataSource"), at.at("dataSourceRef"));
    data_source(errors, &source);
    data_source(errors, &reference);
    let namespace = reference.at("namespace");
    check::optional_text(errors, &namespace, names::dns1123_label);
    if namespace.has_text() {
        if source.is_set() {
            let why = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(at.invalid_as(serde_json::json!({}), why));
        }
    } else if source.is_set() && reference.is_set() {
        let same =
            ["apiGroup", "kind", "name"].iter().all(|field| source.at(field).value() == reference.at(field).value());
        if !same {
            errors.push(at.invalid_as(serde_json::json!({}), "must match dataSourceRef"));
        }
    }
    check::optional_text(errors, &at.at("volumeAttributesClassName"), names::dns1123_subdomain);
}

fn storage(errors: &mut Errors, at: &At<'_>) {
    let resources = at.at("resources");
    let requested = resources.at("requests");
    let shown = resources.key("storage").with(requested.at("storage").value());
    match shown.quantity() {
        None => errors.push(shown.required("")),
        Some(amount) if amount.is_negative() || amount.is_zero() => {
            errors.push(shown.invalid_as(amount.to_string(), "must be greater than zero"));
        }
        Some(_) => pod_spec::resource_quantity(errors, &shown, "storage"),
    }
}

fn data_source(errors: &mut Errors, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    check::required(errors, &at.at("name"));
    check::required(errors, &at.at("kind"));
    let group = at.at("apiGroup");
    if !group.has_text() && at.at("kind").text() != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(at.invalid_as(at.at("kind").text(), why));
    }
    check::optional_text(errors, &group, names::dns1123_subdomain);
}

/// Warns about a claim's spec: bytes are whole.
pub fn warn(warnings: &mut Vec<String>, at: &At<'_>) {
    let resources = at.at("resources");
    for kind in ["requests", "limits"] {
        warn_fraction(warnings, &resources.at(kind).key("storage"));
    }
}

/// Warns about an amount of bytes that is not whole.
pub fn warn_fraction(warnings: &mut Vec<String>, at: &At<'_>) {
    if let Some(amount) = at.quantity().filter(|amount| amount.milli_value() % 1000 != 0) {
        let why = format!("fractional byte value {:?} is invalid, must be an integer", amount.to_string());
        warnings.push(format!("{}: {why}", at.path()));
    }
}
