//! Image archives through the whole store: what is refused leaves nothing, what is taken can be listed, found and removed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::images::Store;

fuzz_target!(|bytes: &[u8]| {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let store = Store::open(root.path()).expect("an empty store opens");
    let imported = store.import(bytes);
    let listed = store.list().expect("the index can be read");
    if imported.is_err() {
        assert!(listed.is_empty());
    }
    for image in imported.iter().flatten() {
        assert!(store.find(&image.id).expect("the index can be read").is_some());
    }
    for image in listed {
        assert!(store.remove(&image.id).expect("no container uses it"));
    }
    let left = |folder| std::fs::read_dir(root.path().join(folder)).expect("the store made it").count();
    assert_eq!(left("images/spool"), 0);
});
