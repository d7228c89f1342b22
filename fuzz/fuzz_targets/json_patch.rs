//! A JSON patch on an object: applied within bounds or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(patch) = serde_json::from_slice::<Value>(bytes) else { return };
    let mut target = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"list": [1, {"name": "x"}, null], "n": 1}});
    if machinery::patch::json(&mut target, &patch).is_ok() {
        assert!(target.to_string().len() < 16 << 20);
    }
});
