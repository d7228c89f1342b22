//! Field selectors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::fields::FieldSelector;

fuzz_target!(|text: &str| {
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| (field == "metadata.name").then_some("x"));
    }
});
