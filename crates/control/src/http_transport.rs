//! A transport to a remote API server: HTTP/2 where the server speaks it, else HTTP/1.1, always over TLS.
//!
//! Several servers of one cluster may be named: a request goes to the one that last answered, and one that cannot be reached
//! is passed over from then on. A request that failed is its caller's to repeat. Each connection carries only so many
//! requests at a time, so that watches, which stay, never keep a heartbeat waiting for a free stream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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

/// Requests that one connection carries at a time; servers allow 250 by default, and more would wait for one to end.
const STREAMS_MAX: usize = 200;

/// Connections at most; beyond what they carry, requests wait. No node has as many watches.
const LANES_MAX: usize = 16;

/// Connections to the API servers of one cluster under one identity: a client certificate in the TLS configuration, or a
/// bearer token. Cloning shares them.
#[derive(Clone)]
pub struct HttpTransport(Arc<Inner>);

struct Inner {
    servers: Vec<String>,
    /// Which of them answered last.
    current: AtomicUsize,
    tls: rustls::ClientConfig,
    lanes: Mutex<Vec<Lane>>,
    authorization: Option<http::HeaderValue>,
}

/// One HTTP/2 connection to each server; with HTTP/1.1 as many as there are requests.
#[derive(Clone)]
struct Lane {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Held once by the lane, and once by each request until its answer has been read.
    used: Arc<()>,
}

impl Lane {
    fn new(tls: rustls::ClientConfig) -> Self {
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
        Self { client, used: Arc::default() }
    }

    fn load(&self) -> usize {
        Arc::strong_count(&self.used)
    }
}

impl HttpTransport {
    /// A transport to `server`, such as `https://10.0.0.1:6443`. Connects at the first request.
    pub fn new(
        server: &str,
        tls: rustls::ClientConfig,
        bearer_token: Option<&str>,
    ) -> Result<Self, HttpTransportError> {
        Self::to_any(&[server.to_owned()], tls, bearer_token)
    }

    /// A transport to whichever of the servers of a cluster answers.
    pub fn to_any(
        servers: &[String],
        mut tls: rustls::ClientConfig,
        bearer_token: Option<&str>,
    ) -> Result<Self, HttpTransportError> {
        let servers = servers.iter().map(|server| checked(server)).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(HttpTransportError::Url { url: String::new() });
        }
        let authorization =
            bearer_token.map(|token| http::HeaderValue::try_from(format!("Bearer {token}"))).transpose();
        let mut authorization = authorization.map_err(HttpTransportError::Token)?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        // The connector names the protocols itself.
        tls.alpn_protocols.clear();
        let inner = Inner { servers, current: AtomicUsize::new(0), tls, lanes: Mutex::default(), authorization };
        Ok(Self(Arc::new(inner)))
    }

    /// Requests from now on use new connections, such as after the certificate was renewed. Those under way go on.
    pub fn reconnect(&self) {
        self.0.lanes().clear();
    }
}

/// The server's URL without a slash at its end.
fn checked(server: &str) -> Result<String, HttpTransportError> {
    let server = server.trim_end_matches('/').to_owned();
    let url: Option<http::Uri> = server.parse().ok();
    if url.is_none_or(|url| url.scheme_str() != Some("https") || url.host().is_none()) {
        return Err(HttpTransportError::Url { url: server });
    }
    Ok(server)
}

impl Inner {
    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().expect("no holder of the connections panics")
    }

    /// The first connection with room.
    fn lane(&self) -> Lane {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.iter().find(|lane| lane.load() <= STREAMS_MAX) {
            return lane.clone();
        }
        if lanes.len() < LANES_MAX {
            lanes.push(Lane::new(self.tls.clone()));
        }
        lanes.iter().min_by_key(|lane| lane.load()).expect("there is one at least").clone()
    }

    /// The next requests go to another server than this one.
    fn pass_over(&self, failed: usize) {
        let next = (failed + 1) % self.servers.len();
        let passed = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
        if passed.is_ok() && next != failed {
            tracing::warn!(server = self.servers[failed], next = self.servers[next], "an API server cannot be reached");
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let inner = self.0.clone();
        async move {
            let at = inner.current.load(Ordering::Relaxed);
            let server = inner.servers[at].clone();
            let unreachable = |source| TransportError { server: server.clone(), source };
            let (mut head, body) = request.into_parts();
            head.uri = format!("{server}{}", head.uri)
                .parse()
                .map_err(|error: http::uri::InvalidUri| unreachable(error.into()))?;
            if let Some(authorization) = &inner.authorization {
                head.headers.insert(http::header::AUTHORIZATION, authorization.clone());
            }
            let method = head.method.clone();
            let host = server.strip_prefix("https://").unwrap_or(&server);
            let Lane { client, used } = inner.lane();
            let request = client.request(http::Request::from_parts(head, Full::new(body)));
            let sent = async {
                request.await.map_err(|error| {
                    inner.pass_over(at);
                    unreachable(error.into())
                })
            };
            let (head, body) = metrics::request(method, host, sent).await?.into_parts();
            let server = server.clone();
            // Copied out of the read buffer: a cached object must not keep all of it in memory.
            let pieces = BodyDataStream::new(body).map(move |piece| {
                let _held = &used;
                match piece {
                    Ok(piece) => Ok(Bytes::copy_from_slice(&piece)),
                    Err(error) => Err(TransportError { server: server.clone(), source: error.into() }),
                }
            });
            Ok(http::Response::from_parts(head, Body::Stream(pieces.boxed())))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
