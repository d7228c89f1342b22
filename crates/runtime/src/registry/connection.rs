//! One HTTP/1.1 exchange with a registry: TCP, through a proxy where one is named, TLS, a request, and its answer as it comes.
//!
//! Each exchange has a connection of its own: an image takes about ten, and none is left open. Time is bounded by silence, not
//! in total: a slow pull of a large layer goes on, one that hangs ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::header;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{Proxies, host_of};

/// What a proxy may answer to `CONNECT`.
const PROXY_ANSWER_BYTES_MAX: usize = 8 << 10;
/// Headers of an answer; more is an attack.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Opening a connection, with names, proxy and TLS. A registry that is down should be told soon.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("timonier/", env!("CARGO_PKG_VERSION"));

/// An exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No URL that we can ask.
    #[error("{0:?} is no URL that can be asked")]
    Url(String),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// The proxy refused.
    #[error("the proxy {proxy} does not connect to {to}: {answer}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// Where to.
        to: String,
        /// Its first line.
        answer: String,
    },
    /// HTTP went wrong.
    #[error("the exchange with {0} broke off")]
    Http(String, #[source] hyper::Error),
    /// Nothing came.
    #[error("{0} said nothing for {1:?}")]
    Silence(String, Duration),
    /// In circles.
    #[error("{0} redirects more than {REDIRECTS_MAX} times")]
    Redirects(String),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Connection = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// How connections are made.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) idle: Duration,
}

/// A request without a body, or with a form.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) url: String,
    pub(super) accept: Option<&'static str>,
    pub(super) authorization: Option<String>,
    /// From this byte on.
    pub(super) from: u64,
    /// Sent as a form where it is there.
    pub(super) form: Option<String>,
}

/// An answer whose body is read piece by piece. Dropping it closes the connection.
pub(super) struct Answer {
    pub(super) status: http::StatusCode,
    pub(super) headers: http::HeaderMap,
    body: Incoming,
    connection: Option<Connection>,
    host: String,
    idle: Duration,
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, ConnectionError> {
        let (body, connection) = (&mut self.body, &mut self.connection);
        let next = poll_fn(|cx| {
            loop {
                if let Some(open) = connection
                    && let Poll::Ready(ended) = Pin::new(open).poll(cx)
                {
                    *connection = None;
                    // A body that is cut short says so itself.
                    drop(ended);
                }
                return match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => Poll::Ready(Some(Ok(data))),
                        Err(_trailers) => continue,
                    },
                    Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                    Poll::Ready(None) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                };
            }
        });
        match tokio::time::timeout(self.idle, next).await {
            Err(_) => Err(ConnectionError::Silence(self.host.clone(), self.idle)),
            Ok(None) => Ok(None),
            Ok(Some(Ok(data))) => Ok(Some(data)),
            Ok(Some(Err(error))) => Err(ConnectionError::Http(self.host.clone(), error)),
        }
    }

    /// The body, cut off after `max` bytes and one.
    pub(super) async fn bytes(&mut self, max: u64) -> Result<Vec<u8>, ConnectionError> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            let left = usize::try_from(max + 1).unwrap_or(usize::MAX).saturating_sub(all.len());
            all.extend_from_slice(&piece[..piece.len().min(left)]);
            if piece.len() >= left {
                break;
            }
        }
        Ok(all)
    }

    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Route {
    /// Asks, and follows redirects. What authorizes us is not shown to another host.
    pub(super) async fn send(&self, mut request: Request) -> Result<Answer, ConnectionError> {
        let first = request.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send_once(&request).await?;
            let moved = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.header(header::LOCATION).filter(|_| moved) else { return Ok(answer) };
            let next = resolve(&request.url, location).ok_or_else(|| ConnectionError::Url(location.to_owned()))?;
            if authority(&next) != authority(&request.url) || scheme(&next) != scheme(&request.url) {
                request.authorization = None;
            }
            request.url = next;
        }
        Err(ConnectionError::Redirects(first))
    }

    async fn send_once(&self, request: &Request) -> Result<Answer, ConnectionError> {
        let bad = || ConnectionError::Url(request.url.clone());
        let uri: http::Uri = request.url.parse().map_err(|_| bad())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?.clone();
        let host = host_of(authority.as_str()).to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let place = format!("{host}:{port}");
        let silence = |_| ConnectionError::Silence(place.clone(), self.idle);
        let limit = self.idle.min(OPEN_TIMEOUT);
        let opened = tokio::time::timeout(limit, self.open(secure, &host, port)).await;
        let timed_out = |_| ConnectionError::Connect(place.clone(), std::io::ErrorKind::TimedOut.into());
        let (stream, whole_url) = opened.map_err(timed_out)??;
        let broken = |error| ConnectionError::Http(place.clone(), error);
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(HEADER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let target =
            if whole_url { request.url.as_str() } else { uri.path_and_query().map_or("/", |path| path.as_str()) };
        let request = wire(request, target, authority.as_str()).ok_or_else(bad)?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        let mut ended = false;
        let head = poll_fn(|cx| {
            if !ended {
                ended = Pin::new(&mut connection).poll(cx).is_ready();
            }
            answer.as_mut().poll(cx)
        });
        let answer = tokio::time::timeout(self.idle, head).await.map_err(silence)?.map_err(broken)?;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            connection: (!ended).then_some(connection),
            host: place,
            idle: self.idle,
        })
    }

    /// A stream to the server, and whether requests on it name the whole URL.
    async fn open(&self, secure: bool, host: &str, port: u16) -> Result<(Box<dyn Stream>, bool), ConnectionError> {
        let place = format!("{host}:{port}");
        let failed = |error| ConnectionError::Connect(place.clone(), error);
        let stream = match self.proxies.of(secure, host, port) {
            None => TcpStream::connect((host, port)).await.map_err(failed)?,
            Some(proxy) => {
                let stream = proxy_stream(proxy, secure.then_some(place.as_str())).await?;
                if !secure {
                    return Ok((Box::new(stream), true));
                }
                stream
            }
        };
        // Small requests must not wait for each other; without it nothing but speed is lost.
        let _ = stream.set_nodelay(true);
        if !secure {
            return Ok((Box::new(stream), false));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(failed)?;
        Ok((Box::new(stream), false))
    }
}

fn wire(request: &Request, target: &str, authority: &str) -> Option<http::Request<Full<Bytes>>> {
    let mut built = http::Request::builder()
        .method(if request.form.is_some() { http::Method::POST } else { http::Method::GET })
        .uri(target)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close");
    if let Some(accept) = request.accept {
        built = built.header(header::ACCEPT, accept);
    }
    if let Some(authorization) = &request.authorization {
        let mut value = header::HeaderValue::try_from(authorization).ok()?;
        value.set_sensitive(true);
        built = built.header(header::AUTHORIZATION, value);
    }
    if request.from > 0 {
        built = built.header(header::RANGE, format!("bytes={}-", request.from));
    }
    if request.form.is_some() {
        built = built.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    built.body(Full::new(request.form.clone().unwrap_or_default().into())).ok()
}

/// A stream to a proxy, through it to `to` where that is given.
async fn proxy_stream(proxy: &str, to: Option<&str>) -> Result<TcpStream, ConnectionError> {
    let bad = || ConnectionError::Url(proxy.to_owned());
    let with_scheme = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    let uri: http::Uri = with_scheme.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("http") {
        return Err(bad());
    }
    let authority = uri.authority().ok_or_else(bad)?.as_str();
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let (host, port) = (host_of(place), uri.port_u16().unwrap_or(80));
    let failed = |error| ConnectionError::Connect(format!("proxy {host}:{port}"), error);
    let mut stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let Some(to) = to else { return Ok(stream) };
    let login = login.map(|login| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(login);
        format!("Proxy-Authorization: Basic {encoded}\r\n")
    });
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{}\r\n", login.unwrap_or_default());
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the empty line belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < PROXY_ANSWER_BYTES_MAX {
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if first.split(' ').nth(1) == Some("200") {
        return Ok(stream);
    }
    Err(ConnectionError::Proxy { proxy: place.to_owned(), to: to.to_owned(), answer: first })
}

pub(super) fn scheme(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}

fn authority(url: &str) -> Option<&str> {
    url.split_once("://")?.1.split(['/', '?']).next()
}

/// Where a `Location` leads from `base`.
fn resolve(base: &str, location: &str) -> Option<String> {
    if location.contains("://") {
        return matches!(scheme(location), Some("http" | "https")).then(|| location.to_owned());
    }
    let origin = format!("{}://{}", scheme(base)?, authority(base)?);
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{}://{rest}", scheme(base)?));
    }
    if location.starts_with('/') {
        return Some(format!("{origin}{location}"));
    }
    let path = base.strip_prefix(&origin)?.split('?').next().unwrap_or("/");
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(format!("{origin}{folder}/{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base = "https://r.example:5000/v2/a/blobs/x?ns=b";
        for (location, wanted) in [
            ("https://cdn.example/y?z", Some("https://cdn.example/y?z")),
            ("//cdn.example/y", Some("https://cdn.example/y")),
            ("/y", Some("https://r.example:5000/y")),
            ("y", Some("https://r.example:5000/v2/a/blobs/y")),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(resolve(base, location).as_deref(), wanted, "{location}");
        }
    }
}
