//! The recent changes of one resource: what watchers resume from and what lists at recent revisions are made of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, Key, Reason};
use imbl::OrdMap;

use super::{Change, Entry};

/// More changes than a client that reconnects at once can have missed under the heaviest load.
const CHANGES_MAX: usize = 20_000;
/// Old states that live on only for the history.
const BYTES_MAX: usize = 16 << 20;
/// Older changes are given up when the next comes or when bookmarks are sent.
const AGE_MAX: Duration = Duration::from_secs(300);
/// The sequence of a history's first change: far enough up that what is read back from the store fits below.
const FIRST_SEQUENCE: u64 = 1 << 32;

/// The revision that was asked for is too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The revision that was asked for.
    pub asked: u64,
    /// The oldest revision after which nothing is missing.
    pub oldest: u64,
}

impl From<Expired> for ApiError {
    fn from(expired: Expired) -> Self {
        let Expired { asked, oldest } = expired;
        ApiError::new(Reason::Expired, format!("too old resource version: {asked} ({oldest})"))
    }
}

#[derive(Debug, Default)]
pub(crate) struct History {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// All changes after this revision are here.
    oldest: u64,
    next_sequence: u64,
}

impl History {
    /// Forgets everything: the objects were read from the store at `revision`.
    pub(crate) fn begin(&mut self, revision: u64) {
        self.changes.clear();
        self.bytes = 0;
        self.oldest = revision;
        self.next_sequence = self.next_sequence.max(FIRST_SEQUENCE);
    }

    /// Puts in front what changed after `oldest`, up to where this history begins. False where that would be too much.
    pub(crate) fn prepend(&mut self, oldest: u64, earlier: Vec<Change>) -> bool {
        let bytes: usize = earlier.iter().map(Change::superseded_bytes).sum();
        if self.changes.len() + earlier.len() > CHANGES_MAX || self.bytes + bytes > BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        for mut change in earlier.into_iter().rev() {
            let first = self.changes.front().map_or(self.next_sequence, |change| change.sequence);
            change.sequence = first - 1;
            self.changes.push_front(Arc::new(change));
        }
        self.oldest = oldest;
        true
    }

    /// All changes, oldest first, where nobody else holds them.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes.into_iter().filter_map(Arc::into_inner).collect()
    }

    /// The oldest revision after which nothing is missing.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The sequence of the next change.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn push(&mut self, change: Arc<Change>) {
        self.next_sequence = change.sequence + 1;
        self.bytes += change.superseded_bytes();
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            self.forget_first();
        }
        self.trim();
    }

    /// Gives up what is too old.
    pub(crate) fn trim(&mut self) {
        while self.changes.front().is_some_and(|change| change.at.elapsed() > AGE_MAX) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.bytes -= change.superseded_bytes();
            self.oldest = change.revision;
        }
    }

    /// The changes after a revision.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Change>>, Expired> {
        if revision < self.oldest {
            return Err(Expired { asked: revision, oldest: self.oldest });
        }
        let first = self.changes.partition_point(|change| change.revision <= revision);
        Ok(self.changes.range(first..))
    }

    /// The changes from a sequence on; `None` when some of them are gone.
    pub(crate) fn since_sequence(&self, sequence: u64) -> Option<impl Iterator<Item = &Arc<Change>>> {
        let oldest = self.changes.front().map_or(self.next_sequence, |change| change.sequence);
        let skip = usize::try_from(sequence.checked_sub(oldest)?).ok()?;
        Some(self.changes.range(skip.min(self.changes.len())..))
    }

    /// Takes back in `objects` all changes after `revision`.
    pub(crate) fn rewind(&self, objects: &mut OrdMap<Key, Entry>, revision: u64) -> Result<(), Expired> {
        let changes: Vec<_> = self.since(revision)?.collect();
        for change in changes.into_iter().rev() {
            match &change.old {
                Some(old) => drop(objects.insert(old.key().clone(), Entry::without_frame(old.clone()))),
                None => drop(objects.remove(change.object(change.kind()).key())),
            }
        }
        Ok(())
    }
}
