//! WebSocket as sessions use it: messages of numbered channels, binary or in base64, and SPDY in a tunnel.
//!
//! Messages have a limit, a slow reader stops the connection, and it is closed in an orderly way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Sink, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use crate::session::BoxDuplex;
use crate::upgrade;

/// A client's message may be this long; kubectl sends 32 KiB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How long the client gets to answer the closing of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A subprotocol that begins with it carries SPDY, with the protocol that follows.
pub const TUNNEL_PREFIX: &str = "SPDY/3.1+";

/// A connection that speaks WebSocket.
pub type Socket = WebSocketStream<BoxDuplex>;

/// Whether a request asks for WebSocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    upgrade::has_token(headers, &header::UPGRADE, "websocket")
}

/// Whether a request names a subprotocol.
pub fn names_protocol(headers: &HeaderMap, protocol: &str) -> bool {
    is_asked(headers) && upgrade::has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, protocol)
}

/// The answer to a handshake, and the subprotocol that it names: of those that both know the first of `known`.
pub fn handshake(
    headers: &HeaderMap,
    known: &'static [&'static str],
) -> Result<(Response<()>, &'static str), &'static str> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("missing Sec-WebSocket-Key")?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| "invalid Sec-WebSocket-Key")?;
    let mut response = upgrade::switching("websocket");
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok((response, ""));
    }
    let named = |protocol: &&&str| upgrade::has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let protocol = known.iter().find(named).ok_or("none of the requested subprotocols is served")?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((response, protocol))
}

/// The server's end of a connection after the handshake.
pub async fn server(io: BoxDuplex) -> Socket {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 16 << 10;
    config.write_buffer_size = 0;
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// How a channel's bytes are a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// A binary message: the channel's number, then the bytes.
    Binary,
    /// A text message: the channel's digit, then the bytes in base64.
    Base64,
}

impl Codec {
    /// That of a subprotocol.
    pub fn of(protocol: &str) -> Self {
        if protocol.contains("base64.") { Self::Base64 } else { Self::Binary }
    }

    /// A message of one channel.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut bytes = BytesMut::with_capacity(data.len() + 1);
                bytes.put_u8(channel);
                bytes.put_slice(data);
                Message::Binary(bytes.freeze())
            }
            Self::Base64 => {
                let mut text = char::from(b'0' + channel).to_string();
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }

    /// A message without a channel.
    pub fn plain(self, data: &[u8]) -> Message {
        match self {
            Self::Binary => Message::Binary(Bytes::copy_from_slice(data)),
            Self::Base64 => Message::text(STANDARD.encode(data)),
        }
    }

    /// The channel and the bytes of a message; `None` for one that is none of a channel.
    pub fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            _ => return None,
        };
        let channel = data.try_get_u8().ok()?;
        match self {
            Self::Binary => Some((channel, data)),
            Self::Base64 => Some((channel.checked_sub(b'0')?, STANDARD.decode(&data).ok()?.into())),
        }
    }
}

/// Ends a connection in an orderly way, so that the client has read everything before it sees the end.
pub async fn close(socket: &mut Socket) {
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let orderly = async {
        socket.close(Some(farewell)).await?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, SocketError>(())
    };
    // A client that does not answer has nothing more to say.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, orderly).await;
}

/// Bytes over a connection that speaks WebSocket: each binary message is some of them.
pub struct Tunnel {
    socket: Socket,
    unread: Bytes,
}

impl Tunnel {
    /// Over `socket`.
    pub fn new(socket: Socket) -> Self {
        Self { socket, unread: Bytes::new() }
    }
}

fn broken(error: SocketError) -> io::Error {
    match error {
        SocketError::Io(error) => error,
        SocketError::ConnectionClosed | SocketError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::other(other),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match std::task::ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(data))) => self.unread = data,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::other("a text message in a tunnel of bytes")));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = self.unread.len().min(out.remaining());
        out.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(broken)?;
        let message = Message::Binary(Bytes::copy_from_slice(data));
        Pin::new(&mut self.socket).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channels_bytes_come_as_they_went() {
        for (protocol, shown) in [
            ("v4.channel.k8s.io", Message::binary(&b"\x01hi"[..])),
            ("v4.base64.channel.k8s.io", Message::text("1aGk=")),
            ("base64.channel.k8s.io", Message::text("1aGk=")),
            ("", Message::binary(&b"\x01hi"[..])),
        ] {
            let codec = Codec::of(protocol);
            assert_eq!(codec.encode(1, b"hi"), shown, "{protocol}");
            assert_eq!(codec.decode(shown), Some((1, Bytes::from_static(b"hi"))), "{protocol}");
        }
        assert_eq!(Codec::Base64.decode(Message::text("1%")), None);
        assert_eq!(Codec::Base64.decode(Message::text("")), None);
    }
}
