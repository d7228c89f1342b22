//! The store and the watch cache against a model: random writes, bursts, compactions, crashes, lists at revisions, pages and
//! watches, of which some are not read for long. Nobody may lose, repeat or reorder a change.
//!
//! proptest prints the steps of a failure, made as few as it can, and keeps their seed beside this file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, resources, storage_key};
use base::{Stop, Tasks};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use store::{EmbeddedStore, Options, Revision, Store, Txn, TxnOutcome, Write};

use super::{Caches, EventKind, Filter, Pace, ResourceCache, Start, WatchEvent, Watching};

/// What happened, in order. All that the model is.
#[derive(Default)]
struct Model(Vec<(u64, Key, Option<u32>)>);

/// An event: what, of which object, with which value, at which revision.
type Seen = (EventKind, Key, u32, u64);

impl Model {
    fn at(&self, revision: u64) -> BTreeMap<Key, u32> {
        let mut state = BTreeMap::new();
        for (_, key, value) in self.0.iter().take_while(|(at, ..)| *at <= revision) {
            match value {
                Some(value) => drop(state.insert(key.clone(), *value)),
                None => drop(state.remove(key)),
            }
        }
        state
    }

    fn events(&self, after: u64, namespace: Option<&str>) -> Vec<Seen> {
        let mut state = self.at(after);
        let mut events = Vec::new();
        for (revision, key, value) in self.0.iter().filter(|(revision, ..)| *revision > after) {
            let old = match value {
                Some(value) => state.insert(key.clone(), *value),
                None => state.remove(key),
            };
            let event = match (old, *value) {
                (None, Some(value)) => (EventKind::Added, value),
                (Some(_), Some(value)) => (EventKind::Modified, value),
                (Some(old), None) => (EventKind::Deleted, old),
                (None, None) => continue,
            };
            if namespace.is_none_or(|namespace| *key.namespace == *namespace) {
                events.push((event.0, key.clone(), event.1, *revision));
            }
        }
        events
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Delete(u8),
    /// Two objects in one transaction.
    Both(u8, u8),
    /// So many writes at once: the dispatcher's own watch is cut off.
    Burst(u8),
    Compact(u8),
    Crash,
    /// A list at this part of all revisions.
    List(u8),
    /// A paged list begins; each `Page` reads on.
    Paged,
    Page(u8),
    /// A watch begins at this part of all revisions; of one namespace, perhaps.
    Watch(u8, bool),
    /// A watch that begins with what there is.
    WatchState,
    /// One watcher reads all that there is for it.
    Read(u8),
    /// One watcher goes, and comes back where it was.
    Resume(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<u8>().prop_map(Step::Put),
        3 => any::<u8>().prop_map(Step::Delete),
        2 => any::<(u8, u8)>().prop_map(|(a, b)| Step::Both(a, b)),
        2 => any::<u8>().prop_map(Step::Burst),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Crash),
        2 => any::<u8>().prop_map(Step::List),
        1 => Just(Step::Paged),
        2 => any::<u8>().prop_map(Step::Page),
        2 => any::<(u8, bool)>().prop_map(|(at, one)| Step::Watch(at, one)),
        1 => Just(Step::WatchState),
        3 => any::<u8>().prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::Resume),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A watcher, and up to which revision it has seen everything.
struct Reader {
    watching: Watching,
    namespace: Option<&'static str>,
    seen: u64,
}

struct World {
    folder: tempfile::TempDir,
    path: PathBuf,
    store: Arc<EmbeddedStore>,
    caches: Arc<Caches>,
    cache: Arc<ResourceCache>,
    tasks: Tasks,
    stop: Stop,
    model: Model,
    readers: Vec<Reader>,
    /// The revision of a paged list, what it has given, and whether there is more.
    paged: Option<(u64, Vec<(Key, u32)>)>,
    writes: u32,
    crashes: u32,
}

const NAMESPACES: [&str; 2] = ["a", "b"];

fn key(number: u8) -> Key {
    Key::new(NAMESPACES[usize::from(number) % 2], format!("object-{}", number / 2 % 4))
}

fn value_of(object: &api::Object) -> u32 {
    object.to_value()["data"]["value"].as_str().unwrap().parse().unwrap()
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db-0");
        let (tasks, stop) = (Tasks::new("model"), Stop::new());
        let store = open(&path);
        let caches = Caches::start(store.clone(), &tasks, stop.clone()).await.unwrap();
        let cache = caches.of(resources::CONFIG_MAPS).await.unwrap();
        let (model, readers) = (Model::default(), Vec::new());
        Self { folder, path, store, caches, cache, tasks, stop, model, readers, paged: None, writes: 0, crashes: 0 }
    }

    fn put(&mut self, number: u8) -> (Key, Option<u32>, Write) {
        self.writes += 1;
        let (key, value) = (key(number), self.writes);
        let json = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": &*key.name, "namespace": &*key.namespace}, "data": {"value": value.to_string()}});
        let write = Write::Put(stored(&key), json.to_string().into());
        (key, Some(value), write)
    }

    async fn write(&mut self, changes: Vec<(Key, Option<u32>, Write)>) {
        let writes = changes.iter().map(|(.., write)| write.clone()).collect();
        let outcome = self.store.txn(Txn { preconditions: Vec::new(), writes }).await.unwrap();
        self.note(&outcome, changes);
    }

    fn note(&mut self, outcome: &TxnOutcome, changes: Vec<(Key, Option<u32>, Write)>) {
        let TxnOutcome::Committed(revision) = outcome else { panic!("no precondition was asked for") };
        self.model.0.extend(changes.into_iter().map(|(key, value, _)| (revision.0, key, value)));
    }

    async fn burst(&mut self, count: u8) {
        let changes: Vec<_> = (0..count).map(|number| self.put(number)).collect();
        let store = self.store.clone();
        let txn = |write: &Write| store.txn(Txn { preconditions: Vec::new(), writes: vec![write.clone()] });
        let outcomes = futures::future::join_all(changes.iter().map(|(.., write)| txn(write))).await;
        let mut done: Vec<_> = outcomes.into_iter().map(Result::unwrap).zip(changes).collect();
        done.sort_by_key(|(outcome, _)| match outcome {
            TxnOutcome::Committed(revision) => *revision,
            TxnOutcome::Refused { .. } => panic!("no precondition was asked for"),
        });
        for (outcome, change) in done {
            self.note(&outcome, vec![change]);
        }
    }

    /// The process ends without a word, and another starts with what is on the disk.
    async fn crash(&mut self) {
        self.stop.stop();
        self.tasks.join().await;
        let places: Vec<_> = self.readers.drain(..).map(|reader| (reader.namespace, reader.seen)).collect();
        self.paged = None;
        self.crashes += 1;
        let next = self.folder.path().join(format!("db-{}", self.crashes));
        std::fs::copy(&self.path, &next).unwrap();
        (self.tasks, self.stop, self.path) = (Tasks::new("model"), Stop::new(), next);
        self.store = open(&self.path);
        self.caches = Caches::start(self.store.clone(), &self.tasks, self.stop.clone()).await.unwrap();
        self.cache = self.caches.of(resources::CONFIG_MAPS).await.unwrap();
        for (namespace, seen) in places {
            self.watch(Start::After(seen), namespace, seen);
        }
    }

    fn watch(&mut self, start: Start, namespace: Option<&'static str>, seen: u64) {
        let filter = Filter { namespace: namespace.map(Arc::from), ..Filter::default() };
        // So few are told at once either way.
        let pace = if self.readers.len().is_multiple_of(2) { Pace::InTurns } else { Pace::AtOnce };
        let watching = self.cache.watch(self.caches.applied(), filter, start, pace, false, Duration::from_secs(3600));
        // A revision from before the cache was loaded is said to be gone: the client lists, which `List` tests.
        if let Ok(watching) = watching {
            self.readers.push(Reader { watching, namespace, seen });
        }
    }

    async fn watch_state(&mut self) {
        self.caches.fresh().await;
        let now = self.caches.applied();
        self.watch(Start::State { bookmark: false }, None, now);
        let reader = self.readers.last_mut().expect("a watch of what there is always begins");
        let mut initial = BTreeMap::new();
        for _ in 0..self.model.at(now).len() {
            match tokio::task::unconstrained(reader.watching.next()).now_or_never() {
                Some(Some(WatchEvent::Initial(entry))) => {
                    initial.insert(entry.object.key().clone(), value_of(&entry.object));
                }
                other => panic!("expected what there was, got {other:?}"),
            }
        }
        assert_eq!(initial, self.model.at(now));
    }

    /// Reads everything that has happened; it must be exactly that.
    async fn read(&mut self, which: usize) {
        self.caches.fresh().await;
        let Some(reader) = self.readers.get_mut(which) else { return };
        let mut seen: Vec<Seen> = Vec::new();
        while let Some(event) = tokio::task::unconstrained(reader.watching.next()).now_or_never() {
            match event {
                Some(WatchEvent::Change(kind, change)) => {
                    let object = change.object(kind);
                    seen.push((kind, object.key().clone(), value_of(object), change.revision));
                }
                other => panic!("expected a change, got {other:?}"),
            }
        }
        assert_eq!(seen, self.model.events(reader.seen, reader.namespace), "after revision {}", reader.seen);
        reader.seen = self.caches.applied();
    }

    fn revision(&self, part: u8) -> u64 {
        self.caches.applied() * u64::from(part) / 255
    }

    async fn list(&mut self, at: u64) {
        self.caches.fresh().await;
        if let Ok(snapshot) = self.cache.snapshot_at(at) {
            let shown = snapshot.entries(None).map(|entry| (entry.object.key().clone(), value_of(&entry.object)));
            assert_eq!(shown.collect::<BTreeMap<_, _>>(), self.model.at(at), "at revision {at}");
        }
    }

    /// The next page of the list that was begun, at its revision.
    fn page(&mut self, limit: usize) {
        let Some((revision, shown)) = &mut self.paged else { return };
        let snapshot = self.cache.snapshot_at(*revision).expect("no change is forgotten so soon");
        let after = shown.last().map(|(key, _)| key.clone());
        let all = snapshot.entries_after(None, after.as_ref());
        shown.extend(all.take(limit).map(|entry| (entry.object.key().clone(), value_of(&entry.object))));
        let expected: Vec<_> = self.model.at(*revision).into_iter().take(shown.len()).collect();
        assert_eq!(*shown, expected, "paged at revision {revision}");
        let rest = snapshot.entries_after(None, shown.last().map(|(key, _)| key)).next();
        if rest.is_none() {
            assert_eq!(shown.len(), self.model.at(*revision).len());
            self.paged = None;
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Put(number) => {
                let change = self.put(number);
                self.write(vec![change]).await;
            }
            Step::Delete(number) => {
                let key = key(number);
                let write = Write::Delete(stored(&key));
                let was = self.model.at(u64::MAX).contains_key(&key);
                let change = vec![(key, None, write)];
                // Deleting nothing makes no revision.
                if was { self.write(change).await } else { drop(self.store.txn(Txn::default()).await.unwrap()) }
            }
            Step::Both(one, other) => {
                let mut changes = vec![self.put(one)];
                if key(one) != key(other) {
                    changes.push(self.put(other));
                }
                self.write(changes).await;
            }
            Step::Burst(count) => self.burst(count / 2).await,
            Step::Compact(part) => {
                // Not past the dispatcher: what it has not read yet it could only compare, not follow.
                self.caches.fresh().await;
                self.store.compact(Revision(self.revision(part))).await.unwrap();
            }
            Step::Crash => self.crash().await,
            Step::List(part) => self.list(self.revision(part)).await,
            Step::Paged => {
                self.caches.fresh().await;
                self.paged = Some((self.caches.applied(), Vec::new()));
            }
            Step::Page(limit) => self.page(usize::from(limit) % 4 + 1),
            Step::Watch(part, one) => {
                self.caches.fresh().await;
                let at = self.revision(part);
                self.watch(Start::After(at), one.then_some(NAMESPACES[0]), at);
            }
            Step::WatchState => self.watch_state().await,
            Step::Read(which) if !self.readers.is_empty() => {
                let which = usize::from(which) % self.readers.len();
                self.read(which).await;
            }
            Step::Resume(which) if !self.readers.is_empty() => {
                self.caches.fresh().await;
                let which = usize::from(which) % self.readers.len();
                let Reader { namespace, seen, .. } = self.readers.swap_remove(which);
                self.watch(Start::After(seen), namespace, seen);
            }
            Step::Read(_) | Step::Resume(_) => {}
        }
    }
}

fn stored(key: &Key) -> Bytes {
    storage_key::of(resources::CONFIG_MAPS, key).into()
}

/// So small that the dispatcher's own watch is cut off by a burst.
fn open(path: &std::path::Path) -> Arc<EmbeddedStore> {
    let options = Options { watch_batches_max: 8, retained_revisions_max: 100_000, ..Options::default() };
    Arc::new(EmbeddedStore::open(path, options).unwrap())
}

async fn run(steps: Vec<Step>) {
    let mut world = World::new().await;
    for step in steps {
        world.step(step).await;
    }
    for which in 0..world.readers.len() {
        world.read(which).await;
    }
    let now = world.store.committed().0;
    world.list(now).await;
    world.stop.stop();
    world.tasks.join().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nobody_loses_repeats_or_reorders_a_change(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
