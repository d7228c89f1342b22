//! How the runtime talks to a shim: frames on a unix socket, each a length (4 bytes, little endian), a kind (1 byte) and a
//! payload of at most [`PAYLOAD_BYTES_MAX`].
//!
//! A connection carries one request. Its answer ends it, except that `Exec` and `Attach` turn it into a stream of that
//! process, and `Watch` into a stream of changes.

use serde::{Deserialize, Serialize};

use crate::records::Exit;

/// The largest payload. A peer that announces more is broken and is cut off; a command line may be up to 2 MiB long and
/// grows when it is written as JSON.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// Bytes of a frame before its payload.
pub(crate) const HEADER_BYTES: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A [`Request`], [`Answer`], [`Control`] or [`Change`], as JSON.
    Message,
    /// Bytes for a process' input.
    Stdin,
    /// Bytes of its output.
    Stdout,
    /// Bytes of its error output.
    Stderr,
}

/// The runtime asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start a container whose directory is there.
    Start {
        /// Its id.
        container: String,
    },
    /// Send a signal to its main process.
    Signal {
        /// Its id.
        container: String,
        /// By number.
        signal: i32,
    },
    /// Kill all its processes.
    Kill {
        /// Its id.
        container: String,
    },
    /// Run a command in it.
    Exec {
        /// Its id.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
        /// With a terminal.
        tty: bool,
        /// With its input connected.
        stdin: bool,
    },
    /// Join its main process' streams.
    Attach {
        /// Its id.
        container: String,
        /// With its input connected.
        stdin: bool,
    },
    /// Open its log anew.
    ReopenLog {
        /// Its id.
        container: String,
    },
    /// Forget one that has ended.
    Forget {
        /// Its id.
        container: String,
    },
    /// Tell all states now, and each exit as it happens.
    Watch,
    /// Kill everything and end.
    Shutdown,
}

/// The shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// A container runs.
    Started {
        /// Nanoseconds since 1970.
        started_at: i64,
    },
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
    },
    /// No such container, or it does not run.
    NotRunning,
}

/// Sent within a stream, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    /// The terminal changed size (to the shim).
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// The input ends (to the shim).
    StdinClosed,
    /// The process ended (from the shim; the last frame).
    Exited {
        /// Its exit code.
        exit_code: i32,
    },
}

/// A container's state, to those who watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// It runs.
    Running {
        /// Its id.
        container: String,
        /// Nanoseconds since 1970.
        started_at: i64,
    },
    /// It ended.
    Exited {
        /// Its id.
        container: String,
        /// How.
        exit: Exit,
    },
    /// All states at the time of the question have been told.
    Current,
}

/// A peer broke the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// A frame above the limit.
    #[error("frame of {0} bytes is larger than the {PAYLOAD_BYTES_MAX} that are allowed")]
    TooLong(usize),
    /// A kind that does not exist.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// A message that is none.
    #[error("cannot understand a message")]
    Message(#[source] serde_json::Error),
}

/// A frame's bytes before its payload.
pub(crate) fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(length).expect("payloads are bounded").to_le_bytes();
    let kind = match kind {
        Kind::Message => 0,
        Kind::Stdin => 1,
        Kind::Stdout => 2,
        Kind::Stderr => 3,
    };
    [length[0], length[1], length[2], length[3], kind]
}

/// A message as a whole frame.
pub(crate) fn message<T: Serialize>(value: &T) -> Vec<u8> {
    let payload = serde_json::to_vec(value).expect("messages are plain data");
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend(header(Kind::Message, payload.len()));
    frame.extend(payload);
    frame
}

/// Kind and payload length of a frame that begins with `bytes`.
pub(crate) fn parse_header(bytes: [u8; HEADER_BYTES]) -> Result<(Kind, usize), FrameError> {
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let kind = match bytes[4] {
        0 => Kind::Message,
        1 => Kind::Stdin,
        2 => Kind::Stdout,
        3 => Kind::Stderr,
        other => return Err(FrameError::Kind(other)),
    };
    Ok((kind, length))
}

/// Takes the first whole frame off a buffer; `None` until it is there.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
    let Some(start) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let (kind, length) = parse_header(*start)?;
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    let payload = buffer[HEADER_BYTES..HEADER_BYTES + length].to_vec();
    buffer.drain(..HEADER_BYTES + length);
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_in_pieces_and_in_a_row() {
        let request = Request::Signal { container: "c".to_owned(), signal: 15 };
        let mut stream = message(&request);
        stream.extend(header(Kind::Stdin, 3));
        stream.extend(b"abc");
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        for byte in stream {
            buffer.push(byte);
            while let Some(frame) = take_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(serde_json::from_slice::<Request>(&frames[0].1).unwrap(), request);
        assert_eq!(frames[1], (Kind::Stdin, b"abc".to_vec()));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_broken_peer_is_told_apart() {
        assert!(matches!(take_frame(&mut vec![0, 0, 0, 0, 9]), Err(FrameError::Kind(9))));
        assert!(matches!(take_frame(&mut vec![255; 5]), Err(FrameError::TooLong(_))));
    }
}
