//! What a user may do: every request is asked about here before its body is read.

pub mod node;
pub mod policy;
pub mod rbac;
pub mod review;

use std::sync::Arc;

use api::{ApiError, Reason};
use futures::FutureExt;
use futures::future::BoxFuture;

use self::node::NodeAuthorizer;
use self::rbac::{Permit, Rbac};
use crate::authentication::{MASTERS, UserInfo};
use crate::watch_cache::Caches;

/// What a request wants to do, as authorizers see it. Empty strings stand for what does not apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// `get`, `list`, `create`, ...; for other paths than resources the HTTP method in lower case.
    pub verb: String,
    /// The resource's API group.
    pub group: String,
    /// The API version that the request named.
    pub version: String,
    /// The resource's plural; empty for a path that is none.
    pub resource: String,
    /// Such as `status` or `log`.
    pub subresource: String,
    /// The namespace; empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// The object's name; empty for the whole collection.
    pub name: String,
    /// The URL's path, where it is no resource's.
    pub path: String,
    /// The values that the request's field selector fixes, by field. Selectors narrow a request: what an authorizer does not
    /// know of them it may leave out.
    pub fields: Vec<(String, String)>,
}

impl Attributes {
    /// Whether the request is about a resource, not another path.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Whether the field selector fixes `field` to `value`.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        self.fields.iter().any(|(own, fixed)| own == field && fixed == value)
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow {
        /// Why, for audit and access reviews.
        reason: String,
    },
    /// It may not, whatever other authorizers say.
    Deny {
        /// Why, for the error's message.
        reason: String,
    },
    /// This authorizer does not know: the next is asked, and nobody's yes is a no.
    NoOpinion {
        /// Why, for the error's message.
        reason: String,
    },
}

/// Says what a user may do. Answers from memory: it is asked for every request.
pub trait Authorizer: Send + Sync + 'static {
    /// Decides about one request.
    fn authorize<'a>(&'a self, user: &'a UserInfo, attributes: &'a Attributes) -> BoxFuture<'a, Decision>;
}

/// The authorizers of this server, in the order in which they are asked: `system:masters`, nodes, RBAC.
pub struct Authorization {
    node: NodeAuthorizer,
    /// Roles and bindings; for escalation checks and rules reviews.
    pub rbac: Rbac,
}

impl Authorization {
    /// Indexes pods, roles and bindings.
    pub async fn start(caches: &Arc<Caches>) -> Result<Arc<Self>, ApiError> {
        Ok(Arc::new(Self { node: NodeAuthorizer::start(caches).await?, rbac: Rbac::start(caches).await? }))
    }

    /// Decides from memory.
    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow { reason: String::new() };
        }
        let by_node = self.node.decide(user, attributes);
        if !matches!(by_node, Decision::NoOpinion { .. }) {
            return by_node;
        }
        match self.rbac.permits(user, attributes) {
            Some(Permit(reason)) => Decision::Allow { reason },
            None => by_node,
        }
    }

    /// `Ok`, or the `Forbidden` error.
    pub fn check(&self, user: &UserInfo, attributes: &Attributes) -> Result<(), ApiError> {
        match self.decide(user, attributes) {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(forbidden(user, attributes, &reason)),
        }
    }
}

impl Authorizer for Authorization {
    fn authorize<'a>(&'a self, user: &'a UserInfo, attributes: &'a Attributes) -> BoxFuture<'a, Decision> {
        std::future::ready(self.decide(user, attributes)).boxed()
    }
}

/// The error of a request that is not permitted, in upstream's words.
pub fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> ApiError {
    let what = forbidden_message(user, attributes);
    let why = if reason.is_empty() { what } else { format!("{what}: {reason}") };
    if !attributes.is_resource() {
        return ApiError::about(Reason::Forbidden, "", "", "", format!("forbidden: {why}"));
    }
    let (group, resource, name) = (&attributes.group, &attributes.resource, &attributes.name);
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let message = match name.as_str() {
        "" => format!("{qualified} is forbidden: {why}"),
        name => format!("{qualified} {name:?} is forbidden: {why}"),
    };
    ApiError::about(Reason::Forbidden, group, resource, name, message)
}

fn forbidden_message(user: &UserInfo, attributes: &Attributes) -> String {
    let (name, verb) = (&user.name, &attributes.verb);
    if !attributes.is_resource() {
        return format!("User {name:?} cannot {verb} path {:?}", attributes.path);
    }
    let resource = match attributes.subresource.as_str() {
        "" => attributes.resource.clone(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let scope = match attributes.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!("User {name:?} cannot {verb} resource {resource:?} in API group {:?} {scope}", attributes.group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_says_what_upstream_says() {
        let user = UserInfo::new("x", &[]);
        let list = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "y".into(),
            version: "v1".into(),
            ..Attributes::default()
        };
        let get = Attributes {
            verb: "get".into(),
            name: "web".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            ..Attributes::default()
        };
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        let table = [
            (list, r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#),
            (
                get,
                r#"deployments.apps "web" is forbidden: User "x" cannot get resource "deployments" in API group "apps" at the cluster scope"#,
            ),
            (path, r#"forbidden: User "x" cannot get path "/metrics""#),
        ];
        for (attributes, message) in table {
            let error = forbidden(&user, &attributes, "");
            assert_eq!((error.message.as_str(), error.code), (message, 403));
        }
    }
}
