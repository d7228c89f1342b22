//! Controls that look at each container.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Pod, Violation, named, number, quoted, violation};
use crate::registry::tree::{list, text};

/// All containers, in the order in which they are told of.
pub(super) fn containers<'a>(pod: &Pod<'a>) -> impl Iterator<Item = &'a Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| list(&pod.spec[field]))
}

/// The names of those containers that `bad` is true of.
pub(super) fn offenders<'a>(pod: &Pod<'a>, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod).filter(|container| bad(container)).map(|container| text(&container["name"])).collect()
}

fn these(names: &[&str]) -> String {
    named("container", "containers", names)
}

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let bad = offenders(pod, |container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", these(&bad)))
}

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let bad = offenders(pod, |container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", these(&bad));
    violation("allowPrivilegeEscalation != false", detail)
}

/// What every container may have: the default set of container runtimes.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities other than `allowed`, and those capabilities.
fn adding<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let mut added = BTreeSet::new();
    let bad = offenders(pod, |container| {
        let names = list(&container["securityContext"]["capabilities"]["add"]).iter().map(text);
        let others: Vec<&str> = names.filter(|name| !allowed.contains(name)).collect();
        added.extend(others.iter().copied());
        !others.is_empty()
    });
    (bad, added.into_iter().collect())
}

pub(super) fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    let (bad, added) = adding(pod, &CAPABILITIES);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", these(&bad), quoted(&added));
    violation("non-default capabilities", detail)
}

pub(super) fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let keeps = offenders(pod, |container| {
        !list(&container["securityContext"]["capabilities"]["drop"]).iter().any(|dropped| dropped == "ALL")
    });
    let (adds, added) = adding(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(r#"{} must set securityContext.capabilities.drop=["ALL"]"#, these(&keeps)));
    }
    if !adds.is_empty() {
        let what = quoted(&added);
        details.push(format!("{} must not include {what} in securityContext.capabilities.add", these(&adds)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = offenders(pod, |container| {
        let used =
            list(&container["ports"]).iter().filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0);
        let used: Vec<String> = used.map(|port| port.to_string()).collect();
        ports.extend(used.iter().cloned());
        !used.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.into_iter().collect();
    let (uses, what) = (number("uses", "use", bad.len()), number("hostPort", "hostPorts", ports.len()));
    violation("hostPort", format!("{} {uses} {what} {}", these(&bad), ports.join(", ")))
}

/// Probes and hooks that go elsewhere than to the pod: with them a node can be made to call anyone.
pub(super) fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in containers(pod) {
        let lifecycle = &container["lifecycle"];
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        for handler in probes.into_iter().chain([&lifecycle["postStart"], &lifecycle["preStop"]]) {
            let named = ["httpGet", "tcpSocket"].map(|kind| text(&handler[kind]["host"]));
            for host in named.into_iter().filter(|host| !host.is_empty()) {
                names.insert(text(&container["name"]));
                hosts.insert(host);
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let (names, hosts): (Vec<_>, Vec<_>) = (names.into_iter().collect(), hosts.into_iter().collect());
    let detail = format!(
        "{} {} {} {}",
        these(&names),
        number("uses", "use", names.len()),
        number("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(&hosts)
    );
    violation("probe or lifecycle host", detail)
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = offenders(pod, |container| {
        let kind = container["securityContext"]["procMount"].as_str().filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    if bad.is_empty() {
        return None;
    }
    let kinds: Vec<_> = kinds.into_iter().collect();
    violation("procMount", format!("{} must not set securityContext.procMount to {}", these(&bad), quoted(&kinds)))
}
