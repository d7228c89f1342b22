//! The in-process edge: a component's requests, under its own identity, as function calls.

use std::sync::Arc;

use bytes::Bytes;
use control::{Body, Transport, TransportError};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::Server;
use crate::authentication::UserInfo;
use crate::request::body::RequestBody;
use crate::request::{Origin, Request, handle};

/// Calls the request function directly.
pub(crate) struct InProcess {
    server: Arc<Server>,
    user: Arc<UserInfo>,
}

impl InProcess {
    pub(crate) fn new(server: Arc<Server>, user: UserInfo) -> Self {
        Self { server, user: Arc::new(user) }
    }
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (server, origin) = (self.server.clone(), Origin::Component(self.user.clone()));
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let answer = async move { Ok(handle(&server, Request { parts, body: RequestBody::Full(body), origin }).await) };
        control::metrics::request(method, "in-process", answer).boxed()
    }
}
