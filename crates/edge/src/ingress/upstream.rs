//! Connections to the pods behind Services: kept open between requests, made where none is idle, balanced by how many requests
//! each address has in hand.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Random, Tasks};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A pod that does not take a connection by then is passed over.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Idle connections to one address; more are closed.
const IDLE_MAX: usize = 64;
const POISON: &str = "no holder of an endpoint's lock panics";

/// How an address is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, as gRPC servers speak it.
    Http2,
    /// HTTP/1.1 over TLS. Whose certificate it is, is not asked: pods have none that anybody could check.
    Https,
}

impl Protocol {
    /// Of a Service port's `appProtocol`.
    pub(super) fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" | "h2c" | "grpc" => Self::Http2,
            "https" | "kubernetes.io/wss" => Self::Https,
            _ => Self::Http1,
        }
    }
}

/// An address that takes requests.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The pod's.
    pub(super) address: SocketAddr,
    /// How it is spoken to.
    pub(super) protocol: Protocol,
    /// Requests in hand.
    outstanding: AtomicUsize,
    idle: Mutex<Vec<http1::SendRequest<Outgoing>>>,
    shared: Mutex<Option<http2::SendRequest<Outgoing>>>,
}

enum Sender {
    One(http1::SendRequest<Outgoing>),
    Two(http2::SendRequest<Outgoing>),
}

/// Why an address could not be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// None in time.
    #[error("cannot connect to {0} within {seconds} s", seconds = CONNECT_MAX.as_secs())]
    Timeout(SocketAddr),
    /// The connection does not speak HTTP.
    #[error("cannot speak HTTP to {0}")]
    Handshake(SocketAddr, #[source] hyper::Error),
}

/// A request that failed.
pub(super) enum SendError {
    /// It was not sent: it may go elsewhere.
    Unsent(Box<Request<Outgoing>>),
    /// The pod may have seen it.
    Sent(hyper::Error),
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, protocol: Protocol) -> Self {
        let (idle, shared) = (Mutex::default(), Mutex::default());
        Self { address, protocol, outstanding: AtomicUsize::new(0), idle, shared }
    }

    /// The less busy of two that were drawn, without those that were tried.
    pub(super) fn choose<'a>(all: &'a [Arc<Self>], tried: &[SocketAddr], random: &Random) -> Option<&'a Arc<Self>> {
        let left: Vec<_> = all.iter().filter(|endpoint| !tried.contains(&endpoint.address)).collect();
        if left.len() < 2 {
            return left.first().copied();
        }
        let first = random.below(left.len());
        let second = (first + 1 + random.below(left.len() - 1)) % left.len();
        let load = |index: usize| left[index].outstanding.load(Ordering::Relaxed);
        Some(left[if load(second) < load(first) { second } else { first }])
    }

    /// A connection that is there, or a new one; with whether it was there.
    pub(super) async fn connect(self: &Arc<Self>, tasks: &Tasks) -> Result<(Connection, bool), ConnectError> {
        let lease = Lease::new(self.clone());
        if let Some(sender) = self.known().await {
            return Ok((Connection { sender, lease }, true));
        }
        let made = tokio::time::timeout(CONNECT_MAX, self.make(tasks));
        let sender = made.await.map_err(|_| ConnectError::Timeout(self.address))??;
        Ok((Connection { sender, lease }, false))
    }

    async fn known(&self) -> Option<Sender> {
        if self.protocol == Protocol::Http2 {
            let shared = self.shared().clone().filter(|sender| !sender.is_closed())?;
            return Some(Sender::Two(shared));
        }
        loop {
            let mut sender = self.idle().pop()?;
            // One that its pod has closed is passed over.
            if sender.ready().await.is_ok() {
                return Some(Sender::One(sender));
            }
        }
    }

    async fn make(&self, tasks: &Tasks) -> Result<Sender, ConnectError> {
        let failed = |error| ConnectError::Connect(self.address, error);
        let stream = TcpStream::connect(self.address).await.map_err(failed)?;
        // Small requests must not wait for more to send.
        let _ = stream.set_nodelay(true);
        match self.protocol {
            Protocol::Http1 => self.speak(stream, tasks).await,
            Protocol::Https => {
                let name = ServerName::IpAddress(self.address.ip().into());
                let stream = TlsConnector::from(UNVERIFIED.clone()).connect(name, stream).await.map_err(failed)?;
                self.speak(stream, tasks).await
            }
            Protocol::Http2 => {
                let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await;
                let (sender, driver) = handshake.map_err(|error| ConnectError::Handshake(self.address, error))?;
                tasks.spawn("connection to a pod", async move { tell(driver.await) });
                *self.shared() = Some(sender.clone());
                Ok(Sender::Two(sender))
            }
        }
    }

    async fn speak<S>(&self, stream: S, tasks: &Tasks) -> Result<Sender, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|error| ConnectError::Handshake(self.address, error))?;
        tasks.spawn("connection to a pod", async move { tell(driver.with_upgrades().await) });
        Ok(Sender::One(sender))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<http1::SendRequest<Outgoing>>> {
        self.idle.lock().expect(POISON)
    }

    fn shared(&self) -> MutexGuard<'_, Option<http2::SendRequest<Outgoing>>> {
        self.shared.lock().expect(POISON)
    }
}

fn tell(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to a pod ended with an error");
    }
}

/// The body of a request to a pod.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// The client's, passed on as it comes.
    Client(Incoming),
    /// None.
    Empty,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Client(body) => Pin::new(body).poll_frame(context),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// A connection, taken for one request.
pub(super) struct Connection {
    sender: Sender,
    lease: Lease,
}

impl Connection {
    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(self, request: Request<Outgoing>) -> Result<(Response<Incoming>, Lease), SendError> {
        let Self { sender, mut lease } = self;
        match sender {
            Sender::One(mut sender) => {
                let response = sender.try_send_request(request).await.map_err(unsent)?;
                lease.sender = Some(sender);
                Ok((response, lease))
            }
            Sender::Two(mut sender) => Ok((sender.try_send_request(request).await.map_err(unsent)?, lease)),
        }
    }
}

fn unsent(mut error: TrySendError<Request<Outgoing>>) -> SendError {
    match error.take_message() {
        Some(request) => SendError::Unsent(Box::new(request)),
        None => SendError::Sent(error.into_error()),
    }
}

/// Counts a request as in hand, and gives its connection back when its answer has ended.
#[derive(Debug)]
pub(super) struct Lease {
    endpoint: Arc<Endpoint>,
    sender: Option<http1::SendRequest<Outgoing>>,
}

impl Lease {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.outstanding.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, sender: None }
    }

    /// The answer has ended: another request may follow on its connection.
    fn end(&mut self) {
        let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) else { return };
        let mut idle = self.endpoint.idle();
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// Our own.
    Own(Full<Bytes>),
    /// A pod's, passed on as it comes.
    Passed(Incoming, Option<Lease>),
}

impl Answer {
    pub(super) fn passed(body: Incoming, mut lease: Lease) -> Self {
        if body.is_end_stream() {
            lease.end();
            return Self::Passed(body, None);
        }
        Self::Passed(body, Some(lease))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Passed(body, lease) => {
                let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(context));
                if (frame.is_none() || body.is_end_stream())
                    && let Some(mut lease) = lease.take()
                {
                    lease.end();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Passed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Passed(body, _) => body.size_hint(),
        }
    }
}

/// TLS to pods, whose certificates nobody can check: their names are addresses, and their CA is not known.
static UNVERIFIED: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| Arc::new(control::unverified_tls()));

#[cfg(test)]
pub(super) fn unverified() -> Arc<rustls::ClientConfig> {
    UNVERIFIED.clone()
}
