//! The TLS listener: HTTP/1.1 and HTTP/2 on one port, with limits on what strangers may cost.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::Stop;
use bytes::Bytes;
use control::Body;
use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::Server;
use crate::authentication::ClientCertificate;
use crate::metrics::{CONNECTIONS, HANDSHAKE_ERRORS};
use crate::request::body::RequestBody;
use crate::request::negotiate::Form;
use crate::request::{Origin, Request, handle, respond};
use crate::stall::Stalling;

/// Without it half-open handshakes would hold their connections for ever.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection. Upstream's limit.
const STREAMS_MAX: u32 = 250;
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Dead clients are noticed after these, and their watches end.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER_MAX: Duration = Duration::from_secs(15);
/// How many bytes of a list, or of events that are ready together, make one write: four full TLS records, less the head of the
/// answer or of the chunk. Of more the TLS session takes no more at a time, and would make a short record of the rest.
pub(crate) const WRITE_BYTES: usize = 64 * 1024 - 512;

/// Accepts connections until `stop` and the delay after it, then waits until their requests have ended; those that take
/// too long are cut off.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener, stop: Stop) {
    let acceptor = acceptor(&server);
    let connections = Arc::new(Semaphore::new(server.config.limits.connections_max));
    let (graceful, cut) = (GracefulShutdown::new(), Stop::new());
    let delay = server.config.limits.shutdown_delay;
    let closing = async {
        stop.stopped().await;
        tokio::time::sleep(delay).await;
    };
    let mut closing = std::pin::pin!(closing);
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (listener.accept().await, permit.expect("the semaphore is never closed"))
        };
        let (accepted, permit) = tokio::select! {
            next = next => next,
            () = &mut closing => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Boxed, since each future that holds another one keeps room for it twice.
                let connection =
                    Box::pin(connection(server.clone(), acceptor.clone(), stream, graceful.watcher(), permit));
                let cut = cut.clone();
                server.tasks.spawn("connection", async move {
                    let _ = cut.or_stopped(connection).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a connection");
                let _ = stop.or_stopped(tokio::time::sleep(Duration::from_millis(100))).await;
            }
        }
    }
    if tokio::time::timeout(server.config.limits.drain_max, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut off");
    }
    cut.stop();
}

fn acceptor(server: &Server) -> TlsAcceptor {
    let mut tls = (*server.config.tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(tls))
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    graceful: Watcher,
    _permit: OwnedSemaphorePermit,
) {
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            HANDSHAKE_ERRORS.with([]).inc();
            return tracing::debug!(%error, "a TLS handshake failed");
        }
        Err(_) => {
            HANDSHAKE_ERRORS.with([]).inc();
            return tracing::debug!("a TLS handshake took too long");
        }
    };
    let _open = CONNECTIONS.with([]).hold();
    let peer = tls.get_ref().0.peer_addr().ok().map(|peer| peer.ip());
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // A certificate that names nobody is refused with every request, as upstream does.
    let certificate = certificate.map(ClientCertificate::read).transpose().map(|certificate| certificate.map(Arc::new));
    let shared = server.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (server, certificate) = (shared.clone(), certificate.clone());
        // Boxed: a connection keeps a place for its request's future, which takes some 30 kB, also while it is idle.
        Box::pin(async move {
            Ok::<_, Infallible>(match certificate {
                Ok(certificate) => answer(&server, request, Origin::Connection(certificate, peer)).await,
                Err(error) => respond::error(Form::default(), &error).map(Answered::of),
            })
        })
    });
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = Stalling::new(tls, server.config.limits.stall_max, http2.then_some(server.config.limits.header_time_max));
    let builder = builder(server.config.limits.header_time_max);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    if let Err(error) = graceful.watch(connection.into_owned()).await {
        tracing::debug!(error = %error, "a connection ended with an error");
    }
}

fn builder(header_time_max: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time_max)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER_MAX)
        // What a client may send before its request is read: waiting requests' bodies fill no more than this.
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 << 10);
    builder
}

async fn answer(
    server: &Arc<Server>,
    mut request: http::Request<Incoming>,
    origin: Origin,
) -> http::Response<Answered> {
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    if let Some(upgrade) = upgrade {
        parts.extensions.insert(upgrade);
    }
    handle(server, Request { parts, body: RequestBody::Incoming(body), origin }).await.map(Answered::of)
}

/// A response's body as HTTP sends it.
pub(crate) enum Answered {
    Full(Option<Bytes>),
    /// Small pieces that are ready together go out in one write.
    Stream(Gathered),
}

impl Answered {
    fn of(body: Body) -> Self {
        match body {
            Body::Full(bytes) => Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Body::Stream(pieces) => Self::Stream(Gathered { pieces: pieces.fuse(), held: None }),
        }
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = control::TransportError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(gathered) => gathered.poll(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

type Piece = Result<Bytes, control::TransportError>;

/// Joins small pieces that are ready together. Nothing waits for another.
pub(crate) struct Gathered {
    pieces: Fuse<BoxStream<'static, Piece>>,
    /// Came with the last ones and did not fit.
    held: Option<Piece>,
}

impl Gathered {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let first = match self.held.take() {
            Some(piece) => Some(piece),
            None => std::task::ready!(self.pieces.poll_next_unpin(context)),
        };
        let Some(Ok(first)) = first else { return Poll::Ready(first) };
        let mut joined: Option<Vec<u8>> = None;
        while joined.as_ref().map_or(first.len(), Vec::len) < WRITE_BYTES {
            // The end is seen again at the next poll.
            let Poll::Ready(Some(next)) = self.pieces.poll_next_unpin(context) else { break };
            match next {
                Ok(next) if joined.as_ref().map_or(first.len(), Vec::len) + next.len() <= WRITE_BYTES => {
                    joined.get_or_insert_with(|| first.to_vec()).extend_from_slice(&next);
                }
                held => {
                    self.held = Some(held);
                    break;
                }
            }
        }
        Poll::Ready(Some(Ok(joined.map_or(first, Bytes::from))))
    }
}
