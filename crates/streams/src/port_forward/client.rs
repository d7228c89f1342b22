//! The client's side over SPDY: one connection to a port of a pod whose runtime is somebody else.

use std::future::Future;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::session::BoxDuplex;
use crate::spdy::{self, Config, Headers, Role, Stream};

const PING: Duration = Duration::from_secs(5);
/// What waits in each direction; then the side that sends waits.
const BUFFER_BYTES: usize = 32 << 10;
const ERROR_BYTES_MAX: usize = 16 << 10;

/// Opens a connection to `port` over one that has switched to SPDY. The future moves its bytes and ends with it: with what the
/// other side had to say, if anything.
pub fn open(io: BoxDuplex, port: u16) -> (DuplexStream, impl Future<Output = Result<(), String>> + Send) {
    let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    let (connection, run) = spdy::start(io, Config { role: Role::Client, accepts: |_| false, ping: Some(PING) });
    let moved = async move {
        let open = async |kind: &str| {
            let headers: Headers = [("streamtype", kind), ("port", &port.to_string()), ("requestid", "0")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec();
            connection.opener.open(headers).await.map_err(|error| error.to_string())
        };
        let Stream { reader: mut errors, writer, .. } = open("error").await?;
        writer.finish().await;
        let data = open("data").await?;
        pipe(theirs, data).await;
        let mut why = BytesMut::new();
        while let Some(more) = errors.next().await {
            if why.len() + more.len() <= ERROR_BYTES_MAX {
                why.extend_from_slice(&more);
            }
        }
        if why.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&why).into_owned()) }
    };
    let both = async move {
        let (ran, moved) = tokio::join!(run, moved);
        ran.map_err(|error| error.to_string())?;
        moved
    };
    (ours, both)
}

async fn pipe(io: DuplexStream, data: Stream) {
    let (mut from_user, mut to_user) = tokio::io::split(io);
    let Stream { mut reader, writer, .. } = data;
    let send = async {
        loop {
            let mut block = BytesMut::with_capacity(BUFFER_BYTES);
            match from_user.read_buf(&mut block).await {
                Ok(length) if length > 0 && writer.send(block.freeze()).await.is_ok() => {}
                _ => break,
            }
        }
        writer.finish().await;
    };
    let receive = async {
        while let Some(data) = reader.next().await {
            if to_user.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = to_user.shutdown().await;
    };
    // When the other side has said its last, there is nobody to send to.
    tokio::pin!(send, receive);
    tokio::select! {
        () = &mut send => receive.await,
        () = &mut receive => {}
    }
}
