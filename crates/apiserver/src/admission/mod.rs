//! Admission: what may still change or refuse a write after authorization, as a slice of plugins.
//!
//! Mutating plugins run first, in the order of [`PLUGINS`]; the strategy prepares and validates what they leave; then the
//! validating half of each plugin sees the object as it will be stored.

pub mod default_tolerations;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod priority;
pub mod rbac_escalation;
pub mod service_account;

use api::{ApiError, Key, Reason, Resource};
use futures::future::BoxFuture;
use serde_json::Value;

use crate::registry::Context;

/// The plugins, in the order in which they run.
pub const PLUGINS: &[Descriptor] = &[
    namespace_lifecycle::DESCRIPTOR,
    node_restriction::DESCRIPTOR,
    rbac_escalation::DESCRIPTOR,
    service_account::DESCRIPTOR,
    default_tolerations::DESCRIPTOR,
    priority::DESCRIPTOR,
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
