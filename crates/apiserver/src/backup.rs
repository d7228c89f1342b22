//! `/datastore/backup`: everything that is stored, as `timonier datastore backup` asks for it. Values are as they lie on the
//! disk: what is encrypted there is encrypted here. Only who may `get` this path is answered.

use std::sync::Arc;

use api::ApiError;
use control::{Body, TransportError};
use futures::StreamExt;
use http::StatusCode;

use crate::Server;
use crate::request::respond::{self, Answer};
use crate::watch_cache::store_failed;

/// The path.
pub(crate) const PATH: &str = "/datastore/backup";

/// Streams a backup.
pub(crate) async fn answer(server: &Arc<Server>) -> Result<Answer, ApiError> {
    let export = server.config.store.export().await.map_err(|error| store_failed(&error))?;
    let pieces = store::backup::stream(export).map(|piece| {
        piece.map_err(|error| TransportError { server: "the datastore".to_owned(), source: error.into() })
    });
    Ok(respond::with_type(StatusCode::OK, "application/octet-stream", Body::Stream(pieces.boxed())))
}
