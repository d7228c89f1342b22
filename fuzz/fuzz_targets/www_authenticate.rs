//! Challenges of registries: bounded, names in lower case, and one that is written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::registry::{Challenge, challenges};

fn written(challenge: &Challenge) -> String {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let parameters = challenge.parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value)));
    format!("{} {}", challenge.scheme, parameters.collect::<Vec<_>>().join(", "))
}

fuzz_target!(|header: &str| {
    let found = challenges(header);
    assert!(found.len() <= 16);
    for challenge in &found {
        assert!(challenge.parameters.len() <= 32);
        assert!(!challenge.scheme.bytes().any(|byte| byte.is_ascii_uppercase()));
        let again = written(challenge);
        // Quoting may take it over the limit of a header.
        if again.len() < 8 << 10 {
            assert_eq!(challenges(&again), [challenge.clone()], "{again}");
        }
    }
});
