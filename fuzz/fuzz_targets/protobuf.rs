//! Kubernetes' protobuf form: no bytes make the decoder fail but with an error, and what it gives is JSON that can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((_, _, value)) = api::protobuf::decode(bytes) {
        let json = value.to_string();
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
    }
});
