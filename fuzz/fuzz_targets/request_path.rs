//! What a path asks for, by whatever method.
#![no_main]

use apiserver::request::info::RequestInfo;
use apiserver::request::query::Query;
use http::{Method, Request, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(uri) = format!("/{text}").parse::<Uri>() else { return };
    let query = Query::of(&uri);
    for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
        let Ok(request) = Request::builder().method(method).uri(uri.clone()).body(()) else { return };
        drop(RequestInfo::of(&request.into_parts().0, &query).attributes());
    }
});
