//! A merge patch: applying it twice is applying it once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(patch) = serde_json::from_slice::<Value>(bytes) else { return };
    let mut once = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"list": [1, {"name": "x"}], "n": 1}});
    machinery::patch::merge(&mut once, &patch);
    let mut twice = once.clone();
    machinery::patch::merge(&mut twice, &patch);
    assert_eq!(once, twice, "{patch}");
});
