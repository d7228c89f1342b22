//! Continue tokens: what is in their base64 is a stranger's.
#![no_main]

use apiserver::request::list::options::Options;
use apiserver::request::query::Query;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let uri = format!("/api/v1/pods?limit=2&continue={}", URL_SAFE_NO_PAD.encode(bytes));
    let Ok(uri) = uri.parse::<Uri>() else { return };
    if let Ok(options) = Options::of(&Query::of(&uri)) {
        assert!(options.limit == 2);
    }
});
