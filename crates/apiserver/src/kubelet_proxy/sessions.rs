//! Sessions that the server takes part in: for a node that knows only SPDY, what a client speaks over WebSocket; and logs over
//! WebSocket.
//!
//! As upstream: a node that declares `ExtendWebSocketsToKubelet` gets everything as it comes. For another, exec and attach in
//! `v5.channel.k8s.io` become SPDY's streams, and a tunnel of SPDY for port-forward is taken out of its WebSocket; older
//! protocols of WebSocket are known to every kubelet and pass.

use api::{ApiError, Reason};
use base::chain;
use bytes::Bytes;
use control::{Body, TransportError};
use futures::stream::BoxStream;
use futures::{FutureExt, SinkExt, StreamExt};
use http::HeaderValue;
use hyper::upgrade::OnUpgrade;
use streams::exec::{self, BoxError, Options, Start};
use streams::upgrade::{self, Accepted, AskError, Offer, Opened};
use streams::websocket::{self, Codec, Socket};
use streams::{BoxDuplex, ExecSession, port_forward};
use tokio::io::copy_bidirectional;

use super::{Call, Destination, connect, forward};
use crate::request::Request;
use crate::request::respond::{self, Answer};
use crate::server::Server;

/// What logs are sent in: each block is a message.
const LOG_OFFER: Offer = Offer { spdy: &[], websocket: &["binary.k8s.io", "base64.binary.k8s.io"] };
/// In which form a node's own protocols are asked for here.
const EXEC_OFFER: Offer = Offer { spdy: &[], websocket: &[exec::V5] };
const TUNNEL_OFFER: Offer = Offer { spdy: &[], websocket: &[port_forward::TUNNEL_PROTOCOL] };

/// What a node must be translated.
pub(super) enum Translation {
    /// Channels of WebSocket to streams of SPDY.
    Exec(Options),
    /// SPDY without its WebSocket.
    Tunnel,
}

/// What must be translated of a call, if anything.
pub(super) fn translation(call: &Call, destination: &Destination) -> Option<Translation> {
    if destination.websockets {
        return None;
    }
    let named = |protocol| websocket::names_protocol(&call.headers, protocol);
    match &*call.target.subresource {
        "exec" | "attach" if named(exec::V5) => Some(Translation::Exec(options(call))),
        "portforward" if named(port_forward::TUNNEL_PROTOCOL) => Some(Translation::Tunnel),
        _ => None,
    }
}

fn options(call: &Call) -> Options {
    let flag = |name: &str| call.query.get(name).is_some_and(|value| super::flag(name, value) == "1");
    let tty = flag("tty");
    Options {
        stdin: flag("stdin"),
        stdout: flag("stdout"),
        stderr: flag("stderr") && !tty,
        tty,
        attached: &*call.target.subresource == "attach",
    }
}

impl Translation {
    /// Answers a call, and goes on with its session.
    pub(super) async fn answer(
        self,
        call: &Call,
        destination: Destination,
        request: Request,
    ) -> Result<Answer, ApiError> {
        match self {
            Self::Exec(options) => exec(call, destination, options, request),
            Self::Tunnel => tunnel(call, &destination, request).await,
        }
    }
}

/// The client is answered first, and told of what goes wrong at the node over its session.
fn exec(call: &Call, destination: Destination, options: Options, mut request: Request) -> Result<Answer, ApiError> {
    let (answer, accepted) = accept(call, &mut request, EXEC_OFFER)?;
    let server = call.server.clone();
    call.server.tasks.spawn("translated session", async move {
        let serve = async {
            let start: Start<'_> = ask_exec(&server, &destination, options).boxed();
            exec::serve(accepted.open().await?, options, start).await
        };
        if let Some(Err(error)) = server.stop.or_stopped(Box::pin(serve)).await {
            tracing::debug!(error = chain(&*error), "a translated session ended early");
        }
    });
    Ok(answer)
}

async fn ask_exec(server: &Server, destination: &Destination, options: Options) -> Result<ExecSession, String> {
    let (io, protocol) = ask(server, destination, exec::SPDY_PROTOCOLS).await.map_err(|error| chain(&error))?;
    let (session, run) = exec::client::open(io, protocol, options);
    // It ends with the session, which ends when the server stops.
    server.tasks.spawn("session with a node", run);
    Ok(session)
}

/// The node is asked first: what it refuses is the answer.
async fn tunnel(call: &Call, destination: &Destination, mut request: Request) -> Result<Answer, ApiError> {
    let mut other = match ask(&call.server, destination, port_forward::OFFER.spdy).await {
        Ok((io, _)) => io,
        Err(NodeError::Ask(AskError::Refused { status, message })) => return Ok(respond::text(status, message)),
        Err(error) => return Err(super::unreachable(destination, &error)),
    };
    let (answer, accepted) = accept(call, &mut request, TUNNEL_OFFER)?;
    let stop = call.server.stop.clone();
    call.server.tasks.spawn("tunnel to a node", async move {
        // Either side may just close: that is how port forwarding ends.
        if let Ok(Opened::Spdy(mut client, _)) = accepted.open().await {
            let _ = stop.or_stopped(copy_bidirectional(&mut client, &mut other)).await;
        }
    });
    Ok(answer)
}

#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error(transparent)]
    Connect(#[from] super::SendError),
    #[error("the request has no path")]
    Path,
    #[error(transparent)]
    Ask(#[from] AskError),
}

async fn ask(
    server: &Server,
    destination: &Destination,
    protocols: &'static [&'static str],
) -> Result<(BoxDuplex, String), NodeError> {
    let io = connect(server, destination).await?;
    let uri = destination.path_and_query.parse().map_err(|_| NodeError::Path)?;
    let host = HeaderValue::from_str(&destination.address.to_string()).expect("an address is header text");
    Ok(upgrade::ask(io, uri, host, protocols).await?)
}

fn accept(call: &Call, request: &mut Request, offer: Offer) -> Result<(Answer, Accepted), ApiError> {
    let asked = request.parts.extensions.remove::<OnUpgrade>();
    let mut accepted = upgrade::accept(&call.headers, asked, offer)
        .map_err(|refused| ApiError::new(Reason::BadRequest, refused.message))?;
    let answer = std::mem::take(&mut accepted.response).map(|()| Body::Full(Bytes::new()));
    Ok((answer, accepted))
}

/// Logs over WebSocket: each block a message, after an empty one that says that the connection stands.
pub(super) async fn log(call: &Call, destination: Destination, mut request: Request) -> Result<Answer, ApiError> {
    let (answer, accepted) = accept(call, &mut request, LOG_OFFER)?;
    let blocks = match forward(call, destination, request, true).await?.into_body() {
        Body::Stream(blocks) => blocks,
        Body::Full(all) => futures::stream::iter([Ok(all)]).boxed(),
    };
    let stop = call.server.stop.clone();
    call.server.tasks.spawn("log over WebSocket", async move {
        let sent = async {
            match accepted.open().await? {
                Opened::WebSocket(socket, protocol) => send(*socket, Codec::of(protocol), blocks).await,
                Opened::Spdy(..) => Ok(()),
            }
        };
        if let Some(Err(error)) = stop.or_stopped(sent).await {
            tracing::debug!(error = chain(&*error), "a log over WebSocket ended early");
        }
    });
    Ok(answer)
}

async fn send(
    socket: Socket,
    codec: Codec,
    mut blocks: BoxStream<'static, Result<Bytes, TransportError>>,
) -> Result<(), BoxError> {
    let (mut sink, mut stream) = socket.split();
    let write = async {
        sink.send(codec.plain(&[])).await?;
        while let Some(block) = blocks.next().await {
            sink.send(codec.plain(&block?)).await?;
        }
        Ok::<_, BoxError>(())
    };
    // A client has nothing to say but that it goes.
    let gone = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::select! {
        written = write => written?,
        () = gone => return Ok(()),
    }
    let mut socket = sink.reunite(stream)?;
    websocket::close(&mut socket).await;
    Ok(())
}
