//! How a request becomes a session: the two handshakes, served and asked for.
//!
//! A client that asks for SPDY lists its protocols in `X-Stream-Protocol-Version`, the first that the server knows is taken;
//! one that asks for WebSocket names subprotocols. An upgraded connection over which nothing goes in either direction for
//! [`IDLE_MAX`] ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::session::BoxDuplex;
use crate::{spdy, websocket};

/// Where a client of SPDY lists its protocols, and a server names the one that it takes.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Upstream's default for streaming connections.
pub const IDLE_MAX: Duration = Duration::from_secs(4 * 3600);
/// How much of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

/// What a server speaks.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Over SPDY.
    pub spdy: &'static [&'static str],
    /// Over WebSocket, the best first. A client that names none gets the oldest form.
    pub websocket: &'static [&'static str],
}

/// A session that is about to begin.
pub struct Accepted {
    /// What the client is to be answered.
    pub response: Response<()>,
    protocol: &'static str,
    over_spdy: bool,
    upgrade: OnUpgrade,
}

/// The connection of a session, and the protocol that it speaks; empty where a client of WebSocket named none.
pub enum Opened {
    /// Streams over SPDY.
    Spdy(BoxDuplex, &'static str),
    /// Messages of numbered channels.
    WebSocket(Box<websocket::Socket>, &'static str),
}

/// Why there is no session.
#[derive(Debug)]
pub struct Refused {
    /// The answer's status.
    pub status: StatusCode,
    /// Its body.
    pub message: String,
}

impl Refused {
    fn new(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }
}

/// Accepts a request's upgrade. `upgrade` is what hyper keeps for it.
pub fn accept(headers: &HeaderMap, upgrade: Option<OnUpgrade>, offer: Offer) -> Result<Accepted, Refused> {
    let asked = |token: &str| has_token(headers, &header::UPGRADE, token);
    let missing =
        || Refused::new("unable to upgrade: the request does not ask for an upgrade to SPDY/3.1 or websocket");
    let upgrade = upgrade.ok_or_else(missing)?;
    let (response, protocol) = if asked("websocket") {
        websocket::handshake(headers, offer.websocket).map_err(Refused::new)?
    } else if asked(spdy::TOKEN) {
        spdy_handshake(headers, offer.spdy)?
    } else {
        return Err(missing());
    };
    Ok(Accepted { response, protocol, over_spdy: !asked("websocket"), upgrade })
}

impl Accepted {
    /// The session's connection, when the answer has been sent.
    pub async fn open(self) -> Result<Opened, hyper::Error> {
        let io = Idle::new(TokioIo::new(self.upgrade.await?));
        if self.over_spdy {
            return Ok(Opened::Spdy(BoxDuplex::new(io), self.protocol));
        }
        let socket = websocket::server(BoxDuplex::new(io)).await;
        match self.protocol.strip_prefix(websocket::TUNNEL_PREFIX) {
            Some(protocol) => Ok(Opened::Spdy(BoxDuplex::new(websocket::Tunnel::new(socket)), protocol)),
            None => Ok(Opened::WebSocket(Box::new(socket), self.protocol)),
        }
    }
}

fn spdy_handshake(
    headers: &HeaderMap,
    known: &'static [&'static str],
) -> Result<(Response<()>, &'static str), Refused> {
    let asked: Vec<&str> = tokens(headers, &PROTOCOL_VERSION).collect();
    if asked.is_empty() {
        return Err(Refused::new("unable to upgrade: X-Stream-Protocol-Version is required"));
    }
    let chosen = asked.iter().find_map(|asked| known.iter().find(|known| *known == asked));
    let Some(protocol) = chosen else {
        let [client, server] = [asked.join(" "), known.join(" ")];
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{client}], server accepts [{server}]"
        );
        return Err(Refused { status: StatusCode::FORBIDDEN, message });
    };
    let mut response = switching(spdy::TOKEN);
    response.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    Ok((response, protocol))
}

pub(crate) fn switching(token: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(token));
    response
}

/// The comma-separated values of a header.
pub(crate) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

/// Whether a header lists a word.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|value| value.eq_ignore_ascii_case(token))
}

/// The other side did not switch to SPDY.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No HTTP, or the connection broke.
    #[error("the request failed")]
    Http(#[from] hyper::Error),
    /// An answer, but not the upgrade.
    #[error("{status}: {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
}

/// The headers of a request for SPDY.
pub fn spdy_headers(protocols: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(spdy::TOKEN));
    for protocol in protocols {
        let value = HeaderValue::from_str(protocol).expect("protocols are header text");
        headers.append(PROTOCOL_VERSION, value);
    }
    headers
}

/// Asks an HTTP server behind `io` for SPDY; returns the connection and the protocol that was chosen.
pub async fn ask(
    io: BoxDuplex,
    uri: http::Uri,
    host: HeaderValue,
    protocols: &'static [&'static str],
) -> Result<(BoxDuplex, String), AskError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = spdy_headers(protocols);
    request.headers_mut().insert(header::HOST, host);
    let connection = connection.with_upgrades();
    tokio::pin!(connection);
    // The connection's own work ends when it is handed over: that may be seen before the answer is.
    let (answered, mut ended) = (sender.send_request(request), false);
    tokio::pin!(answered);
    let mut response = tokio::select! {
        response = &mut answered => response?,
        worked = &mut connection => {
            worked?;
            ended = true;
            answered.await?
        }
    };
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let read = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect();
        tokio::pin!(read);
        let body = tokio::select! {
            body = &mut read => body,
            _ = &mut connection, if !ended => read.await,
        };
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let message = String::from_utf8_lossy(&body).trim_end().to_owned();
        return Err(AskError::Refused { status, message });
    }
    let protocol = response.headers().get(PROTOCOL_VERSION).and_then(|value| value.to_str().ok());
    let protocol = protocol.unwrap_or_default().to_owned();
    let upgraded = hyper::upgrade::on(&mut response);
    tokio::pin!(upgraded);
    let upgraded = tokio::select! {
        upgraded = &mut upgraded => upgraded,
        worked = &mut connection, if !ended => {
            worked?;
            upgraded.await
        }
    };
    Ok((BoxDuplex::new(Idle::new(TokioIo::new(upgraded?))), protocol))
}

/// A connection that ends when nothing goes over it for [`IDLE_MAX`].
pub struct Idle<T> {
    io: T,
    deadline: Pin<Box<Sleep>>,
}

impl<T> Idle<T> {
    /// Begins to count.
    pub fn new(io: T) -> Self {
        Self { io, deadline: Box::pin(tokio::time::sleep(IDLE_MAX)) }
    }

    fn seen<R>(&mut self, poll: Poll<io::Result<R>>, context: &mut Context<'_>) -> Poll<io::Result<R>> {
        match poll {
            Poll::Ready(result) => {
                self.deadline.as_mut().reset(Instant::now() + IDLE_MAX);
                Poll::Ready(result)
            }
            Poll::Pending => self.deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Idle<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(context, out);
        self.seen(poll, context)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Idle<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, data);
        if poll.is_ready() { self.seen(poll, context) } else { poll }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io"],
        websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut all, (name, value)| {
                all.append(name, value);
                all
            },
        )
    }

    #[test]
    fn the_client_prefers_among_what_is_spoken() {
        let version = "x-stream-protocol-version";
        for (asked, expected) in [
            (
                headers(&[
                    (version, "v9.channel.k8s.io"),
                    (version, "v3.channel.k8s.io"),
                    (version, "v4.channel.k8s.io"),
                ]),
                Ok("v3.channel.k8s.io"),
            ),
            (headers(&[(version, "v4.channel.k8s.io, v3.channel.k8s.io")]), Ok("v4.channel.k8s.io")),
            (headers(&[(version, "v9.channel.k8s.io")]), Err(StatusCode::FORBIDDEN)),
            (headers(&[]), Err(StatusCode::BAD_REQUEST)),
        ] {
            let seen = spdy_handshake(&asked, OFFER.spdy);
            assert_eq!(seen.map(|(_, protocol)| protocol).map_err(|refused| refused.status), expected, "{asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends() {
        use tokio::io::AsyncReadExt;
        let (_peer, own) = tokio::io::duplex(64);
        let ended = Idle::new(own).read_u8().await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
