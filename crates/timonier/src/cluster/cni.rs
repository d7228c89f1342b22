//! The node's side of its network plugin: a socket on which the plugin says what a container runtime wants.
//!
//! One connection a call: the call as JSON to the end of the input, then `{"result": ...}` or `{"error": {...}}`. Only root can
//! reach the socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Stop, Tasks};
use cri::PodNetwork;
use cri::cni::{BYTES_MAX, Call, CniError, Command};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};

/// Calls at once; more wait. A runtime that restarts asks for all its sandboxes.
const CALLS_MAX: usize = 64;
/// A caller that says nothing must not hold one of these.
const CALLER: Duration = Duration::from_secs(10);

/// The socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub(crate) struct ListenError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The network that is asked, as soon as there is one.
pub(crate) type Network = watch::Receiver<Option<Arc<dyn PodNetwork>>>;

/// Answers plugins until `stop`.
pub(crate) async fn serve(path: &Path, network: Network, stop: Stop) -> Result<(), ListenError> {
    let failed = |source| ListenError { path: path.to_owned(), source };
    let listener = cri::listen_privately(path).map_err(failed)?;
    let (tasks, calls) = (Tasks::new("CNI"), Arc::new(Semaphore::new(CALLS_MAX)));
    loop {
        let next = async {
            let permit = calls.clone().acquire_owned().await;
            (permit.expect("nobody closes it"), listener.accept().await)
        };
        let Some((permit, accepted)) = stop.or_stopped(next).await else { break };
        let (stream, _) = accepted.map_err(failed)?;
        let network = network.clone();
        tasks.spawn("call", async move {
            if let Err(error) = one(stream, &network).await {
                tracing::debug!(%error, "a network plugin went away");
            }
            drop(permit);
        });
    }
    tasks.join().await;
    Ok(())
}

async fn one(mut stream: UnixStream, network: &Network) -> std::io::Result<()> {
    let mut input = Vec::new();
    let read = async { (&mut stream).take(BYTES_MAX).read_to_end(&mut input).await };
    tokio::time::timeout(CALLER, read).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    let answered = match serde_json::from_slice::<Call>(&input) {
        Ok(call) => answer(&call, network).await,
        Err(error) => Err(CniError::new(CniError::DECODING, error.to_string())),
    };
    let answer = match answered {
        Ok(result) => json!({"result": result}),
        Err(CniError { code, message }) => json!({"error": {"code": code, "message": message}}),
    };
    stream.write_all(answer.to_string().as_bytes()).await
}

async fn answer(call: &Call, network: &Network) -> Result<Value, CniError> {
    let there = network.borrow().clone();
    let Some(network) = there else {
        let code = if call.command == Command::Status { CniError::NOT_AVAILABLE } else { CniError::TRY_AGAIN };
        return Err(CniError::new(code, "the node has no pod network yet: it waits for its range"));
    };
    let failed = |error: cri::NetworkError| CniError::new(CniError::NETWORK, base::chain(&error));
    match call.command {
        Command::Add => {
            let addresses = network.attach(&call.attach_request()).await.map_err(failed)?;
            Ok(call.added(&addresses))
        }
        Command::Del => network.detach(&call.container_id).await.map(|()| Value::Null).map_err(failed),
        Command::Check => {
            let attached = network.attached().await.map_err(failed)?;
            let unknown =
                || CniError::new(CniError::UNKNOWN_CONTAINER, format!("{} is not attached", call.container_id));
            attached.contains(&call.container_id).then_some(Value::Null).ok_or_else(unknown)
        }
        Command::Gc => {
            for sandbox in network.attached().await.map_err(failed)? {
                if !call.valid.contains(&sandbox) {
                    network.detach(&sandbox).await.map_err(failed)?;
                }
            }
            Ok(Value::Null)
        }
        Command::Status => Ok(Value::Null),
        Command::Version => Ok(cri::cni::versions()),
    }
}
