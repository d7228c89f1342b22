//! The commit thread: many transactions, one fsync.
//!
//! What it knows in memory (which keys exist, at which revisions; how large each retained revision is) follows the file:
//! it is changed when a batch is on disk, and a batch that fails leaves it as it was.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::file::{self, Failure, FirstError, OpenFile};
use super::read::bad_record;
use super::record::{self, FORMAT, Head, LATEST, LOG, META, META_FORMAT, META_HEAD, REPLACED};
use super::{Door, DoorState, Options, Shared};
use crate::live::Hub;
use crate::{Batch, Event, KeyValue, Precondition, Revision, StoreError, Txn, TxnOutcome, Write};

/// Transactions that one fsync covers, at most: more would make the first wait for the last.
const BATCH_TXNS_MAX: usize = 1024;
/// Bytes of values that one fsync covers, but for the transaction that goes over.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How often others get the processor before a batch is committed that is smaller than the last one.
const YIELDS_MAX: u32 = 16;
/// Revisions that one commit gives up besides as many as it adds: compaction keeps up, and no commit waits for much of it.
const COMPACT_REVISIONS_MAX: u64 = 256;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread can be asked.
pub(super) enum Command {
    /// Commit.
    Txn(Txn, Reply<TxnOutcome>),
    /// Give up revisions below this one.
    Compact(Revision, Reply<()>),
}

/// When a key was created and last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    created: u64,
    modified: u64,
}

/// The thread's state.
pub(super) struct Committer {
    shared: Arc<Shared>,
    options: Options,
    queue: mpsc::Receiver<Command>,
    first_error: FirstError,
    index: HashMap<Bytes, Written>,
    head: Head,
    /// Bytes of each retained revision's events, from `head.first` on.
    sizes: VecDeque<u64>,
    retained_bytes: u64,
    /// The revision up to which callers of `compact` want the log given up, and those callers.
    compact_before: u64,
    compacting: Vec<(u64, Reply<()>)>,
    /// How many transactions the last batch had.
    last_batch: usize,
}

/// What a write transaction is about to change, before it is on disk.
#[derive(Default)]
struct Pending {
    /// Keys that the batch wrote (`None`: removed).
    written: HashMap<Bytes, Option<Written>>,
    batches: Vec<Batch>,
    sizes: Vec<u64>,
}

/// The tables of one write transaction.
pub(super) struct Tables<'a> {
    log: Table<'a, [u8; 12], &'static [u8]>,
    latest: Table<'a, &'static [u8], &'static [u8]>,
    replaced: Table<'a, &'static [u8], &'static [u8]>,
}

impl Committer {
    /// Opens and checks the file.
    pub(super) fn open(path: &Path, options: Options) -> Result<(Self, mpsc::Sender<Command>), Failure> {
        let mut open = OpenFile::open(path, options.cache_bytes, prepare)?;
        open.check()?;
        let loaded = std::panic::catch_unwind(AssertUnwindSafe(|| load(&open.database)));
        let (head, index, sizes) =
            loaded.unwrap_or_else(|_| Err(Failure::Damaged("its pages do not fit together".to_owned())))?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            hub: Arc::new(Hub::new(Revision(head.committed), options.watch_batches_max)),
            committed: AtomicU64::new(head.committed),
            first: AtomicU64::new(head.first),
            door: Mutex::new(Door { state: DoorState::Open(open.database), opened: 1 }),
            door_changed: Condvar::new(),
        });
        let (sender, queue) = mpsc::channel(options.queue_max.max(1));
        let retained_bytes = sizes.iter().sum();
        let committer = Self {
            shared,
            options,
            queue,
            first_error: open.first_error,
            index,
            head,
            sizes,
            retained_bytes,
            compact_before: 0,
            compacting: Vec::new(),
            last_batch: 0,
        };
        Ok((committer, sender))
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Commits until every handle to the store has gone or the file fails.
    pub(super) fn run(mut self) {
        loop {
            let Some(txns) = self.gather() else { return self.shared.stop("closed") };
            let (txns, replies): (Vec<_>, Vec<_>) = txns.into_iter().unzip();
            let written = std::panic::catch_unwind(AssertUnwindSafe(|| self.write(&txns)))
                .unwrap_or_else(|_| Err(Failure::Damaged("its pages do not fit together".to_owned())));
            match written {
                Ok(outcomes) => {
                    for (reply, outcome) in replies.into_iter().zip(outcomes) {
                        let _ = reply.send(Ok(outcome));
                    }
                    self.answer_compactions();
                }
                Err(failure) => match self.recover(failure) {
                    Ok(()) => replies.into_iter().for_each(|reply| drop(reply.send(Err(self.refused())))),
                    Err(fatal) => {
                        let why = base::chain(&fatal.at(&self.shared.path));
                        tracing::error!(error = why, "the datastore stops");
                        self.shared.stop(&why);
                        replies.into_iter().for_each(|reply| drop(reply.send(Err(fatal.at(&self.shared.path)))));
                        return;
                    }
                },
            }
        }
    }

    fn refused(&self) -> StoreError {
        Failure::Full.at(&self.shared.path)
    }

    /// Waits for work and takes all that is there. `None` when there will be no more.
    ///
    /// Whoever was just answered is likely to write again: where fewer wait than last time, others get the processor first.
    /// An idle machine loses nothing by that, a busy one saves commits.
    fn gather(&mut self) -> Option<Vec<(Txn, Reply<TxnOutcome>)>> {
        let (mut txns, mut bytes, mut yields) = (Vec::new(), 0, 0);
        while txns.len() < BATCH_TXNS_MAX && bytes < BATCH_BYTES_MAX {
            let command = match self.queue.try_recv() {
                Ok(command) => command,
                Err(_) if !txns.is_empty() && txns.len() < self.last_batch && yields < YIELDS_MAX => {
                    yields += 1;
                    std::thread::yield_now();
                    continue;
                }
                Err(_) if !txns.is_empty() || self.has_compaction() => break,
                Err(_) => self.queue.blocking_recv()?,
            };
            match command {
                Command::Txn(txn, reply) => {
                    bytes += size(&txn);
                    txns.push((txn, reply));
                }
                Command::Compact(before, reply) if before.0 > self.head.committed => {
                    let retained = Revision(self.head.first)..=Revision(self.head.committed);
                    let _ = reply.send(Err(StoreError::NotRetained { asked: before, retained }));
                }
                Command::Compact(before, reply) => {
                    self.compact_before = self.compact_before.max(before.0);
                    self.compacting.push((before.0, reply));
                }
            }
        }
        self.last_batch = txns.len();
        Some(txns)
    }

    fn has_compaction(&self) -> bool {
        !self.compacting.is_empty()
    }

    /// Writes a batch, publishes it and counts it in. On an error nothing has changed.
    fn write(&mut self, txns: &[Txn]) -> Result<Vec<TxnOutcome>, Failure> {
        let mut transaction = self.shared.begin_write()?;
        transaction.set_quick_repair(false);
        let mut pending = Pending::default();
        let mut tables = Tables::open(&transaction)?;
        let outcomes =
            txns.iter().map(|txn| self.apply(txn, &mut tables, &mut pending)).collect::<Result<Vec<_>, _>>()?;
        let committed = self.head.committed + pending.batches.len() as u64;
        let first = self.compact_step(&mut tables, &pending, committed)?;
        let head = Head { first, committed };
        if head == self.head {
            drop(tables);
            transaction.abort()?;
            return Ok(outcomes);
        }
        drop(tables);
        transaction.open_table(META)?.insert(META_HEAD, &head.encode()[..])?;
        transaction.commit()?;
        self.advance(head, pending);
        Ok(outcomes)
    }

    fn apply(&self, txn: &Txn, tables: &mut Tables<'_>, pending: &mut Pending) -> Result<TxnOutcome, Failure> {
        for (precondition, wanted) in txn.preconditions.iter().enumerate() {
            let (key, modified) = match wanted {
                Precondition::Absent(key) => (key, None),
                Precondition::ModifiedAt(key, revision) => (key, Some(revision.0)),
            };
            if self.find(pending, key).map(|written| written.modified) != modified {
                return Ok(TxnOutcome::Refused { precondition, current: tables.item(key)? });
            }
        }
        let revision = self.head.committed + pending.batches.len() as u64 + 1;
        let (mut events, mut bytes) = (Vec::with_capacity(txn.writes.len()), 0);
        for write in &txn.writes {
            let (Write::Put(key, _) | Write::Delete(key)) = write;
            let old = self.find(pending, key);
            let event = match write {
                Write::Put(key, value) => Event::Put(KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    created: Revision(old.map_or(revision, |old| old.created)),
                    modified: Revision(revision),
                }),
                Write::Delete(_) if old.is_none() => continue,
                Write::Delete(key) => Event::Delete { key: key.clone(), revision: Revision(revision) },
            };
            // The log no longer has the old value, but the retained revisions before this one show it.
            if old.is_some_and(|old| old.modified < self.head.first) {
                tables.keep_replaced(key)?;
            }
            bytes += tables.write_event(&event, u32::try_from(events.len()).unwrap_or(u32::MAX))?;
            pending.written.insert(key.clone(), written_by(&event));
            events.push(event);
        }
        if events.is_empty() {
            return Ok(TxnOutcome::Committed(Revision(revision - 1)));
        }
        pending.batches.push(Batch { revision: Revision(revision), events });
        pending.sizes.push(bytes);
        Ok(TxnOutcome::Committed(Revision(revision)))
    }

    fn find(&self, pending: &Pending, key: &Bytes) -> Option<Written> {
        pending.written.get(key).copied().unwrap_or_else(|| self.index.get(key).copied())
    }

    /// Gives up the oldest revisions where there are too many or somebody asked, and gives the first that is retained.
    fn compact_step(&self, tables: &mut Tables<'_>, pending: &Pending, committed: u64) -> Result<u64, Failure> {
        let first = self.head.first;
        let sizes = || self.sizes.iter().chain(&pending.sizes);
        let mut bytes = self.retained_bytes + pending.sizes.iter().sum::<u64>();
        let mut count = committed + 1 - first;
        let mut before = first;
        for size in sizes() {
            let asked = before < self.compact_before;
            let too_many =
                count > self.options.retained_revisions_max as u64 || bytes > self.options.retained_bytes_max;
            // The newest revision always stays: it is what `committed` names.
            let step_done = before - first >= COMPACT_REVISIONS_MAX + pending.sizes.len() as u64;
            if !(asked || too_many) || step_done || before >= committed {
                break;
            }
            bytes -= size;
            count -= 1;
            before += 1;
        }
        // A few at a time are as cheap as one.
        let worthwhile = before - first >= COMPACT_REVISIONS_MAX / 4 || first < self.compact_before;
        if before == first || !worthwhile {
            return Ok(first);
        }
        tables.forget(first, before)?;
        Ok(before)
    }

    /// Counts a batch in that is on disk, and publishes it.
    fn advance(&mut self, head: Head, pending: Pending) {
        for (key, written) in pending.written {
            match written {
                Some(written) => drop(self.index.insert(key, written)),
                None => drop(self.index.remove(&key)),
            }
        }
        self.retained_bytes += pending.sizes.iter().sum::<u64>();
        self.sizes.extend(pending.sizes);
        let given_up = usize::try_from(head.first - self.head.first).unwrap_or(usize::MAX).min(self.sizes.len());
        self.retained_bytes -= self.sizes.drain(..given_up).sum::<u64>();
        self.head = head;
        self.shared.first.store(head.first, Ordering::Release);
        self.shared.hub.publish(&pending.batches);
        self.shared.committed.store(head.committed, Ordering::Release);
    }

    fn answer_compactions(&mut self) {
        let first = self.head.first;
        let (done, waiting) =
            std::mem::take(&mut self.compacting).into_iter().partition(|(before, _)| *before <= first);
        self.compacting = waiting;
        let done: Vec<(u64, Reply<()>)> = done;
        done.into_iter().for_each(|(_, reply)| drop(reply.send(Ok(()))));
    }

    /// After a full disk the file is opened again, as it was before the batch; any other failure is for good.
    fn recover(&mut self, failure: Failure) -> Result<(), Failure> {
        let failure = file::first_failure(&self.first_error).unwrap_or(failure);
        let Failure::Full = failure else { return Err(failure) };
        tracing::error!(path = %self.shared.path.display(), "no space left for the datastore; writes are refused");
        self.first_error = self.shared.reopen(self.options.cache_bytes)?;
        let (snapshot, _) =
            self.shared.begin_read().map_err(|_| Failure::Damaged("it cannot be read again".to_owned()))?;
        let meta = snapshot.open_table(META)?;
        let head = meta.get(META_HEAD)?.and_then(|head| Head::decode(head.value()).ok());
        if head != Some(self.head) {
            return Err(Failure::Damaged("it is not in the state before the refused write".to_owned()));
        }
        for (_, reply) in std::mem::take(&mut self.compacting) {
            let _ = reply.send(Err(self.refused()));
        }
        Ok(())
    }
}

fn written_by(event: &Event) -> Option<Written> {
    match event {
        Event::Put(item) => Some(Written { created: item.created.0, modified: item.modified.0 }),
        Event::Delete { .. } => None,
    }
}

fn size(txn: &Txn) -> usize {
    let one = |write: &Write| match write {
        Write::Put(key, value) => key.len() + value.len(),
        Write::Delete(key) => key.len(),
    };
    txn.writes.iter().map(one).sum()
}

impl<'a> Tables<'a> {
    pub(super) fn open(transaction: &'a WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            log: transaction.open_table(LOG)?,
            latest: transaction.open_table(LATEST)?,
            replaced: transaction.open_table(REPLACED)?,
        })
    }

    fn item(&self, key: &Bytes) -> Result<Option<KeyValue>, Failure> {
        let Some(record) = self.latest.get(&key[..])? else { return Ok(None) };
        record::decode_item(key, record.value()).map(Some).map_err(|_| bad_record("latest"))
    }

    fn keep_replaced(&mut self, key: &Bytes) -> Result<(), Failure> {
        if let Some(record) = self.latest.get(&key[..])? {
            self.replaced.insert(&key[..], record.value())?;
        }
        Ok(())
    }

    /// Writes an event to the log and the latest values; gives its size in the log.
    pub(super) fn write_event(&mut self, event: &Event, position: u32) -> Result<u64, Failure> {
        let key = record::log_key(event.revision().0, position);
        let logged = record::encode_event(&key, event);
        self.log.insert(key, &logged[..])?;
        match event {
            Event::Put(item) => drop(self.latest.insert(&item.key[..], &record::encode_item(item)[..])?),
            Event::Delete { key, .. } => drop(self.latest.remove(&key[..])?),
        }
        Ok((key.len() + logged.len()) as u64)
    }

    /// Gives up the revisions from `first` up to but not including `before`. Values that revision `before` still shows and
    /// that are no longer the latest move to the replaced ones.
    fn forget(&mut self, first: u64, before: u64) -> Result<(), Failure> {
        let keys = || record::log_key(first, 0)..record::log_key(before, 0);
        // The last word of the given-up revisions on each key.
        let mut last: HashMap<Bytes, Option<KeyValue>> = HashMap::new();
        for entry in self.log.range(keys())? {
            let (key, value) = entry?;
            match record::decode_event(&key.value(), value.value()).map_err(|_| bad_record("log"))? {
                Event::Put(item) => drop(last.insert(item.key.clone(), Some(item))),
                Event::Delete { key, .. } => drop(last.insert(key, None)),
            }
        }
        for (key, item) in last {
            let latest = self.latest.get(&key[..])?.map(|record| {
                record::item_parts(&key, record.value())
                    .map(|(_, modified, _)| modified)
                    .map_err(|_| bad_record("latest"))
            });
            match item {
                Some(item) if Some(item.modified) != latest.transpose()? => {
                    self.replaced.insert(&key[..], &record::encode_item(&item)[..])?;
                }
                // What was replaced by a revision that is given up too is shown by none.
                Some(_) | None => drop(self.replaced.remove(&key[..])?),
            }
        }
        self.log.retain_in(keys(), |_, _| false)?;
        Ok(())
    }
}

/// Fills a new database.
pub(super) fn prepare(database: &Database) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(false);
    Tables::open(&transaction)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, &FORMAT.to_be_bytes()[..])?;
        meta.insert(META_HEAD, &Head { first: 1, committed: 0 }.encode()[..])?;
    }
    Ok(transaction.commit()?)
}

type Loaded = (Head, HashMap<Bytes, Written>, VecDeque<u64>);

/// Reads everything once: checks every record, and builds what the thread knows in memory.
fn load(database: &Database) -> Result<Loaded, Failure> {
    let snapshot = database.begin_read()?;
    let meta = snapshot.open_table(META)?;
    let format = meta.get(META_FORMAT)?.map(|format| format.value().to_vec());
    if format.as_deref() != Some(&FORMAT.to_be_bytes()) {
        return Err(Failure::Damaged(format!("its format is {format:?}, this program reads {FORMAT}")));
    }
    let head =
        meta.get(META_HEAD)?.and_then(|head| Head::decode(head.value()).ok()).ok_or_else(|| bad_record("meta"))?;
    let mut index = HashMap::new();
    for entry in snapshot.open_table(LATEST)?.iter()? {
        let (key, value) = entry?;
        let (created, modified, _) =
            record::item_parts(key.value(), value.value()).map_err(|_| bad_record("latest"))?;
        index.insert(Bytes::copy_from_slice(key.value()), Written { created: created.0, modified: modified.0 });
    }
    for entry in snapshot.open_table(REPLACED)?.iter()? {
        let (key, value) = entry?;
        record::item_parts(key.value(), value.value()).map_err(|_| bad_record("replaced"))?;
    }
    let mut sizes = VecDeque::new();
    for entry in snapshot.open_table(LOG)?.iter()? {
        let (key, value) = entry?;
        record::decode_event(&key.value(), value.value()).map_err(|_| bad_record("log"))?;
        let nth = record::log_revision(&key.value()).checked_sub(head.first).and_then(|nth| usize::try_from(nth).ok());
        let nth = nth.filter(|nth| *nth == sizes.len() || *nth + 1 == sizes.len());
        let nth = nth.ok_or_else(|| Failure::Damaged("its log has a gap".to_owned()))?;
        if nth == sizes.len() {
            sizes.push_back(0);
        }
        sizes[nth] += (key.value().len() + value.value().len()) as u64;
    }
    if sizes.len() as u64 != head.committed + 1 - head.first {
        return Err(Failure::Damaged("its log does not end at its latest revision".to_owned()));
    }
    Ok((head, index, sizes))
}
