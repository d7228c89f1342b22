//! Events go an hour after they were last written: `--event-ttl`.
//!
//! What is to go when is kept in memory, sorted by time and changed with each event; nothing is scanned, and while there is
//! no event there is no timer. The index is made anew at each start from the times in the events themselves. Deletions go to
//! the store in batches, each event only as it was when it was due, and watchers see them as any other.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{Key, Object, resources, storage_key};
use base::{Backoff, SharedClock, Stop};
use jiff::Timestamp;
use serde_json::Value;
use store::{Precondition, Revision, StoreError, Txn, TxnOutcome, Write};
use tokio::sync::Notify;

use crate::Server;
use crate::watch_cache::{Observer, ResourceCache};

/// Events that fall due within this time go together: one write instead of many.
const TOGETHER: Duration = Duration::from_secs(2);
/// Events that one transaction deletes: more would keep other writers waiting.
const BATCH_MAX: usize = 256;

const POISON: &str = "no holder of the expiry index's lock panics";

/// When each event goes.
struct Index {
    state: Mutex<State>,
    /// Told when the index is no longer empty.
    filled: Notify,
    clock: SharedClock,
    ttl: Duration,
}

#[derive(Default)]
struct State {
    by_time: BTreeSet<(Timestamp, Key)>,
    times: HashMap<Key, Timestamp>,
    /// Until what was there at the start has been told of.
    loading: bool,
}

/// Runs until `stop`.
pub(crate) async fn run(server: Arc<Server>, stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let cache = loop {
        match server.caches.of(resources::EVENTS).await {
            Ok(cache) => break cache,
            Err(error) => tracing::error!(error = base::chain(&error), "cannot read events; they do not expire yet"),
        }
        if stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await.is_none() {
            return;
        }
    };
    let (clock, ttl) = (server.config.clock.clone(), server.config.limits.event_ttl);
    let state = Mutex::new(State { loading: true, ..State::default() });
    let index = Arc::new(Index { state, filled: Notify::new(), clock, ttl });
    cache.observe(Arc::new(Follow(index.clone())));
    index.state().loading = false;
    let _ = stop.or_stopped(expire(&server, &cache, &index)).await;
}

async fn expire(server: &Arc<Server>, cache: &ResourceCache, index: &Index) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        index.wait_for_due().await;
        let due = index.due();
        if due.is_empty() {
            continue;
        }
        match delete(server, cache, due).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::error!(error = base::chain(&error), "cannot delete expired events; trying again");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Deletes those that are still as the cache has them. Who was written meanwhile has a later time already.
async fn delete(server: &Arc<Server>, cache: &ResourceCache, due: Vec<Key>) -> Result<(), StoreError> {
    let with_revision = |key: Key| {
        let revision = Revision(cache.get(&key)?.revision());
        Some((storage_key::of(cache.resource(), &key), revision))
    };
    let mut batch: Vec<_> = due.into_iter().filter_map(with_revision).collect();
    while !batch.is_empty() {
        let key = |key: &String| bytes::Bytes::copy_from_slice(key.as_bytes());
        let txn = Txn {
            preconditions: batch.iter().map(|(k, revision)| Precondition::ModifiedAt(key(k), *revision)).collect(),
            writes: batch.iter().map(|(k, _)| Write::Delete(key(k))).collect(),
        };
        match server.config.store.txn(txn).await? {
            // The index learns of it from the cache: looking again before that would find the same events.
            TxnOutcome::Committed(revision) => {
                server.caches.reached(revision.0).await;
                return Ok(());
            }
            TxnOutcome::Refused { precondition, .. } => drop(batch.swap_remove(precondition)),
        }
    }
    // Whoever was faster than us is committed: the cache will show it.
    server.caches.fresh().await;
    Ok(())
}

impl Index {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISON)
    }

    /// Waits until the first event is due, and a moment longer for those that come with it.
    async fn wait_for_due(&self) {
        let first = self.state().by_time.first().map(|(at, _)| *at);
        let Some(first) = first else { return self.filled.notified().await };
        let left = Duration::try_from(first.duration_since(self.clock.now())).unwrap_or_default();
        // Whatever comes meanwhile is due later; what goes meanwhile only makes this wake for nothing.
        tokio::time::sleep(left + TOGETHER).await;
    }

    fn due(&self) -> Vec<Key> {
        let now = self.clock.now();
        let state = self.state();
        state.by_time.iter().take_while(|(at, _)| *at <= now).take(BATCH_MAX).map(|(_, key)| key.clone()).collect()
    }
}

struct Follow(Arc<Index>);

impl Observer for Follow {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(object) = new.or(old) else { return };
        let now = self.0.clock.now();
        let mut state = self.0.state();
        if let Some(at) = state.times.remove(object.key()) {
            state.by_time.remove(&(at, object.key().clone()));
        }
        let Some(new) = new else { return };
        let written = if state.loading { last_written(&new.to_value()).unwrap_or(now).min(now) } else { now };
        let at = written.checked_add(self.0.ttl).unwrap_or(Timestamp::MAX);
        state.times.insert(new.key().clone(), at);
        state.by_time.insert((at, new.key().clone()));
        if state.by_time.len() == 1 {
            self.0.filled.notify_one();
        }
    }
}

/// The latest of an event's own times.
fn last_written(event: &Value) -> Option<Timestamp> {
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
    ];
    times.into_iter().filter_map(|time| time.as_str()?.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_time_counts() {
        let event = json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"}, "eventTime": null,
            "lastTimestamp": "2030-01-01T00:10:00Z", "series": {"lastObservedTime": "2030-01-01T00:05:00.123456Z"}});
        assert_eq!(last_written(&event).unwrap().to_string(), "2030-01-01T00:10:00Z");
        assert_eq!(last_written(&json!({})), None);
    }
}
