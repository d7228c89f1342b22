//! One connection of the runtime: frames in, frames out, never waiting for either side.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{self, FrameError, Kind};

/// Above this the process whose output waits here is not read: a reader that stalls must not fill the shim's memory.
pub(super) const QUEUE_BYTES_MAX: usize = 256 << 10;

/// What a connection has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Its request has not come yet.
    New,
    /// Its answer was given: it closes when that is sent.
    Answered,
    /// It hears of changes.
    Watch,
    /// It carries a command's streams, by the command's number.
    Exec(u64),
    /// It carries a container's streams.
    Attach {
        /// By id.
        container: String,
        /// Whether its input goes there.
        stdin: bool,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) role: Role,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, role: Role::New, input: Vec::new(), output: Vec::new() })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads one chunk of what is there; whether the peer is still there.
    pub(super) fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.input.extend(&bytes[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame.
    pub(super) fn next_frame(&mut self) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
        protocol::take_frame(&mut self.input)
    }

    /// Queues bytes of a stream.
    pub(super) fn push(&mut self, kind: Kind, bytes: &[u8]) {
        self.output.extend(protocol::header(kind, bytes.len()));
        self.output.extend(bytes);
    }

    /// Queues a message.
    pub(super) fn push_message<T: serde::Serialize>(&mut self, message: &T) {
        self.output.extend(protocol::message(message));
    }

    /// Sends what the peer takes; whether it is still there.
    pub(super) fn send(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(super) fn is_idle(&self) -> bool {
        self.output.is_empty()
    }

    /// Whether output for it should wait where it is.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() > QUEUE_BYTES_MAX
    }
}
