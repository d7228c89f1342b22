//! Managed fields as clients and the datastore give them: what is read says the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::apply::Managers;

fuzz_target!(|bytes: &[u8]| {
    let Ok(managers) = Managers::parse(bytes) else { return };
    let written = managers.encode();
    let again = Managers::parse(&written).expect("what we write can be read");
    let told = String::from_utf8_lossy(&written);
    assert!(again.same_but_for_times(&managers), "{told}");
    assert!(again.encode() == written, "{told}");
});
