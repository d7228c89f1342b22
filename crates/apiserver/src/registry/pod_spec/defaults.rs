//! What a pod spec leaves out, and what of it Kubernetes 1.36 does not take by default.

use std::collections::BTreeMap;

use machinery::Quantity;
use serde_json::{Value, json};

use super::resources::{aggregate, round_up};
use super::{CONTAINER_LISTS, annotations};
use crate::registry::tree::{
    child, entries, is_set, list, list_mut, present, quantity, remove, set, set_default, text,
};

/// The mode of files in volumes that the cluster fills: 0644.
const FILE_MODE: i64 = 420;

/// Sets what a template in `spec.template` leaves out.
pub fn default_template(spec: &mut Value) {
    if let Some(template) = child(spec, "template") {
        child(template, "metadata");
        if let Some(spec) = child(template, "spec") {
            default(spec);
        }
    }
}

/// Sets what a pod spec leaves out.
pub fn default(spec: &mut Value) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    if !is_set(spec, "terminationGracePeriodSeconds") {
        set(spec, "terminationGracePeriodSeconds", 30);
    }
    child(spec, "securityContext");
    default_account(spec);
    let host_network = spec["hostNetwork"] == true;
    for kind in CONTAINER_LISTS {
        for container in list_mut(spec, kind) {
            default_container(container, host_network && kind != "ephemeralContainers");
        }
    }
    for volume in list_mut(spec, "volumes") {
        default_volume(volume);
    }
    if let Some(overhead) = present(spec, "overhead") {
        round_up(overhead);
    }
    if let Some(resources) = present(spec, "resources") {
        round_resources(resources);
    }
}

/// Sets what only pods get, not the templates that they are made from.
pub fn default_pod(spec: &mut Value) {
    for kind in ["containers", "initContainers"] {
        for container in list_mut(spec, kind) {
            if let Some(resources) = present(container, "resources") {
                request_what_is_limited(resources);
            }
        }
    }
    default_pod_level(spec);
    // Upstream reads a negative period as one second.
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    if !is_set(spec, "enableServiceLinks") {
        set(spec, "enableServiceLinks", true);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are shown.
pub fn default_account(spec: &mut Value) {
    let old = text(&spec["serviceAccount"]).to_owned();
    if !old.is_empty() {
        set_default(spec, "serviceAccountName", old);
    }
    let name = text(&spec["serviceAccountName"]).to_owned();
    if !name.is_empty() {
        set(spec, "serviceAccount", name);
    }
}

fn request_what_is_limited(resources: &mut Value) {
    let limits = resources["limits"].clone();
    if entries(&limits).next().is_none() {
        return;
    }
    let Some(requests) = child(resources, "requests") else { return };
    for (name, limit) in entries(&limits) {
        if !is_set(requests, name) {
            set(requests, name, limit.clone());
        }
    }
}

/// A pod with limits of its own requests what its containers do together, and else its limits (KEP 2837).
fn default_pod_level(spec: &mut Value) {
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    let empty = |spec: &Value, kind: &str| entries(&spec["resources"][kind]).next().is_none();
    if !spec["resources"].is_object() || (empty(spec, "limits") && empty(spec, "requests")) {
        return;
    }
    let pages = aggregate(spec, "limits");
    let pages = pages.iter().filter(|(name, _)| name.starts_with("hugepages-"));
    let pages: Vec<_> = pages.filter(|(name, _)| !is_set(&spec["resources"]["requests"], name)).collect();
    fill(spec, "limits", pages.into_iter().map(|(name, amount)| (name.clone(), amount.to_string().into())));
    if empty(spec, "limits") {
        return;
    }
    let asked = aggregate(spec, "requests");
    let asked = asked.into_iter().filter(|(name, _)| name == "cpu" || name == "memory");
    fill(spec, "requests", asked.map(|(name, amount)| (name, amount.to_string().into())).collect::<Vec<_>>());
    let limits = spec["resources"]["limits"].clone();
    let limits = entries(&limits).filter(|(name, _)| supported(name));
    fill(spec, "requests", limits.map(|(name, amount)| (name.clone(), amount.clone())).collect::<Vec<_>>());
}

fn fill(spec: &mut Value, kind: &str, amounts: impl IntoIterator<Item = (String, Value)>) {
    let mut amounts = amounts.into_iter().peekable();
    if amounts.peek().is_none() {
        return;
    }
    let Some(there) = present(spec, "resources").and_then(|resources| child(resources, kind)) else { return };
    for (name, amount) in amounts {
        if !is_set(there, &name) {
            set(there, &name, amount);
        }
    }
}

fn default_container(container: &mut Value, host_network: bool) {
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(&container["image"]));
    set_default(container, "imagePullPolicy", policy);
    if let Some(resources) = child(container, "resources") {
        round_resources(resources);
    }
    for port in list_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
        if host_network && port["hostPort"].as_i64().unwrap_or(0) == 0 {
            let number = port["containerPort"].clone();
            set(port, "hostPort", number);
        }
    }
    for variable in list_mut(container, "env") {
        let from = present(variable, "valueFrom");
        let Some(from) = from else { continue };
        if let Some(reference) = present(from, "fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
        if let Some(reference) = present(from, "resourceFieldRef") {
            set_default(reference, "divisor", "0");
        }
        if let Some(reference) = present(from, "fileKeyRef")
            && !is_set(reference, "optional")
        {
            set(reference, "optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = present(container, probe) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = present(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = present(lifecycle, hook) {
                default_http(hook);
            }
        }
    }
}

fn round_resources(resources: &mut Value) {
    for kind in ["limits", "requests"] {
        if let Some(amounts) = present(resources, kind) {
            round_up(amounts);
        }
    }
}

/// `Always` for the tag `latest` and for none, else `IfNotPresent`, also where the image is no reference.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let (path, tag) = match image.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (image, None),
    };
    let name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    let mut parts = path.split('/').peekable();
    // The registry's name may have a port and upper case.
    if parts.peek().is_some_and(|first| first.contains(['.', ':']) || *first == "localhost") && path.contains('/') {
        parts.next();
    }
    let well_formed = parts.all(|part| {
        let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && part.bytes().all(name) && !part.contains("..")
    });
    if well_formed && matches!(tag, None | Some("latest")) { "Always" } else { "IfNotPresent" }
}

fn default_probe(probe: &mut Value) {
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            set(probe, field, default);
        }
    }
    default_http(probe);
    if let Some(grpc) = present(probe, "grpc")
        && !is_set(grpc, "service")
    {
        set(grpc, "service", "");
    }
}

fn default_http(handler: &mut Value) {
    if let Some(http) = present(handler, "httpGet") {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Value) {
    let has_source =
        volume.as_object().is_some_and(|fields| fields.iter().any(|(name, v)| name != "name" && !v.is_null()));
    if !has_source {
        set(volume, "emptyDir", json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = present(volume, kind)
            && !is_set(source, "defaultMode")
        {
            set(source, "defaultMode", FILE_MODE);
        }
    }
    default_sources_of_storage(volume);
    if let Some(image) = present(volume, "image") {
        let policy = pull_policy(text(&image["reference"]));
        set_default(image, "pullPolicy", policy);
    }
    if let Some(source) = present(volume, "downwardAPI") {
        default_downward(source);
    }
    if let Some(projected) = present(volume, "projected") {
        for source in list_mut(projected, "sources") {
            if let Some(token) = present(source, "serviceAccountToken")
                && !is_set(token, "expirationSeconds")
            {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = present(source, "downwardAPI") {
                default_downward(downward);
            }
        }
    }
    let mut claim = present(volume, "ephemeral").and_then(|source| present(source, "volumeClaimTemplate"));
    claim.as_mut().and_then(|template| child(template, "metadata"));
    if let Some(spec) = claim.and_then(|template| present(template, "spec")) {
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(resources) = child(spec, "resources") {
            round_resources(resources);
        }
    }
}

/// The defaults of the volumes of storage systems, which persistent volumes have as well.
pub(crate) fn default_sources_of_storage(volume: &mut Value) {
    const DEFAULTS: &[(&str, &[(&str, &str)])] = &[
        ("iscsi", &[("iscsiInterface", "default")]),
        ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
        ("azureDisk", &[("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")]),
        ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
    ];
    for (source, fields) in DEFAULTS {
        if let Some(source) = present(volume, source) {
            fields.iter().for_each(|(field, default)| set_default(source, field, *default));
        }
    }
    if let Some(disk) = present(volume, "azureDisk")
        && !is_set(disk, "readOnly")
    {
        set(disk, "readOnly", false);
    }
    if let Some(target) = present(volume, "iscsi")
        && !is_set(target, "lun")
    {
        set(target, "lun", 0);
    }
    if let Some(path) = present(volume, "hostPath")
        && !is_set(path, "type")
    {
        set(path, "type", "");
    }
}

fn default_downward(source: &mut Value) {
    for item in list_mut(source, "items") {
        if let Some(reference) = present(item, "fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
        if let Some(reference) = present(item, "resourceFieldRef") {
            set_default(reference, "divisor", "0");
        }
    }
}

/// Removes from the template in a spec what [`drop_disabled`] removes.
pub fn drop_disabled_in_template(spec: &mut Value, old: Option<&Value>) {
    if let Some(pod) = present(spec, "template").and_then(|template| present(template, "spec")) {
        drop_disabled(pod, old.map(|old| &old["template"]["spec"]));
    }
}

/// Removes what belongs to features that are off by default. What is stored already stays.
pub fn drop_disabled(spec: &mut Value, old: Option<&Value>) {
    let in_use = |find: &dyn Fn(&Value) -> bool| old.is_some_and(find);
    let projects = |spec: &Value, kind: &str| {
        let mut sources = list(&spec["volumes"]).iter().flat_map(|volume| list(&volume["projected"]["sources"]));
        sources.any(|source| is_set(source, kind))
    };
    for kind in ["clusterTrustBundle", "podCertificate"] {
        if in_use(&|old| projects(old, kind)) {
            continue;
        }
        for volume in list_mut(spec, "volumes") {
            let Some(projected) = present(volume, "projected") else { continue };
            list_mut(projected, "sources").iter_mut().for_each(|source| remove(source, kind));
        }
    }
    if !in_use(&|old| is_set(old, "schedulingGroup")) {
        remove(spec, "schedulingGroup");
    }
    let signals = |spec: &Value| {
        let mut containers = CONTAINER_LISTS.into_iter().flat_map(|kind| list(&spec[kind]));
        containers.any(|container| is_set(&container["lifecycle"], "stopSignal"))
    };
    if !in_use(&signals) {
        for kind in CONTAINER_LISTS {
            for container in list_mut(spec, kind) {
                let Some(lifecycle) = present(container, "lifecycle") else { continue };
                remove(lifecycle, "stopSignal");
                if lifecycle.as_object().is_some_and(serde_json::Map::is_empty) {
                    remove(container, "lifecycle");
                }
            }
        }
    }
}

/// Makes selectors of what a new pod's affinity and spread take from the pod's own labels.
pub(crate) fn select_own_labels(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = present(pod, "spec") else { return };
    for constraint in list_mut(spec, "topologySpreadConstraints") {
        add_own_labels(constraint, &labels);
    }
    let Some(affinity) = present(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = present(affinity, kind) else { continue };
        for term in list_mut(pods, "requiredDuringSchedulingIgnoredDuringExecution") {
            add_own_labels(term, &labels);
        }
        for term in list_mut(pods, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = present(term, "podAffinityTerm") {
                add_own_labels(term, &labels);
            }
        }
    }
}

fn add_own_labels(term: &mut Value, labels: &Value) {
    let keys = [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")];
    let keys = keys.map(|(field, operator)| (list(&term[field]).to_vec(), operator));
    let made: Vec<Value> = keys
        .iter()
        .flat_map(|(keys, operator)| keys.iter().map(move |key| (text(key), operator)))
        .filter(|(key, _)| is_set(labels, key))
        .map(|(key, operator)| json!({"key": key, "operator": operator, "values": [labels[key].clone()]}))
        .collect();
    let Some(selector) = present(term, "labelSelector").filter(|_| !made.is_empty()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(made),
        None => set(selector, "matchExpressions", made),
    }
}

/// Sets the profiles that annotations of before 1.30 name, for kubelets that look at fields only.
pub(crate) fn take_app_armor_annotations(pod: &mut Value) {
    let annotations = pod["metadata"]["annotations"].clone();
    if pod["spec"]["os"]["name"] == "windows" || annotations.is_null() {
        return;
    }
    let own = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    let Some(spec) = present(pod, "spec") else { return };
    for kind in CONTAINER_LISTS {
        for container in list_mut(spec, kind) {
            let key = format!("{}{}", annotations::APP_ARMOR, text(&container["name"]));
            if !is_set(&annotations, &key) || is_set(&container["securityContext"], "appArmorProfile") {
                continue;
            }
            if let Some(profile) = profile_of(text(&annotations[&key])).filter(|profile| *profile != own)
                && let Some(context) = child(container, "securityContext")
            {
                set(context, "appArmorProfile", profile);
            }
        }
    }
}

pub(super) fn profile_of(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let path = annotation.strip_prefix("localhost/").filter(|path| !path.is_empty() && path.trim() == *path);
            path.map(|path| json!({"type": "Localhost", "localhostProfile": path}))
        }
    }
}

/// How the node may treat a pod when memory is short.
pub fn quality_of_service(spec: &Value) -> &'static str {
    let own = &spec["resources"];
    let owners: Vec<&Value> = if own.is_object() {
        vec![own]
    } else {
        let lists = ["containers", "initContainers"].into_iter().flat_map(|kind| list(&spec[kind]));
        lists.map(|container| &container["resources"]).collect()
    };
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    for resources in owners {
        sum(&mut requests, &resources["requests"]);
        let limited = sum(&mut limits, &resources["limits"]);
        let no_limits = own.is_object() && entries(&resources["limits"]).next().is_none();
        guaranteed &= limited == 2 || no_limits;
    }
    match () {
        () if requests.is_empty() && limits.is_empty() => "BestEffort",
        () if guaranteed && requests == limits => "Guaranteed",
        () => "Burstable",
    }
}

fn sum<'a>(sums: &mut BTreeMap<&'a str, Quantity>, amounts: &'a Value) -> usize {
    let mut found = 0;
    for name in ["cpu", "memory"] {
        let Some(amount) = quantity(&amounts[name]).filter(|amount| !amount.is_zero() && !amount.is_negative()) else {
            continue;
        };
        found += 1;
        let total = sums.get(name).map_or(amount, |sum| *sum + amount);
        sums.insert(name, total);
    }
    found
}
