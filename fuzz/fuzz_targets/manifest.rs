//! Manifests and indexes of registries: what is understood is within the limits, so that all of it can be fetched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::registry::{Descriptor, Document};

fuzz_target!(|bytes: &[u8]| {
    let check = |one: &Descriptor| {
        assert!(one.digest.len() == 71 && one.digest.starts_with("sha256:"));
        assert!(one.size >= 0);
    };
    let Ok(document) = Document::parse(bytes) else { return };
    let list = match &document {
        Document::Index(list) => list,
        Document::Image { config, layers } => {
            check(config);
            layers
        }
    };
    assert!(list.len() <= 1_000);
    list.iter().for_each(check);
    assert_eq!(Document::parse(bytes), Ok(document));
});
