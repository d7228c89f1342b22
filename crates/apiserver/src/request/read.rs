//! `get`: one object, as it is now or no older than asked.

use api::{ApiError, Object};
use http::StatusCode;

use super::Call;
use super::respond::{self, Answer};
use crate::conversion;

/// Answers `get` of an object or of a subresource that shows the object.
pub async fn get(call: Call) -> Result<Answer, ApiError> {
    let object = find(&call).await?;
    Ok(respond::object(StatusCode::OK, call.form, &object, &call.served, call.server.config.clock.now()))
}

/// The object, in the version that was asked for.
pub async fn find(call: &Call) -> Result<Object, ApiError> {
    let resource = &*call.served.resource;
    let caches = &call.server.caches;
    let cache = call.cache().await?;
    match call.query.resource_version()? {
        None => caches.fresh().await,
        Some(0) => {}
        Some(revision) => caches.reached_in_time(revision).await?,
    }
    let key = call.key();
    let object = cache.get(&key).ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &key.name))?;
    conversion::object_from_stored(&call.served, object)
}
