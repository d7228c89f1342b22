//! One change of one object, shared by the history and all watchers.

use std::sync::OnceLock;

use api::protobuf::encode::{self, EncodeError};
use api::schema::TypeRef;
use api::{Object, Resource};
use bytes::Bytes;

use super::frame;

/// What a watcher is told has happened, from the point of view of its selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// `ADDED`
    Added,
    /// `MODIFIED`
    Modified,
    /// `DELETED`
    Deleted,
}

impl EventKind {
    /// The name in `WatchEvent.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// How a frame begins.
    pub(crate) fn head(self) -> &'static [u8] {
        match self {
            Self::Added => b"{\"type\":\"ADDED\",\"object\":",
            Self::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// Its place among all changes of the resource since the cache was loaded, without gaps.
    pub sequence: u64,
    /// The revision that made it.
    pub revision: u64,
    /// The object before; `None` when it was created.
    pub old: Option<Object>,
    /// The object after; `None` when it was deleted.
    pub new: Option<Object>,
    /// When the cache learned of it.
    pub(crate) at: tokio::time::Instant,
    /// The frames that were asked for, each built once, in the order of [`EventKind`].
    frames: [OnceLock<Bytes>; 3],
    /// The same in protobuf, once anybody has asked for one.
    protobuf: OnceLock<Box<[OnceLock<Bytes>; 3]>>,
}

/// How the objects of a resource are written in protobuf frames.
#[derive(Debug, Clone)]
pub struct Protobuf {
    of: TypeRef,
    api_version: String,
    kind: String,
}

impl Protobuf {
    /// Of a resource in its own form; `None` where its kind has no protobuf form.
    pub fn of(resource: &Resource) -> Option<Self> {
        let of = api::schema::type_of(resource)?;
        Some(Self { of, api_version: resource.api_version(), kind: resource.kind.to_string() })
    }

    /// The frame of an event that shows an object as it is.
    pub fn frame(&self, kind: EventKind, object: &Object) -> Result<Bytes, EncodeError> {
        Ok(self.framed(kind, &object.protobuf(self.of)?))
    }

    fn framed(&self, kind: EventKind, raw: &[u8]) -> Bytes {
        encode::watch_frame(kind.name(), &encode::envelope(&self.api_version, &self.kind, raw)).into()
    }
}

impl Change {
    pub(crate) fn new(sequence: u64, revision: u64, old: Option<Object>, new: Option<Object>) -> Self {
        Self {
            sequence,
            revision,
            old,
            new,
            at: tokio::time::Instant::now(),
            frames: Default::default(),
            protobuf: OnceLock::new(),
        }
    }

    /// Keeps the frame that the new object is a slice of.
    pub(crate) fn with_frame(self, kind: EventKind, frame: Bytes) -> Self {
        let _ = self.frames[kind as usize].set(frame);
        self
    }

    /// The event for a watcher without selectors.
    pub fn kind(&self) -> EventKind {
        match (&self.old, &self.new) {
            (_, None) => EventKind::Deleted,
            (None, Some(_)) => EventKind::Added,
            (Some(_), Some(_)) => EventKind::Modified,
        }
    }

    /// The object that an event of `kind` shows. Of a deletion, the last state, whose revision is the old one.
    pub fn object(&self, kind: EventKind) -> &Object {
        let (first, second) = if kind == EventKind::Deleted { (&self.old, &self.new) } else { (&self.new, &self.old) };
        first.as_ref().or(second.as_ref()).expect("a change has an object before or after it")
    }

    /// The bytes that a watch sends. Shared by all watchers.
    pub fn frame(&self, kind: EventKind) -> Bytes {
        let built = self.frames[kind as usize].get_or_init(|| {
            let json = self.object(kind).json();
            match kind {
                EventKind::Deleted => frame::wrap_restamped(kind, json, self.revision),
                _ => frame::wrap(kind, json),
            }
        });
        built.clone()
    }

    /// Like [`Self::frame`], in protobuf. All watchers of a resource ask for the same form of it.
    pub fn protobuf_frame(&self, kind: EventKind, form: &Protobuf) -> Result<Bytes, EncodeError> {
        let frame = &self.protobuf.get_or_init(Box::default)[kind as usize];
        if let Some(known) = frame.get() {
            return Ok(known.clone());
        }
        let made = match kind {
            EventKind::Deleted => {
                let mut json = Vec::new();
                frame::restamp(self.object(kind).json(), self.revision, &mut json);
                form.framed(kind, &encode::message(form.of, &json)?)
            }
            _ => form.frame(kind, self.object(kind))?,
        };
        Ok(frame.get_or_init(|| made).clone())
    }

    /// How many bytes live on only because the history keeps them.
    pub(crate) fn superseded_bytes(&self) -> usize {
        self.old.as_ref().map_or(0, |old| old.json().len())
    }
}
