//! One suite that every store must pass, a model that random histories are compared with, and what only a file can get
//! wrong: a second process, flipped bytes, a lost tail.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;

use crate::*;

/// Both stores, the embedded one so small that it compacts all the time.
fn stores(folder: &Path) -> Vec<Arc<dyn Store>> {
    let options = Options { retained_revisions_max: 100_000, ..Options::default() };
    vec![Arc::new(MemoryStore::new()), Arc::new(EmbeddedStore::open(folder.join("store/db"), options).unwrap())]
}

fn put(key: &str, value: &str) -> Write {
    Write::Put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

fn key(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

async fn write(store: &dyn Store, writes: Vec<Write>) -> Revision {
    match store.txn(Txn { preconditions: Vec::new(), writes }).await.unwrap() {
        TxnOutcome::Committed(revision) => revision,
        refused => panic!("no precondition was asked for: {refused:?}"),
    }
}

async fn show(store: &dyn Store, prefix: &str, at: Option<u64>) -> Vec<String> {
    let range = Range { at: at.map(Revision), ..Range::prefix(prefix.to_owned()) };
    let items = store.range(range).await.unwrap().items;
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    items
        .iter()
        .map(|item| format!("{}={}@{}/{}", text(&item.key), text(&item.value), item.created, item.modified))
        .collect()
}

async fn next(watch: &mut Watch) -> Result<Batch, StoreError> {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    next.expect("a batch arrives within the deadline").expect("a watch does not end without a reason")
}

#[tokio::test]
async fn preconditions_hold_or_name_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        assert_eq!(write(&*store, vec![put("a", "1"), put("b", "1")]).await, Revision(1));
        let try_it = |preconditions| store.txn(Txn { preconditions, writes: vec![put("a", "2")] });
        let refused = try_it(vec![Precondition::ModifiedAt(key("b"), Revision(1)), Precondition::Absent(key("a"))]);
        let a = KeyValue { key: key("a"), value: key("1"), created: Revision(1), modified: Revision(1) };
        assert_eq!(refused.await.unwrap(), TxnOutcome::Refused { precondition: 1, current: Some(a) });
        let refused = try_it(vec![Precondition::ModifiedAt(key("c"), Revision(1))]).await.unwrap();
        assert_eq!(refused, TxnOutcome::Refused { precondition: 0, current: None });
        assert_eq!(store.committed(), Revision(1), "a refused transaction makes no revision");
        let done = try_it(vec![Precondition::ModifiedAt(key("a"), Revision(1)), Precondition::Absent(key("c"))]).await;
        assert_eq!(done.unwrap(), TxnOutcome::Committed(Revision(2)));
        assert_eq!(write(&*store, vec![Write::Delete(key("gone"))]).await, Revision(2), "nothing changed");
        assert_eq!(write(&*store, vec![Write::Delete(key("b")), put("c", "1")]).await, Revision(3));
        assert_eq!(show(&*store, "", None).await, ["a=2@1/2", "c=1@3/3"]);
        assert_eq!(show(&*store, "", Some(1)).await, ["a=1@1/1", "b=1@1/1"]);
    }
}

#[tokio::test]
async fn ranges_are_ordered_cut_off_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        write(&*store, ["p/b", "p/a", "p/c", "q", "o"].map(|name| put(name, "x")).to_vec()).await;
        let page = store.range(Range { limit: 2, ..Range::prefix("p/") }).await.unwrap();
        assert_eq!(page.items.iter().map(|item| &item.key[..]).collect::<Vec<_>>(), [b"p/a", b"p/b"]);
        assert!(page.more);
        let whole = store.range(Range { limit: 3, ..Range::prefix("p/") }).await.unwrap();
        assert!(whole.items.len() == 3 && !whole.more);
        assert_eq!(show(&*store, "p/a", None).await.len(), 1);
        assert_eq!(store.range(Range::key("p/")).await.unwrap().items, []);
    }
}

#[tokio::test]
async fn compaction_gives_up_the_past_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        for round in 0..10 {
            write(&*store, vec![put("old", "o")][..usize::from(round == 0)].to_vec()).await;
            write(&*store, vec![put("hot", &round.to_string())]).await;
        }
        assert_eq!(store.committed(), Revision(11));
        write(&*store, vec![Write::Delete(key("old"))]).await;
        store.compact(Revision(8)).await.unwrap();
        // Written at 1, before what is retained, and removed at 12: the retained revisions show it.
        assert_eq!(show(&*store, "", Some(8)).await, ["hot=6@2/8", "old=o@1/1"]);
        assert_eq!(show(&*store, "", None).await, ["hot=9@2/11"]);
        for asked in [7, 13] {
            let range = Range { at: Some(Revision(asked)), ..Range::prefix("") };
            let error = store.range(range).await.unwrap_err();
            let retained = Revision(8)..=Revision(12);
            assert!(matches!(&error, StoreError::NotRetained { retained: r, .. } if *r == retained), "{error}");
        }
        assert!(store.watch(Range::prefix(""), Revision(7)).await.is_err());
        let mut watch = store.watch(Range::prefix("old"), Revision(8)).await.unwrap();
        assert_eq!(next(&mut watch).await.unwrap().events, [Event::Delete { key: key("old"), revision: Revision(12) }]);
        assert!(store.compact(Revision(13)).await.is_err(), "the future cannot be given up");
    }
}

/// From every retained revision, joined at any moment, under concurrent writers: each event once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_see_every_revision_exactly_once() {
    const WRITERS: usize = 8;
    const EACH: u64 = 150;
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        let (tasks, arrived) = (base::Tasks::new("test"), Arc::new(AtomicUsize::new(0)));
        for writer in 0..WRITERS {
            let store = store.clone();
            tasks.spawn("writer", async move {
                for round in 0..EACH {
                    write(&*store, vec![put(&format!("k{writer}"), &round.to_string()), put("all", "x")]).await;
                }
            });
        }
        for from in [1, 2, 40, 400] {
            let (store, arrived) = (store.clone(), arrived.clone());
            tasks.spawn("watcher", async move {
                let committed = async || {
                    while store.committed() < Revision(from) {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(20), committed()).await.unwrap();
                let mut all = store.watch(Range::prefix(""), Revision(from)).await.unwrap();
                let mut one = store.watch(Range::prefix("k3"), Revision(1)).await.unwrap();
                for revision in from..=WRITERS as u64 * EACH {
                    let batch = next(&mut all).await.unwrap();
                    assert_eq!(batch.revision, Revision(revision));
                    assert_eq!(batch.events.len(), 2);
                    assert!(batch.events[0].key().starts_with(b"k"), "in the order of the writes");
                }
                for round in 0..EACH {
                    let batch = next(&mut one).await.unwrap();
                    let Event::Put(item) = &batch.events[0] else { panic!("{batch:?}") };
                    assert_eq!((&item.value[..], batch.events.len()), (round.to_string().as_bytes(), 1));
                }
                arrived.fetch_add(1, Ordering::SeqCst);
            });
        }
        tasks.join().await;
        assert_eq!(store.committed(), Revision(WRITERS as u64 * EACH));
        // A panic in a task is only logged, so those that came to their end are counted.
        assert_eq!(arrived.load(Ordering::SeqCst), 4);
    }
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_may_return() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { watch_batches_max: 4, ..Options::default() };
    let store = EmbeddedStore::open(folder.path().join("db"), options).unwrap();
    let mut slow = store.watch(Range::prefix(""), Revision(1)).await.unwrap();
    for round in 0..10 {
        write(&store, vec![put("a", &round.to_string())]).await;
    }
    let mut seen = 0;
    let error = loop {
        match next(&mut slow).await {
            Ok(batch) => seen = batch.revision.0,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::SlowWatcher { limit: 4 }), "{error}");
    assert!((4..10).contains(&seen), "{seen}");
    assert!(slow.next().await.is_none(), "the error is the last item");
    let mut again = store.watch(Range::prefix(""), Revision(seen + 1)).await.unwrap();
    for revision in seen + 1..=10 {
        assert_eq!(next(&mut again).await.unwrap().revision, Revision(revision));
    }
}

/// A watcher that was cut off in the middle of a large commit came back before the commit showed as committed, and was told
/// that its revision did not exist. The watch cache then compared states, and its watchers never saw what lay between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_was_cut_off_may_return_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { watch_batches_max: 4, ..Options::default() };
    let store = Arc::new(EmbeddedStore::open(folder.path().join("db"), options).unwrap());
    let (tasks, writing) = (base::Tasks::new("test"), store.clone());
    tasks.spawn("writers", async move {
        for _ in 0..20 {
            futures::future::join_all((0..100).map(|n| write(&*writing, vec![put(&format!("k{n}"), "v")]))).await;
        }
    });
    let (mut seen, mut watch) = (0, store.watch(Range::prefix(""), Revision(1)).await.unwrap());
    while seen < 2000 {
        match next(&mut watch).await {
            Ok(batch) => {
                assert_eq!(batch.revision, Revision(seen + 1));
                seen = batch.revision.0;
            }
            Err(StoreError::SlowWatcher { .. }) => {
                watch = store.watch(Range::prefix(""), Revision(seen + 1)).await.unwrap();
            }
            Err(error) => panic!("after {seen}: {error}"),
        }
    }
    tasks.join().await;
}

#[tokio::test]
async fn the_log_stays_bounded_and_the_latest_values_stay() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { retained_revisions_max: 300, retained_bytes_max: 64 << 10, ..Options::default() };
    let path = folder.path().join("db");
    let store = EmbeddedStore::open(&path, options.clone()).unwrap();
    write(&store, vec![put("first", "kept")]).await;
    for round in 0..1500_u32 {
        write(&store, vec![put(&format!("k{}", round % 7), &"v".repeat(100))]).await;
    }
    let error = store.watch(Range::prefix(""), Revision(1)).await.err().unwrap();
    let StoreError::NotRetained { retained, .. } = error else { panic!("{error}") };
    let kept = retained.end().0 - retained.start().0;
    assert!((200..=370).contains(&kept), "{kept} revisions");
    assert_eq!(show(&store, "first", Some(retained.start().0)).await, ["first=kept@1/1"]);
    drop(store);
    let store = EmbeddedStore::open(&path, options).unwrap();
    assert_eq!(show(&store, "", None).await.len(), 8);
    let mut watch = store.watch(Range::prefix(""), *retained.start()).await.unwrap();
    for revision in retained.start().0..=retained.end().0 {
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(revision));
    }
}

#[tokio::test]
async fn a_file_is_private_and_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/db");
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let second = EmbeddedStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    drop(store);
    EmbeddedStore::open(&path, Options::default()).unwrap();
}

/// Whatever byte of the file is wrong: either nobody notices because nothing used it, or the store says so.
#[tokio::test]
async fn a_damaged_file_is_named_and_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    for round in 0..40_u32 {
        write(&store, vec![put(&format!("key-{round}"), &"value".repeat(40))]).await;
    }
    let before = show(&store, "", None).await;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let random = base::Random::from_seed(7);
    let mut places: Vec<usize> = (0..328).collect();
    places.extend((0..400).map(|_| random.below(used)));
    let (mut served, mut named) = (0, 0);
    for place in places {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << random.below(8);
        let damaged = folder.path().join("damaged");
        std::fs::write(&damaged, &bytes).unwrap();
        match EmbeddedStore::open(&damaged, Options::default()) {
            Ok(store) => {
                assert_eq!(show(&store, "", None).await, before, "byte {place}");
                assert_eq!(store.committed(), Revision(40), "byte {place}");
                served += 1;
            }
            Err(StoreError::Damaged { .. }) => named += 1,
            Err(error) => panic!("byte {place}: {error}"),
        }
    }
    assert!(named >= 328, "every byte of the header counts: {named} named, {served} harmless");
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let cut = EmbeddedStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(cut, StoreError::Damaged { .. }), "{cut}");
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    PutAbsent(u8, u8),
    Two(u8, u8),
    Compact(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        2 => (0..6_u8).prop_map(Step::Delete),
        2 => (0..6_u8, any::<u8>()).prop_map(|(k, v)| Step::PutAbsent(k, v)),
        2 => (0..6_u8, any::<u8>()).prop_map(|(k, v)| Step::Two(k, v)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

/// All states that ever were, in order; the index is the revision.
type History = Vec<BTreeMap<u8, u8>>;

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let memory = MemoryStore::new();
    let mut embedded = EmbeddedStore::open(&path, Options::default()).unwrap();
    let (mut history, mut first): (History, usize) = (vec![BTreeMap::new()], 1);
    for step in steps {
        let mut state = history.last().unwrap().clone();
        let name = |k: u8| Bytes::from(vec![b'k', k]);
        let one = |k: u8, v: u8| Write::Put(name(k), Bytes::from(vec![v]));
        let mut txn = Txn::default();
        match step {
            Step::Put(k, v) => {
                txn.writes = vec![one(k, v)];
                state.insert(k, v);
            }
            Step::Delete(k) => {
                txn.writes = vec![Write::Delete(name(k))];
                state.remove(&k);
            }
            Step::PutAbsent(k, v) => {
                txn = Txn { preconditions: vec![Precondition::Absent(name(k))], writes: vec![one(k, v)] };
                state.entry(k).or_insert(v);
            }
            Step::Two(k, v) => {
                txn.writes = vec![one(k, v), Write::Delete(name((k + 1) % 6))];
                state.insert(k, v);
                state.remove(&((k + 1) % 6));
            }
            Step::Compact(at) if history.len() > 1 => {
                let before = 1 + usize::from(at) % (history.len() - 1);
                memory.compact(Revision(before as u64)).await.unwrap();
                embedded.compact(Revision(before as u64)).await.unwrap();
                first = first.max(before);
            }
            Step::Compact(_) => {}
            Step::Reopen => {
                drop(embedded);
                embedded = EmbeddedStore::open(&path, Options::default()).unwrap();
            }
        }
        let (was, outcome) = (memory.committed(), memory.txn(txn.clone()).await.unwrap());
        assert_eq!(embedded.txn(txn).await.unwrap(), outcome);
        if memory.committed() > was {
            history.push(state);
        }
        assert_eq!(embedded.committed(), memory.committed());
        assert_eq!(memory.committed().0 as usize, history.len() - 1);
    }
    compare(&memory, &history, first).await;
    compare(&embedded, &history, first).await;
}

async fn compare(store: &dyn Store, history: &History, first: usize) {
    for (at, state) in history.iter().enumerate().skip(if first == 1 { 0 } else { first }) {
        let range = Range { at: Some(Revision(at as u64)), ..Range::prefix("k") };
        let items = store.range(range).await.unwrap().items;
        let shown: BTreeMap<u8, u8> = items.iter().map(|item| (item.key[1], item.value[0])).collect();
        assert_eq!(&shown, state, "at revision {at} of {}, retained from {first}", history.len() - 1);
    }
    if history.len() == 1 {
        return;
    }
    let mut state = history[first - 1].clone();
    let mut watch = store.watch(Range::prefix("k"), Revision(first as u64)).await.unwrap();
    for (at, expected) in history.iter().enumerate().skip(first) {
        let batch = next(&mut watch).await.unwrap();
        assert_eq!(batch.revision, Revision(at as u64));
        for event in batch.events {
            match event {
                Event::Put(item) => drop(state.insert(item.key[1], item.value[0])),
                Event::Delete { key, .. } => drop(state.remove(&key[1])),
            }
        }
        assert_eq!(&state, expected, "watched up to {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_are_as_the_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
