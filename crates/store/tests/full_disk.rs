//! Fills the disk under a store: writes are refused by name, nothing acknowledged is lost, and once there is space again
//! writes succeed. Runs itself anew in a mount namespace of its own, with a small tmpfs as the disk.

#![expect(clippy::print_stdout, reason = "the test runner's protocol")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that goes wrong")]

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use store::{EmbeddedStore, Options, Range, Revision, Store, StoreError, Txn, TxnOutcome, Write};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--on", folder] => fill(Path::new(folder)),
        _ if arguments.iter().any(|argument| argument == "--list") => {
            if !arguments.iter().any(|argument| argument == "--ignored") {
                println!("a_full_disk_refuses_and_loses_nothing: test");
            }
        }
        _ => a_full_disk_refuses_and_loses_nothing(),
    }
}

fn a_full_disk_refuses_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=24m,mode=700 tmpfs "$1" && exec "$0" --on "$1""#;
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .args([std::env::current_exe().unwrap().as_path(), folder.path()])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn fill(folder: &Path) {
    let path = folder.join("db");
    std::fs::write(folder.join("ballast"), vec![1; 14 << 20]).unwrap();
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let write = |name: u64| {
        let writes = vec![Write::Put(format!("{name:06}").into(), Bytes::from(vec![7; 16 << 10]))];
        runtime.block_on(store.txn(Txn { preconditions: Vec::new(), writes }))
    };
    let mut written = 0;
    let refused = loop {
        match write(written) {
            Ok(TxnOutcome::Committed(_)) => written += 1,
            Ok(refused) => panic!("nothing was asked for: {refused:?}"),
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk never filled");
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(written > 20, "some fitted: {written}");
    assert!(matches!(write(written), Err(StoreError::Full { .. })), "still full");
    assert_eq!(store.committed(), Revision(written));
    let count = |store: &EmbeddedStore| runtime.block_on(store.range(Range::prefix(""))).unwrap().items.len() as u64;
    assert_eq!(count(&store), written, "reads go on");
    std::fs::remove_file(folder.join("ballast")).unwrap();
    assert_eq!(write(written).unwrap(), TxnOutcome::Committed(Revision(written + 1)));
    drop(store);
    let store = EmbeddedStore::open(&path, Options::default()).unwrap();
    assert_eq!((count(&store), store.committed()), (written + 1, Revision(written + 1)));
}
