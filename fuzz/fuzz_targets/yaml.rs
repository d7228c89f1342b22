//! A YAML body: read within bounds, and no deeper or larger than JSON could say it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut value) = apiserver::request::body::yaml(bytes) {
        apiserver::request::body::drop_nulls(&mut value);
        assert!(value.to_string().len() < 64 << 20);
    }
});
