//! What a user may do: every request is asked about here before its body is read.

use futures::future::BoxFuture;

use crate::authentication::UserInfo;

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
}

impl Attributes {
    /// Whether the request is about a resource, not another path.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
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
