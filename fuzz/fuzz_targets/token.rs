//! Bearer tokens: nothing but what we signed is let in.
#![no_main]

use std::sync::OnceLock;

use apiserver::tokens::Tokens;
use libfuzzer_sys::fuzz_target;

static TOKENS: OnceLock<Tokens> = OnceLock::new();

fuzz_target!(|text: &str| {
    let tokens = TOKENS.get_or_init(|| {
        let key = rcgen::KeyPair::generate().expect("there is randomness").serialize_pem();
        Tokens::new(key.as_bytes(), "https://issuer").expect("the key is one")
    });
    assert!(tokens.verify(text, &["https://issuer".to_owned()], jiff::Timestamp::UNIX_EPOCH).is_err());
});
