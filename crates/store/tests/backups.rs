//! Backups, restorations and checks, of whole and of damaged files.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that goes wrong")]

use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use store::backup::{self, BackupError, Reader};
use store::embedded::{self, RestoreError};
use store::{EmbeddedStore, Event, MemoryStore, Options, Range, Revision, Store, StoreError, Txn, Write};

fn put(key: &str, value: &str) -> Write {
    Write::Put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

async fn write(store: &dyn Store, writes: Vec<Write>) {
    store.txn(Txn { preconditions: Vec::new(), writes }).await.unwrap();
}

/// Some keys, of which some are changed and some are gone.
async fn fill(store: &dyn Store) {
    for round in 0..30 {
        write(store, vec![put(&format!("/registry/core/configmaps/a/{round:02}"), &"v".repeat(200))]).await;
    }
    for round in 0..10 {
        write(store, vec![put(&format!("/registry/core/configmaps/a/{round:02}"), "changed")]).await;
        write(store, vec![Write::Delete(format!("/registry/core/configmaps/a/{:02}", 29 - round).into())]).await;
    }
}

async fn backed_up(store: &dyn Store) -> Vec<u8> {
    let pieces: Vec<Bytes> = backup::stream(store.export().await.unwrap()).try_collect().await.unwrap();
    pieces.concat()
}

async fn items(store: &dyn Store) -> Vec<store::KeyValue> {
    store.range(Range::prefix("/registry/")).await.unwrap().items
}

#[tokio::test]
async fn a_backup_brings_everything_back_at_a_revision_that_nobody_has_seen() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| EmbeddedStore::open(folder.path().join(name), Options::default()).unwrap();
    let (embedded, memory) = (open("old"), MemoryStore::new());
    fill(&embedded).await;
    fill(&memory).await;
    let file = backed_up(&embedded).await;
    assert_eq!(file, backed_up(&memory).await, "every store writes the same backup");
    let restored = embedded::restore(&folder.path().join("new"), &file[..]).unwrap();
    assert_eq!((restored.keys, restored.from), (20, Revision(50)));
    let new = open("new");
    assert_eq!(items(&new).await, items(&embedded).await);
    assert_eq!(new.committed(), restored.revision);
    for old in [1, 50, 51, 1_000_000] {
        let error = new.watch(Range::prefix(""), Revision(old)).await.err().unwrap();
        assert!(matches!(error, StoreError::NotRetained { .. }), "{error}");
    }
    let mut watch = new.watch(Range::prefix("/registry/"), Revision(restored.revision.0 + 1)).await.unwrap();
    write(&new, vec![put("/registry/core/configmaps/a/00", "again")]).await;
    let batch = watch.try_next().await.unwrap().unwrap();
    let Event::Put(item) = &batch.events[0] else { panic!("{batch:?}") };
    assert_eq!((item.created, item.modified), (Revision(1), Revision(restored.revision.0 + 1)));
    drop((watch, new));
    let report = embedded::check(&folder.path().join("new")).unwrap();
    assert_eq!((report.keys, report.damages), (21, vec![]));
}

#[tokio::test]
async fn a_backup_is_one_moment_while_writers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("db"), Options::default()).unwrap();
    // More than one piece.
    for round in 0..60 {
        write(&store, vec![put(&format!("k{round:02}"), &"v".repeat(50_000))]).await;
    }
    let mut bytes = Vec::new();
    let mut pieces = backup::stream(store.export().await.unwrap());
    let mut round = 0;
    while let Some(piece) = pieces.try_next().await.unwrap() {
        bytes.extend_from_slice(&piece);
        write(&store, vec![put("k59", &format!("{round}")), put("new", "x"), Write::Delete("k58".into())]).await;
        round += 1;
    }
    assert!(round > 3, "it came in {round} pieces");
    let reader = Reader::open(&bytes[..]).unwrap();
    assert_eq!(reader.revision(), Revision(60));
    let items: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(items.len(), 60);
    assert!(items.iter().all(|item| item.value.len() == 50_000));
}

#[tokio::test]
async fn a_damaged_backup_is_refused_whichever_byte_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    fill(&store).await;
    let whole = backed_up(&store).await;
    let target = folder.path().join("db");
    let random = base::Random::from_seed(5);
    let places = (0..40).chain(whole.len() - 60..whole.len()).chain((0..200).map(|_| random.below(whole.len())));
    for place in places {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << random.below(8);
        let error = embedded::restore(&target, &damaged[..]).expect_err("damage is found");
        assert!(matches!(error, RestoreError::Backup(_)), "byte {place}: {error}");
        assert!(!target.exists(), "byte {place}: nothing is left under the name");
    }
    for cut in [0, 10, 30, whole.len() / 2, whole.len() - 1] {
        let error = embedded::restore(&target, &whole[..cut]).unwrap_err();
        let named = matches!(error, RestoreError::Backup(BackupError::CutShort(_) | BackupError::NotOne));
        assert!(named && !target.exists(), "cut at {cut}: {error}");
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(matches!(embedded::restore(&target, &longer[..]), Err(RestoreError::Backup(BackupError::Digest))));
    embedded::restore(&target, &whole[..]).unwrap();
    let again = embedded::restore(&target, &whole[..]).unwrap_err();
    assert!(matches!(again, RestoreError::Exists { .. }), "{again}");
}

fn flip(path: &Path, needle: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let at: Vec<usize> = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!at.is_empty(), "the file has it");
    for at in at {
        bytes[at] ^= 1;
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_check_names_each_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    for (key, value) in [("a/one", "first-value"), ("a/two", "second-value"), ("a/three", "third-value")] {
        write(&store, vec![put(key, value)]).await;
    }
    drop(store);
    let report = embedded::check(&path).unwrap();
    assert_eq!((report.keys, &*report.damages), (3, &[][..]));
    assert_eq!(report.revisions, Some((Revision(1), Revision(3))));
    flip(&path, b"second-value");
    flip(&path, b"third-value");
    let damages = embedded::check(&path).unwrap().damages.join("\n");
    for expected in [
        "table latest: key \"a/two\": its checksum is wrong",
        "table latest: key \"a/three\": its checksum is wrong",
        "table log: revision 2: a checksum is wrong",
        "table log: revision 3: a checksum is wrong",
    ] {
        assert!(damages.contains(expected), "{expected} in\n{damages}");
    }
    assert!(!damages.contains("a/one"), "{damages}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(!embedded::check(&path).unwrap().damages.is_empty());
    std::fs::write(&path, b"something else").unwrap();
    assert!(!embedded::check(&path).unwrap().damages.is_empty());
    assert!(embedded::check(&folder.path().join("none")).is_err());
}
