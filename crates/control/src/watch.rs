//! A watch as a stream of events whose objects are slices of the frames that brought them.
//!
//! In process every piece of the body is one frame and stays one: nothing is copied. Over a network frames are cut out of
//! the pieces, each into memory of its own, so that a cached object never keeps a whole network buffer.

use std::collections::VecDeque;
use std::time::Duration;

use api::{ApiError, Object, Resource};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Body, TransportError};

/// The largest frame. An object is at most a few megabytes; without a limit a server that never ends a line would take all
/// memory.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// How much longer than the asked time a watch may stay silent before it counts as dead. Without it a connection that was
/// cut without a word would never end.
const SILENCE_MARGIN: Duration = Duration::from_secs(30);

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Only events after this revision; `None`: all present objects first, then a bookmark with
    /// `k8s.io/initial-events-end`.
    pub after: Option<u64>,
    /// The server ends the watch after so many seconds.
    pub timeout_seconds: u32,
    revision: String,
    timeout: String,
}

impl Start {
    /// All present objects first.
    pub fn with_initial_events(timeout_seconds: u32) -> Self {
        Self { after: None, timeout_seconds, revision: String::new(), timeout: timeout_seconds.to_string() }
    }

    /// Only what happened after `revision`.
    pub fn after(revision: u64, timeout_seconds: u32) -> Self {
        let timeout = timeout_seconds.to_string();
        Self { after: Some(revision), timeout_seconds, revision: revision.to_string(), timeout }
    }

    pub(crate) fn parameters(&self) -> Vec<(&str, &str)> {
        let mut parameters =
            vec![("watch", "1"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", self.timeout.as_str())];
        match self.after {
            Some(_) => parameters.push(("resourceVersion", &self.revision)),
            None => parameters.extend([("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]),
        }
        parameters
    }

    /// How long the stream may be silent.
    pub(crate) fn silence_max(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into()) + SILENCE_MARGIN
    }
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub enum Event {
    /// The object was added or changed.
    Applied(Object),
    /// The object is gone; its last state, at the revision that removed it.
    Deleted(Object),
    /// Nothing happened up to this revision that was not sent.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Whether all objects that were present at the start have been sent.
        initial_events_end: bool,
    },
    /// The server ends the watch with an error, such as 410 for a revision that it no longer keeps.
    Failed(ApiError),
}

/// What can go wrong while a watch is read.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The connection broke.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A frame is not a watch event. The watch may be read on.
    #[error("cannot read a watch event of {resource}")]
    Frame {
        /// Plural name of the resource.
        resource: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A frame has no end.
    #[error("a watch event of {resource} is larger than {FRAME_BYTES_MAX} bytes")]
    TooLarge {
        /// Plural name of the resource.
        resource: String,
    },
}

/// The events of one watch, in order.
pub struct WatchStream {
    resource: Resource,
    pieces: BoxStream<'static, Result<Bytes, TransportError>>,
    frames: Frames,
}

impl WatchStream {
    pub(crate) fn new(resource: Resource, body: Body) -> Self {
        let pieces = match body {
            Body::Stream(pieces) => pieces,
            Body::Full(bytes) => futures::stream::iter([Ok(bytes)]).boxed(),
        };
        Self { resource, pieces, frames: Frames::default() }
    }

    /// The next event; `None` when the server ended the watch.
    pub async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        loop {
            if let Some(frame) = self.frames.whole.pop_front() {
                return Some(self.parse(&frame));
            }
            match self.pieces.next().await? {
                Err(error) => return Some(Err(error.into())),
                Ok(piece) => self.frames.push(piece),
            }
            if self.frames.partial.len() > FRAME_BYTES_MAX {
                return Some(Err(WatchError::TooLarge { resource: self.resource.plural.to_string() }));
            }
        }
    }

    fn parse(&self, frame: &Bytes) -> Result<Event, WatchError> {
        parse(&self.resource, frame)
            .map_err(|source| WatchError::Frame { resource: self.resource.plural.to_string(), source })
    }
}

/// Cuts pieces into frames at line ends.
#[derive(Default)]
struct Frames {
    whole: VecDeque<Bytes>,
    partial: BytesMut,
}

impl Frames {
    fn push(&mut self, piece: Bytes) {
        let first = piece.iter().position(|byte| *byte == b'\n');
        if self.partial.is_empty() && first.is_some_and(|at| at + 1 == piece.len()) {
            self.whole.push_back(piece);
            return;
        }
        let mut rest = &piece[..];
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(at + 1);
            let mut frame = std::mem::take(&mut self.partial);
            frame.extend_from_slice(line);
            if line.len() > 1 || frame.len() > 1 {
                self.whole.push_back(Bytes::copy_from_slice(&frame));
            }
            rest = after;
        }
        self.partial.extend_from_slice(rest);
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn parse(resource: &Resource, frame: &Bytes) -> Result<Event, Box<dyn std::error::Error + Send + Sync>> {
    let head: Frame<'_> = serde_json::from_slice(frame)?;
    let object = || Object::parse(resource, frame.slice_ref(head.object.get().as_bytes()));
    match head.kind {
        "ADDED" | "MODIFIED" => Ok(Event::Applied(object()?)),
        "DELETED" => Ok(Event::Deleted(object()?)),
        "BOOKMARK" => {
            let bookmark: Value = serde_json::from_str(head.object.get())?;
            let meta = &bookmark["metadata"];
            let revision = meta["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            let revision = revision.ok_or("a bookmark without resource version")?;
            let initial_events_end = meta["annotations"]["k8s.io/initial-events-end"] == "true";
            Ok(Event::Bookmark { revision, initial_events_end })
        }
        "ERROR" => {
            let status: Value = serde_json::from_str(head.object.get())?;
            let code = status["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(500);
            Ok(Event::Failed(ApiError::from_response(code, head.object.get().as_bytes())))
        }
        other => Err(format!("unknown event type {other:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&str]) -> Vec<String> {
        let mut frames = Frames::default();
        for piece in pieces {
            frames.push(Bytes::copy_from_slice(piece.as_bytes()));
        }
        frames.whole.iter().map(|frame| String::from_utf8_lossy(frame).trim_end().to_owned()).collect()
    }

    #[test]
    fn frames_are_the_same_however_the_network_cuts_them() {
        for pieces in [&["{1}\n{2}\n{3"][..], &["{1}\n", "{2}\n{", "3"], &["{", "1", "}", "\n", "{2}", "\n"]] {
            assert_eq!(cut(pieces), ["{1}", "{2}"], "{pieces:?}");
        }
    }

    #[test]
    fn a_piece_that_is_one_frame_is_not_copied() {
        let piece = Bytes::from_static(b"{\"type\":\"ADDED\"}\n");
        let mut frames = Frames::default();
        frames.push(piece.clone());
        assert_eq!(frames.whole[0].as_ptr(), piece.as_ptr());
    }
}
