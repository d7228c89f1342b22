//! Controls over fields that the pod's security context sets for all its containers and each container for itself.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Pod, Violation, named, number, quoted, violation};
use super::containers::{containers, offenders};
use crate::registry::tree::{entries, text};

/// `pod and containers "a", "b"`; empty where nobody is to be named.
fn setters(pod_sets: bool, names: &[&str]) -> String {
    let containers = (!names.is_empty()).then(|| named("container", "containers", names));
    let pod = pod_sets.then(|| "pod".to_owned());
    pod.into_iter().chain(containers).collect::<Vec<_>>().join(" and ")
}

/// Who sets a field of the security context to something bad: the pod, and which containers.
fn who<'a>(pod: &Pod<'a>, mut bad: impl FnMut(&'a Value) -> bool) -> (bool, Vec<&'a str>) {
    let pod_sets = bad(&pod.spec["securityContext"]);
    (pod_sets, offenders(pod, |container| bad(&container["securityContext"])))
}

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let (pod_sets, names) = who(pod, |context| {
        let profile = &context["appArmorProfile"];
        let kind = text(&profile["type"]);
        let bad = !profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    });
    let fine = |profile: &str| profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
    let annotations = entries(&pod.metadata["annotations"])
        .filter(|(key, value)| key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !fine(text(value)))
        .map(|(key, value)| format!("{key}={:?}", text(value)));
    let annotations: BTreeSet<String> = annotations.collect();
    let mut setters = setters(pod_sets, &names);
    if !annotations.is_empty() {
        let word = number("annotation", "annotations", annotations.len());
        setters = if setters.is_empty() { word.to_owned() } else { format!("{setters} and {word}") };
    }
    if setters.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = number("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(reason, format!("{setters} must not set AppArmor profile type to {}", quoted(&values)))
}

pub(super) fn se_linux_1_0(pod: &Pod<'_>) -> Option<Violation> {
    se_linux(pod, &["", "container_t", "container_init_t", "container_kvm_t"])
}

pub(super) fn se_linux_1_31(pod: &Pod<'_>) -> Option<Violation> {
    se_linux(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

fn se_linux(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let (pod_sets, names) = who(pod, |context| {
        let options = &context["seLinuxOptions"];
        let kind = text(&options["type"]);
        let (bad_type, sets_user, sets_role) =
            (!allowed.contains(&kind), !text(&options["user"]).is_empty(), !text(&options["role"]).is_empty());
        if bad_type {
            types.insert(kind);
        }
        user |= sets_user;
        role |= sets_role;
        bad_type || sets_user || sets_role
    });
    let setters = setters(pod_sets, &names);
    if setters.is_empty() {
        return None;
    }
    let types: Vec<_> = types.into_iter().collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(named("type", "types", &types));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    violation("seLinuxOptions", detail)
}

pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let fine =
        |profile: &str| matches!(profile, "runtime/default" | "docker/default") || profile.starts_with("localhost/");
    let of_containers = containers(pod)
        .map(|container| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(&container["name"])));
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(of_containers);
    let bad = keys.filter_map(|key| {
        let value = pod.metadata["annotations"][&key].as_str()?;
        (!fine(value)).then(|| format!("{key}={value:?}"))
    });
    let bad: BTreeSet<String> = bad.collect();
    if bad.is_empty() {
        return None;
    }
    let word = number("annotation", "annotations", bad.len());
    violation("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

fn is_confined(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

pub(super) fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let (pod_sets, names) = who(pod, |context| {
        let profile = &context["seccompProfile"];
        let kind = text(&profile["type"]);
        let bad = !profile.is_null() && !is_confined(kind);
        if bad {
            kinds.insert(kind);
        }
        bad
    });
    let setters = setters(pod_sets, &names);
    if setters.is_empty() {
        return None;
    }
    let kinds: Vec<_> = kinds.into_iter().collect();
    violation(
        "seccompProfile",
        format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(&kinds)),
    )
}

pub(super) fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(set) = seccomp_baseline(pod) {
        return Some(set);
    }
    let profile = |context: &Value| !context["seccompProfile"].is_null();
    if profile(&pod.spec["securityContext"]) {
        return None;
    }
    let silent = offenders(pod, |container| !profile(&container["securityContext"]));
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        r#"pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#,
        named("container", "containers", &silent)
    );
    violation("seccompProfile", detail)
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    let (pod_sets, names) = who(pod, |context| context["runAsNonRoot"] == false);
    let setters = setters(pod_sets, &names);
    if !setters.is_empty() {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return violation("runAsNonRoot != true", detail);
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let silent = offenders(pod, |container| container["securityContext"]["runAsNonRoot"].is_null());
    if silent.is_empty() {
        return None;
    }
    let names = named("container", "containers", &silent);
    violation("runAsNonRoot != true", format!("pod or {names} must set securityContext.runAsNonRoot=true"))
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let (pod_sets, names) = who(pod, |context| context["runAsUser"] == 0);
    let setters = setters(pod_sets, &names);
    if setters.is_empty() { None } else { violation("runAsUser=0", format!("{setters} must not set runAsUser=0")) }
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let (pod_sets, names) = who(pod, |context| context["windowsOptions"]["hostProcess"] == true);
    let setters = setters(pod_sets, &names);
    if setters.is_empty() {
        return None;
    }
    violation("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"))
}
