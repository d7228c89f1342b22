//! A process with its streams, whoever runs it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to something. A type of its own, not an alias: of hyper's futures over a bare trait object the compiler cannot
/// prove that they may move between threads.
pub struct BoxDuplex(Box<dyn Duplex>);

impl BoxDuplex {
    /// Over `io`.
    pub fn new(io: impl Duplex + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl std::fmt::Debug for BoxDuplex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("BoxDuplex")
    }
}

impl AsyncRead for BoxDuplex {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, out)
    }
}

impl AsyncWrite for BoxDuplex {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What goes to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for its input.
    Stdin(Bytes),
    /// Its input ends.
    StdinClosed,
    /// Its terminal changed size.
    Resize(TerminalSize),
}

/// What comes from a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its output.
    Stdout(Bytes),
    /// Bytes of its error output.
    Stderr(Bytes),
    /// It ended, with this exit code (128 + signal where a signal ended it). The last message.
    Exited(i32),
    /// It could not be run, or nobody knows how it ended: why. The last message.
    Failed(String),
}

/// A running process with its streams. Dropping `input` closes its input; dropping `output` ends the session, and the
/// process (not a container's main process) is killed.
#[derive(Debug)]
pub struct ExecSession {
    /// To the process; bounded.
    pub input: mpsc::Sender<Input>,
    /// From the process; bounded.
    pub output: mpsc::Receiver<Output>,
}
