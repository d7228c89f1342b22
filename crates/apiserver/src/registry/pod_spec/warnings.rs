//! What a writer of a pod or template should know although it is accepted.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{CONTAINER_LISTS, annotations, defaults};
use crate::registry::at::At;
use crate::registry::claim_spec::{self, warn_fraction};
use crate::registry::{ip, node_labels};

const GONE_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const GONE_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    ("security.alpha.kubernetes.io/unsafe-sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
];
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Warnings about a new pod.
pub fn pod(pod: &Value) -> Vec<String> {
    warnings(&At::new(pod, ""), &Value::Null)
}

/// Warnings about a template at `path`.
pub fn template(template: &Value, path: &str) -> Vec<String> {
    warnings(&At::new(template, path), &template["spec"]["securityContext"]["appArmorProfile"])
}

fn warnings(at: &At<'_>, pod_profile: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (metadata, spec) = (at.at("metadata"), at.at("spec"));
    placement(&mut found, &spec);
    let given = metadata.at("annotations");
    for (key, message) in GONE_ANNOTATIONS.iter().filter(|(key, _)| given.at(key).is_set()) {
        found.push(format!("{}: {message}", given.key(key).path()));
    }
    volumes(&mut found, &spec.at("volumes"));
    repeated(&mut found, &spec.at("hostAliases"), "ip");
    repeated(&mut found, &spec.at("imagePullSecrets"), "name");
    for secret in spec.at("imagePullSecrets").items().filter(|secret| !secret.at("name").has_text()) {
        found.push(format!("{}: invalid empty name \"\"", secret.at("name").path()));
    }
    fractions(&mut found, &spec.at("overhead"));
    let outdated = |key: &str, field: &str, since: &str| {
        format!("{}: {since}; use the {field:?} field instead", given.key(key).path())
    };
    let has_profile = spec.at("securityContext").at("seccompProfile").is_set();
    if !has_profile && given.at(annotations::SECCOMP_POD).is_set() {
        found.push(outdated(annotations::SECCOMP_POD, "seccompProfile", "non-functional in v1.27+"));
    }
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            let (name, context) = (container.at("name").text(), container.at("securityContext"));
            let key = format!("{}{name}", annotations::SECCOMP_CONTAINER);
            if given.at(&key).is_set() && !context.at("seccompProfile").is_set() {
                found.push(outdated(&key, "seccompProfile", "non-functional in v1.27+"));
            }
            let key = format!("{}{name}", annotations::APP_ARMOR);
            // Of pods these are told before the field is set from them.
            let in_template = !at.path().is_empty();
            if in_template && given.at(&key).is_set() && !context.at("appArmorProfile").is_set() {
                let same = defaults::profile_of(given.at(&key).text()).is_some_and(|profile| profile == *pod_profile);
                if !same {
                    found.push(outdated(&key, "appArmorProfile", "deprecated since v1.30"));
                }
            }
            let resources = container.at("resources");
            fractions_of(&mut found, &resources);
            hidden_variables(&mut found, &container.at("env"));
        }
    }
    ports(&mut found, &spec);
    if spec.at("terminationGracePeriodSeconds").number().is_some_and(|seconds| seconds < 0) {
        let path = spec.at("terminationGracePeriodSeconds").path();
        found.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    selectors(&mut found, &spec.at("affinity"));
    for server in spec.at("dnsConfig").at("nameservers").items() {
        ip::warn_address(&mut found, &server);
    }
    for alias in spec.at("hostAliases").items() {
        ip::warn_address(&mut found, &alias.at("ip"));
    }
    found
}

fn placement(found: &mut Vec<String>, spec: &At<'_>) {
    for (key, entry) in spec.at("nodeSelector").entries() {
        if let Some(message) = node_labels::deprecation(key) {
            found.push(format!("{}: {message}", entry.path()));
        }
    }
    let affinity = spec.at("affinity");
    node_labels::warn_affinity(found, &affinity.at("nodeAffinity"));
    for constraint in spec.at("topologySpreadConstraints").items() {
        let key = constraint.at("topologyKey");
        if let Some(message) = node_labels::deprecation(key.text()) {
            found.push(format!("{}: {} is {message}", key.path(), key.text()));
        }
        if !constraint.at("labelSelector").is_set() {
            found.push(format!("{}: {NO_SELECTOR}", constraint.at("labelSelector").path()));
        }
    }
}

fn selectors(found: &mut Vec<String>, affinity: &At<'_>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.at(kind);
        let mut check = |term: &At<'_>| {
            if !term.at("labelSelector").is_set() {
                found.push(format!("{}: {NO_SELECTOR}", term.at("labelSelector").path()));
            }
        };
        for term in pods.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            check(&term);
        }
        for term in pods.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            check(&term.at("podAffinityTerm"));
        }
    }
}

fn volumes(found: &mut Vec<String>, at: &At<'_>) {
    for volume in at.items() {
        for (source, message) in GONE_VOLUMES {
            // The field has another spelling than upstream's warning about it.
            let field = if *source == "storageOS" { "storageos" } else { source };
            if volume.at(field).is_set() {
                found.push(format!("{}: {message}", volume.at(source).path()));
            }
        }
        let template = volume.at("ephemeral");
        let template = template.at("volumeClaimTemplate");
        claim_spec::warn(found, &template.at("spec"));
        overlapping_paths(found, &volume);
    }
}

/// Two files of one volume at the same place, or one where another needs a folder.
fn overlapping_paths(found: &mut Vec<String>, volume: &At<'_>) {
    let name = volume.at("name").text();
    let mut check = |source: &At<'_>, what: String| {
        let mut seen: Vec<(String, String)> = Vec::new();
        for item in source.at("items").items() {
            collide(found, &mut seen, name, &what, item.at("path").text(), "");
        }
    };
    check(&volume.at("configMap"), format!("ConfigMap {:?}", volume.at("configMap").at("name").text()));
    check(&volume.at("secret"), format!("Secret {:?}", volume.at("secret").at("secretName").text()));
    check(&volume.at("downwardAPI"), "DownwardAPI".to_owned());
    let mut seen = Vec::new();
    for source in volume.at("projected").at("sources").items() {
        if source.entries().all(|(_, kind)| !kind.is_set()) {
            found.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
        for (kind, shown) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
            let files = source.at(kind);
            let owner = match kind {
                "downwardAPI" => shown.to_owned(),
                _ => format!("{shown} {:?}", files.at("name").text()),
            };
            for item in files.at("items").items() {
                collide(found, &mut seen, name, "Projected", item.at("path").text(), &owner);
            }
        }
        let token = source.at("serviceAccountToken");
        if token.is_set() {
            collide(found, &mut seen, name, "Projected", token.at("path").text(), "ServiceAccountToken");
        }
    }
}

fn collide(
    found: &mut Vec<String>,
    seen: &mut Vec<(String, String)>,
    volume: &str,
    what: &str,
    path: &str,
    source: &str,
) {
    let path = path.trim_end_matches('/').to_owned();
    let shown = |path: &str, source: &str| {
        if source.is_empty() { format!("{path:?}") } else { format!("{path:?} ({source})") }
    };
    let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    for (other, owner) in seen.iter() {
        if *other == path || below(other, &path) || below(&path, other) {
            let pair = format!("{} with {}", shown(&path, source), shown(other, owner));
            found.push(format!("volume {volume:?} ({what}): overlapping paths: {pair}"));
        }
    }
    seen.push((path, source.to_owned()));
}

fn repeated(found: &mut Vec<String>, at: &At<'_>, field: &str) {
    let mut seen = Vec::new();
    for item in at.items() {
        let value = item.at(field).text().to_owned();
        if seen.contains(&value) {
            found.push(format!("{}: duplicate {field} {value:?}", item.at(field).path()));
        } else {
            seen.push(value);
        }
    }
}

fn fractions_of(found: &mut Vec<String>, resources: &At<'_>) {
    for name in ["memory", "ephemeral-storage"] {
        for kind in ["limits", "requests"] {
            warn_fraction(found, &resources.at(kind).key(name));
        }
    }
}

fn fractions(found: &mut Vec<String>, amounts: &At<'_>) {
    warn_fraction(found, &amounts.key("memory"));
    warn_fraction(found, &amounts.key("ephemeral-storage"));
}

fn hidden_variables(found: &mut Vec<String>, at: &At<'_>) {
    let mut seen = Vec::new();
    for variable in at.items() {
        let (name, value) = (variable.at("name").text().to_owned(), variable.at("value").text().to_owned());
        let reference = format!("$({name})");
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        if variable.at("valueFrom").is_set() || value == reference || !value.contains(&reference) {
            let why = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            found.push(format!("{}: {why}", variable.path()));
        }
    }
}

struct Port {
    path: String,
    host_ip: String,
    host_port: i64,
}

fn ports(found: &mut Vec<String>, spec: &At<'_>) {
    let mut all: BTreeMap<String, Vec<Port>> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut named = Vec::new();
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            for port in container.at("ports").items() {
                let this = Port {
                    path: port.path(),
                    host_ip: port.at("hostIP").text().to_owned(),
                    host_port: port.at("hostPort").number().unwrap_or(0),
                };
                let (number, protocol) = (port.at("containerPort").number().unwrap_or(0), port.at("protocol").text());
                if !this.host_ip.is_empty() && this.host_port == 0 {
                    let name = port.at("name").text();
                    found.push(format!(
                        "{}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} \
                         Protocol:{protocol} HostIP:{}}}",
                        this.path, this.host_ip
                    ));
                }
                let others = all.entry(format!("{number}/{protocol}")).or_default();
                found.extend(others.iter().filter_map(|other| clash(&this, other)));
                others.push(this);
                let name = port.at("name").text();
                if name.is_empty() {
                    continue;
                }
                match names.get(name) {
                    Some(other) => named.push(format!(
                        "{}: duplicate port name {name:?} with {other}, services and probes that select ports by name \
                         will use {other}",
                        port.path()
                    )),
                    None => drop(names.insert(name.to_owned(), port.path())),
                }
            }
        }
    }
    found.extend(named);
}

fn clash(this: &Port, other: &Port) -> Option<String> {
    let kind = if this.host_ip == other.host_ip && this.host_port == other.host_port {
        "duplicate"
    } else if this.host_port == 0 || other.host_port == 0 {
        "overlapping"
    } else if this.host_port == other.host_port && this.host_ip.is_empty() != other.host_ip.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!("{}: {kind} port definition with {}", this.path, other.path))
}
