//! The environment of a container, and what it and the downward API may take from a pod.

use machinery::names;

use crate::registry::at::{At, Errors};
use crate::registry::check;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that exist, but not all of them for everybody.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Whether the container whose resources are meant must be named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ContainerName {
    /// It is the one whose environment this is.
    Optional,
    /// A volume belongs to no container.
    Required,
}

/// Checks `env`.
pub(super) fn variables(errors: &mut Errors, at: &At<'_>) {
    for variable in at.items() {
        check::required_text(errors, &variable.at("name"), names::env_var_name);
        if variable.at("valueFrom").is_set() {
            value_from(errors, &variable);
        }
    }
}

fn value_from(errors: &mut Errors, variable: &At<'_>) {
    let at = variable.at("valueFrom");
    let mut sources = 0;
    let mut present = |field: &At<'_>| {
        sources += usize::from(field.is_set());
        field.is_set()
    };
    let field = at.at("fieldRef");
    if present(&field) {
        field_selector(errors, &field, ENV_FIELDS);
    }
    let resource = at.at("resourceFieldRef");
    if present(&resource) {
        resource_selector(errors, &resource, ContainerName::Optional);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let key = at.at(kind);
        if present(&key) {
            check::text(errors, &key.text_at("name"), names::dns1123_subdomain);
            check::required_text(errors, &key.at("key"), names::config_map_key);
        }
    }
    let file = at.at("fileKeyRef");
    if present(&file) {
        check::required_text(errors, &file.at("key"), names::env_var_name);
        check::required_text(errors, &file.at("volumeName"), names::dns1123_label);
        check::required(errors, &file.at("path"));
        check::path_without_backsteps(errors, &file.at("path"));
    }
    let why = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if variable.at("value").has_text() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(at.invalid_as("", why));
}

/// Checks `envFrom`.
pub(super) fn sources(errors: &mut Errors, at: &At<'_>) {
    for source in at.items() {
        check::optional_text(errors, &source.at("prefix"), names::env_var_name);
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.at(kind);
            if reference.is_set() {
                count += 1;
                check::required_text(errors, &reference.at("name"), names::dns1123_subdomain_prefix);
            }
        }
        match count {
            0 => errors.push(at.invalid_as("", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(at.invalid_as("", "may not have more than one field specified at a time")),
        }
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn field_selector(errors: &mut Errors, at: &At<'_>, supported: &[&str]) {
    let (version, path) = (at.at("apiVersion"), at.at("fieldPath"));
    if !version.has_text() {
        errors.push(version.required(""));
        return;
    }
    if !path.has_text() {
        errors.push(path.required(""));
        return;
    }
    if version.text() != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {}", version.text());
        errors.push(path.invalid(&why));
        return;
    }
    let given = path.text();
    match subscript(given) {
        Some(("metadata.annotations", key)) => {
            let complaints = names::qualified_name(&key.to_lowercase());
            errors.extend(complaints.iter().map(|why| at.invalid_as(key.to_lowercase(), why)));
        }
        Some(("metadata.labels", key)) => {
            errors.extend(names::qualified_name(key).iter().map(|why| at.invalid_as(key, why)));
        }
        Some(_) => {
            let why = format!("error converting fieldPath: field label does not support subscript: {given}");
            errors.push(path.invalid(&why));
        }
        // The name of old clients for the node.
        None if given == "spec.host" && supported.contains(&"spec.nodeName") => {}
        None if !KNOWN_FIELDS.contains(&given) && given != "spec.host" => {
            errors.push(path.invalid(&format!("error converting fieldPath: field label not supported: {given}")));
        }
        None if !supported.contains(&given) => errors.push(path.not_supported(supported)),
        None => {}
    }
}

/// `path['key']`, apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, key) = path.strip_suffix("']")?.split_once("['")?;
    (!field.is_empty()).then_some((field, key))
}

/// Checks a reference to a container's resources.
pub(super) fn resource_selector(errors: &mut Errors, at: &At<'_>, container: ContainerName) {
    let resource = at.at("resource");
    let name = resource.text();
    let huge = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if container == ContainerName::Required && !at.at("containerName").has_text() {
        errors.push(at.at("containerName").required(""));
    } else if name.is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCES.contains(&name) && !huge {
        errors.push(resource.not_supported(RESOURCES));
    }
    let divisor = at.at("divisor");
    let Some(given) = divisor.quantity().filter(|given| !given.is_zero()) else { return };
    let (allowed, what): (&[&str], _) = match name {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "cpu"),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        _ if huge => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&given.to_string().as_str()) {
        let listed = if what == "cpu" { "1m and 1".to_owned() } else { BYTE_DIVISORS.join(", ") };
        let why = format!("only divisor's values {listed} are supported with the {what} resource");
        errors.push(divisor.invalid_as(name, &why));
    }
}
