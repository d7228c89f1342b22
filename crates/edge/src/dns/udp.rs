//! DNS over UDP: questions come in and answers go out by the batch.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use base::Stop;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use linux::datagrams::Batch;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::respond::{Outcome, Via};
use super::server::Server;

/// The longest question that is read: a name, and room for extensions.
const QUESTION_BYTES_MAX: usize = 1500;

/// How long nothing is received after an error: without a pause one that stays would use up a processor.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Answers until `stop`.
pub(super) async fn serve(server: Arc<Server>, socket: UdpSocket, stop: Stop) {
    let mut batch = Batch::new(QUESTION_BYTES_MAX);
    let mut answers = Answers::default();
    // Bounded by the forwarder: beyond its limit it answers at once.
    let mut waiting: FuturesUnordered<BoxFuture<'_, (Vec<u8>, SocketAddr)>> = FuturesUnordered::new();
    loop {
        let received = tokio::select! {
            () = stop.stopped() => return,
            received = socket.async_io(Interest::READABLE, || batch.receive(socket.as_fd())) => received,
            Some((answer, client)) = waiting.next() => {
                if let Err(error) = socket.send_to(&answer, client).await {
                    tracing::debug!(%error, %client, "cannot send an answer");
                }
                continue;
            }
        };
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(%error, "cannot receive");
                // Such as no memory: that is not over at once.
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        answers.clear();
        for at in 0..count {
            let start = answers.bytes.len();
            match server.responder.respond(batch.datagram(at), Via::Udp, &mut answers.bytes) {
                Outcome::Answered => answers.whom.push((at, start..answers.bytes.len())),
                Outcome::Nothing => {}
                Outcome::Ask(asked) => {
                    if let Some(answer) = server.remembered(&asked) {
                        answers.bytes.extend(answer);
                        answers.whom.push((at, start..answers.bytes.len()));
                        continue;
                    }
                    let Some(client) = batch.sender(at) else { continue };
                    let server = &server;
                    waiting.push(Box::pin(async move { (server.ask(asked).await, client) }));
                }
            }
        }
        send(&socket, &mut batch, &answers).await;
    }
}

/// Answers that go out together.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    /// For which datagram of the batch, and which part of `bytes`.
    whom: Vec<(usize, Range<usize>)>,
}

impl Answers {
    fn clear(&mut self) {
        self.bytes.clear();
        self.whom.clear();
    }
}

async fn send(socket: &UdpSocket, batch: &mut Batch, answers: &Answers) {
    let mut left = &answers.whom[..];
    while !left.is_empty() {
        match socket.async_io(Interest::WRITABLE, || batch.reply(socket.as_fd(), left, &answers.bytes)).await {
            Ok(sent) => left = &left[sent..],
            Err(error) => {
                tracing::debug!(%error, client = ?batch.sender(left[0].0), "cannot send an answer");
                left = &left[1..];
            }
        }
    }
}
