//! A SPDY connection: many streams over one.
//!
//! [`start`] gives the connection and a future that moves its frames, which the caller awaits beside its own work: when the
//! future ends first, the other side has gone; when the connection and all its streams are dropped, it says good-bye and ends.
//!
//! Bounded: streams at once, bytes that wait for their readers (of one stream and of all), frames that wait to be written. A
//! reader that does not read stops the whole connection, as with upstream's library: SPDY's flow control, which would stop one
//! stream alone, is spoken by nobody.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::frame::{Decoder, Encoder, Frame, FrameError, Headers, PIECE_BYTES_MAX};

/// Open streams; a forwarded connection is two. Each costs some hundred bytes beside what waits for it.
const STREAMS_MAX: usize = 1024;
/// Pieces that wait for the reader of one stream.
const PIECES_MAX: usize = 16;
/// Bytes that wait for all readers of a connection.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// What a piece costs at least of these: its place in the queue is memory too.
const PIECE_COST_MIN: usize = 128;
/// Frames that wait to be written; then whoever sends waits.
const FRAMES_MAX: usize = 8;
/// New streams that wait to be taken.
const OPENED_MAX: usize = 16;
/// A longer piece is sent as several frames, so that others come between.
const SENT_BYTES_MAX: usize = 32 << 10;
/// How long the other side may take to accept a stream.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the other side gets to read the last frames and to close.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// Who opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd numbers.
    Client,
    /// Is opened streams.
    Server,
}

/// How a connection is kept.
#[derive(Clone, Copy)]
pub struct Config {
    /// Which side this is.
    pub role: Role,
    /// Which streams of the other side are accepted. Others are reset.
    pub accepts: fn(&Headers) -> bool,
    /// How often the other side is asked whether it lives, so that nobody between takes the connection for idle.
    pub ping: Option<Duration>,
}

/// The connection ended otherwise than by a good-bye or by the end of the bytes.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Reading or writing failed.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The other side does not speak SPDY.
    #[error("the other side sent what is no SPDY")]
    Frame(#[from] FrameError),
}

/// The stream or its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Ended;

/// The streams of a connection.
pub struct Connection {
    /// Those that the other side opens. Dropped, further ones are refused.
    pub opened: mpsc::Receiver<Stream>,
    /// Opens others.
    pub opener: Opener,
}

/// Opens streams.
#[derive(Clone)]
pub struct Opener {
    shared: Arc<Shared>,
    frames: mpsc::Sender<Frame>,
}

/// One stream: both directions and what it is for.
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What its opener said of it; names are in lower case.
    pub headers: Headers,
    /// From the other side.
    pub reader: Reader,
    /// To the other side.
    pub writer: Writer,
}

impl Stream {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// The first value of a header, by its name in lower case.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// What a stream brings.
pub struct Reader {
    pieces: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
}

impl Reader {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await.map(|(data, _)| data)
    }
}

/// What goes to a stream.
pub struct Writer {
    id: u32,
    shared: Arc<Shared>,
    frames: mpsc::Sender<Frame>,
}

impl Writer {
    /// Sends; waits while the connection is busy.
    pub async fn send(&self, mut data: Bytes) -> Result<(), Ended> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(SENT_BYTES_MAX));
            if !self.shared.streams().open.contains_key(&self.id) {
                return Err(Ended);
            }
            let sent = self.frames.send(Frame::Data { id: self.id, fin: false, data: piece }).await;
            sent.map_err(|_| Ended)?;
        }
        Ok(())
    }

    /// Nothing more is sent; the other side may go on.
    pub async fn finish(self) {
        if self.shared.finish_here(self.id) {
            let _ = self.frames.send(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await;
        }
    }

    /// Ends the stream in both directions.
    pub async fn reset(self) {
        if self.shared.streams().open.remove(&self.id).is_some() {
            let _ = self.frames.send(Frame::RstStream { id: self.id, status: CANCEL }).await;
        }
    }
}

/// What reader and writers of a connection know together.
struct Shared {
    streams: Mutex<Streams>,
    waiting: Arc<Semaphore>,
}

#[derive(Default)]
struct Streams {
    open: HashMap<u32, Entry>,
    /// The number of the next stream that is opened here.
    next: u32,
    /// The highest number that the other side has used.
    last_of_peer: u32,
}

/// An open stream.
struct Entry {
    /// `None` when the other side has finished.
    input: Option<mpsc::Sender<(Bytes, OwnedSemaphorePermit)>>,
    finished_here: bool,
    /// Told when the other side accepts.
    reply: Option<oneshot::Sender<()>>,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks this side of a stream as finished; whether it was open.
    fn finish_here(&self, id: u32) -> bool {
        let mut streams = self.streams();
        let Some(entry) = streams.open.get_mut(&id) else { return false };
        let first = !std::mem::replace(&mut entry.finished_here, true);
        if entry.input.is_none() {
            streams.open.remove(&id);
        }
        first
    }

    fn finish_there(&self, id: u32) {
        let mut streams = self.streams();
        let Some(entry) = streams.open.get_mut(&id) else { return };
        entry.input = None;
        if entry.finished_here {
            streams.open.remove(&id);
        }
    }
}

/// Begins to speak SPDY over `io`. The future ends with the connection.
pub fn start<S>(io: S, config: Config) -> (Connection, impl Future<Output = Result<(), ConnectionError>> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let next = if config.role == Role::Client { 1 } else { 2 };
    let shared = Arc::new(Shared {
        streams: Mutex::new(Streams { next, ..Streams::default() }),
        waiting: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
    });
    let (frames, to_write) = mpsc::channel(FRAMES_MAX);
    let (opened_sender, opened) = mpsc::channel(OPENED_MAX);
    let (reader, writer) = tokio::io::split(io);
    let incoming = Incoming { shared: shared.clone(), frames: frames.downgrade(), opened: opened_sender, config };
    let connection = Connection { opened, opener: Opener { shared: shared.clone(), frames } };
    let run = async move {
        let (read, written) = (incoming.run(reader), write(writer, to_write, config, &shared));
        tokio::pin!(read, written);
        let ended = tokio::select! {
            ended = &mut read => ended,
            ended = &mut written => match ended {
                // The last bytes are on their way: they are lost if the connection is closed before they were read. How the
                // other side then closes it is its own affair.
                Ok(()) => {
                    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, read).await;
                    Ok(())
                }
                Err(error) => Err(error.into()),
            },
        };
        // Readers get what came before the end; writers learn of it.
        shared.streams().open.clear();
        ended
    };
    (connection, run)
}

impl Opener {
    /// Opens a stream and waits until the other side accepts it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, Ended> {
        let (input, pieces) = mpsc::channel(PIECES_MAX);
        let (reply, replied) = oneshot::channel();
        let id = {
            let mut streams = self.shared.streams();
            if streams.open.len() >= STREAMS_MAX || streams.next >= 1 << 31 {
                return Err(Ended);
            }
            let id = streams.next;
            streams.next += 2;
            streams.open.insert(id, Entry { input: Some(input), finished_here: false, reply: Some(reply) });
            id
        };
        let frame = Frame::SynStream { id, fin: false, headers: headers.clone() };
        self.frames.send(frame).await.map_err(|_| Ended)?;
        let stream = stream(id, headers, pieces, &self.shared, self.frames.clone());
        match tokio::time::timeout(REPLY_TIMEOUT, replied).await {
            Ok(Ok(())) => Ok(stream),
            _ => {
                stream.writer.reset().await;
                Err(Ended)
            }
        }
    }
}

fn stream(
    id: u32,
    headers: Headers,
    pieces: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    shared: &Arc<Shared>,
    frames: mpsc::Sender<Frame>,
) -> Stream {
    Stream { id, headers, reader: Reader { pieces }, writer: Writer { id, shared: shared.clone(), frames } }
}

/// The reading side.
struct Incoming {
    shared: Arc<Shared>,
    /// Weak: its own answers must not keep the connection open.
    frames: mpsc::WeakSender<Frame>,
    opened: mpsc::Sender<Stream>,
    config: Config,
}

impl Incoming {
    async fn run<R: AsyncRead + Unpin>(self, mut reader: R) -> Result<(), ConnectionError> {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.next(&mut buffer)? {
                if matches!(frame, Frame::GoAway { .. }) {
                    return Ok(());
                }
                self.take(frame).await;
            }
            buffer.reserve(PIECE_BYTES_MAX);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, headers } => self.open(id, fin, headers).await,
            Frame::SynReply { id, fin, .. } => {
                let reply = self.shared.streams().open.get_mut(&id).and_then(|entry| entry.reply.take());
                if let Some(reply) = reply {
                    let _ = reply.send(());
                }
                if fin {
                    self.shared.finish_there(id);
                }
            }
            Frame::RstStream { id, .. } => drop(self.shared.streams().open.remove(&id)),
            Frame::Ping(id) => {
                // One's own pings come back.
                let own = u32::from(self.config.role == Role::Client);
                if id % 2 != own {
                    self.answer(Frame::Ping(id)).await;
                }
            }
            Frame::Headers { id, fin: true } => self.shared.finish_there(id),
            Frame::Data { id, fin, data } => {
                self.data(id, data).await;
                if fin {
                    self.shared.finish_there(id);
                }
            }
            Frame::Headers { .. } | Frame::Ignored | Frame::GoAway { .. } => {}
        }
    }

    /// The data of a stream that has gone is dropped, as upstream does: it may have been on its way.
    async fn data(&self, id: u32, data: Bytes) {
        let input = self.shared.streams().open.get(&id).and_then(|entry| entry.input.clone());
        let Some(input) = input.filter(|_| !data.is_empty()) else { return };
        let cost = u32::try_from(data.len().max(PIECE_COST_MIN)).expect("pieces are small");
        // Who drops the reading half wants no more: no waiting for it then.
        let queue = async {
            let permit = self.shared.waiting.clone().acquire_many_owned(cost).await;
            let permit = permit.expect("the semaphore is never closed");
            let _ = input.send((data, permit)).await;
        };
        tokio::select! {
            () = queue => {}
            () = input.closed() => {}
        }
    }

    async fn open(&self, id: u32, fin: bool, headers: Headers) {
        let Some(frames) = self.frames.upgrade() else { return };
        let (input, pieces) = mpsc::channel(PIECES_MAX);
        let refused = {
            let mut streams = self.shared.streams();
            let own = u32::from(self.config.role == Role::Client);
            if id % 2 == own || id <= streams.last_of_peer {
                Some(PROTOCOL_ERROR)
            } else {
                streams.last_of_peer = id;
                if streams.open.len() >= STREAMS_MAX || self.opened.is_closed() {
                    Some(REFUSED_STREAM)
                } else if !(self.config.accepts)(&headers) {
                    Some(CANCEL)
                } else {
                    streams
                        .open
                        .insert(id, Entry { input: (!fin).then_some(input), finished_here: false, reply: None });
                    None
                }
            }
        };
        if let Some(status) = refused {
            let _ = frames.send(Frame::RstStream { id, status }).await;
            return;
        }
        let _ = frames.send(Frame::SynReply { id, fin: false, headers: Vec::new() }).await;
        let stream = stream(id, headers, pieces, &self.shared, frames);
        if let Err(refused) = self.opened.send(stream).await {
            refused.0.writer.reset().await;
        }
    }

    async fn answer(&self, frame: Frame) {
        if let Some(frames) = self.frames.upgrade() {
            let _ = frames.send(frame).await;
        }
    }
}

/// Writes until nobody can send any more, then says good-bye.
async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut frames: mpsc::Receiver<Frame>,
    Config { role, ping, .. }: Config,
    shared: &Shared,
) -> io::Result<()> {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    let mut pings = if role == Role::Client { 1_u32 } else { 2 };
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            () = tokio::time::sleep(ping.unwrap_or_default()), if ping.is_some() => {
                pings = pings.wrapping_add(2);
                Some(Frame::Ping(pings))
            }
        };
        let Some(frame) = frame else { break };
        encoder.encode(&frame, &mut out);
        // What has come in the meantime goes out with it.
        while out.len() < SENT_BYTES_MAX
            && let Ok(frame) = frames.try_recv()
        {
            encoder.encode(&frame, &mut out);
        }
        writer.write_all_buf(&mut out).await?;
        writer.flush().await?;
    }
    let last = shared.streams().last_of_peer;
    encoder.encode(&Frame::GoAway { last, status: 0 }, &mut out);
    writer.write_all_buf(&mut out).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests;
