//! Typed by resource, not by kind: a client speaks encoded objects, and one request is one call of the transport.
//!
//! Nothing here repeats a request: whether a failed write may be tried again is the caller's to know. Every request has a
//! deadline and every answer a size limit. The requests are those of the Kubernetes API reference, "API concepts".

use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, Key, Object, Resource};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::watch::{self, WatchStream};
use crate::{Body, Transport, TransportError};

/// How long a request may take. Without a limit a server that stopped answering would hold its callers for ever.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);

/// The largest answer that is read. Without a limit one answer could take all memory; the largest honest one is a list of
/// a whole resource.
const ANSWER_BYTES_MAX: usize = 512 << 20;

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

    /// Whether the server refuses it to this sender, or as it is: rights, quotas, admission.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api(error) if error.reason == api::Reason::Forbidden)
    }

    /// Whether the object exists already.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(error) if error.reason == api::Reason::AlreadyExists)
    }
}

impl ClientError {
    /// Whether a write may have been done although it failed: the server was reached and its answer was lost, or the
    /// server gave up waiting for its store.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Transport(_) | Self::Answer { .. } => true,
            Self::Api(error) => error.code >= 500,
        }
    }

    /// Whether a creation was refused because its namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        let Self::Api(error) = self else { return false };
        let causes = error.details["causes"].as_array();
        causes.into_iter().flatten().any(|cause| cause["reason"] == "NamespaceTerminating")
    }

    /// Whether the revision that was asked for is no longer kept: list or watch from the start.
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Api(error) if error.code == 410)
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

/// Which objects of a resource to list or watch. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchScope {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only objects with matching labels, in the form of the `labelSelector` parameter.
    pub label_selector: Option<String>,
    /// Only objects with matching fields, in the form of the `fieldSelector` parameter.
    pub field_selector: Option<String>,
}

impl WatchScope {
    /// Everything in one namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// The one object of that key.
    pub fn key(key: &Key) -> Self {
        let namespace = Some(key.namespace.to_string()).filter(|namespace| !namespace.is_empty());
        Self { namespace, field_selector: Some(format!("metadata.name={}", key.name)), label_selector: None }
    }

    /// Everything whose field has that value, such as `spec.nodeName` and the name of a node.
    pub fn field(path: &str, value: &str) -> Self {
        Self { field_selector: Some(format!("{path}={value}")), ..Self::default() }
    }

    /// Path and query of the collection.
    pub(crate) fn uri(&self, resource: &Resource, more: &[(&str, &str)]) -> String {
        let mut uri = resource.path(self.namespace.as_deref(), None);
        let mut separator = '?';
        let selectors = [("labelSelector", &self.label_selector), ("fieldSelector", &self.field_selector)];
        let selectors = selectors.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        for (name, value) in selectors.chain(more.iter().copied()) {
            uri.push(separator);
            uri.push_str(name);
            uri.push('=');
            push_encoded(&mut uri, value);
            separator = '&';
        }
        uri
    }
}

/// What a write did, for whoever watches the writes of a client.
#[derive(Debug, Clone)]
pub enum Written {
    /// The object is at this revision now.
    At(Key, u64),
    /// The object (of that uid, where the deletion named one) is gone, or marked for deletion.
    Deleted(Key, Option<String>),
    /// The answer was lost: perhaps it was done.
    Unknown(Key),
}

/// Is told of every write that was done, or may have been.
pub type Observer = Arc<dyn Fn(&Resource, Written) + Send + Sync>;

/// Calls one API server under one identity. Cloning shares the connection.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
    observer: Option<Observer>,
}

impl Client {
    /// A client; `user_agent` names the component, such as `timonier/scheduler`.
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Self { transport, user_agent: user_agent.into(), observer: None }
    }

    /// The same client, whose writes `observer` is told of.
    pub fn observed(&self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self.clone() }
    }

    /// Reads one object.
    pub async fn get(&self, resource: &Resource, key: &Key) -> Result<Object, ClientError> {
        self.object(resource, Method::GET, &path(resource, key, None), None, Bytes::new()).await
    }

    /// Reads all objects of a scope, as of now.
    pub async fn list(&self, resource: &Resource, scope: &WatchScope) -> Result<List, ClientError> {
        let uri = scope.uri(resource, &[]);
        let body = self.request(Method::GET, &uri, None, Bytes::new()).await?;
        parse_list(resource, &body).map_err(|source| unreadable(&Method::GET, &uri, source))
    }

    /// Creates an object in a namespace (empty for cluster scope).
    pub async fn create(&self, resource: &Resource, namespace: &str, body: Bytes) -> Result<Object, ClientError> {
        let uri = resource.path(Some(namespace).filter(|namespace| !namespace.is_empty()), None);
        // The name is only in the body; with a generated one a lost answer cannot be traced.
        let name = self.observer.as_ref().and_then(|_| Object::parse(resource, body.clone()).ok());
        let key =
            name.filter(|object| !object.key().name.is_empty()).map(|object| Key::new(namespace, &*object.key().name));
        let result = self.object(resource, Method::POST, &uri, Some(JSON), body).await;
        self.observe(resource, key.as_ref(), &result);
        result
    }

    /// Replaces an object. With a resource version in its metadata, only if that is still the object's.
    pub async fn update(&self, resource: &Resource, key: &Key, body: Bytes) -> Result<Object, ClientError> {
        let result = self.object(resource, Method::PUT, &path(resource, key, None), Some(JSON), body).await;
        self.observe(resource, Some(key), &result);
        result
    }

    /// Replaces an object's status and nothing else of it.
    pub async fn update_status(&self, resource: &Resource, key: &Key, body: Bytes) -> Result<Object, ClientError> {
        self.update_part(resource, key, "status", body).await
    }

    /// Replaces what one subresource (`status`, `approval`) shows of an object.
    pub async fn update_part(
        &self,
        resource: &Resource,
        key: &Key,
        subresource: &str,
        body: Bytes,
    ) -> Result<Object, ClientError> {
        let uri = path(resource, key, Some(subresource));
        let result = self.object(resource, Method::PUT, &uri, Some(JSON), body).await;
        self.observe(resource, Some(key), &result);
        result
    }

    /// Changes parts of an object, or of its subresource.
    pub async fn patch(
        &self,
        resource: &Resource,
        key: &Key,
        subresource: Option<&str>,
        kind: PatchType,
        patch: &Value,
    ) -> Result<Object, ClientError> {
        let body = Bytes::from(patch.to_string());
        let uri = path(resource, key, subresource);
        let result = self.object(resource, Method::PATCH, &uri, Some(kind.content_type()), body).await;
        self.observe(resource, Some(key), &result);
        result
    }

    /// Deletes an object. What comes back is not kept: it may be the object or a status.
    pub async fn delete(&self, resource: &Resource, key: &Key, options: &DeleteOptions) -> Result<(), ClientError> {
        let body = Bytes::from(options.to_value().to_string());
        let result = self.request(Method::DELETE, &path(resource, key, None), Some(JSON), body).await;
        if let Some(observer) = &self.observer {
            match &result {
                Ok(_) => observer(resource, Written::Deleted(key.clone(), options.uid.clone())),
                Err(error) if error.is_ambiguous() => observer(resource, Written::Unknown(key.clone())),
                Err(_) => {}
            }
        }
        result.map(drop)
    }

    /// Posts to a subresource (`binding`, `eviction`, `token`), or, where the key's name is empty, to the collection of a
    /// review. Returns the answer's body.
    pub async fn post(
        &self,
        resource: &Resource,
        key: &Key,
        subresource: Option<&str>,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        self.request(Method::POST, &path(resource, key, subresource), Some(JSON), body).await
    }

    /// Any request; `uri` is path and query. An answer other than 2xx becomes [`ClientError::Api`].
    pub async fn request(
        &self,
        method: Method,
        uri: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let call = async { Ok(collect(self.open(method.clone(), uri, content_type, body).await?).await?) };
        match tokio::time::timeout(REQUEST_TIME_MAX, call).await {
            Ok(result) => result,
            Err(_) => {
                Err(TransportError { server: format!("{method} {uri}"), source: "no answer in time".into() }.into())
            }
        }
    }

    /// Any request whose answer is read piece by piece, such as a log. An answer other than 2xx becomes
    /// [`ClientError::Api`].
    pub async fn open(
        &self,
        method: Method,
        uri: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Body, ClientError> {
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(uri)
            .header(http::header::ACCEPT, JSON)
            .header(http::header::USER_AGENT, &*self.user_agent);
        if let Some(content_type) = content_type {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| {
            ApiError::new(api::Reason::BadRequest, format!("cannot form the request {method} {uri}: {error}"))
        })?;
        let (head, body) = self.transport.send(request).await?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let status = collect(body).await?;
        Err(ApiError::from_response(head.status.as_u16(), &status).into())
    }

    /// Watches a scope. The stream ends when the server ends the watch.
    pub async fn watch(
        &self,
        resource: &Resource,
        scope: &WatchScope,
        start: watch::Start,
    ) -> Result<WatchStream, ClientError> {
        let uri = scope.uri(resource, &start.parameters());
        let open = self.open(Method::GET, &uri, None, Bytes::new());
        match tokio::time::timeout(REQUEST_TIME_MAX, open).await {
            Ok(body) => Ok(WatchStream::new(resource.clone(), body?)),
            Err(_) => Err(TransportError { server: uri, source: "no answer in time".into() }.into()),
        }
    }

    async fn object(
        &self,
        resource: &Resource,
        method: Method,
        uri: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Object, ClientError> {
        let answer = self.request(method.clone(), uri, content_type, body).await?;
        Object::parse(resource, answer).map_err(|source| unreadable(&method, uri, source))
    }

    fn observe(&self, resource: &Resource, key: Option<&Key>, result: &Result<Object, ClientError>) {
        let Some(observer) = &self.observer else { return };
        match (result, key) {
            (Ok(object), _) => observer(resource, Written::At(object.key().clone(), object.revision())),
            (Err(error), Some(key)) if error.is_ambiguous() => observer(resource, Written::Unknown(key.clone())),
            (Err(_), _) => {}
        }
    }
}

const JSON: &str = "application/json";

impl PatchType {
    /// The content type that says how the patch is written.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::StrategicMerge => "application/strategic-merge-patch+json",
        }
    }
}

impl DeleteOptions {
    /// Only the object with this uid.
    pub fn of_uid(uid: &str) -> Self {
        Self { uid: Some(uid.to_owned()), ..Self::default() }
    }

    fn to_value(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(uid) = &self.uid {
            options["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(revision) = self.resource_version {
            options["preconditions"]["resourceVersion"] = revision.to_string().into();
        }
        if let Some(seconds) = self.grace_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = format!("{propagation:?}").into();
        }
        options
    }
}

/// The path of an object or its subresource; of the collection where the key's name is empty.
fn path(resource: &Resource, key: &Key, subresource: Option<&str>) -> String {
    let namespace = Some(&*key.namespace).filter(|namespace| !namespace.is_empty());
    let mut path = resource.path(namespace, Some(&*key.name).filter(|name| !name.is_empty()));
    if let Some(subresource) = subresource {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

/// Percent-encodes everything that has a meaning in a query.
fn push_encoded(uri: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~,/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
}

async fn collect(body: Body) -> Result<Bytes, TransportError> {
    let mut pieces = match body {
        Body::Full(bytes) => return Ok(bytes),
        Body::Stream(pieces) => pieces,
    };
    // An answer of one piece is not copied.
    let Some(first) = pieces.next().await.transpose()? else { return Ok(Bytes::new()) };
    let Some(second) = pieces.next().await.transpose()? else { return Ok(first) };
    let mut all = BytesMut::with_capacity((first.len() + second.len()) * 2);
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(piece) = pieces.next().await.transpose()? {
        if all.len() + piece.len() > ANSWER_BYTES_MAX {
            let source = format!("the answer is larger than {ANSWER_BYTES_MAX} bytes").into();
            return Err(TransportError { server: "the API".to_owned(), source });
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

#[derive(Deserialize)]
struct ListBody<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
struct ListMeta {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
}

fn parse_list(resource: &Resource, body: &Bytes) -> Result<List, Box<dyn std::error::Error + Send + Sync>> {
    let list: ListBody<'_> = serde_json::from_slice(body)?;
    let mut items = Vec::new();
    for item in list.items.unwrap_or_default() {
        // Copied out: a slice would keep the whole list in memory for as long as one of its objects lives.
        let json = Bytes::copy_from_slice(item.get().as_bytes());
        items.push(Object::parse(resource, json)?);
    }
    Ok(List { items, revision: list.metadata.resource_version.parse().unwrap_or(0) })
}

fn unreadable(method: &Method, uri: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Answer { request: format!("{method} {uri}"), source: source.into() }
}
