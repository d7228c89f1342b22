//! What changed in a cache, for one reader, coalesced per key.
//!
//! A reader that lags sees the latest state of each key once, in the order in which the keys first changed: what waits for
//! it is bounded by the number of objects, and it never holds up the watch or other readers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use api::{Key, Object};
use tokio::sync::Notify;

use crate::cache::Cache;

/// One change. A delete and re-create that fall together show as `Applied` with another uid: compare uids.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object was added or changed.
    Applied(Object),
    /// The object is gone; its last known state.
    Deleted(Object),
    /// All objects that were present at the start have been seen. Once.
    Synced,
}

/// The changes of one cache: each present object first, then `Synced`, then each change.
pub struct Changes {
    pub(crate) queue: Arc<Queue>,
    /// Keeps the watch alive.
    pub(crate) _cache: Cache,
}

impl Changes {
    /// The next change; waits for one. Loses nothing when its future is dropped.
    pub async fn next(&mut self) -> Change {
        self.next_with_old().await.0
    }

    /// The next change with the state that this reader saw before, if any.
    pub async fn next_with_old(&mut self) -> (Change, Option<Object>) {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.queue.ready.notified().await;
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Option<(Change, Option<Object>)> {
        let mut pending = self.queue.lock();
        let (_, item) = pending.order.pop_first()?;
        if let Change::Applied(object) | Change::Deleted(object) = &item.change {
            pending.by_key.remove(object.key());
        }
        Some((item.change, item.old))
    }
}

/// What waits for one reader.
#[derive(Default)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    ready: Notify,
}

#[derive(Default)]
struct Pending {
    order: BTreeMap<u64, Item>,
    by_key: HashMap<Key, u64>,
    next: u64,
}

struct Item {
    /// What the reader saw before.
    old: Option<Object>,
    change: Change,
}

impl Queue {
    /// Queues a change; `old` is the state in the cache before it.
    pub(crate) fn push(&self, change: Change, old: Option<Object>) {
        let mut pending = self.lock();
        let pending = &mut *pending;
        let key = match &change {
            Change::Applied(object) | Change::Deleted(object) => Some(object.key().clone()),
            Change::Synced => None,
        };
        if let Some(at) = key.as_ref().and_then(|key| pending.by_key.get(key)).copied() {
            let item = pending.order.get_mut(&at).expect("every key in by_key is in order");
            item.change = change;
            if item.old.is_none() && matches!(item.change, Change::Deleted(_)) {
                // Came and went before the reader looked.
                pending.order.remove(&at);
                key.map(|key| pending.by_key.remove(&key));
            }
            return;
        }
        if let Some(key) = key {
            pending.by_key.insert(key, pending.next);
        }
        pending.order.insert(pending.next, Item { old, change });
        pending.next += 1;
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no holder of a change queue's lock panics")
    }
}
