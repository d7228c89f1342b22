//! A layer's archive, unpacked: whatever it holds, nothing beside its own directory is made, changed or removed.
#![no_main]

use std::os::unix::fs::MetadataExt;

use libfuzzer_sys::fuzz_target;
use runtime::images::{LayerLimits, unpack_layer};

const BYTES_MAX: u64 = 1 << 20;
const ENTRIES_MAX: u64 = 200;

fuzz_target!(|bytes: &[u8]| {
    let outside = tempfile::tempdir().expect("a temporary directory can be made");
    let (kept, target) = (outside.path().join("kept"), outside.path().join("layer"));
    std::fs::write(&kept, "kept").expect("the temporary directory can be written");
    std::fs::create_dir(&target).expect("the temporary directory can be written");
    let seen = || {
        let of = |path: &std::path::Path| {
            let stat = std::fs::symlink_metadata(path).expect("nobody removes it");
            (stat.ino(), stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec(), stat.nlink())
        };
        (of(outside.path()), of(&kept))
    };
    let before = seen();
    if let Ok(size) = unpack_layer(bytes, &target, &LayerLimits { entries_max: ENTRIES_MAX, bytes_max: BYTES_MAX }) {
        assert!(size <= BYTES_MAX);
    }
    assert_eq!(before, seen());
    assert_eq!(std::fs::read(&kept).expect("nobody removes it"), b"kept");
});
