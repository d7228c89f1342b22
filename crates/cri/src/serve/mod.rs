//! A [`Runtime`] served on a socket, as `crictl` and other clients of the container runtime interface call it.
//!
//! gRPC comes over a unix socket that only its owner can open. Streams of exec, attach and port-forward come over a port of the
//! loopback, by addresses that are good once and for a minute ([`streaming`]). Calls that are not served are answered with
//! `Unimplemented`; nothing that comes is unbounded.
//!
//! Public behaviour: the services of `runtime.v1`. Left out: statistics of whole sandboxes, metrics, checkpoints, streamed lists.

mod calls;
mod streaming;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Stop, Tasks};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::runtime::Runtime;
use streaming::Sessions;

/// Connections at once, on the socket and on the streams' port; more wait.
const CONNECTIONS_MAX: usize = 256;

/// The socket or the streams' port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct ServeError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Serves `runtime` on the socket `path` until `stop`.
pub async fn serve(path: &Path, runtime: Arc<dyn Runtime>, stop: Stop) -> Result<(), ServeError> {
    let failed = |source| ServeError { path: path.to_owned(), source };
    let streams = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    let port = streams.local_addr().map_err(failed)?.port();
    let listener = listen_privately(path).map_err(failed)?;
    let tasks = Tasks::new("CRI");
    let sessions = Arc::new(Sessions::new(runtime.clone(), port, tasks.clone(), stop.clone()));
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned();
        let next = async {
            let permit = permit.await.expect("nobody closes it");
            tokio::select! {
                called = listener.accept() => (permit, called.map(|(stream, _)| Came::Call(stream))),
                streamed = streams.accept() => (permit, streamed.map(|(stream, _)| Came::Stream(stream))),
            }
        };
        let Some((permit, came)) = stop.or_stopped(next).await else { break };
        let (runtime, sessions, stop) = (runtime.clone(), sessions.clone(), stop.clone());
        let came = came.map_err(failed)?;
        tasks.spawn("connection", async move {
            match came {
                Came::Call(stream) => drop(stop.or_stopped(Box::pin(call(stream, runtime, sessions))).await),
                Came::Stream(stream) => drop(stop.or_stopped(Box::pin(streaming::connection(stream, sessions))).await),
            }
            drop(permit);
        });
    }
    tasks.join().await;
    Ok(())
}

enum Came {
    Call(tokio::net::UnixStream),
    Stream(tokio::net::TcpStream),
}

/// Listens on a socket that only its owner may connect to, in place of one that an earlier process left.
pub fn listen_privately(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn call(stream: tokio::net::UnixStream, runtime: Arc<dyn Runtime>, sessions: Arc<Sessions>) {
    let service = service_fn(move |request| {
        let (runtime, sessions) = (runtime.clone(), sessions.clone());
        async move { Ok::<_, std::convert::Infallible>(calls::answer(request, runtime, sessions).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(error = base::chain(&error), "a client of the container runtime went away");
    }
}
