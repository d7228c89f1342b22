//! The objects of one resource and scope as they were last seen, with indexes.
//!
//! Objects are encoded bytes, shared with whoever else holds them; nobody caches decoded ones. An index is built when it
//! is first asked for and kept up to date from then on: what nobody asks for costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use api::{Key, Object, Resource};
use base::Stop;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::changes::{Change, Changes, Queue};

/// How many label keys get an index. Selectors are the users' to write, so without a limit they could ask for any number;
/// beyond it a look-up walks over all objects.
const LABEL_INDEXES_MAX: usize = 64;

/// An index over values that its own function finds in an object.
#[derive(Debug, Clone, Copy)]
pub struct CustomIndex {
    /// Tells it from the other custom indexes of the same resource.
    pub name: &'static str,
    /// The values under which an object is found.
    pub values: fn(&Object) -> Vec<String>,
}

/// A view of one resource and scope that a watch keeps up to date. Cloning shares it; the watch of a whole resource lives as
/// long as its [`crate::Informers`], that of a part as long as one of its handles.
#[derive(Clone)]
pub struct Cache(pub(crate) Arc<Handle>);

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cache").field(&self.resource().plural).finish()
    }
}

/// Ends the watch when its last owner goes.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: Stop,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// What the watch writes and the handles read.
pub(crate) struct Shared {
    resource: Resource,
    state: RwLock<State>,
    revision: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Entry>,
    indexes: BTreeMap<IndexName, Index>,
    readers: Vec<Weak<Queue>>,
    synced: bool,
}

struct Entry {
    object: Object,
    /// When this state of it arrived, by the local monotonic clock.
    received: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum IndexName {
    Owner,
    Field(String),
    Label(String),
    Custom(&'static str),
}

struct Index {
    values: Extract,
    entries: BTreeSet<(Box<str>, Key)>,
}

/// Finds the values of an index in an object.
type Extract = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

impl Cache {
    /// The resource.
    pub fn resource(&self) -> &Resource {
        &self.0.shared.resource
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Object> {
        self.read().objects.get(key).map(|entry| entry.object.clone())
    }

    /// One object, unless its uid is another.
    pub fn get_uid(&self, key: &Key, uid: &str) -> Option<Object> {
        self.get(key).filter(|object| object.uid() == uid)
    }

    /// All objects, in key order. They share their bytes with the cache.
    pub fn all(&self) -> Vec<Object> {
        self.read().objects.values().map(|entry| entry.object.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects of a namespace, in key order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Object> {
        let state = self.read();
        let from = state.objects.range(Key::new(namespace, "")..);
        let inside = from.take_while(|(key, _)| &*key.namespace == namespace);
        inside.map(|(_, entry)| entry.object.clone()).collect()
    }

    /// All objects with that uid among their owner references.
    pub fn owned_by(&self, uid: &str) -> Vec<Object> {
        self.look_up(IndexName::Owner, uid, || {
            Box::new(|object| object.index().owners.iter().map(|owner| owner.uid.to_string()).collect())
        })
    }

    /// All objects whose selectable field has that value.
    pub fn by_field(&self, path: &str, value: &str) -> Vec<Object> {
        let resource = self.resource();
        let known = path == "metadata.name" || path == "metadata.namespace";
        debug_assert!(
            known || resource.selectable_fields.iter().any(|field| field == path),
            "{path} is not a selectable field of {}",
            resource.plural
        );
        let (resource, of) = (resource.clone(), path.to_owned());
        self.look_up(IndexName::Field(path.to_owned()), value, || {
            Box::new(move |object| object.field(&resource, &of).map(str::to_owned).into_iter().collect())
        })
    }

    /// All objects with that label, of all namespaces.
    pub fn with_label(&self, key: &str, value: &str) -> Vec<Object> {
        let name = IndexName::Label(key.to_owned());
        let state = self.read();
        let labels = state.indexes.keys().filter(|index| matches!(index, IndexName::Label(_))).count();
        if labels >= LABEL_INDEXES_MAX && !state.indexes.contains_key(&name) {
            let all = state.objects.values().map(|entry| &entry.object);
            return all.filter(|object| object.label(key) == Some(value)).cloned().collect();
        }
        drop(state);
        let label = key.to_owned();
        self.look_up(name, value, || {
            Box::new(move |object| object.label(&label).map(str::to_owned).into_iter().collect())
        })
    }

    /// All objects that the index has under that value.
    pub fn by_index(&self, index: &CustomIndex, value: &str) -> Vec<Object> {
        let values = index.values;
        self.look_up(IndexName::Custom(index.name), value, || Box::new(values))
    }

    /// The values that the index has objects under, each once, in order. No object is looked at.
    pub fn index_values(&self, index: &CustomIndex) -> Vec<String> {
        let (name, values) = (IndexName::Custom(index.name), index.values);
        self.with_index(name, || Box::new(values), |index, _| index.values())
    }

    /// Each present object first, then each change.
    pub fn changes(&self) -> Changes {
        let queue = Arc::new(Queue::default());
        let mut state = self.0.shared.write();
        for entry in state.objects.values() {
            queue.push(Change::Applied(entry.object.clone()), None);
        }
        if state.synced {
            queue.push(Change::Synced, None);
        }
        state.readers.push(Arc::downgrade(&queue));
        Changes { queue, _cache: self.clone() }
    }

    /// Waits until all objects that were present at the start are here.
    pub async fn synced(&self) {
        let mut synced = self.0.shared.synced.subscribe();
        synced.wait_for(|synced| *synced).await.expect("the cache holds the sender");
    }

    /// Whether all objects that were present at the start are here.
    pub fn is_synced(&self) -> bool {
        self.read().synced
    }

    /// The newest revision seen; 0 before the first synchronisation.
    pub fn revision(&self) -> u64 {
        *self.0.shared.revision.borrow()
    }

    /// Waits until `holds` is true of the cache; looked at again after each change and each bookmark.
    pub async fn wait_until(&self, holds: impl Fn(&Cache) -> bool) {
        let mut revision = self.0.shared.revision.subscribe();
        while !holds(self) {
            revision.changed().await.expect("the cache holds the sender");
        }
    }

    /// When the present state of an object arrived here, by the local monotonic clock.
    pub fn received_at(&self, key: &Key) -> Option<Instant> {
        self.read().objects.get(key).map(|entry| entry.received)
    }

    fn look_up(&self, name: IndexName, value: &str, extract: impl FnOnce() -> Extract) -> Vec<Object> {
        self.with_index(name, extract, |index, objects| index.find(value, objects))
    }

    /// Calls with an index, which is built when this is its first use.
    fn with_index<T>(
        &self,
        name: IndexName,
        extract: impl FnOnce() -> Extract,
        with: impl FnOnce(&Index, &BTreeMap<Key, Entry>) -> T,
    ) -> T {
        let state = self.read();
        if let Some(index) = state.indexes.get(&name) {
            return with(index, &state.objects);
        }
        drop(state);
        let mut state = self.0.shared.write();
        let state = &mut *state;
        let index = state.indexes.entry(name).or_insert_with(|| Index::build(extract(), &state.objects));
        with(index, &state.objects)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.shared.state.read().expect("no holder of a cache's lock panics")
    }
}

impl Shared {
    pub(crate) fn new(resource: Resource) -> Self {
        let (revision, synced) = (watch::Sender::new(0), watch::Sender::new(false));
        Self { resource, state: RwLock::default(), revision, synced }
    }

    /// Takes in an object's new state. One that is already here is no change.
    pub(crate) fn apply(&self, object: Object) {
        let mut state = self.write();
        let old = state.objects.get(object.key()).map(|entry| entry.object.clone());
        if old.as_ref().is_some_and(|old| old.uid() == object.uid() && old.revision() == object.revision()) {
            return;
        }
        for index in state.indexes.values_mut() {
            old.as_ref().inspect(|old| index.remove(old));
            index.insert(&object);
        }
        state.objects.insert(object.key().clone(), Entry { object: object.clone(), received: Instant::now() });
        state.publish(&Change::Applied(object), old.as_ref());
    }

    /// Takes an object out; `last` is its last state.
    pub(crate) fn remove(&self, last: Object) {
        let mut state = self.write();
        let Some(Entry { object: old, .. }) = state.objects.remove(last.key()) else { return };
        for index in state.indexes.values_mut() {
            index.remove(&old);
        }
        state.publish(&Change::Deleted(last), Some(&old));
    }

    /// Takes out everything that a complete list did not have.
    pub(crate) fn retain(&self, present: &HashSet<Key>) {
        let gone: Vec<Object> = {
            let state = self.state.read().expect("no holder of a cache's lock panics");
            let gone = state.objects.iter().filter(|(key, _)| !present.contains(*key));
            gone.map(|(_, entry)| entry.object.clone()).collect()
        };
        gone.into_iter().for_each(|object| self.remove(object));
    }

    /// Everything up to `revision` is here.
    pub(crate) fn advance(&self, revision: u64) {
        self.revision.send_replace(revision);
    }

    /// Everything that was present at the start is here. Does nothing the second time.
    pub(crate) fn set_synced(&self) {
        let mut state = self.write();
        if !std::mem::replace(&mut state.synced, true) {
            state.publish(&Change::Synced, None);
            drop(state);
            self.synced.send_replace(true);
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of a cache's lock panics")
    }
}

impl State {
    fn publish(&mut self, change: &Change, old: Option<&Object>) {
        self.readers.retain(|reader| {
            let reader = reader.upgrade();
            reader.inspect(|queue| queue.push(change.clone(), old.cloned())).is_some()
        });
    }
}

impl Index {
    fn build(values: Extract, objects: &BTreeMap<Key, Entry>) -> Self {
        let mut index = Self { values, entries: BTreeSet::new() };
        objects.values().for_each(|entry| index.insert(&entry.object));
        index
    }

    fn insert(&mut self, object: &Object) {
        let values = (self.values)(object).into_iter();
        self.entries.extend(values.map(|value| (value.into_boxed_str(), object.key().clone())));
    }

    fn remove(&mut self, object: &Object) {
        for value in (self.values)(object) {
            self.entries.remove(&(value.into_boxed_str(), object.key().clone()));
        }
    }

    fn values(&self) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        for (value, _) in &self.entries {
            if values.last().is_none_or(|last| **last != **value) {
                values.push(value.to_string());
            }
        }
        values
    }

    fn find(&self, value: &str, objects: &BTreeMap<Key, Entry>) -> Vec<Object> {
        let first = (Box::from(value), Key::new("", ""));
        let from = self.entries.range((Bound::Included(first), Bound::Unbounded));
        let equal = from.take_while(|(found, _)| &**found == value);
        equal.filter_map(|(_, key)| objects.get(key)).map(|entry| entry.object.clone()).collect()
    }
}
