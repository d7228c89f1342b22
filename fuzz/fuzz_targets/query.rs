//! The query of a list or a watch: selectors, limits, revisions, continue tokens.
#![no_main]

use api::resources::PODS;
use apiserver::request::list::options::Options;
use apiserver::request::query::Query;
use apiserver::request::selectors;
use http::Uri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(uri) = format!("/api/v1/pods?{text}").parse::<Uri>() else { return };
    let query = Query::of(&uri);
    drop((Options::of(&query), selectors::of_query(PODS, PODS, &query)));
    drop((query.flag("watch"), query.number::<u32>("timeoutSeconds"), query.resource_version()));
});
