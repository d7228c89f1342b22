//! The watch cache: every resource that is used is in memory, kept up to date by one watch over the whole store.
//!
//! One dispatcher reads the store's watch and applies each batch to the caches of the resources that it touches, in
//! revision order; when it has applied a revision, all caches show it. Reads never touch the disk: a consistent read waits
//! until the dispatcher has applied what the store had committed when the read began. A resource is loaded from the store
//! at its first use: start-up loads nothing.

mod change;
mod frame;
mod history;
mod kept;
#[cfg(test)]
mod model;
mod moments;
mod recall;
mod resource_cache;
mod turns;
mod watchers;
mod watching;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use api::{ApiError, Reason, Resource, storage_key};
use base::{Backoff, Stop, Tasks};
use bytes::Bytes;
use futures::StreamExt;
use store::{Batch, Range, Revision, Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;

use moments::Moments;

pub use change::{Change, EventKind, Protobuf};
pub use frame::{frame, object_in_frame, restamp};
pub use history::Expired;
pub use kept::{Joined, Keeping, KeptLists, ListOf};
pub use resource_cache::{Entry, Observer, ResourceCache, Snapshot};
pub use watchers::{Filter, Pace, Predicate};
pub use watching::{Start, WatchEvent, Watching};

/// How often watchers that allow bookmarks learn how far they are, and histories are trimmed. Without it the position of a
/// watcher of a quiet resource grows too old to resume from.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How long a read waits for a revision that the client has seen elsewhere. Upstream waits as long.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// The caches of all resources.
pub struct Caches {
    store: Arc<dyn Store>,
    /// By `<group>/<plural>`, the part of the storage key between the root and the namespace.
    by_prefix: RwLock<HashMap<Box<str>, Arc<ResourceCache>>>,
    progress: Progress,
    kept: Arc<KeptLists>,
    /// Older moments are not listed any more.
    oldest_moment: AtomicU64,
}

impl Caches {
    /// Starts the dispatcher, which runs until `stop`.
    pub async fn start(store: Arc<dyn Store>, tasks: &Tasks, stop: Stop) -> Result<Arc<Self>, StoreError> {
        let from = store.committed();
        let progress = Progress::new(from.0);
        let caches = Arc::new(Self {
            store,
            by_prefix: RwLock::default(),
            progress,
            kept: Arc::default(),
            oldest_moment: AtomicU64::new(0),
        });
        let watch = caches.watch_store(from).await?;
        let dispatcher = caches.clone();
        tasks.spawn("watch cache dispatcher", async move {
            dispatcher.dispatch(watch, stop).await;
        });
        Ok(caches)
    }

    /// The cache of a resource in its stored form, loaded when this is its first use.
    pub async fn of(&self, resource: &'static Resource) -> Result<Arc<ResourceCache>, ApiError> {
        let prefix = storage_key::prefix(resource, None);
        let short = short_prefix(&prefix);
        let known = self.by_prefix.read().expect(POISON).get(short).cloned();
        let cache = match known {
            Some(cache) => cache,
            None => {
                let mut all = self.by_prefix.write().expect(POISON);
                all.entry(short.into())
                    .or_insert_with(|| Arc::new(ResourceCache::new(stored_form(resource).into())))
                    .clone()
            }
        };
        cache.loaded_with(|| self.load(&cache, &prefix)).await.map_err(|error| store_failed(&error))?;
        Ok(cache)
    }

    /// Ends the watches of a custom resource's cache and lets go of it.
    pub fn retire(&self, cache: &Arc<ResourceCache>) {
        let prefix = storage_key::prefix(cache.resource(), None);
        let mut all = self.by_prefix.write().expect(POISON);
        if all.get(short_prefix(&prefix)).is_some_and(|known| Arc::ptr_eq(known, cache)) {
            all.remove(short_prefix(&prefix));
        }
        // Under the lock: nobody may put it back after this.
        cache.close();
    }

    /// Loads a custom resource's cache when this is its first use, and lets its changes come to it, unless it was retired:
    /// then it shows what there is now to the request that still holds it.
    pub async fn loaded(&self, cache: &Arc<ResourceCache>) -> Result<(), ApiError> {
        let prefix = storage_key::prefix(cache.resource(), None);
        if !cache.is_loaded() {
            let mut all = self.by_prefix.write().expect(POISON);
            if !cache.is_closed() {
                all.insert(short_prefix(&prefix).into(), cache.clone());
            }
        }
        cache.loaded_with(|| self.load(cache, &prefix)).await.map_err(|error| store_failed(&error))
    }

    /// Whether a moment can be listed still.
    pub fn is_listed_at(&self, revision: u64) -> bool {
        revision >= self.oldest_moment.load(Ordering::Relaxed)
    }

    /// Lists at older revisions are answered with 410 from now on.
    pub(crate) fn give_up_moments_before(&self, revision: u64) {
        self.oldest_moment.fetch_max(revision, Ordering::Relaxed);
    }

    /// Waits until the caches show everything that is committed now: what is read after this is consistent.
    pub async fn fresh(&self) {
        self.reached(self.store.committed().0).await;
    }

    /// Waits until the caches show `revision`, which is committed.
    pub async fn reached(&self, revision: u64) {
        self.progress.reached(revision).await;
    }

    /// Waits for a revision that a client named and that may lie in the future.
    pub async fn reached_in_time(&self, revision: u64) -> Result<(), ApiError> {
        match tokio::time::timeout(WAIT_MAX, self.reached(revision)).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let message = format!("Too large resource version: {revision}, current: {}", self.applied());
                let mut error = ApiError::new(Reason::Timeout, format!("Timeout: {message}"));
                error.details = serde_json::json!({
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                    "retryAfterSeconds": 1,
                });
                Err(error)
            }
        }
    }

    /// The loaded resources, and how many objects each has.
    pub fn object_counts(&self) -> Vec<(Arc<ResourceCache>, usize)> {
        let all: Vec<_> = self.by_prefix.read().expect(POISON).values().cloned().collect();
        let loaded = all.into_iter().filter(|cache| cache.is_loaded());
        let mut counts: Vec<_> = loaded.map(|cache| (cache.clone(), cache.object_count())).collect();
        let key = |cache: &ResourceCache| (cache.resource().group.clone(), cache.resource().plural.clone());
        counts.sort_by_key(|(cache, _)| key(cache));
        counts
    }

    /// The lists that are asked for again.
    pub fn kept_lists(&self) -> &Arc<KeptLists> {
        &self.kept
    }

    /// The revision up to which every loaded cache is complete.
    pub fn applied(&self) -> u64 {
        self.progress.applied()
    }

    /// What `cache` holds now.
    pub fn snapshot(&self, cache: &ResourceCache) -> Snapshot {
        // Read before the objects: all events up to `applied` are in them then.
        let applied = self.applied();
        cache.snapshot(applied)
    }

    /// Reads all objects of a resource, at a revision that the dispatcher had not passed when it first knew the cache.
    async fn load(&self, cache: &ResourceCache, prefix: &str) -> Result<(), StoreError> {
        let from = self.applied();
        loop {
            let result = self.store.range(Range::prefix(prefix.to_owned())).await?;
            // A batch reaches the dispatcher a moment before its revision shows elsewhere: such a range came too early.
            if result.revision.0 >= from {
                cache.fill(result, prefix);
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn watch_store(&self, applied: Revision) -> Result<store::Watch, StoreError> {
        let everything = Range { start: Bytes::new(), end: Bytes::new(), limit: 0, at: None };
        self.store.watch(everything, Revision(applied.0 + 1)).await
    }

    async fn dispatch(&self, mut watch: store::Watch, stop: Stop) {
        let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        let (mut resting, mut moments) = (Resting::default(), Moments::default());
        loop {
            let next = tokio::select! {
                () = stop.stopped() => return,
                now = bookmarks.tick() => {
                    self.bookmark();
                    self.give_up_moments_before(moments.note(now, self.applied()));
                    continue
                }
                () = resting.over() => { resting.take_turns(); continue }
                next = watch.next() => next,
            };
            let error = match next {
                Some(Ok(batch)) => {
                    self.apply(batch, &mut resting);
                    continue;
                }
                Some(Err(error)) => error,
                None => StoreError::Stopped("the watch ended".to_owned()),
            };
            tracing::warn!(error = base::chain(&error), "the watch over the datastore was cut off");
            match stop.or_stopped(self.watch_again(&mut resting)).await {
                Some(again) => watch = again,
                None => return,
            }
        }
    }

    /// Watches on from where the watch stopped; when the store has forgotten that revision, compares the caches with it.
    async fn watch_again(&self, resting: &mut Resting) -> store::Watch {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
        loop {
            match self.watch_store(Revision(self.applied())).await {
                Ok(watch) => return watch,
                Err(StoreError::NotRetained { .. }) => {
                    if let Err(error) = self.resync(resting).await {
                        tracing::error!(error = base::chain(&error), "cannot read the datastore again");
                    }
                }
                Err(error) => tracing::error!(error = base::chain(&error), "cannot watch the datastore"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn resync(&self, resting: &mut Resting) -> Result<(), StoreError> {
        let all: Vec<_> = self.by_prefix.read().expect(POISON).values().cloned().collect();
        let mut oldest = u64::MAX;
        for cache in all.into_iter().filter(|cache| cache.is_loaded()) {
            let prefix = storage_key::prefix(cache.resource(), None);
            let result = self.store.range(Range::prefix(prefix.clone())).await?;
            oldest = oldest.min(result.revision.0);
            let due = cache.resync(result, &prefix);
            resting.note(cache, due);
        }
        let reached = if oldest == u64::MAX { self.store.committed().0 } else { oldest };
        self.progress.advance(reached);
        Ok(())
    }

    fn apply(&self, batch: Batch, resting: &mut Resting) {
        let revision = batch.revision.0;
        let mut touched: Vec<(Arc<ResourceCache>, Vec<store::Event>)> = Vec::with_capacity(1);
        for event in batch.events {
            let ControlFlow::Break(cache) = self.cache_of(&event) else { continue };
            match touched.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &cache)) {
                Some((_, events)) => events.push(event),
                None => touched.push((cache, vec![event])),
            }
        }
        for (cache, events) in touched {
            let due = cache.apply(revision, events);
            resting.note(cache, due);
        }
        self.progress.advance(revision);
    }

    /// Which cache an event is for; `Continue` where nobody has used that resource yet.
    fn cache_of(&self, event: &store::Event) -> ControlFlow<Arc<ResourceCache>> {
        let (store::Event::Put(store::KeyValue { key, .. }) | store::Event::Delete { key, .. }) = event;
        let Ok(key) = std::str::from_utf8(key) else { return ControlFlow::Continue(()) };
        if !key.starts_with(storage_key::ROOT) {
            return ControlFlow::Continue(());
        }
        match self.by_prefix.read().expect(POISON).get(short_prefix(key)) {
            Some(cache) => ControlFlow::Break(cache.clone()),
            None => ControlFlow::Continue(()),
        }
    }

    fn bookmark(&self) {
        self.kept.age();
        let all: Vec<_> = self.by_prefix.read().expect(POISON).values().cloned().collect();
        let applied = self.applied();
        for cache in all {
            cache.bookmark(applied);
        }
    }
}

/// The caches some of whose watchers rest while changes wait for them, and until when.
#[derive(Default)]
struct Resting(Vec<(Instant, Arc<ResourceCache>)>);

impl Resting {
    fn note(&mut self, cache: Arc<ResourceCache>, due: Option<Instant>) {
        self.0.retain(|(_, known)| !Arc::ptr_eq(known, &cache));
        self.0.extend(due.map(|due| (due, cache)));
    }

    /// Ends when the next turn is.
    async fn over(&self) {
        match self.0.iter().map(|(due, _)| *due).min() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn take_turns(&mut self) {
        let now = Instant::now();
        self.0.retain_mut(|(due, cache)| match cache.take_turn(now) {
            Some(next) => {
                *due = next;
                true
            }
            None => false,
        });
    }
}

/// How far the dispatcher is. Reading is one atomic load; waiting is woken by the dispatcher.
struct Progress {
    applied: AtomicU64,
    woken: watch::Sender<u64>,
}

impl Progress {
    fn new(applied: u64) -> Self {
        Self { applied: AtomicU64::new(applied), woken: watch::Sender::new(applied) }
    }

    fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn advance(&self, revision: u64) {
        self.applied.fetch_max(revision, Ordering::AcqRel);
        self.woken.send_modify(|applied| *applied = revision.max(*applied));
    }

    async fn reached(&self, revision: u64) {
        if self.applied() >= revision {
            return;
        }
        let mut woken = self.woken.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = woken.wait_for(|applied| *applied >= revision).await;
    }
}

pub(crate) const POISON: &str = "no holder of a watch cache's lock panics";

/// `core/pods` of `/registry/core/pods/...`.
fn short_prefix(key: &str) -> &str {
    let rest = key.strip_prefix(storage_key::ROOT).unwrap_or(key);
    let end = rest.match_indices('/').nth(1).map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

/// The row of the form that is stored.
pub fn stored_form(resource: &'static Resource) -> &'static Resource {
    let form = resource.stored_as.as_ref();
    form.and_then(|form| api::resources::by_kind(&form.group, &form.version, &form.kind)).unwrap_or(resource)
}

/// What a client is told when the store fails.
pub fn store_failed(error: &StoreError) -> ApiError {
    let why = base::chain(error);
    tracing::error!(error = why, "the datastore failed");
    match error {
        StoreError::Full { .. } => ApiError::new(Reason::ServiceUnavailable, why),
        _ => ApiError::new(Reason::InternalError, format!("Internal error occurred: {why}")),
    }
}
