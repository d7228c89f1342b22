//! Quantities, durations and times: what is written is read as the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::quantity::Quantity;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        let written = quantity.to_string();
        let again = Quantity::parse(&written).expect("what we write can be read");
        assert_eq!(again.nanos(), quantity.nanos(), "{text} {written}");
        quantity.value();
        quantity.milli_value();
    }
    drop(machinery::time::parse(text));
});
