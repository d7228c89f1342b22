//! Security contexts of pods and containers, and what they mean for pods of the other operating system.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{CONTAINER_LISTS, windows};
use crate::registry::at::{At, Errors};
use crate::registry::check;

const SYSCTL_LENGTH_MAX: usize = 253;
const SYSCTL_REGEX: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const APP_ARMOR_PROFILE_MAX: usize = 4095;

/// Checks a container's context.
pub(super) fn of_container(errors: &mut Errors, at: &At<'_>, host_users: bool) {
    check::user_or_group(errors, &at.at("runAsUser"));
    check::user_or_group(errors, &at.at("runAsGroup"));
    let proc_mount = at.at("procMount");
    check::one_of(errors, &proc_mount, &["Default", "Unmasked"]);
    if host_users && proc_mount.text() == "Unmasked" {
        errors.push(proc_mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(errors, &at.at("seccompProfile"));
    if *at.at("allowPrivilegeEscalation").value() == false {
        escalation(errors, at);
    }
    windows::options(errors, &at.at("windowsOptions"));
    app_armor(errors, &at.at("appArmorProfile"));
}

fn escalation(errors: &mut Errors, at: &At<'_>) {
    if at.at("privileged").is_true() {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(at.invalid_as(internal(at.value()), why));
    }
    for capability in at.at("capabilities").at("add").items() {
        if capability.text() == "CAP_SYS_ADMIN" {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(at.invalid_as(internal(at.value()), why));
        }
    }
}

/// A container's context as upstream shows it: its internal type has no JSON names.
fn internal(context: &Value) -> Value {
    let capabilities = &context["capabilities"];
    let shown = if capabilities.is_null() {
        Value::Null
    } else {
        json!({"Add": capabilities["add"], "Drop": capabilities["drop"]})
    };
    json!({"Capabilities": shown, "Privileged": context["privileged"], "SELinuxOptions": context["seLinuxOptions"],
        "WindowsOptions": context["windowsOptions"], "RunAsUser": context["runAsUser"],
        "RunAsGroup": context["runAsGroup"], "RunAsNonRoot": context["runAsNonRoot"],
        "ReadOnlyRootFilesystem": context["readOnlyRootFilesystem"],
        "AllowPrivilegeEscalation": context["allowPrivilegeEscalation"], "ProcMount": context["procMount"],
        "SeccompProfile": context["seccompProfile"], "AppArmorProfile": context["appArmorProfile"]})
}

/// Checks the pod's context.
pub(super) fn of_pod(errors: &mut Errors, spec: &At<'_>) {
    let at = spec.at("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        check::user_or_group(errors, &at.at(field));
    }
    for group in at.at("supplementalGroups").items() {
        check::user_or_group(errors, &group);
    }
    if spec.at("shareProcessNamespace").is_true() && spec.at("hostPID").is_true() {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(at.at("shareProcessNamespace").invalid_as(true, why));
    }
    sysctls(errors, spec, &at.at("sysctls"));
    check::one_of(errors, &at.at("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    seccomp(errors, &at.at("seccompProfile"));
    windows::options(errors, &at.at("windowsOptions"));
    app_armor(errors, &at.at("appArmorProfile"));
    check::one_of(errors, &at.at("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    // `MountOption` needs a feature that is off by default.
    check::one_of(errors, &at.at("seLinuxChangePolicy"), &["Recursive"]);
}

fn sysctls(errors: &mut Errors, spec: &At<'_>, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for sysctl in at.items() {
        let name = sysctl.text_at("name");
        if !name.has_text() {
            errors.push(name.required(""));
        } else if !is_sysctl(name.text()) {
            let why = format!("must have at most {SYSCTL_LENGTH_MAX} characters and match regex {SYSCTL_REGEX}");
            errors.push(name.invalid(&why));
        } else if seen.contains(name.text()) {
            errors.push(name.duplicate());
        }
        let shared = ["hostNetwork", "hostIPC"].into_iter().find(|host| {
            spec.at(host).is_true() && namespace_of(name.text()) == Some(if *host == "hostIPC" { "ipc" } else { "net" })
        });
        if let Some(host) = shared {
            errors.push(name.invalid(&format!("may not be specified when '{host}' is true")));
        }
        seen.insert(name.text().to_owned());
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |segment: &str| {
        let bytes = segment.as_bytes();
        bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
            && bytes.iter().all(|c| edge(c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= SYSCTL_LENGTH_MAX && name.split(['.', '/']).all(segment)
}

/// The kernel namespace that a sysctl belongs to.
fn namespace_of(sysctl: &str) -> Option<&'static str> {
    let name = sysctl.replace('/', ".");
    match &*name {
        "kernel.sem" => Some("ipc"),
        _ if name.starts_with("kernel.shm") || name.starts_with("kernel.msg") || name.starts_with("fs.mqueue.") => {
            Some("ipc")
        }
        _ if name.starts_with("net.") => Some("net"),
        _ => None,
    }
}

fn seccomp(errors: &mut Errors, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.at("type"), at.at("localhostProfile"));
    match kind.text() {
        "" => errors.push(kind.required("type is required when seccompProfile is set")),
        _ => check::one_of(errors, &kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    match (kind.text() == "Localhost", profile.is_set()) {
        (true, true) => check::descending_path(errors, &profile),
        (true, false) => errors.push(profile.required("must be set when seccomp type is Localhost")),
        (false, true) => {
            let shown = json!({"Type": kind.text(), "LocalhostProfile": profile.value()});
            errors.push(profile.invalid_as(shown, "can only be set when seccomp type is Localhost"));
        }
        (false, false) => {}
    }
}

pub(super) fn app_armor(errors: &mut Errors, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    let (kind, profile) = (at.at("type"), at.at("localhostProfile"));
    match kind.text() {
        "Localhost" if !profile.is_set() => errors.push(profile.required(MISSING)),
        "Localhost" => {
            if profile.text().trim() != profile.text() {
                errors.push(profile.invalid("must not be padded with whitespace"));
            } else if !profile.has_text() {
                errors.push(profile.required(MISSING));
            }
            if profile.text().len() > APP_ARMOR_PROFILE_MAX {
                errors.push(profile.too_long(APP_ARMOR_PROFILE_MAX));
            }
        }
        "RuntimeDefault" | "Unconfined" if profile.is_set() => {
            errors.push(profile.invalid("can only be set when AppArmor type is Localhost"));
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => errors.push(kind.required("type is required when appArmorProfile is set")),
        _ => errors.push(kind.not_supported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
}

/// A pod with users of its own cannot share the namespaces whose owner the host's root is.
pub(super) fn host_users(errors: &mut Errors, spec: &At<'_>) {
    if *spec.at("hostUsers").value() != false {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.at(field).is_true() {
            errors.push(spec.at(shown).forbidden("when `hostUsers` is false"));
        }
    }
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            if container.at("volumeDevices").count() > 0 {
                errors.push(container.at("volumeDevices").forbidden("when `hostUsers` is false"));
            }
        }
    }
}

/// What a pod says of its operating system, and what does not go with it.
pub(super) fn operating_system(errors: &mut Errors, spec: &At<'_>) {
    let os = spec.at("os");
    if !os.is_set() {
        return;
    }
    let name = os.at("name");
    match name.text() {
        "" => errors.push(name.required("")),
        "linux" => only_linux(errors, spec),
        "windows" => only_windows(errors, spec),
        _ => errors.push(os.with(name.value()).not_supported(&["linux", "windows"])),
    }
}

fn only_linux(errors: &mut Errors, spec: &At<'_>) {
    const WHY: &str = "windows options cannot be set for a linux pod";
    let mut refuse = |owner: &At<'_>| {
        let context = owner.at("securityContext");
        if context.at("windowsOptions").is_set() {
            errors.push(context.at("windowsOptions").forbidden(WHY));
        }
    };
    refuse(spec);
    for kind in CONTAINER_LISTS {
        spec.at(kind).items().for_each(|container| refuse(&container));
    }
}

fn only_windows(errors: &mut Errors, spec: &At<'_>) {
    const WHY: &str = "cannot be set for a windows pod";
    const POD: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    const CONTAINER: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let mut refuse = |place: At<'_>, is_there: bool| {
        if is_there {
            errors.push(place.forbidden(WHY));
        }
    };
    let context = spec.at("securityContext");
    for field in ["hostUsers", "shareProcessNamespace"] {
        refuse(spec.at(field), spec.at(field).is_set());
    }
    for field in ["hostPID", "hostIPC"] {
        refuse(spec.at(field), spec.at(field).is_true());
    }
    refuse(context.at("sysctls"), context.at("sysctls").count() > 0);
    for field in POD {
        refuse(context.at(field), context.at(field).is_set());
    }
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            let context = container.at("securityContext");
            for field in CONTAINER {
                refuse(context.at(field), context.at(field).is_set());
            }
        }
    }
}
