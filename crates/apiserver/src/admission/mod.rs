//! Admission: what may still change or refuse a write after authorization, as a slice of plugins.
//!
//! Mutating plugins run first, in the order of [`PLUGINS`]; the strategy prepares and validates what they leave; then the
//! validating half of each plugin sees the object as it will be stored.

pub mod certificates;
pub mod default_ingress_class;
pub mod default_storage_class;
pub mod default_tolerations;
pub mod limit_ranger;
pub mod mutating_admission_policy;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod persistent_volume_claim_resize;
pub mod pod_security;
pub mod pod_topology_labels;
pub mod policies;
pub mod priority;
pub mod rbac_escalation;
pub mod reinvocation;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage_object_in_use;
pub mod taint_nodes_by_condition;
pub mod validating_admission_policy;

use std::cmp::Reverse;
use std::sync::Arc;

use api::{ApiError, Key, Object, Reason, Resource};
use futures::future::BoxFuture;
use serde_json::Value;

use self::reinvocation::Reinvocation;
use crate::registry::tree::text;
use crate::registry::{Context, Strategy};
use crate::watch_cache::Caches;

/// The plugins, in the order in which they run: upstream's. What is off there by default is not here. Quotas come last: what
/// another plugin refuses must not be counted.
pub const PLUGINS: &[Descriptor] = &[
    namespace_lifecycle::DESCRIPTOR,
    limit_ranger::DESCRIPTOR,
    service_account::DESCRIPTOR,
    node_restriction::DESCRIPTOR,
    taint_nodes_by_condition::DESCRIPTOR,
    pod_security::DESCRIPTOR,
    pod_topology_labels::DESCRIPTOR,
    priority::DESCRIPTOR,
    default_tolerations::DESCRIPTOR,
    default_storage_class::DESCRIPTOR,
    storage_object_in_use::DESCRIPTOR,
    persistent_volume_claim_resize::DESCRIPTOR,
    runtime_class::DESCRIPTOR,
    certificates::APPROVAL,
    certificates::SIGNING,
    certificates::SUBJECT,
    default_ingress_class::DESCRIPTOR,
    rbac_escalation::DESCRIPTOR,
    mutating_admission_policy::DESCRIPTOR,
    validating_admission_policy::DESCRIPTOR,
    resource_quota::DESCRIPTOR,
];

/// One plugin.
pub struct Descriptor {
    /// Upstream's name of it, such as `NamespaceLifecycle`.
    pub name: &'static str,
    /// Makes it, once, when the server starts.
    pub plugin: fn(&crate::registry::Parts) -> std::sync::Arc<dyn Plugin>,
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `CREATE`
    Create,
    /// `UPDATE`; patches too.
    Update,
    /// `DELETE`
    Delete,
    /// `CONNECT`: exec, attach, port-forward, proxy.
    Connect,
}

/// A write on its way to the store.
pub struct Attempt<'a> {
    /// Who, when, and whether for real.
    pub context: &'a Context<'a>,
    /// What kind of write.
    pub operation: Operation,
    /// The resource as it was addressed.
    pub resource: &'a Resource,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace and name; the name is empty while it is still to be generated.
    pub key: &'a Key,
    /// The object as it stands before a change or deletion.
    pub old: Option<&'a Value>,
    /// What the server knows of the resource.
    pub strategy: &'a dyn Strategy,
    /// Whom changes by others concern.
    pub again: Reinvocation,
}

/// One admission plugin. `object` is null for deletions.
pub trait Plugin: Send + Sync + 'static {
    /// May change the object or refuse.
    fn mutate<'a>(&'a self, _attempt: &'a Attempt<'a>, _object: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// May refuse.
    fn validate<'a>(&'a self, _attempt: &'a Attempt<'a>, _object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Whether the write is to an object of `resource` itself, not to a subresource.
fn is_main(attempt: &Attempt<'_>, resource: &Resource) -> bool {
    let asked = attempt.resource;
    attempt.subresource.is_empty() && asked.group == resource.group && asked.plural == resource.plural
}

/// `pods "x" is forbidden: why`
fn forbidden(attempt: &Attempt<'_>, why: &str) -> ApiError {
    let (resource, name) = (attempt.resource, &*attempt.key.name);
    let qualified = match &*resource.group {
        "" => resource.plural.to_string(),
        group => format!("{}.{group}", resource.plural),
    };
    let message = format!("{qualified} {name:?} is forbidden: {why}");
    ApiError::about(Reason::Forbidden, &resource.group, &resource.plural, name, message)
}

/// An object that another one names: from the cache or, where it is not there, from behind everything that is committed now.
async fn find(
    caches: &Caches,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
) -> Result<Option<Object>, ApiError> {
    let cache = caches.of(resource).await?;
    let key = Key::new(namespace, name);
    if let Some(found) = cache.get(&key) {
        return Ok(Some(found));
    }
    caches.fresh().await;
    Ok(cache.get(&key))
}

/// The name of the class that is marked as the cluster's default; the newest, should there be several.
async fn default_class(
    caches: &Arc<Caches>,
    resource: &'static Resource,
    marks: &[&str],
) -> Result<Option<String>, ApiError> {
    let cache = caches.of(resource).await?;
    // A class that was acknowledged counts for the next object.
    caches.fresh().await;
    let snapshot = caches.snapshot(&cache);
    let classes = snapshot.entries(None).map(|entry| entry.object.to_value());
    let defaults = classes.filter(|class| marks.iter().any(|mark| class["metadata"]["annotations"][*mark] == "true"));
    let named = defaults.map(|class| {
        let metadata = &class["metadata"];
        (Reverse(text(&metadata["creationTimestamp"]).to_owned()), text(&metadata["name"]).to_owned())
    });
    Ok(named.min().map(|(_, name)| name))
}
