//! The talk with other name servers: a question over UDP, over TCP where its answer does not fit, and whom to ask next.
//!
//! Every question has a socket and thus a port of its own and a random id: an answer that was forged would have to guess both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use super::metrics;
use super::wire::{Body, UDP_BYTES_MAX, code, flag};

/// Clients ask again after 5 s; an answer after that is for nobody.
const TIME_MAX: Duration = Duration::from_secs(4);
/// How long one server has, at first and where all had their turn: a lost packet must not cost the whole time.
const ATTEMPTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// For how long a server that failed is asked last.
const FAILED: Duration = Duration::from_secs(10);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Another name server.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    name: String,
    /// When it failed, in milliseconds since the start; 0: it did not.
    failed: AtomicU64,
    left_out: AtomicBool,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        LazyLock::force(&START);
        Self { address, name: address.to_string(), failed: AtomicU64::new(0), left_out: AtomicBool::new(false) }
    }

    /// It is not to be asked any more: it would ask back.
    pub(super) fn leave_out(&self) {
        self.left_out.store(true, Ordering::Relaxed);
    }

    fn failed_lately(&self) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        failed > 0 && START.elapsed() < Duration::from_millis(failed) + FAILED
    }

    fn note(&self, failed: bool) {
        let now = u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.failed.store(if failed { now } else { 0 }, Ordering::Relaxed);
        if failed {
            metrics::forward_failed(&self.name);
        }
    }

    /// Asks a question: name, type and class. `flags` are the header's.
    pub(super) async fn ask(&self, question: &[u8], dnssec: bool, flags: u16, random: &Random) -> io::Result<Body> {
        metrics::forwarded(&self.name);
        let id = u16::try_from(random.below(1 << 16)).expect("it is below that");
        let message = query(id, flags, question, Some(dnssec));
        let mut body = self.over_udp(id, &message, question).await?;
        if matches!(body.code, code::FORMAT_ERROR | code::NOT_IMPLEMENTED) && !dnssec {
            // A server that knows no extensions.
            body = self.over_udp(id, &query(id, flags, question, None), question).await?;
        }
        if body.truncated {
            body = self.over_tcp(id, &message, question).await?;
        }
        Ok(body)
    }

    async fn over_udp(&self, id: u16, message: &[u8], question: &[u8]) -> io::Result<Body> {
        let here: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((here, 0)).await?;
        socket.connect(self.address).await?;
        socket.send(message).await?;
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if let Some(body) = answer(id, &buffer[..length], question) {
                return Ok(body);
            }
        }
    }

    async fn over_tcp(&self, id: u16, message: &[u8], question: &[u8]) -> io::Result<Body> {
        let mut stream = TcpStream::connect(self.address).await?;
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
        let mut buffer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut buffer).await?;
        answer(id, &buffer, question).ok_or_else(|| io::Error::other("the answer is to another question"))
    }
}

/// Asks one server after the other until one knows. A server that fails says so less clearly than the last one does.
pub(super) async fn ask_all(
    upstreams: &[Arc<Upstream>],
    question: &[u8],
    dnssec: bool,
    flags: u16,
    random: &Random,
) -> Body {
    let deadline = Instant::now() + TIME_MAX;
    let (failing, working): (Vec<_>, Vec<_>) = upstreams.iter().partition(|upstream| upstream.failed_lately());
    let mut said = None;
    for attempt in ATTEMPTS {
        for upstream in working.iter().chain(&failing) {
            if upstream.left_out.load(Ordering::Relaxed) {
                continue;
            }
            let time = attempt.min(deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(time, upstream.ask(question, dnssec, flags, random)).await {
                Ok(Ok(body)) if matches!(body.code, code::NO_ERROR | code::NO_NAME) => {
                    upstream.note(false);
                    return body;
                }
                Ok(Ok(body)) => said = Some(body),
                Ok(Err(_)) | Err(_) => upstream.note(true),
            }
        }
        if said.is_some() {
            break;
        }
    }
    said.unwrap_or_else(|| Body::of_code(code::SERVER_FAILURE))
}

fn query(id: u16, flags: u16, question: &[u8], extensions: Option<bool>) -> Vec<u8> {
    let mut message = Vec::with_capacity(question.len() + 32);
    let additionals = u16::from(extensions.is_some());
    for word in [id, flags | flag::RECURSION_DESIRED, 1, 0, 0, additionals] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(question);
    if let Some(dnssec) = extensions {
        let [high, low] = UDP_BYTES_MAX.to_be_bytes();
        message.extend_from_slice(&[0, 0, 41, high, low, 0, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
    }
    message
}

fn answer(id: u16, message: &[u8], question: &[u8]) -> Option<Body> {
    let its_own = message.get(..2)? == id.to_be_bytes();
    let mut body = its_own.then(|| Body::read(message, question)).flatten()?;
    // It is not from here.
    body.authoritative = false;
    Some(body)
}
