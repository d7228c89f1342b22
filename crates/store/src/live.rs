//! Live delivery: every published batch reaches every watcher's own bounded queue, in revision order.
//!
//! Joining and publishing exclude each other, so a watcher knows exactly the revision from which its queue is complete and
//! reads what came before elsewhere: no gap, no repeat. A full queue cuts its watcher off and delays nobody else.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use tokio::sync::mpsc;

use crate::{Batch, Range, Revision, StoreError};

/// The watchers of one store.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Debug)]
struct State {
    published: Revision,
    next_id: u64,
    watchers: Vec<Watcher>,
    ended: Option<String>,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    range: Range,
    queue: mpsc::Sender<Batch>,
    end: Arc<OnceLock<End>>,
}

/// Why a watcher's queue was closed.
#[derive(Debug)]
enum End {
    Slow,
    Stopped(String),
}

/// One watcher's end of its queue. Dropping it leaves the hub.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    queue: mpsc::Receiver<Batch>,
    end: Arc<OnceLock<End>>,
}

impl Hub {
    /// A hub whose watchers may fall `limit` batches behind.
    pub(crate) fn new(published: Revision, limit: usize) -> Self {
        let state = State { published, next_id: 0, watchers: Vec::new(), ended: None };
        Self { state: Mutex::new(state), limit: limit.max(1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the watchers")
    }

    /// The last revision that was published.
    pub(crate) fn published(&self) -> Revision {
        self.state().published
    }

    /// Joins: the queue will have every batch after the revision that is returned with it.
    pub(crate) fn subscribe(self: &Arc<Self>, range: Range) -> Result<(Revision, Subscription), StoreError> {
        let (sender, queue) = mpsc::channel(self.limit);
        let end = Arc::new(OnceLock::new());
        let mut state = self.state();
        if let Some(why) = &state.ended {
            return Err(StoreError::Stopped(why.clone()));
        }
        let id = state.next_id;
        state.next_id += 1;
        state.watchers.push(Watcher { id, range, queue: sender, end: end.clone() });
        Ok((state.published, Subscription { hub: self.clone(), id, queue, end }))
    }

    /// Hands the batches of consecutive revisions to all watchers that asked for them.
    pub(crate) fn publish(&self, batches: &[Batch]) {
        let mut state = self.state();
        if let Some(last) = batches.last() {
            state.published = last.revision;
        }
        state.watchers.retain(|watcher| batches.iter().all(|batch| watcher.offer(batch)));
    }

    /// Ends all watches, and those asked for from now on, with the reason.
    pub(crate) fn end(&self, why: &str) {
        let mut state = self.state();
        state.ended.get_or_insert_with(|| why.to_owned());
        for watcher in state.watchers.drain(..) {
            let _ = watcher.end.set(End::Stopped(why.to_owned()));
        }
    }
}

impl Watcher {
    /// Queues the part of the batch that was asked for; whether the watcher stays.
    fn offer(&self, batch: &Batch) -> bool {
        let Some(batch) = batch.within(&self.range) else { return true };
        match self.queue.try_send(batch) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                let _ = self.end.set(End::Slow);
                false
            }
        }
    }
}

impl Subscription {
    /// The next batch; what was queued before a cut-off still arrives, then its reason.
    pub(crate) async fn next(&mut self) -> Result<Batch, StoreError> {
        if let Some(batch) = self.queue.recv().await {
            return Ok(batch);
        }
        Err(match self.end.get() {
            Some(End::Stopped(why)) => StoreError::Stopped(why.clone()),
            Some(End::Slow) | None => StoreError::SlowWatcher { limit: self.hub.limit },
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Without this a watcher of a quiet range would stay in the list after it has gone.
        self.hub.state().watchers.retain(|watcher| watcher.id != self.id);
    }
}
