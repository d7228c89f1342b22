//! The names of resources that are counted and limited, and where each may stand.
//!
//! Public behaviour: `core/v1` `ResourceName`, and what containers, quotas and limit ranges take of it.

use machinery::names;

use super::at::{At, Errors};

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const COMPUTE: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Whether it stands for huge pages of one size.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether Kubernetes itself defines it.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a node's device or administrator defines it.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether there are only whole ones of it.
pub fn is_counted(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// Whether a quota may limit it without a domain in its name.
pub fn is_quota_standard(name: &str) -> bool {
    COMPUTE.contains(&name) || COUNTED.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// A name anywhere.
pub fn resource(errors: &mut Errors, at: &At<'_>, name: &str) {
    let complaints = names::qualified_name(name);
    errors.extend(complaints.iter().map(|why| at.invalid_as(name, why)));
    if complaints.is_empty() && !name.contains('/') && !is_quota_standard(name) && name != "storage" {
        errors.push(at.invalid_as(name, "must be a standard resource type or fully qualified"));
    }
}

/// A name in a container's requests or limits.
pub fn container_resource(errors: &mut Errors, at: &At<'_>, name: &str) {
    resource(errors, at, name);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            errors.push(at.invalid_as(name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(at.invalid_as(name, "doesn't follow extended resource name standard"));
    }
}

/// A name in a pod's own requests or limits.
pub fn pod_level_resource(errors: &mut Errors, at: &At<'_>, name: &str) {
    let before = errors.len();
    resource(errors, at, name);
    if errors.len() == before && name != "cpu" && name != "memory" && !is_huge_page(name) {
        errors.push(at.with(&name.into()).not_supported(&["cpu", "hugepages-", "memory"]));
    }
}

/// A name in a resource quota.
pub fn quota_resource(errors: &mut Errors, at: &At<'_>, name: &str) {
    resource(errors, at, name);
    if !name.contains('/') && !is_quota_standard(name) {
        errors.push(at.invalid_as(name, "must be a standard resource for quota"));
    }
}
