//! Where a container sees the pod's volumes, as files or as devices.

use std::collections::BTreeSet;

use super::volumes::Volumes;
use crate::registry::at::{At, Errors};
use crate::registry::check;

/// Checks `volumeMounts`.
pub(super) fn mounts(errors: &mut Errors, container: &At<'_>, volumes: &Volumes<'_>) {
    let (at, devices) = (container.at("volumeMounts"), container.at("volumeDevices"));
    let mut paths = BTreeSet::new();
    for mount in at.items() {
        let (name, path) = (mount.text_at("name"), mount.text_at("mountPath"));
        check::required(errors, &name);
        if !volumes.contains_key(name.text()) {
            errors.push(name.not_found());
        }
        check::required(errors, &path);
        if !paths.insert(path.text().to_owned()) {
            errors.push(path.invalid("must be unique"));
        }
        if devices.items().any(|device| device.at("name").text() == name.text()) {
            errors.push(name.invalid("must not already exist in volumeDevices"));
        }
        if devices.items().any(|device| device.at("devicePath").text() == path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        below(errors, &at, &mount);
        propagation(errors, &at, &mount, container);
        recursive_read_only(errors, &at, &mount);
    }
}

/// The part of a volume that is mounted. Upstream's path leaves out the mount's index.
fn below(errors: &mut Errors, at: &At<'_>, mount: &At<'_>) {
    let (path, expression) = (mount.at("subPath"), mount.at("subPathExpr"));
    if path.has_text() {
        check::descending_path(errors, &at.at("subPath").with(path.value()));
    }
    if expression.has_text() {
        if path.has_text() {
            errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
        }
        check::descending_path(errors, &at.at("subPathExpr").with(expression.value()));
    }
}

fn propagation(errors: &mut Errors, at: &At<'_>, mount: &At<'_>, container: &At<'_>) {
    let given = mount.at("mountPropagation");
    let shown = at.at("mountPropagation").with(given.value());
    check::one_of(errors, &shown, &["Bidirectional", "HostToContainer", "None"]);
    if given.text() == "Bidirectional" && !container.at("securityContext").at("privileged").is_true() {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(shown.forbidden(why));
    }
}

fn recursive_read_only(errors: &mut Errors, at: &At<'_>, mount: &At<'_>) {
    let shown = at.at("recursiveReadOnly").with(mount.at("recursiveReadOnly").value());
    if !shown.is_set() || shown.text() == "Disabled" {
        return;
    }
    if !["Enabled", "IfPossible"].contains(&shown.text()) {
        errors.push(shown.not_supported(&["Disabled", "Enabled", "IfPossible"]));
        return;
    }
    if !mount.at("readOnly").is_true() {
        errors.push(shown.forbidden("may only be specified when readOnly is true"));
    }
    let propagation = mount.at("mountPropagation");
    if propagation.is_set() && propagation.text() != "None" {
        errors.push(shown.forbidden("may only be specified when mountPropagation is None or not specified"));
    }
}

/// Checks `volumeDevices`.
pub(super) fn devices(errors: &mut Errors, container: &At<'_>, volumes: &Volumes<'_>) {
    let (at, mounts) = (container.at("volumeDevices"), container.at("volumeMounts"));
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in at.items() {
        let (name, path) = (device.text_at("name"), device.text_at("devicePath"));
        check::required(errors, &name);
        if names.contains(name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        match volumes.get(name.text()) {
            None => errors.push(name.not_found()),
            Some(volume) if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(name.invalid(why));
            }
            Some(_) => {}
        }
        check::required(errors, &path);
        if paths.contains(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if path.text().split('/').any(|part| part == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else {
            paths.insert(path.text().to_owned());
        }
        if mounts.items().any(|mount| mount.at("name").text() == name.text()) {
            errors.push(name.invalid("must not already exist in volumeMounts"));
        }
        if mounts.items().any(|mount| mount.at("mountPath").text() == path.text()) {
            errors.push(path.invalid("must not already exist as a path in volumeMounts"));
        }
        if name.has_text() {
            names.insert(name.text().to_owned());
        }
    }
}
