//! Forwarded ports: connections of a client that end in a pod.
//!
//! Over SPDY (also in a tunnel of WebSocket) each connection is a pair of streams, `data` and `error`, with a request's number
//! in common; over plain WebSocket each port is one connection, as a pair of channels. An error is told on the error stream,
//! and ends that connection alone.
//!
//! Public behaviour: the protocol `portforward.k8s.io`, and the channel protocols of WebSocket.

pub mod client;
mod spdy;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::exec::BoxError;
use crate::session::BoxDuplex;
use crate::upgrade::{Offer, Opened};

/// The protocol over SPDY.
pub const PROTOCOL: &str = "portforward.k8s.io";
/// The subprotocol of WebSocket that carries SPDY with that.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// What servers of forwarded ports speak.
pub const OFFER: Offer = Offer {
    spdy: &[PROTOCOL],
    websocket: &[TUNNEL_PROTOCOL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", PROTOCOL],
};

/// Ports of one request over plain WebSocket: two channels each, of 256.
pub const PORTS_MAX: usize = 100;
/// What is read of a connection at once.
const BLOCK_BYTES: usize = 16 << 10;
/// How long a client may go on to send when the pod has said its last.
const LINGER: Duration = Duration::from_secs(1);

/// Connects to a port of the pod; the error is what the client is told.
pub type Connect = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<BoxDuplex, String>> + Send + Sync>;

/// Serves forwarded ports until the client goes. `ports` are those of the request, for plain WebSocket.
pub async fn serve(opened: Opened, ports: &[u16], connect: Connect) -> Result<(), BoxError> {
    match opened {
        Opened::Spdy(io, _) => spdy::serve(io, connect).await,
        Opened::WebSocket(socket, protocol) => websocket::serve(*socket, protocol, ports, connect).await,
    }
}

/// Reads the next block of a pod's connection; empty at its end.
async fn block(reader: &mut ReadHalf<BoxDuplex>) -> std::io::Result<Bytes> {
    let mut block = BytesMut::with_capacity(BLOCK_BYTES);
    reader.read_buf(&mut block).await?;
    Ok(block.freeze())
}

/// Both directions of a connection. Each may end by itself; when the pod's has ended the client's gets [`LINGER`].
async fn both(
    to_pod: impl Future<Output = std::io::Result<()>>,
    to_client: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    tokio::pin!(to_pod, to_client);
    tokio::select! {
        sent = &mut to_pod => {
            sent?;
            to_client.await
        }
        received = &mut to_client => {
            received?;
            tokio::time::timeout(LINGER, to_pod).await.unwrap_or(Ok(()))
        }
    }
}

/// The pod hears that the client has said its last.
async fn half_close(writer: &mut WriteHalf<BoxDuplex>) -> std::io::Result<()> {
    match writer.shutdown().await {
        // It has gone already.
        Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests;
