//! A session whose channels are messages of one WebSocket connection, by their first byte.

use bytes::Bytes;
use futures::future::{Either, select};
use futures::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::{BoxError, Ending, Options, Start, V5, size_of};
use crate::session::{ExecSession, Input, Output};
use crate::websocket::{Codec, Socket, close};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Says in `v5` that the channel named in its one byte is closed.
const CLOSE: u8 = 255;

pub(super) async fn serve(
    mut socket: Socket,
    protocol: &'static str,
    options: Options,
    start: Start<'_>,
) -> Result<(), BoxError> {
    let codec = Codec::of(protocol);
    let session = match start.await {
        Ok(session) => session,
        Err(why) => {
            if let Some(words) = Ending::Failed(why).words(protocol, options.attached) {
                socket.send(codec.encode(ERROR, &words)).await?;
            }
            close(&mut socket).await;
            return Ok(());
        }
    };
    converse(socket, session, options, protocol).await
}

async fn converse(socket: Socket, session: ExecSession, options: Options, protocol: &str) -> Result<(), BoxError> {
    let codec = Codec::of(protocol);
    let (mut sink, mut stream) = socket.split();
    // An empty message tells the client that the connection stands.
    let first = if options.stdout {
        STDOUT
    } else if options.stderr {
        STDERR
    } else {
        ERROR
    };
    sink.send(codec.encode(first, &[])).await?;
    let ExecSession { input, mut output } = session;
    let to_process = pump_input(&mut stream, options.stdin, input, protocol);
    let from_process = pump_output(&mut output, &mut sink, options, protocol);
    match select(Box::pin(to_process), Box::pin(from_process)).await {
        // The client went away: dropping the session ends the process.
        Either::Left((ended, _)) => return ended.map_err(Into::into),
        Either::Right((ended, _)) => ended?,
    }
    let mut socket = sink.reunite(stream)?;
    close(&mut socket).await;
    Ok(())
}

/// Passes on what the client sends, until it closes the connection.
async fn pump_input<S>(
    stream: &mut S,
    stdin: bool,
    input: mpsc::Sender<Input>,
    protocol: &str,
) -> Result<(), SocketError>
where
    S: Stream<Item = Result<Message, SocketError>> + Unpin,
{
    let codec = Codec::of(protocol);
    while let Some(received) = stream.next().await {
        let message = received?;
        if message.is_close() {
            return Ok(());
        }
        let Some((channel, data)) = codec.decode(message) else { continue };
        let Some(next) = input_of(channel, data, protocol == V5) else { continue };
        // A process that has ended takes nothing more; its result is on the way.
        if stdin || matches!(next, Input::Resize(_)) {
            let _ = input.send(next).await;
        }
    }
    Ok(())
}

fn input_of(channel: u8, data: Bytes, v5: bool) -> Option<Input> {
    match channel {
        STDIN if !data.is_empty() => Some(Input::Stdin(data)),
        RESIZE => size_of(&serde_json::from_slice::<Value>(&data).ok()?).map(Input::Resize),
        CLOSE if v5 && data.first() == Some(&STDIN) => Some(Input::StdinClosed),
        _ => None,
    }
}

/// Passes on what the process writes, and at its end its result.
async fn pump_output<S>(
    output: &mut mpsc::Receiver<Output>,
    sink: &mut S,
    options: Options,
    protocol: &str,
) -> Result<(), SocketError>
where
    S: Sink<Message, Error = SocketError> + Unpin,
{
    let codec = Codec::of(protocol);
    let mut ending = Ending::unknown();
    while let Some(next) = output.recv().await {
        match next {
            Output::Stdout(data) if options.stdout => sink.send(codec.encode(STDOUT, &data)).await?,
            Output::Stderr(data) if options.stderr => sink.send(codec.encode(STDERR, &data)).await?,
            Output::Stdout(_) | Output::Stderr(_) => {}
            Output::Exited(code) => {
                ending = Ending::Exited(code);
                break;
            }
            Output::Failed(why) => {
                ending = Ending::Failed(why);
                break;
            }
        }
    }
    match ending.words(protocol, options.attached) {
        Some(words) => sink.send(codec.encode(ERROR, &words)).await,
        None => Ok(()),
    }
}
