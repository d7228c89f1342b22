//! Volumes whose files the cluster fills: secrets, config maps, the downward API, tokens, and projections of several.

use std::collections::BTreeSet;

use super::env;
use crate::registry::at::{At, Errors};
use crate::registry::check;

const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

pub(super) fn secret(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("secretName"));
    files(errors, at);
}

pub(super) fn config_map(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("name"));
    files(errors, at);
}

fn files(errors: &mut Errors, at: &At<'_>) {
    check::file_mode(errors, &at.at("defaultMode"));
    for item in at.at("items").items() {
        key_to_path(errors, &item);
    }
}

fn key_to_path(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("key"));
    check::required(errors, &at.at("path"));
    check::local_path(errors, &at.at("path"));
    check::file_mode(errors, &at.at("mode"));
}

pub(super) fn downward(errors: &mut Errors, at: &At<'_>) {
    check::file_mode(errors, &at.at("defaultMode"));
    for item in at.at("items").items() {
        // Upstream names the volume here, not the item.
        downward_file(errors, &at.with(item.value()));
    }
}

fn downward_file(errors: &mut Errors, at: &At<'_>) {
    const FIELDS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    check::required(errors, &at.at("path"));
    check::local_path(errors, &at.at("path"));
    let (field, resource) = (at.at("fieldRef"), at.at("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, second) => {
            env::field_selector(errors, &field, FIELDS);
            if second {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(at.invalid_as("resource", why));
            }
        }
        (false, true) => env::resource_selector(errors, &resource, env::ContainerName::Required),
        (false, false) => errors.push(at.required("one of fieldRef and resourceFieldRef is required")),
    }
    check::file_mode(errors, &at.at("mode"));
}

pub(super) fn projected(errors: &mut Errors, at: &At<'_>) {
    check::file_mode(errors, &at.at("defaultMode"));
    let mut paths = BTreeSet::new();
    for source in at.at("sources").items() {
        let count = source.entries().filter(|(_, kind)| kind.is_set()).count();
        for (kind, owner) in [("secret", "name"), ("configMap", "name")] {
            let files = source.at(kind);
            if files.is_set() {
                check::required(errors, &files.at(owner));
            }
            for item in files.at("items").items() {
                key_to_path(errors, &item);
                once(errors, &mut paths, at, item.at("path").text(), files.at(owner).text());
            }
        }
        let downward = source.at("downwardAPI");
        for item in downward.at("items").items() {
            downward_file(errors, &downward.with(item.value()));
            let path = item.at("path");
            once(errors, &mut paths, at, path.text(), path.text());
        }
        if source.at("serviceAccountToken").is_set() {
            token(errors, at, &source.at("serviceAccountToken"));
        }
        if count > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

/// Two sources of one volume must not fill the same file.
fn once(errors: &mut Errors, paths: &mut BTreeSet<String>, at: &At<'_>, path: &str, shown: &str) {
    if !path.is_empty() && !paths.insert(path.to_owned()) {
        errors.push(at.invalid_as(shown, "conflicting duplicate paths"));
    }
}

fn token(errors: &mut Errors, volume: &At<'_>, at: &At<'_>) {
    let seconds = at.number_at("expirationSeconds");
    match seconds.number().unwrap_or(0) {
        short if short < TOKEN_SECONDS_MIN => {
            errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        long if long > TOKEN_SECONDS_MAX => {
            errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    // Upstream's path is that of the volume.
    let path = volume.at("path").with(at.at("path").value());
    if path.has_text() {
        check::local_path(errors, &path);
    } else {
        errors.push(path.required(""));
    }
}
