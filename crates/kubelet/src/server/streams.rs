//! `/exec` and `/attach` over WebSocket: input, output, error output, result and terminal size as channels of one
//! connection, in the subprotocols `v5.channel.k8s.io` (which can close the input alone), `v4.channel.k8s.io`, and
//! `channel.k8s.io`, where the result is a text that is sent of failures only.
//!
//! A slow client slows the process down: nothing is queued beyond the session's own bounded channels.

use std::sync::Arc;
use std::time::Duration;

use base::chain;
use bytes::{BufMut, Bytes, BytesMut};
use cri::{ExecSession, ExecStart, Input, Output, TerminalSize, v1};
use futures::future::{BoxFuture, Either, select};
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::{Body, Connection, Query, Refusal, find_pod, find_runs, full};
use crate::host::Host;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Says in `v5` that the channel named in its one byte is closed.
const CLOSE: u8 = 255;

/// A client's message may be this long; kubectl sends 32 KiB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The subprotocols for exec and attach, the best first. No subprotocol at all means `channel.k8s.io`.
const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
/// How long the client gets to answer the closing of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// What the client wants connected.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let tty = query.is_set(&["tty"]);
        let wanted = Self {
            stdin: query.is_set(&["input", "stdin"]),
            stdout: query.is_set(&["output", "stdout"]),
            // A terminal has one output.
            stderr: query.is_set(&["error", "stderr"]) && !tty,
            tty,
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(Refusal(
                StatusCode::BAD_REQUEST,
                "you must specify at least 1 of stdin, stdout, stderr".into(),
            ));
        }
        Ok(wanted)
    }
}

pub(super) async fn exec(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let command = query.all("command");
    if command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify a command".into()));
    }
    open(host, (namespace, pod, container), command, query, request, connection).await
}

pub(super) async fn attach(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    open(host, (namespace, pod, container), Vec::new(), query, request, connection).await
}

async fn open(
    host: &Arc<Host>,
    place: (&str, &str, &str),
    command: Vec<String>,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let (namespace, pod, container) = place;
    let wanted = Wanted::of(query)?;
    let object = find_pod(host, namespace, pod)?;
    let run = find_runs(host, &object, container).await?.into_iter().next();
    let running = run.filter(|run| run.state == v1::ContainerState::ContainerRunning as i32);
    let run =
        running.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))?;
    let (response, upgrade) = upgrade(request, PROTOCOLS)?;
    let attached = command.is_empty();
    let start = ExecStart { container_id: run.id, command, tty: wanted.tty, stdin: wanted.stdin };
    let session = host.runtime.exec(start).await;
    let connection = connection.clone();
    host.tasks.spawn(format!("session in {container} of {namespace}/{pod}"), async move {
        let serve = async {
            let (socket, protocol) = upgrade.await?;
            match session {
                Ok(session) => converse(socket, session, wanted, attached, protocol).await,
                Err(error) => refuse(socket, &chain(&error), protocol).await,
            }
        };
        if let Some(Err(error)) = connection.stop.or_stopped(Box::pin(serve)).await {
            tracing::debug!(error = chain(&*error), "a session ended early");
        }
    });
    Ok(response)
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The socket that an upgrade becomes, and the subprotocol that it speaks; empty where the client named none.
pub(super) type Upgrade = BoxFuture<'static, Result<(Socket, &'static str), BoxError>>;

/// The answer to a WebSocket handshake, and the socket that follows it, with the subprotocol that it speaks.
pub(super) fn upgrade(
    mut request: Request<Incoming>,
    protocols: &'static [&'static str],
) -> Result<(Response<Body>, Upgrade), Refusal> {
    let bad = |message: &str| Refusal(StatusCode::BAD_REQUEST, message.to_owned());
    let headers = request.headers();
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return Err(bad("streams are served over WebSocket: the request must ask for an upgrade to websocket"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("missing Sec-WebSocket-Key"))?;
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept =
        http::HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| bad("invalid Sec-WebSocket-Key"))?;
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, http::HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    let mut protocol = "";
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        let chosen = protocols.iter().find(|protocol| has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, protocol));
        protocol = chosen.ok_or_else(|| bad("none of the requested subprotocols is served"))?;
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(protocol));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let socket = async move {
        let stream = TokioIo::new(upgraded.await?);
        let mut config = WebSocketConfig::default();
        config.read_buffer_size = 16 << 10;
        config.write_buffer_size = 0;
        config.max_message_size = Some(MESSAGE_BYTES_MAX);
        config.max_frame_size = Some(MESSAGE_BYTES_MAX);
        Ok((WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await, protocol))
    };
    Ok((response, socket.boxed()))
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// A message of one channel.
pub(super) fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

async fn refuse(mut socket: Socket, why: &str, protocol: &str) -> Result<(), BoxError> {
    let status = json!({"metadata": {}, "status": "Failure", "message": why, "reason": "InternalError", "code": 500});
    if let Some(last) = last_words(&status, protocol) {
        socket.send(last).await?;
    }
    close(&mut socket).await;
    Ok(())
}

async fn converse(
    socket: Socket,
    session: ExecSession,
    wanted: Wanted,
    attached: bool,
    protocol: &str,
) -> Result<(), BoxError> {
    let (mut sink, mut stream) = socket.split();
    // An empty message tells the client that the connection stands.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    sink.send(message(first, &[])).await?;
    let ExecSession { input, mut output } = session;
    let to_process = pump_input(&mut stream, Some(input), protocol == PROTOCOLS[0]);
    let from_process = pump_output(&mut output, &mut sink, wanted, attached, protocol);
    match select(Box::pin(to_process), Box::pin(from_process)).await {
        // The client went away: dropping the session ends the process.
        Either::Left((ended, _)) => return ended.map_err(Into::into),
        Either::Right((ended, _)) => ended?,
    }
    let mut socket = sink.reunite(stream)?;
    close(&mut socket).await;
    Ok(())
}

/// Ends the connection in an orderly way, so that the client has read everything before it sees the end.
pub(super) async fn close(socket: &mut Socket) {
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let orderly = async {
        socket.close(Some(farewell)).await?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, SocketError>(())
    };
    // A client that does not answer has nothing more to say.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, orderly).await;
}

/// Passes on what the client sends, until it closes the connection.
async fn pump_input<S>(
    stream: &mut S,
    mut input: Option<tokio::sync::mpsc::Sender<Input>>,
    v5: bool,
) -> Result<(), SocketError>
where
    S: Stream<Item = Result<Message, SocketError>> + Unpin,
{
    while let Some(received) = stream.next().await {
        let data = match received? {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        let Some(next) = input_of(&data, v5) else { continue };
        // A process that has ended takes nothing more; its result is on the way.
        if let Some(sender) = &input
            && sender.send(next).await.is_err()
        {
            input = None;
        }
    }
    Ok(())
}

fn input_of(data: &Bytes, v5: bool) -> Option<Input> {
    match *data.first()? {
        STDIN if data.len() > 1 => Some(Input::Stdin(data.slice(1..))),
        RESIZE => {
            let size: Value = serde_json::from_slice(&data[1..]).ok()?;
            let side = |name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok());
            Some(Input::Resize(TerminalSize { width: side("Width")?, height: side("Height")? }))
        }
        CLOSE if v5 && data.get(1) == Some(&STDIN) => Some(Input::StdinClosed),
        _ => None,
    }
}

/// Passes on what the process writes, and at its end its result.
async fn pump_output<S>(
    output: &mut tokio::sync::mpsc::Receiver<Output>,
    sink: &mut S,
    wanted: Wanted,
    attached: bool,
    protocol: &str,
) -> Result<(), SocketError>
where
    S: Sink<Message, Error = SocketError> + Unpin,
{
    let mut exit_code = None;
    while let Some(next) = output.recv().await {
        match next {
            Output::Stdout(data) if wanted.stdout => sink.send(message(STDOUT, &data)).await?,
            Output::Stderr(data) if wanted.stderr => sink.send(message(STDERR, &data)).await?,
            Output::Stdout(_) | Output::Stderr(_) => {}
            Output::Exited(code) => {
                exit_code = Some(code);
                break;
            }
        }
    }
    match last_words(&result(exit_code, attached), protocol) {
        Some(last) => sink.send(last).await,
        None => Ok(()),
    }
}

/// How the result is sent: as JSON from `v4` on; before, the text of a failure, and nothing of a success.
fn last_words(result: &Value, protocol: &str) -> Option<Message> {
    if !matches!(protocol, "" | "channel.k8s.io") {
        return Some(message(ERROR, result.to_string().as_bytes()));
    }
    let failure = result["message"].as_str()?;
    Some(message(ERROR, failure.as_bytes()))
}

/// The `Status` that ends a session.
fn result(exit_code: Option<i32>, attached: bool) -> Value {
    match exit_code {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        // Whoever attached to a container learns its exit code from the pod.
        Some(_) if attached => json!({"metadata": {}, "status": "Success"}),
        Some(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: error executing command in container: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        None => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": "the session ended without a result"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_comes_in_the_form_of_the_protocol() {
        let failure = "the session ended without a result";
        for (protocol, exit_code, expected) in [
            ("", Some(0), None),
            ("channel.k8s.io", Some(0), None),
            ("channel.k8s.io", None, Some(failure.to_owned())),
            ("v4.channel.k8s.io", Some(0), Some(result(Some(0), false).to_string())),
            ("v5.channel.k8s.io", None, Some(result(None, false).to_string())),
        ] {
            let seen = last_words(&result(exit_code, false), protocol);
            assert_eq!(seen, expected.map(|text| message(ERROR, text.as_bytes())), "{protocol} {exit_code:?}");
        }
    }
}
