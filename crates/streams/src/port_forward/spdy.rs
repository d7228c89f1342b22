//! Pairs of streams, each a connection.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::{Connect, block, both, half_close};
use crate::exec::BoxError;
use crate::session::BoxDuplex;
use crate::spdy::connection::header;
use crate::spdy::{self, Config, Connection, Headers, Role, Stream, Writer};

/// How long the second stream of a pair may take to come.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn serve(io: BoxDuplex, connect: Connect) -> Result<(), BoxError> {
    let (connection, run) = spdy::start(io, Config { role: Role::Server, accepts: is_half, ping: None });
    tokio::pin!(run);
    tokio::select! {
        ended = &mut run => return ended.map_err(Into::into),
        () = forward(connection, connect) => {}
    }
    run.await.map_err(Into::into)
}

fn is_half(headers: &Headers) -> bool {
    port(headers).is_some() && matches!(header(headers, "streamtype"), Some("data" | "error"))
}

fn port(headers: &Headers) -> Option<u16> {
    header(headers, "port")?.parse().ok().filter(|port| *port > 0)
}

/// A pair of which one stream has come.
struct Half {
    stream: Stream,
    since: Instant,
}

async fn forward(mut connection: Connection, connect: Connect) {
    // Bounded by the connection's streams.
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let oldest = halves.iter().min_by_key(|(_, half)| half.since).map(|(id, half)| (id.clone(), half.since));
        let late = async {
            match &oldest {
                Some((_, since)) => tokio::time::sleep_until(*since + PAIR_TIMEOUT).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            opened = connection.opened.recv() => {
                let Some(stream) = opened else { return };
                if let Some((data, error)) = pair(&mut halves, stream).await {
                    running.push(one(data, error, connect.clone()));
                }
            }
            Some(()) = running.next() => {}
            () = late => {
                let half = oldest.and_then(|(id, _)| halves.remove(&id));
                if let Some(half) = half {
                    tracing::debug!("the second stream of a forwarded connection did not come");
                    half.stream.writer.reset().await;
                }
            }
        }
    }
}

/// The data and the error stream of a connection, when both have come.
async fn pair(halves: &mut HashMap<String, Half>, stream: Stream) -> Option<(Stream, Stream)> {
    let is_error = |stream: &Stream| stream.header("streamtype") == Some("error");
    // A client that numbers nothing opens the error stream first, and the data stream next.
    let id = match stream.header("requestid") {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ if is_error(&stream) => format!("stream {}", stream.id),
        _ => format!("stream {}", stream.id.wrapping_sub(2)),
    };
    let Some(half) = halves.remove(&id) else {
        halves.insert(id, Half { stream, since: Instant::now() });
        return None;
    };
    match (is_error(&half.stream), is_error(&stream)) {
        (true, false) => Some((stream, half.stream)),
        (false, true) => Some((half.stream, stream)),
        _ => {
            stream.writer.reset().await;
            halves.insert(id, half);
            None
        }
    }
}

async fn one(data: Stream, error: Stream, connect: Connect) {
    let Stream { headers, mut reader, writer, .. } = data;
    let port = port(&headers).unwrap_or_default();
    let ended = match connect(port).await {
        Ok(io) => pipe(io, &mut reader, &writer).await.map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    match ended {
        Ok(()) => {
            writer.finish().await;
            error.writer.finish().await;
        }
        Err(why) => {
            let _ = error.writer.send(format!("error forwarding port {port} to pod: {why}").into()).await;
            error.writer.finish().await;
            writer.reset().await;
        }
    }
}

async fn pipe(io: BoxDuplex, reader: &mut spdy::Reader, writer: &Writer) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = tokio::io::split(io);
    let send = async {
        while let Some(data) = reader.next().await {
            to_pod.write_all(&data).await?;
        }
        half_close(&mut to_pod).await
    };
    let receive = async {
        loop {
            let data = block(&mut from_pod).await?;
            if data.is_empty() || writer.send(data).await.is_err() {
                return Ok(());
            }
        }
    };
    both(send, receive).await
}
