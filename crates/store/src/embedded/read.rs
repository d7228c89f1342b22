//! Reading: ranges at the latest or a retained revision, and the replay that brings a watcher up to the live batches.
//!
//! A replay reads the log in pieces, each from a fresh snapshot: a slow watcher never holds a snapshot, which would keep
//! redb from reusing pages and let the file grow.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use redb::{ReadTransaction, TableDefinition};
use tokio::time::Instant;

use super::Shared;
use super::file::Failure;
use super::record::{self, BadRecord, Head, LATEST, LOG, META, META_HEAD, REPLACED};
use crate::live::Subscription;
use crate::{Batch, Event, Export, KeyValue, Range, RangeResult, Revision, StoreError};

/// Events that one piece of a replay reads.
const PIECE_EVENTS_MAX: usize = 512;
/// Bytes of values that one piece of a replay reads, but for the revision that goes over.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// A watcher joins the live batches when it is no more than so many revisions behind: the queue fills while it reads them.
const JOIN_WITHIN: u64 = 256;

/// How long a backup may take. While it does, the pages that it reads are not reused and the file grows.
const EXPORT_MAX: Duration = Duration::from_secs(600);

/// A record whose bytes the disk changed.
pub(super) fn bad_record(table: &str) -> Failure {
    Failure::Damaged(format!("a record in table {table} has a wrong checksum"))
}

/// One consistent state of the tables.
pub(super) struct Snapshot<'a> {
    transaction: &'a ReadTransaction,
    path: &'a Path,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(transaction: &'a ReadTransaction, path: &'a Path) -> Self {
        Self { transaction, path }
    }

    fn fail(&self, error: impl Into<Failure>) -> StoreError {
        error.into().at(self.path)
    }

    fn bad(&self, table: &str) -> impl Fn(BadRecord) -> StoreError {
        move |BadRecord| bad_record(table).at(self.path)
    }

    fn head(&self) -> Result<Head, StoreError> {
        let meta = self.transaction.open_table(META).map_err(|e| self.fail(e))?;
        let head = meta.get(META_HEAD).map_err(|e| self.fail(e))?;
        let head = head.ok_or_else(|| Failure::Damaged("its head record is missing".to_owned()).at(self.path))?;
        Head::decode(head.value()).map_err(self.bad("meta"))
    }

    /// Answers a range.
    pub(super) fn range(&self, range: &Range) -> Result<RangeResult, StoreError> {
        let head = self.head()?;
        let at = range.at.map_or(head.committed, |at| at.0);
        // The empty store before the first transaction is known as long as nothing was given up.
        let oldest = if head.first == 1 { 0 } else { head.first };
        if at > head.committed || (range.at.is_some() && at < oldest) {
            let retained = Revision(head.first)..=Revision(head.committed);
            return Err(StoreError::NotRetained { asked: Revision(at), retained });
        }
        let want = if range.limit == 0 { usize::MAX } else { range.limit.saturating_add(1) };
        let mut items = if at == head.committed {
            let mut items = Vec::new();
            self.items(LATEST, range, |item| {
                items.push(item);
                items.len() < want
            })?;
            items
        } else {
            self.items_at(range, head, at)?
        };
        let more = items.len() >= want;
        items.truncate(want.saturating_sub(usize::from(range.limit > 0)));
        Ok(RangeResult { revision: Revision(at), items, more })
    }

    /// Calls `each` for the items of a table in the range until it says no.
    fn items(
        &self,
        table: TableDefinition<'static, &'static [u8], &'static [u8]>,
        range: &Range,
        mut each: impl FnMut(KeyValue) -> bool,
    ) -> Result<(), StoreError> {
        let name = redb::TableHandle::name(&table).to_owned();
        let table = self.transaction.open_table(table).map_err(|e| self.fail(e))?;
        for entry in table.range(&range.start[..]..).map_err(|e| self.fail(e))? {
            let (key, value) = entry.map_err(|e| self.fail(e))?;
            if !range.contains(key.value()) {
                break;
            }
            if !each(record::decode_item(key.value(), value.value()).map_err(self.bad(&name))?) {
                break;
            }
        }
        Ok(())
    }

    /// The next items from `range`'s start on, and where the piece after them begins.
    fn export_piece(&self, range: &Range) -> Result<(Vec<KeyValue>, Option<Bytes>), StoreError> {
        let (mut items, mut bytes, mut next) = (Vec::new(), 0, None);
        self.items(LATEST, range, |item| {
            if bytes >= PIECE_BYTES_MAX {
                next = Some(item.key);
                return false;
            }
            bytes += item.key.len() + item.value.len();
            items.push(item);
            true
        })?;
        Ok((items, next))
    }

    /// The items as of an earlier revision: what was written before the first retained revision, overlaid with the log.
    fn items_at(&self, range: &Range, head: Head, at: u64) -> Result<Vec<KeyValue>, StoreError> {
        let mut items: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for table in [LATEST, REPLACED] {
            self.items(table, range, |item| {
                if item.modified.0 <= at {
                    items.insert(item.key.clone(), item);
                }
                true
            })?;
        }
        self.events(head.first, at, |event| {
            match event {
                Event::Put(item) if range.contains(&item.key) => drop(items.insert(item.key.clone(), item)),
                Event::Delete { key, .. } => drop(items.remove(&key)),
                Event::Put(_) => {}
            }
            true
        })?;
        Ok(items.into_values().collect())
    }

    /// Calls `each` for the events of the revisions `from` to `to` until it says no.
    fn events(&self, from: u64, to: u64, mut each: impl FnMut(Event) -> bool) -> Result<(), StoreError> {
        let log = self.transaction.open_table(LOG).map_err(|e| self.fail(e))?;
        let keys = record::log_key(from, 0)..=record::log_key(to, u32::MAX);
        for entry in log.range(keys).map_err(|e| self.fail(e))? {
            let (key, value) = entry.map_err(|e| self.fail(e))?;
            if !each(record::decode_event(&key.value(), value.value()).map_err(self.bad("log"))?) {
                break;
            }
        }
        Ok(())
    }

    /// The batches in the range from revision `from`, up to `to` or until the piece is large enough, and the revision that
    /// the next piece begins with.
    fn piece(&self, range: &Range, from: u64, to: u64) -> Result<(VecDeque<Batch>, u64), StoreError> {
        let head = self.head()?;
        if from < head.first {
            let retained = Revision(head.first)..=Revision(head.committed);
            return Err(StoreError::NotRetained { asked: Revision(from), retained });
        }
        let (mut batches, mut read, mut bytes) = (VecDeque::<Batch>::new(), 0, 0);
        let (mut current, mut next) = (from, to + 1);
        self.events(from, to, |event| {
            let revision = event.revision();
            // Only whole revisions: the events of one are never in two batches.
            if revision.0 != current && (read >= PIECE_EVENTS_MAX || bytes >= PIECE_BYTES_MAX) {
                next = revision.0;
                return false;
            }
            current = revision.0;
            read += 1;
            if let Event::Put(item) = &event {
                bytes += item.value.len();
            }
            if range.contains(event.key()) {
                match batches.back_mut().filter(|batch| batch.revision == revision) {
                    Some(batch) => batch.events.push(event),
                    None => batches.push_back(Batch { revision, events: vec![event] }),
                }
            }
            true
        })?;
        Ok((batches, next))
    }
}

/// All latest values as of now. The snapshot is held until the stream ends, and for no longer than [`EXPORT_MAX`].
pub(super) async fn export(shared: Arc<Shared>) -> Result<Export, StoreError> {
    let until = Instant::now() + EXPORT_MAX;
    let opened = shared.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let (transaction, _) = opened.begin_read()?;
        let head = Snapshot::new(&transaction, &opened.path).head()?;
        Ok((transaction, head))
    });
    let (transaction, head) = begun.await.unwrap_or_else(|error| Err(super::panicked(&shared.path, &error)))?;
    let state = Some((shared, Arc::new(transaction), Some(Bytes::new())));
    let pieces = stream::unfold(state, move |state| async move {
        let (shared, transaction, from) = state?;
        let range = Range { start: from?, end: Bytes::new(), limit: 0, at: None };
        if Instant::now() > until {
            return Some((
                Err(Failure::Io("finish a backup in time", ErrorKind::TimedOut.into()).at(&shared.path)),
                None,
            ));
        }
        let (path, snapshot) = (shared.path.clone(), transaction.clone());
        let read = tokio::task::spawn_blocking(move || Snapshot::new(&snapshot, &path).export_piece(&range));
        match read.await.unwrap_or_else(|error| Err(super::panicked(&shared.path, &error))) {
            Ok((items, next)) => Some((Ok(items), Some((shared, transaction, next)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Export { revision: Revision(head.committed), pieces: pieces.boxed() })
}

/// A watcher on its way: first the log, then the live batches.
pub(super) struct Catchup {
    shared: Arc<Shared>,
    range: Range,
    /// The first revision that was not read from the log.
    next: u64,
    ready: VecDeque<Batch>,
    /// The live batches, complete after the revision beside them; up to it the log is read.
    live: Option<(u64, Subscription)>,
}

impl Catchup {
    pub(super) fn start(shared: Arc<Shared>, range: Range, from: Revision) -> Result<Self, StoreError> {
        let mut catchup = Self { shared, range, next: from.0, ready: VecDeque::new(), live: None };
        catchup.join_if_close()?;
        Ok(catchup)
    }

    fn join_if_close(&mut self) -> Result<(), StoreError> {
        let published = self.shared.hub.published().0;
        if self.live.is_none() && published < self.next + JOIN_WITHIN {
            let (published, subscription) = self.shared.hub.subscribe(self.range.clone())?;
            self.live = Some((published.0, subscription));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            self.join_if_close()?;
            let to = match &mut self.live {
                Some((complete_after, live)) if *complete_after < self.next => return live.next().await,
                Some((complete_after, _)) => *complete_after,
                None => self.shared.hub.published().0,
            };
            let (range, from) = (self.range.clone(), self.next);
            let piece = self.shared.clone().read(move |snapshot| snapshot.piece(&range, from, to)).await;
            (self.ready, self.next) = piece?;
        }
    }
}

/// One step of the watch's stream; an error is its last item.
pub(super) async fn next_batch(catchup: Option<Catchup>) -> Option<(Result<Batch, StoreError>, Option<Catchup>)> {
    let mut catchup = catchup?;
    let next = catchup.next().await;
    let rest = next.is_ok().then_some(catchup);
    Some((next, rest))
}
