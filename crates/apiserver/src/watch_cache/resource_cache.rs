//! One resource in memory: its objects in key order, its recent changes, its watchers.
//!
//! Two locks, neither held across an await or over encoding: `state` for objects and history, `watchers` for delivery. Who
//! needs both takes `watchers` first. Only the dispatcher changes objects, so changes reach watchers in order.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{Key, Object, Resource, Row, storage_key};
use bytes::Bytes;
use imbl::OrdMap;
use store::{Event, KeyValue, RangeResult, StoreError};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::history::{Expired, History};
use super::watchers::{Filter, Pace, Place, Watchers};
use super::watching::{Hook, Start, Watching};
use super::{Change, EventKind, POISON, frame};
use crate::custom::{self, Schemas};

/// A cached object.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The object.
    pub object: Object,
    /// The `ADDED` frame that its bytes are a slice of, where they are.
    added: Option<Bytes>,
}

impl Entry {
    pub(crate) fn without_frame(object: Object) -> Self {
        Self { object, added: None }
    }

    /// The frame that tells a new watcher of this object; a copy where the object's bytes came with another event.
    pub fn added_frame(&self) -> Bytes {
        self.added.clone().unwrap_or_else(|| frame::wrap(EventKind::Added, self.object.json()))
    }
}

/// All objects of a resource at one revision. Costs one pointer, whatever happens to the resource afterwards.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision that it shows.
    pub revision: u64,
    /// The revision that last changed the resource before it; `None` where that is not known.
    pub changed: Option<u64>,
    objects: OrdMap<Key, Entry>,
}

impl Snapshot {
    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key).map(|entry| &entry.object)
    }

    /// All objects, in key order, or those of one namespace.
    pub fn entries<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        self.entries_after(namespace, None)
    }

    /// Those behind `after`.
    pub fn entries_after<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Entry> {
        let first = namespace.map(|namespace| Key::new(namespace, ""));
        let start = match (after, first) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(first)) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let range = self.objects.range((start, Bound::Unbounded));
        let within = move |(key, _): &(&Key, &Entry)| namespace.is_none_or(|namespace| *key.namespace == *namespace);
        range.take_while(within).map(|(_, entry)| entry)
    }

    /// How many objects there are in all namespaces.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// Keeps an index that is exactly as fresh as the cache. Called by the dispatcher, under the cache's lock: must be quick,
/// must not block and must not call the cache.
pub trait Observer: Send + Sync + 'static {
    /// An object came (`old` is `None`), changed, or went (`new` is `None`).
    fn changed(&self, old: Option<&Object>, new: Option<&Object>);
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: OrdMap<Key, Entry>,
    /// The last revision that changed this resource, or at which it was read from the store.
    pub(super) revision: u64,
    pub(super) history: History,
    /// Until the resource is loaded, what happens meanwhile.
    pending: Option<Vec<(u64, Vec<Event>)>>,
    observers: Vec<Arc<dyn Observer>>,
    /// Whether the resource is no longer served in this form: nobody can watch it any more.
    closed: bool,
}

/// The cache of one resource.
pub struct ResourceCache {
    resource: Row,
    /// The schemas that stored bytes are read by, where they may be of an earlier one.
    schemas: Option<Arc<Schemas>>,
    prefix_length: usize,
    loaded: OnceCell<()>,
    state: Mutex<State>,
    watchers: Mutex<Watchers>,
    /// Held by who reads the history back from the store.
    pub(super) recalling: tokio::sync::Mutex<()>,
}

impl ResourceCache {
    pub(crate) fn new(resource: Row) -> Self {
        let state = State { pending: Some(Vec::new()), ..State::default() };
        Self {
            prefix_length: storage_key::prefix(&resource, None).len(),
            resource,
            schemas: None,
            loaded: OnceCell::new(),
            state: Mutex::new(state),
            watchers: Mutex::default(),
            recalling: tokio::sync::Mutex::default(),
        }
    }

    /// The cache of a custom resource.
    pub(crate) fn custom(resource: Row, schemas: Arc<Schemas>) -> Self {
        Self { schemas: Some(schemas), ..Self::new(resource) }
    }

    /// The resource, in the form that is stored.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// One object, as the cache has it now.
    pub fn get(&self, key: &Key) -> Option<Object> {
        self.state().objects.get(key).map(|entry| entry.object.clone())
    }

    /// Tells `observer` of every present object, then of every change.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        let mut state = self.state();
        for (_, entry) in &state.objects {
            observer.changed(None, Some(&entry.object));
        }
        state.observers.push(observer);
    }

    /// All objects at the newest revision that is known to be complete: `applied`, or a later change of this resource.
    pub(crate) fn snapshot(&self, applied: u64) -> Snapshot {
        let state = self.state();
        Snapshot {
            revision: state.revision.max(applied),
            changed: Some(state.revision),
            objects: state.objects.clone(),
        }
    }

    /// All objects at a recent revision. The caches must show it already.
    pub fn snapshot_at(&self, revision: u64) -> Result<Snapshot, Expired> {
        let state = self.state();
        let mut objects = state.objects.clone();
        state.history.rewind(&mut objects, revision)?;
        Ok(Snapshot { revision, changed: None, objects })
    }

    /// Ends all watches, without an error: who watched finds out what is served now.
    pub(crate) fn close(&self) {
        let mut watchers = self.watchers.lock().expect(POISON);
        self.state().closed = true;
        watchers.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Watches from `start` on.
    pub fn watch(
        self: &Arc<Self>,
        applied: u64,
        filter: Filter,
        start: Start,
        pace: Pace,
        bookmarks: bool,
        lasting: Duration,
    ) -> Result<Watching, Expired> {
        let filter = Arc::new(filter);
        let mut watchers = self.watchers.lock().expect(POISON);
        let state = self.state();
        let now = state.revision.max(applied);
        let (initial, backlog, revision) = match start {
            Start::State { .. } => (Some(state.objects.clone()), Vec::new(), now),
            Start::After(revision) => {
                (None, state.history.since(revision)?.cloned().collect(), revision.max(state.revision))
            }
        };
        let from_sequence = state.history.next_sequence();
        let closed = state.closed;
        drop(state);
        let hook = Hook::new(self.clone(), filter, pace, bookmarks, &mut watchers, from_sequence);
        if closed {
            watchers.close();
        }
        drop(watchers);
        let backlog = hook.backlog(backlog.iter());
        let initial = initial.map(|objects| Snapshot { revision: now, changed: None, objects });
        Ok(Watching::new(hook, initial.as_ref(), start, backlog, (revision, from_sequence), lasting))
    }

    /// Hooks a watcher in again that was unhooked because its queue was full: `None` when the history has moved on.
    pub(crate) fn catch_up(&self, sequence: u64) -> Option<(MutexGuard<'_, Watchers>, Vec<Arc<Change>>, u64)> {
        let watchers = self.watchers.lock().expect(POISON);
        let state = self.state();
        if state.closed {
            return None;
        }
        let missed = state.history.since_sequence(sequence)?.cloned().collect();
        Some((watchers, missed, state.history.next_sequence()))
    }

    pub(crate) fn unhook(&self, pace: Pace, place: &Place, id: u64) {
        self.watchers.lock().expect(POISON).remove(pace, place, id);
    }

    /// The oldest revision that a watch can resume from.
    pub(crate) fn oldest(&self) -> u64 {
        self.state().history.oldest()
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        self.state().objects.len()
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.watchers.lock().expect(POISON).len()
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.initialized()
    }

    pub(crate) async fn loaded_with<F>(&self, load: impl FnOnce() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        self.loaded.get_or_try_init(load).await.map(drop)
    }

    /// Takes what the store held, then what has happened since.
    pub(crate) fn fill(&self, result: RangeResult, prefix: &str) {
        let revision = result.revision.0;
        let mut objects = OrdMap::new();
        for item in result.items {
            if let Some(entry) = self.entry(&item, prefix, EventKind::Added) {
                objects.insert(entry.object.key().clone(), entry);
            }
        }
        let mut state = self.state();
        state.objects = objects;
        state.revision = revision;
        state.history.begin(revision);
        let pending = state.pending.take().unwrap_or_default();
        // Nobody can watch before the cache is loaded: what is pending needs no delivery.
        for (revision, events) in pending.into_iter().filter(|(pending, _)| *pending > revision) {
            self.record(&mut state, revision, events);
        }
    }

    /// Applies one revision and tells the watchers. Where some of them rest, says when [`Self::take_turn`] is due.
    pub(crate) fn apply(&self, revision: u64, events: Vec<Event>) -> Option<Instant> {
        let changes = {
            let mut state = self.state();
            if let Some(pending) = &mut state.pending {
                pending.push((revision, events));
                return None;
            }
            if revision <= state.revision {
                return None;
            }
            self.record(&mut state, revision, events)
        };
        self.watchers.lock().expect(POISON).deliver(&changes)
    }

    /// Tells the watchers that take turns what waits for them, unless they still rest: then says until when.
    pub(crate) fn take_turn(&self, now: Instant) -> Option<Instant> {
        self.watchers.lock().expect(POISON).take_turn(now)
    }

    /// Makes the cache what the store holds, as changes, when the watch over the store has lost its place.
    pub(crate) fn resync(&self, result: RangeResult, prefix: &str) -> Option<Instant> {
        let mut state = self.state();
        let mut events: Vec<(u64, Event)> = Vec::new();
        let mut gone = state.objects.clone();
        for item in result.items {
            let key = item.key.get(prefix.len()..).and_then(|rest| std::str::from_utf8(rest).ok());
            let known = key.and_then(|rest| storage_key::split(&self.resource, rest)).and_then(|key| gone.remove(&key));
            if known.is_none_or(|known| known.object.revision() != item.modified.0) {
                events.push((item.modified.0, Event::Put(item)));
            }
        }
        for (key, _) in &gone {
            let key = Bytes::from(storage_key::of(&self.resource, key));
            events.push((result.revision.0, Event::Delete { key, revision: result.revision }));
        }
        events.sort_by_key(|(revision, _)| *revision);
        let mut changes = Vec::new();
        for (revision, event) in events {
            changes.extend(self.record(&mut state, revision, vec![event]));
        }
        state.revision = result.revision.0;
        drop(state);
        self.watchers.lock().expect(POISON).deliver(&changes)
    }

    pub(crate) fn bookmark(&self, applied: u64) {
        let mut watchers = self.watchers.lock().expect(POISON);
        let mut state = self.state();
        state.history.trim();
        let revision = state.revision.max(applied);
        drop(state);
        watchers.bookmark(revision);
    }

    pub(super) fn record(&self, state: &mut State, revision: u64, events: Vec<Event>) -> Vec<Arc<Change>> {
        state.revision = revision;
        events.into_iter().filter_map(|event| self.record_one(state, revision, event)).collect()
    }

    fn record_one(&self, state: &mut State, revision: u64, event: Event) -> Option<Arc<Change>> {
        let sequence = state.history.next_sequence();
        let change = match event {
            Event::Put(item) => {
                let key = self.key_of(&item.key)?;
                let kind = if state.objects.contains_key(&key) { EventKind::Modified } else { EventKind::Added };
                let (entry, frame) = self.framed(&item, kind)?;
                let object = entry.object.clone();
                let old = state.objects.insert(key, entry).map(|entry| entry.object);
                Change::new(sequence, revision, old, Some(object)).with_frame(kind, frame)
            }
            Event::Delete { key, .. } => {
                let old = state.objects.remove(&self.key_of(&key)?)?.object;
                Change::new(sequence, revision, Some(old), None)
            }
        };
        for observer in &state.observers {
            observer.changed(change.old.as_ref(), change.new.as_ref());
        }
        let change = Arc::new(change);
        state.history.push(change.clone());
        Some(change)
    }

    pub(super) fn entry(&self, item: &KeyValue, prefix: &str, kind: EventKind) -> Option<Entry> {
        debug_assert!(item.key.starts_with(prefix.as_bytes()), "the store answers with the keys that it was asked for");
        self.framed(item, kind).map(|(entry, _)| entry)
    }

    fn framed(&self, item: &KeyValue, kind: EventKind) -> Option<(Entry, Bytes)> {
        let value = match &self.schemas {
            Some(schemas) => custom::normalized(schemas, &self.resource, &item.value),
            None => Cow::Borrowed(&*item.value),
        };
        let frame = frame::frame(kind, &value, item.modified.0);
        match Object::parse(&self.resource, frame::object_in_frame(kind, &frame)) {
            Ok(object) => {
                let added = (kind == EventKind::Added).then(|| frame.clone());
                Some((Entry { object, added }, frame))
            }
            Err(error) => {
                let key = String::from_utf8_lossy(&item.key);
                tracing::error!(%key, error = base::chain(&error), "skipping a stored object that cannot be read");
                None
            }
        }
    }

    fn key_of(&self, key: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(key.get(self.prefix_length..)?).ok()?;
        storage_key::split(&self.resource, rest)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISON)
    }
}

impl std::fmt::Debug for ResourceCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ResourceCache({})", self.resource.plural)
    }
}
