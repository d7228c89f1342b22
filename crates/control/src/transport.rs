//! The one edge between components and an API server: an HTTP request in, a response out.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A response's body.
pub enum Body {
    /// All of it.
    Full(Bytes),
    /// Piece by piece (lists and watches). In process, a piece of a watch is exactly one event and shares its memory with
    /// the server's cache.
    Stream(BoxStream<'static, Result<Bytes, TransportError>>),
}

/// The request did not reach the server, or its answer did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the API server at {server}")]
pub struct TransportError {
    /// Address, or `in process`.
    pub server: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Carries requests to an API server, with the identity of one component.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request whose URI is path and query. The response's status may be any.
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}
