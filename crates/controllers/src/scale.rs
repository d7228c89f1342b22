//! The `/scale` of whatever an owner reference or an autoscaler names: built-in workloads and custom resources alike.

use api::{Key, Resource};
use bytes::Bytes;
use control::{Client, ClientError, served};
use http::Method;
use serde_json::Value;

/// Why something has no scale.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScaleError {
    /// The API server does not serve that kind.
    #[error("no matches for kind {kind:?} in version {api_version:?}")]
    NoKind {
        /// As it was named.
        api_version: String,
        /// As it was named.
        kind: String,
    },
    /// The kind is served without `/scale`.
    #[error("{resource} does not implement the scale subresource")]
    NoScale {
        /// Plural and group.
        resource: String,
    },
    /// The API server said no, or was not reached.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The resource of a kind, as `apiVersion` and `kind` name it. Built-in kinds are known; for others the API server is asked.
pub(crate) async fn resource_of(client: &Client, api_version: &str, kind: &str) -> Result<Resource, ScaleError> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let unknown = || ScaleError::NoKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    if let Some(resource) = api::resources::by_kind(group, version, kind) {
        return match resource.subresource("scale") {
            Some(_) => Ok(resource.clone()),
            None => Err(ScaleError::NoScale { resource: qualified(resource) }),
        };
    }
    let found = served::scalable(client, group, version, kind).await;
    let (resource, scales) = match found {
        Err(error) if error.is_not_found() => return Err(unknown()),
        found => found?.ok_or_else(unknown)?,
    };
    if scales { Ok(resource) } else { Err(ScaleError::NoScale { resource: qualified(&resource) }) }
}

/// Reads an `autoscaling/v1` `Scale`; `None` where the object does not exist.
pub(crate) async fn get(client: &Client, resource: &Resource, key: &Key) -> Result<Option<Value>, ScaleError> {
    let uri = path(resource, key);
    match client.request(Method::GET, &uri, None, Bytes::new()).await {
        Ok(body) => {
            let unreadable = |source: serde_json::Error| ClientError::Answer {
                request: format!("GET {uri}"),
                source: source.into(),
            };
            Ok(Some(serde_json::from_slice(&body).map_err(unreadable)?))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The path of an object's `/scale`.
pub(crate) fn path(resource: &Resource, key: &Key) -> String {
    format!("{}/scale", resource.path(Some(&key.namespace), Some(&key.name)))
}

fn qualified(resource: &Resource) -> String {
    match &*resource.group {
        "" => resource.plural.to_string(),
        group => format!("{}.{group}", resource.plural),
    }
}
