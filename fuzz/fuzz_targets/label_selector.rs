//! Label selectors, in both forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::labels::Selector;

fuzz_target!(|text: &str| {
    if let Ok(selector) = Selector::parse(text) {
        selector.matches(|key| (key == "a").then_some("b"));
        selector.exact();
    }
    if let Ok(json) = serde_json::from_str(text) {
        drop(Selector::from_label_selector(&json));
    }
});
