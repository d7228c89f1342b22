//! The listeners: HTTP/1.1 and HTTP/2, plain or over TLS, with limits on what strangers may cost.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Stop;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::metrics::CONNECTIONS;
use super::proxy::{self, Client};

/// Connections of clients at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16_384;
/// Without it half-open handshakes would hold their connections for ever.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a client may take for a request's head, and be silent between two requests.
const HEAD_MAX: Duration = Duration::from_secs(75);
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Dead clients of HTTP/2 are noticed after these.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(60);
const KEEP_ALIVE_ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long requests in hand may take when the controller stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// A socket to listen on.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<TlsAcceptor>,
}

/// Accepts connections until `stop`, then waits until their requests have ended; those that take too long are cut off.
pub(super) async fn serve(shared: Arc<Shared>, door: Door, stop: Stop) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (graceful, cut) = (GracefulShutdown::new(), Stop::new());
    let builder = builder();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (door.listener.accept().await, place.expect("the semaphore is never closed"))
        };
        let Some((accepted, place)) = stop.or_stopped(next).await else { break };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let (tls, port) = (door.tls.clone(), stream.local_addr().map_or(0, |address| address.port()));
                let client = Client { ip: peer.ip(), tls: tls.is_some(), port };
                let parts =
                    Parts { shared: shared.clone(), client, builder: builder.clone(), watcher: graceful.watcher() };
                let cut = cut.clone();
                shared.tasks.spawn("connection of a client", async move {
                    let _ = cut.or_stopped(Box::pin(connection(parts, tls, stream))).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a connection");
                let _ = stop.or_stopped(tokio::time::sleep(Duration::from_millis(100))).await;
            }
        }
    }
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut off");
    }
    cut.stop();
}

struct Parts {
    shared: Arc<Shared>,
    client: Client,
    builder: Builder<TokioExecutor>,
    watcher: Watcher,
}

async fn connection(parts: Parts, tls: Option<TlsAcceptor>, stream: TcpStream) {
    let _open = CONNECTIONS.with([]).hold();
    let Some(tls) = tls else { return speak(parts, stream).await };
    match tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => speak(parts, stream).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn speak<S>(parts: Parts, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Parts { shared, client, builder, watcher } = parts;
    let service = service_fn(move |request| {
        let shared = shared.clone();
        // Boxed: a connection keeps a place for its request's future also while it is idle.
        Box::pin(async move { Ok::<_, Infallible>(proxy::answer(&shared, client, request).await) })
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// One connection without a listener.
pub(super) async fn speak_alone<S>(shared: Arc<Shared>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Client { ip: std::net::Ipv4Addr::LOCALHOST.into(), tls: false, port: 80 };
    let graceful = GracefulShutdown::new();
    speak(Parts { shared, client, builder: builder(), watcher: graceful.watcher() }, stream).await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER_MAX)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 << 10);
    builder
}

/// Where a door is, for the log and for tests.
pub(super) fn address(door: &Door) -> Option<SocketAddr> {
    door.listener.local_addr().ok()
}
