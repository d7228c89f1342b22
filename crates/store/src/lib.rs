//! A revisioned key-value store with watch. It knows bytes and revisions, never kinds; only the API server opens it.
//!
//! Every committed transaction has the next revision, without gaps. An acknowledged transaction is on disk. Watchers see
//! every committed event of a retained revision exactly once, in order.

pub mod backup;
pub mod embedded;
mod live;
pub mod memory;
#[cfg(test)]
mod suite;

pub use backup::Export;
pub use embedded::{EmbeddedStore, Options};
pub use memory::MemoryStore;

use std::ops::RangeInclusive;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// The number of a committed transaction, counted from 1. 0 is the empty store before its first transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value and the revisions that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that last wrote the key.
    pub modified: Revision,
}

/// What must hold for a transaction to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The key does not exist.
    Absent(Bytes),
    /// The key exists and was last written by this revision.
    ModifiedAt(Bytes, Revision),
}

/// One write of a transaction. A transaction names a key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets the key to the value.
    Put(Bytes, Bytes),
    /// Removes the key; removing an absent key is no event.
    Delete(Bytes),
}

/// All or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub preconditions: Vec<Precondition>,
    /// All are done, under one revision.
    pub writes: Vec<Write>,
}

/// How a transaction ended, when the store itself did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// On disk, under this revision.
    Committed(Revision),
    /// A precondition did not hold; nothing was written.
    Refused {
        /// The index of the first precondition that did not hold.
        precondition: usize,
        /// What the key holds now.
        current: Option<KeyValue>,
    },
}

/// Which keys to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub start: Bytes,
    /// The first key that is left out; empty for no bound.
    pub end: Bytes,
    /// At most so many; 0 for all.
    pub limit: usize,
    /// As of this revision; `None` for the latest.
    pub at: Option<Revision>,
}

impl Range {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        Self { start, end: end.into(), limit: 0, at: None }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Self { start, end: end.into(), limit: 0, at: None }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }
}

/// The answer to a [`Range`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResult {
    /// The revision that the answer shows.
    pub revision: Revision,
    /// In key order.
    pub items: Vec<KeyValue>,
    /// Whether the limit cut the answer off.
    pub more: bool,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was set; `created` equals `modified` when it did not exist before.
    Put(KeyValue),
    /// The key was removed.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision that removed it.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(item) => &item.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision that changed it.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(item) => item.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// All events of one revision that the watcher asked for. A batch is never empty: a watcher of everything sees every
/// revision, one of a part sees only the revisions that touch it, and asks [`Store::committed`] how far the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// In the order of the transaction's writes.
    pub events: Vec<Event>,
}

impl Batch {
    /// The part of the batch whose keys are in `range`; `None` when that is nothing.
    fn within(&self, range: &Range) -> Option<Batch> {
        let events: Vec<_> = self.events.iter().filter(|event| range.contains(event.key())).cloned().collect();
        (!events.is_empty()).then_some(Batch { revision: self.revision, events })
    }
}

/// Batches in revision order. Ends with an error when the watcher fell too far behind, or the store stopped.
pub type Watch = BoxStream<'static, Result<Batch, StoreError>>;

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision was compacted away, or never existed.
    #[error("revision {asked} is not retained (retained: {} to {})", retained.start(), retained.end())]
    NotRetained {
        /// The revision that was asked for.
        asked: Revision,
        /// What can be asked for.
        retained: RangeInclusive<Revision>,
    },
    /// The watcher read too slowly and was cut off; it may watch again from where it stopped.
    #[error("watcher fell more than {limit} batches behind")]
    SlowWatcher {
        /// How many batches may wait.
        limit: usize,
    },
    /// The disk is full. Nothing was written; reads go on.
    #[error("no space left for the datastore at {path}")]
    Full {
        /// The store's file.
        path: String,
    },
    /// The file is damaged. It is never served.
    #[error("datastore {path} is damaged: {what}")]
    Damaged {
        /// The store's file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A layer above, which encrypts, cannot read a value.
    #[error("cannot read {key}: {why}")]
    Unreadable {
        /// The value's key.
        key: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// Another process has the file open.
    #[error("datastore {path} is in use by another process")]
    InUse {
        /// The store's file.
        path: String,
    },
    /// The disk failed. After a failed write or fsync the store accepts nothing more.
    #[error("datastore {path}: cannot {action}")]
    Io {
        /// The store's file.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The store has stopped, after an earlier error or on request.
    #[error("datastore has stopped: {0}")]
    Stopped(String),
}

/// A revisioned key-value store.
pub trait Store: Send + Sync + 'static {
    /// Commits all writes under one new revision if every precondition holds. Returns when they are on disk. A transaction
    /// that changes nothing (no writes, or only deletes of absent keys) makes no revision and gives the latest. Once
    /// queued, a transaction goes on when its future is dropped; the wait for a place in the queue does not.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>>;

    /// Reads keys.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>>;

    /// All events of keys in `range` (its `limit` and `at` are not used) with a revision of at least `from`, which is a
    /// retained one or the next.
    fn watch(&self, range: Range, from: Revision) -> BoxFuture<'_, Result<Watch, StoreError>>;

    /// The latest committed revision. A batch reaches its watchers' queues before its revision shows here, and it shows
    /// here before the transaction is acknowledged.
    fn committed(&self) -> Revision;

    /// All latest values at one revision, for a backup. Writers go on meanwhile.
    fn export(&self) -> BoxFuture<'_, Result<Export, StoreError>>;

    /// Why the store accepts nothing any more; `None` while it works.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Gives up events and old values of revisions below `before`.
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), StoreError>>;
}
