//! A JSON body under the schema of a pod: read, judged in each strictness, and read again the same.
#![no_main]

use api::schema::{self, Strictness};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(pod) = schema::by_kind("", "v1", "Pod") else { return };
    for strictness in [Strictness::Ignore, Strictness::Warn, Strictness::Strict] {
        let Ok(decoded) = schema::decode(bytes, pod, strictness) else { continue };
        let again = schema::check(&decoded.value, pod, Strictness::Strict);
        assert!(again.is_ok_and(|again| again.value == decoded.value), "{}", decoded.value);
    }
});
