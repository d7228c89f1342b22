//! The work queue: each key at most once, one worker on a key at a time, failed keys again after a growing delay.
//!
//! A key that is added while a worker is on it is handed out again when that worker is done. What is kept is one entry for
//! each key that waits, is worked on, or failed last: bounded by the number of objects.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::QueueMetrics;

/// The delay after the first failure of a key, doubled at each further one. Upstream's figures.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(1000);

/// The longest delay of a failed key once it was added again.
const RETRY_AFTER_CHANGE: Duration = Duration::from_secs(1);

/// Keys that want work.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    ready: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    timers: BTreeSet<(Instant, K)>,
    entries: HashMap<K, Entry>,
    active: usize,
    metrics: Option<QueueMetrics>,
}

#[derive(Debug, Default)]
struct Entry {
    phase: Phase,
    due: Option<Instant>,
    failures: u32,
    /// When it came into its phase: what the metrics' durations are measured from.
    since: Option<Instant>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Ready,
    Active,
    /// Active, and added again meanwhile.
    Again,
}

/// How the work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing to do until the key is added.
    Settled,
    /// Again after this time, or earlier when the key is added.
    After(Duration),
    /// Again after a delay that doubles with each failure.
    Failed,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let (ready, timers, entries) = (VecDeque::new(), BTreeSet::new(), HashMap::new());
        Self { state: Mutex::new(State { ready, timers, entries, active: 0, metrics: None }), ready: Notify::new() }
    }
}

impl<K: Clone + Ord + Hash> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty queue that is counted in the metrics under this name.
    pub fn named(name: &str) -> Self {
        let queue = Self::default();
        queue.lock().metrics = Some(QueueMetrics::of(name));
        queue
    }

    /// The key wants work now.
    pub fn add(&self, key: &K) {
        if self.lock().make_ready(key) {
            self.ready.notify_one();
        }
    }

    /// The key wants work after a time; an earlier wish stays.
    pub fn add_after(&self, key: &K, delay: Duration) {
        self.lock().make_due(key, Instant::now() + delay);
        self.ready.notify_one();
    }

    /// The next key; waits for one. The caller owns the key until it calls [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let due = {
                let mut state = self.lock();
                let due = state.ripen(Instant::now());
                if let Some(key) = state.take() {
                    // One wake-up may stand for several keys.
                    if !state.ready.is_empty() {
                        self.ready.notify_one();
                    }
                    return key;
                }
                due
            };
            match due {
                None => self.ready.notified().await,
                Some(due) => tokio::select! {
                    () = self.ready.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// Gives a key back.
    pub fn done(&self, key: &K, done: Done) {
        let mut state = self.lock();
        state.active -= 1;
        let entry = state.entries.get_mut(key).expect("a key that is worked on has an entry");
        let again = std::mem::take(&mut entry.phase) == Phase::Again;
        entry.failures = if done == Done::Failed { entry.failures + 1 } else { 0 };
        let (failures, since) = (entry.failures, entry.since.take());
        state.count_done(since, failures > 0);
        match done {
            Done::Failed => {
                state.make_due(key, Instant::now() + retry_delay(failures));
                if again {
                    state.make_ready(key);
                }
            }
            _ if again => drop(state.make_ready(key)),
            Done::After(delay) => state.make_due(key, Instant::now() + delay),
            Done::Settled => state.forget_idle(key),
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Whether no key is ready or worked on; delayed ones may wait.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.ready.is_empty() && state.active == 0
    }

    /// How many keys are ready or worked on.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.ready.len() + state.active
    }

    /// The same as [`Queue::is_idle`].
    pub fn is_empty(&self) -> bool {
        self.is_idle()
    }

    /// How often in a row a key has failed before this time.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().entries.get(key).map_or(0, |entry| entry.failures)
    }

    /// Whether a failed key waits for its next attempt.
    pub fn has_failures(&self) -> bool {
        self.lock().entries.values().any(|entry| entry.failures > 0)
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().expect("no holder of a work queue's lock panics")
    }
}

impl<K: Clone + Ord + Hash> State<K> {
    /// Whether a worker is to be woken.
    fn make_ready(&mut self, key: &K) -> bool {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.phase {
            Phase::Ready | Phase::Again => false,
            Phase::Active => {
                entry.phase = Phase::Again;
                false
            }
            // A change may be what heals a failed key, but a key whose own attempts change something must not fail in a
            // tight loop: the delay is cut short, not dropped.
            Phase::Idle if entry.failures > 0 && entry.due.is_some() => {
                self.make_due(key, Instant::now() + RETRY_AFTER_CHANGE);
                true
            }
            Phase::Idle => {
                entry.phase = Phase::Ready;
                entry.since = Some(Instant::now());
                if let Some(metrics) = &self.metrics {
                    metrics.adds.inc();
                    metrics.depth.add(1);
                }
                if let Some(due) = entry.due.take() {
                    self.timers.remove(&(due, key.clone()));
                }
                self.ready.push_back(key.clone());
                true
            }
        }
    }

    fn make_due(&mut self, key: &K, due: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.due {
            _ if entry.phase == Phase::Ready => return,
            Some(earlier) if earlier <= due => return,
            Some(later) => drop(self.timers.remove(&(later, key.clone()))),
            None => {}
        }
        entry.due = Some(due);
        self.timers.insert((due, key.clone()));
    }

    /// Makes ready what is due, and tells when the next one will be.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, _)) = self.timers.first() {
            if *due > now {
                return Some(*due);
            }
            let (_, key) = self.timers.pop_first().expect("there is a first timer");
            self.entries.get_mut(&key).expect("a key with a timer has an entry").due = None;
            self.make_ready(&key);
        }
        None
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        let entry = self.entries.get_mut(&key).expect("a ready key has an entry");
        entry.phase = Phase::Active;
        let waited_since = entry.since.replace(Instant::now());
        if let (Some(metrics), Some(since)) = (&self.metrics, waited_since) {
            metrics.depth.add(-1);
            metrics.waited.observe(since.elapsed());
        }
        self.active += 1;
        Some(key)
    }

    fn count_done(&self, since: Option<Instant>, failed: bool) {
        let (Some(metrics), Some(since)) = (&self.metrics, since) else { return };
        metrics.worked.observe(since.elapsed());
        if failed {
            metrics.retries.inc();
        }
    }

    fn forget_idle(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(|entry| entry.due.is_none()) {
            self.entries.remove(key);
        }
    }
}

fn retry_delay(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << (failures - 1).min(20)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_handed_to_one_worker_at_a_time() {
        let queue = Queue::new();
        queue.add(&"a");
        queue.add(&"a");
        queue.add(&"b");
        assert_eq!(queue.next().await, "a");
        queue.add(&"a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(tokio::time::timeout(Duration::from_secs(9), queue.next()).await.ok(), None);
        queue.done(&"a", Done::Settled);
        assert_eq!(queue.next().await, "a", "it was added while it was worked on");
        queue.done(&"a", Done::Settled);
        queue.done(&"b", Done::Settled);
        assert!(queue.is_idle() && queue.lock().entries.is_empty(), "nothing is kept of settled keys");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_keys_wait_longer_each_time_and_start_over_after_a_success() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add(&"a");
        for delay in [0, 5, 10, 20, 40] {
            let before = Instant::now();
            queue.next().await;
            assert_eq!(before.elapsed().as_millis(), delay);
            queue.done(&"a", Done::Failed);
            queue.add(&"a");
        }
        queue.next().await;
        queue.done(&"a", Done::After(Duration::from_secs(60)));
        queue.add(&"a");
        assert_eq!(queue.next().await, "a", "a change does not wait for the time");
        assert_eq!(start.elapsed().as_millis(), 155);
        assert_eq!(retry_delay(100), RETRY_MAX);
        for _ in 0..12 {
            queue.done(&"a", Done::Failed);
            queue.next().await;
        }
        queue.done(&"a", Done::Failed);
        let failed = Instant::now();
        queue.add(&"a");
        queue.next().await;
        assert_eq!(failed.elapsed(), RETRY_AFTER_CHANGE, "a change cuts a long delay short");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_wish_wakes_a_waiting_worker() {
        let queue = Queue::new();
        queue.add_after(&"late", Duration::from_secs(60));
        let start = Instant::now();
        let (key, ()) = tokio::join!(queue.next(), async { queue.add_after(&"early", Duration::from_secs(1)) });
        assert_eq!((key, start.elapsed().as_secs()), ("early", 1));
    }
}
