//! DNS over TCP (RFC 7766): questions one after the other, answered as soon as there is an answer, in any order.
//!
//! What a client can use up is limited: connections, of each client and of all; questions under way on one; time in which
//! nothing comes; time that it takes to read an answer.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Stop, Tasks};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::metrics;
use super::respond::{Outcome, Via};
use super::server::Server;

/// How many connections are open at once. Beyond it a new one is closed.
const CONNECTIONS_MAX: usize = 512;
/// How many of them one client has: else one could keep out all others.
const CONNECTIONS_OF_CLIENT_MAX: usize = 64;
/// A connection that is silent for longer is closed, and so is one whose client does not read.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How many questions of a connection wait for other servers at once. The next is read when one is answered.
const PIPELINED_MAX: usize = 16;
/// The longest question: a name, and room for extensions.
const QUESTION_BYTES_MAX: usize = 4096;

/// Takes connections until `stop`.
pub(super) async fn accept(server: Arc<Server>, listener: TcpListener, tasks: Tasks, stop: Stop) {
    let open = Arc::new(Mutex::new(HashMap::new()));
    while let Some(accepted) = stop.or_stopped(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot take a connection");
                // Out of descriptors: those who have some give them back in the meantime.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = Place::take(&open, peer.ip()) else {
            metrics::connection_refused();
            continue;
        };
        let (server, stop) = (server.clone(), stop.clone());
        tasks.spawn("dns connection", async move {
            let _place = place;
            let _ = stop.or_stopped(serve(&server, stream)).await;
        });
    }
}

/// One of the connections that may be open.
struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
    _counted: base::metrics::Held<'static>,
}

impl Place {
    fn take(open: &Arc<Mutex<HashMap<IpAddr, usize>>>, client: IpAddr) -> Option<Self> {
        let mut clients = open.lock().expect("no holder of the connections' lock panics");
        let all: usize = clients.values().sum();
        let of_client = clients.get(&client).copied().unwrap_or(0);
        if all >= CONNECTIONS_MAX || of_client >= CONNECTIONS_OF_CLIENT_MAX {
            return None;
        }
        clients.insert(client, of_client + 1);
        Some(Self { open: open.clone(), client, _counted: metrics::connection_opened() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.open.lock().expect("no holder of the connections' lock panics");
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

async fn serve(server: &Server, mut stream: TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    let mut waiting: FuturesUnordered<BoxFuture<'_, Vec<u8>>> = FuturesUnordered::new();
    loop {
        let mut out = Vec::new();
        // All that came is answered before more is read.
        while waiting.len() < PIPELINED_MAX
            && let Some(question) = take_question(&mut received)?
        {
            let start = out.len();
            out.extend_from_slice(&[0, 0]);
            match server.responder.respond(&question, Via::Tcp, &mut out) {
                Outcome::Answered => set_length(&mut out, start),
                Outcome::Nothing => return Ok(()),
                Outcome::Ask(asked) => {
                    out.truncate(start);
                    match server.remembered(&asked) {
                        Some(answer) => out.extend(framed(&answer)),
                        None => waiting.push(Box::pin(server.ask(asked))),
                    }
                }
            }
        }
        write(&mut stream, &out).await?;
        let may_read = waiting.len() < PIPELINED_MAX;
        tokio::select! {
            read = stream.read_buf(&mut received), if may_read => if read? == 0 {
                // It may still want what it asked for.
                while let Some(answer) = waiting.next().await {
                    write(&mut stream, &framed(&answer)).await?;
                }
                return Ok(());
            },
            Some(answer) = waiting.next() => write(&mut stream, &framed(&answer)).await?,
            () = tokio::time::sleep(IDLE_MAX), if waiting.is_empty() => return Ok(()),
        }
    }
}

/// The next whole question.
fn take_question(received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = received.first_chunk::<2>() else { return Ok(None) };
    let end = 2 + usize::from(u16::from_be_bytes(*length));
    if end > 2 + QUESTION_BYTES_MAX {
        return Err(io::Error::other("the question is too long"));
    }
    if received.len() < end {
        return Ok(None);
    }
    let rest = received.split_off(end);
    let question = std::mem::replace(received, rest);
    Ok(Some(question[2..].to_vec()))
}

fn set_length(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len() - start - 2).expect("no answer is longer than its limit");
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

fn framed(answer: &[u8]) -> Vec<u8> {
    let mut out = [&[0, 0], answer].concat();
    set_length(&mut out, 0);
    out
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match tokio::time::timeout(IDLE_MAX, stream.write_all(bytes)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
