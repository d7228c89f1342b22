//! Typed by resource, not by kind: a client speaks encoded objects.

use std::sync::Arc;

use api::{ApiError, Object};

use crate::{Transport, TransportError};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The server was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server's answer cannot be read.
    #[error("cannot read the API server's answer to {request}")]
    Answer {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_not_found())
    }

    /// Whether someone else changed the object first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_conflict())
    }

    /// Whether the object exists already.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(error) if error.reason == api::Reason::AlreadyExists)
    }
}

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists by key.
    StrategicMerge,
}

/// What happens to objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted later.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this resource version.
    pub resource_version: Option<u64>,
    /// Seconds that a pod gets to end; 0 removes it at once.
    pub grace_seconds: Option<i64>,
    /// Default: what the resource does.
    pub propagation: Option<Propagation>,
}

/// A list and the revision that it shows.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects.
    pub items: Vec<Object>,
    /// `metadata.resourceVersion` of the list.
    pub revision: u64,
}

/// Calls one API server under one identity. Cloning shares the connection.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
}

impl Client {
    /// A client; `user_agent` names the component, such as `timonier/scheduler`.
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Self { transport, user_agent: user_agent.into() }
    }
}
