//! A transport to a remote API server: HTTP/2 where the server speaks it, else HTTP/1.1, always over TLS.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http_body_util::{BodyDataStream, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::{Body, Transport, TransportError, metrics};

/// How often a silent HTTP/2 connection is probed, and how long the answer may take. Without probes a cut connection shows
/// only when the kernel gives up, after a quarter of an hour.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's URL or the bearer token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpTransportError {
    /// The URL is not one.
    #[error("{url:?} is not the URL of an API server (expected https://HOST:PORT)")]
    Url {
        /// As given.
        url: String,
    },
    /// The token has characters that a header cannot carry.
    #[error("the bearer token has characters that an HTTP header cannot carry")]
    Token(#[source] http::header::InvalidHeaderValue),
}

/// Connections to one API server under one identity: a client certificate in the TLS configuration, or a bearer token.
pub struct HttpTransport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    server: String,
    authorization: Option<http::HeaderValue>,
}

impl HttpTransport {
    /// A transport to `server`, such as `https://10.0.0.1:6443`. Connects at the first request.
    pub fn new(
        server: &str,
        mut tls: rustls::ClientConfig,
        bearer_token: Option<&str>,
    ) -> Result<Self, HttpTransportError> {
        let server = server.trim_end_matches('/').to_owned();
        let url: Option<http::Uri> = server.parse().ok();
        if url.is_none_or(|url| url.scheme_str() != Some("https") || url.host().is_none()) {
            return Err(HttpTransportError::Url { url: server });
        }
        let authorization =
            bearer_token.map(|token| http::HeaderValue::try_from(format!("Bearer {token}"))).transpose();
        let mut authorization = authorization.map_err(HttpTransportError::Token)?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        // The connector names the protocols itself.
        tls.alpn_protocols.clear();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_all_versions().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .http2_keep_alive_timeout(PROBE_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .http2_adaptive_window(true)
            .build(connector);
        Ok(Self { client, server, authorization })
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (client, server) = (self.client.clone(), self.server.clone());
        let authorization = self.authorization.clone();
        async move {
            let unreachable = |source| TransportError { server: server.clone(), source };
            let (mut head, body) = request.into_parts();
            head.uri = format!("{server}{}", head.uri)
                .parse()
                .map_err(|error: http::uri::InvalidUri| unreachable(error.into()))?;
            if let Some(authorization) = authorization {
                head.headers.insert(http::header::AUTHORIZATION, authorization);
            }
            let method = head.method.clone();
            let host = server.strip_prefix("https://").unwrap_or(&server);
            let request = client.request(http::Request::from_parts(head, Full::new(body)));
            let sent = async { request.await.map_err(|error| unreachable(error.into())) };
            let (head, body) = metrics::request(method, host, sent).await?.into_parts();
            let server = server.clone();
            // Copied out of the read buffer: a cached object must not keep all of it in memory.
            let pieces = BodyDataStream::new(body).map(move |piece| match piece {
                Ok(piece) => Ok(Bytes::copy_from_slice(&piece)),
                Err(error) => Err(TransportError { server: server.clone(), source: error.into() }),
            });
            Ok(http::Response::from_parts(head, Body::Stream(pieces.boxed())))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
