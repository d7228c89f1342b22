//! The in-memory store: the contract of [`Store`] without a disk, for tests and for clusters that may be forgotten.
//!
//! A transaction is applied under one short lock that also publishes it, so revisions, the map and the watchers agree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use crate::live::Hub;
use crate::{
    Batch, Event, Export, KeyValue, Precondition, Range, RangeResult, Revision, Store, StoreError, Txn, TxnOutcome,
    Watch, Write,
};

/// How many revisions are retained unless the caller compacts earlier. Without a limit the log would grow for ever.
const RETAINED_REVISIONS_MAX: usize = 10_000;
/// How many batches a watcher may fall behind. Without a limit one stalled reader would hold every later event.
const WATCH_BATCHES_MAX: usize = 8192;

/// A store that lives and dies with the process.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    hub: Arc<Hub>,
    committed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    latest: BTreeMap<Bytes, KeyValue>,
    /// One entry for each retained revision, without gaps.
    log: VecDeque<Entry>,
    /// The first retained revision, less one.
    forgotten: u64,
    committed: u64,
}

#[derive(Debug)]
struct Entry {
    batch: Batch,
    /// What each event replaced, in the order of the events.
    before: Vec<Option<KeyValue>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            hub: Arc::new(Hub::new(Revision(0), WATCH_BATCHES_MAX)),
            committed: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the store")
    }

    fn commit(&self, txn: Txn) -> TxnOutcome {
        let mut state = self.state();
        if let Some(refused) = state.refuse(&txn.preconditions) {
            return refused;
        }
        let Some(batch) = state.apply(txn.writes) else { return TxnOutcome::Committed(Revision(state.committed)) };
        let revision = batch.revision;
        self.hub.publish(&[batch]);
        self.committed.store(revision.0, Ordering::Release);
        TxnOutcome::Committed(revision)
    }
}

impl State {
    fn refuse(&self, preconditions: &[Precondition]) -> Option<TxnOutcome> {
        preconditions.iter().enumerate().find_map(|(precondition, wanted)| {
            let (key, modified) = match wanted {
                Precondition::Absent(key) => (key, None),
                Precondition::ModifiedAt(key, revision) => (key, Some(*revision)),
            };
            let current = self.latest.get(key);
            (current.map(|item| item.modified) != modified)
                .then(|| TxnOutcome::Refused { precondition, current: current.cloned() })
        })
    }

    /// Does the writes under the next revision; `None` when they change nothing.
    fn apply(&mut self, writes: Vec<Write>) -> Option<Batch> {
        let revision = Revision(self.committed + 1);
        let (mut events, mut before) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
        for write in writes {
            match write {
                Write::Put(key, value) => {
                    let created = self.latest.get(&key).map_or(revision, |old| old.created);
                    let item = KeyValue { key: key.clone(), value, created, modified: revision };
                    before.push(self.latest.insert(key, item.clone()));
                    events.push(Event::Put(item));
                }
                Write::Delete(key) => {
                    if let Some(old) = self.latest.remove(&key) {
                        before.push(Some(old));
                        events.push(Event::Delete { key, revision });
                    }
                }
            }
        }
        if events.is_empty() {
            return None;
        }
        self.committed = revision.0;
        let batch = Batch { revision, events };
        self.log.push_back(Entry { batch: batch.clone(), before });
        while self.log.len() > RETAINED_REVISIONS_MAX {
            self.forget_one();
        }
        Some(batch)
    }

    fn forget_one(&mut self) {
        if let Some(entry) = self.log.pop_front() {
            self.forgotten = entry.batch.revision.0;
        }
    }

    fn not_retained(&self, asked: Revision) -> StoreError {
        StoreError::NotRetained { asked, retained: Revision(self.forgotten + 1)..=Revision(self.committed) }
    }

    fn range(&self, range: &Range) -> Result<RangeResult, StoreError> {
        let at = range.at.unwrap_or(Revision(self.committed));
        let oldest = if self.forgotten == 0 { 0 } else { self.forgotten + 1 };
        if at.0 > self.committed || (at.0 < oldest && range.at.is_some()) {
            return Err(self.not_retained(at));
        }
        // What later revisions replaced, the oldest replacement last so that it wins.
        let mut undone: BTreeMap<&Bytes, &Option<KeyValue>> = BTreeMap::new();
        for entry in self.log.iter().rev().take_while(|entry| entry.batch.revision > at) {
            let pairs = entry.batch.events.iter().zip(&entry.before);
            undone.extend(pairs.map(|(event, before)| (event.key(), before)).filter(|(key, _)| range.contains(key)));
        }
        let from =
            self.latest.range::<[u8], _>((std::ops::Bound::Included(&range.start[..]), std::ops::Bound::Unbounded));
        let kept = from.map(|(_, item)| item).take_while(|item| range.contains(&item.key));
        let mut items: Vec<KeyValue> = kept.filter(|item| !undone.contains_key(&item.key)).cloned().collect();
        items.extend(undone.into_values().flatten().cloned());
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let more = range.limit > 0 && items.len() > range.limit;
        if more {
            items.truncate(range.limit);
        }
        Ok(RangeResult { revision: at, items, more })
    }
}

impl Store for MemoryStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        futures::future::ready(Ok(self.commit(txn))).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        futures::future::ready(self.state().range(&range)).boxed()
    }

    fn watch(&self, range: Range, from: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let state = self.state();
        let from = Revision(from.0.max(1));
        if from.0 <= state.forgotten || from.0 > state.committed + 1 {
            return futures::future::ready(Err(state.not_retained(from))).boxed();
        }
        let retained = state.log.iter().filter(|entry| entry.batch.revision >= from);
        let replay: Vec<_> = retained.filter_map(|entry| entry.batch.within(&range)).map(Ok).collect();
        let joined = self.hub.subscribe(range).map(|(_, subscription)| {
            let live = stream::unfold(Some(subscription), |subscription| async {
                let mut subscription = subscription?;
                let next = subscription.next().await;
                let rest = next.is_ok().then_some(subscription);
                Some((next, rest))
            });
            stream::iter(replay).chain(live).boxed()
        });
        futures::future::ready(joined).boxed()
    }

    fn committed(&self) -> Revision {
        Revision(self.committed.load(Ordering::Acquire))
    }

    fn export(&self) -> BoxFuture<'_, Result<Export, StoreError>> {
        let state = self.state();
        let items = state.latest.values().cloned().collect();
        let export = Export { revision: Revision(state.committed), pieces: stream::iter([Ok(items)]).boxed() };
        futures::future::ready(Ok(export)).boxed()
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut state = self.state();
        if before.0 > state.committed {
            return futures::future::ready(Err(state.not_retained(before))).boxed();
        }
        while state.forgotten + 1 < before.0 {
            state.forget_one();
        }
        futures::future::ready(Ok(())).boxed()
    }
}
