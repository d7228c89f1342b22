//! The Pod Security Standards as a table: each control, its level, and from which version on it is checked how.
//!
//! Texts are upstream's: users and tests match them. Controls that look at containers are in [`super::containers`], those
//! about security contexts in [`super::security_context`].

use serde_json::Value;

use super::policy::{Level, LevelVersion, Version};
use super::{containers, security_context};
use crate::registry::tree::{list, text};

/// A pod or a pod template.
pub(super) struct Pod<'a> {
    /// Its metadata.
    pub metadata: &'a Value,
    /// Its spec.
    pub spec: &'a Value,
}

/// What a pod does that its standard forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// The control's name for it.
    pub reason: String,
    /// Who does it, with what.
    pub detail: String,
}

/// Looks at a pod.
pub(super) type CheckPod = fn(&Pod<'_>) -> Option<Violation>;

/// One control.
struct Check {
    id: &'static str,
    level: Level,
    /// From which minor version on which form of it holds, oldest first.
    versions: &'static [(u32, CheckPod)],
    /// The laxer control that it takes the place of.
    overrides: &'static str,
}

const fn baseline(id: &'static str, versions: &'static [(u32, CheckPod)]) -> Check {
    Check { id, level: Level::Baseline, versions, overrides: "" }
}

const fn restricted(id: &'static str, versions: &'static [(u32, CheckPod)], overrides: &'static str) -> Check {
    Check { id, level: Level::Restricted, versions, overrides }
}

/// In the order in which violations are told: by level, then by name.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, security_context::app_armor)]),
    baseline("capabilities_baseline", &[(0, containers::capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path_volumes)]),
    baseline("hostPorts", &[(0, containers::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, containers::host_probes)]),
    baseline("privileged", &[(0, containers::privileged)]),
    baseline("procMount", &[(0, containers::proc_mount), (35, |pod| unless_own_users(pod, containers::proc_mount))]),
    baseline("seLinuxOptions", &[(0, security_context::se_linux_1_0), (31, security_context::se_linux_1_31)]),
    baseline(
        "seccompProfile_baseline",
        &[(0, security_context::seccomp_annotations), (19, security_context::seccomp_baseline)],
    ),
    baseline(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, 0)),
            (27, |pod| sysctls(pod, 27)),
            (29, |pod| sysctls(pod, 29)),
            (32, |pod| sysctls(pod, 32)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, security_context::windows_host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[(8, containers::privilege_escalation), (25, |pod| unless_windows(pod, containers::privilege_escalation))],
        "",
    ),
    restricted(
        "capabilities_restricted",
        &[
            (22, containers::capabilities_restricted),
            (25, |pod| unless_windows(pod, containers::capabilities_restricted)),
        ],
        "capabilities_baseline",
    ),
    restricted("procMount_restricted", &[(35, containers::proc_mount)], "procMount"),
    restricted("restrictedVolumes", &[(0, restricted_volumes)], "hostPathVolumes"),
    restricted(
        "runAsNonRoot",
        &[(0, security_context::run_as_non_root), (35, |pod| unless_own_users(pod, security_context::run_as_non_root))],
        "",
    ),
    restricted(
        "runAsUser",
        &[(23, security_context::run_as_user), (35, |pod| unless_own_users(pod, security_context::run_as_user))],
        "",
    ),
    restricted(
        "seccompProfile_restricted",
        &[
            (19, security_context::seccomp_restricted),
            (25, |pod| unless_windows(pod, security_context::seccomp_restricted)),
        ],
        "seccompProfile_baseline",
    ),
];

impl Check {
    /// The form that holds in a version.
    fn at(&self, minor: u32) -> Option<CheckPod> {
        self.versions.iter().rev().find(|(from, _)| *from <= minor).map(|(_, check)| *check)
    }
}

/// All that a pod does against a standard.
pub(super) fn evaluate(standard: LevelVersion, pod: &Pod<'_>) -> Vec<Violation> {
    let minor = match standard.version {
        Version::Latest => u32::MAX,
        Version::Minor(minor) => minor,
    };
    let overridden = |id: &str| {
        standard.level == Level::Restricted
            && CHECKS.iter().any(|check| check.overrides == id && check.at(minor).is_some())
    };
    let applies = |check: &&Check| check.level <= standard.level && !overridden(check.id);
    let checks = CHECKS.iter().filter(applies).filter_map(|check| check.at(minor));
    checks.filter_map(|check| check(pod)).collect()
}

/// A violation, told with its detail.
pub(super) fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// `container "a"`, `containers "a", "b"`
pub(super) fn named(singular: &str, plural: &str, names: &[&str]) -> String {
    format!("{} {}", number(singular, plural, names.len()), quoted(names))
}

/// The word for so many.
pub(super) fn number<'a>(singular: &'a str, plural: &'a str, count: usize) -> &'a str {
    if count == 1 { singular } else { plural }
}

/// `"a", "b"`
pub(super) fn quoted<S: AsRef<str>>(items: &[S]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("\"{}\"", items.join("\", \""))
}

/// Windows knows nothing of what this control is about; validation has refused it there.
fn unless_windows(pod: &Pod<'_>, check: CheckPod) -> Option<Violation> {
    if pod.spec["os"]["name"] == "windows" { None } else { check(pod) }
}

/// In a user namespace of its own a pod's root is nobody.
fn unless_own_users(pod: &Pod<'_>, check: CheckPod) -> Option<Violation> {
    if pod.spec["hostUsers"] == false { None } else { check(pod) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<_> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = list(&pod.spec["volumes"]).iter().filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<_> = volumes.map(|volume| text(&volume["name"])).collect();
    if names.is_empty() { None } else { violation("hostPath volumes", named("volume", "volumes", &names)) }
}

/// The kinds of volumes that every pod may have.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let source = |volume: &Value| {
        let fields = volume.as_object()?;
        fields.iter().find(|(field, value)| *field != "name" && !value.is_null()).map(|(field, _)| field.clone())
    };
    let mut names = Vec::new();
    let mut kinds = std::collections::BTreeSet::new();
    for volume in list(&pod.spec["volumes"]) {
        if !VOLUMES.iter().any(|kind| !volume[*kind].is_null()) {
            names.push(text(&volume["name"]));
            kinds.insert(source(volume).unwrap_or_else(|| "unknown".to_owned()));
        }
    }
    if names.is_empty() {
        return None;
    }
    let kinds: Vec<_> = kinds.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        named("volume", "volumes", &names),
        number("uses", "use", names.len()),
        number("restricted volume type", "restricted volume types", kinds.len()),
        quoted(&kinds)
    );
    violation("restricted volume types", detail)
}

/// Sysctls that touch the pod alone, and since which version they are known to.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    let names = list(&pod.spec["securityContext"]["sysctls"]).iter().map(|sysctl| text(&sysctl["name"]));
    let safe = |name: &str| SYSCTLS.iter().any(|(since, known)| *since <= minor && *known == name);
    let forbidden: Vec<_> = names.filter(|name| !safe(name)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

#[cfg(test)]
mod tests;
