//! `/openapi/v2` and `/openapi/v3`: the types and paths, for explain, validation and client generators.
//!
//! The documents are large and rarely asked for: each is made when it is, away from the threads that serve requests, and
//! only v2's compressed form and v3's hashes are kept.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use api::openapi;
use api::{ApiError, Reason};
use bytes::Bytes;
use control::Body;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::ETAG;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::Server;
use crate::request::negotiate::{Form, Offer};
use crate::request::query::Query;
use crate::request::respond::{self, Answer};

/// What is kept.
#[derive(Default)]
pub(crate) struct Kept {
    /// v2, compressed.
    v2: OnceLock<Bytes>,
    /// The paths of v3's documents with their hashes.
    hashes: OnceLock<Vec<(String, String)>>,
}

/// Answers an OpenAPI path; `None` for other paths.
pub(crate) async fn answer(
    server: &Arc<Server>,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Option<Answer>, ApiError> {
    let Some(rest) = path.strip_prefix("/openapi/") else { return Ok(None) };
    let form = Form::of(headers, query, Offer::Documents)?;
    let (server, rest) = (server.clone(), rest.trim_end_matches('/').to_owned());
    let made = tokio::task::spawn_blocking(move || make(&server, &rest, form)).await;
    made.map_err(|error| ApiError::new(Reason::InternalError, format!("Internal error occurred: {error}")))
}

fn make(server: &Server, rest: &str, form: Form) -> Option<Answer> {
    let version = &server.config.version.git_version;
    match rest {
        "v2" => Some(compressed(server.openapi.v2.get_or_init(|| gzip(&openapi::v2(version, &[]))), form)),
        "v3" => {
            let hashes = server.openapi.hashes.get_or_init(|| hashes(version));
            let index = openapi::v3_index(hashes.iter().map(|(path, hash)| (path.as_str(), hash.as_str())));
            Some(respond::encoded(StatusCode::OK, form, index.into()))
        }
        _ => {
            let document = openapi::v3(rest.strip_prefix("v3/")?, version, &[])?;
            let mut answer = respond::encoded(StatusCode::OK, form, document.json.into());
            let etag =
                HeaderValue::from_str(&format!("\"{}\"", document.hash)).expect("hexadecimal digits are header text");
            answer.headers_mut().insert(ETAG, etag);
            Some(answer)
        }
    }
}

fn hashes(version: &str) -> Vec<(String, String)> {
    let documents = openapi::v3_paths(&[]).into_iter().filter_map(|path| openapi::v3(&path, version, &[]));
    documents.map(|document| (document.path, document.hash)).collect()
}

fn gzip(json: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(json).and_then(|()| encoder.finish()).expect("compressing into memory does not fail").into()
}

fn compressed(body: &Bytes, form: Form) -> Answer {
    if form.gzip && form.syntax == crate::request::negotiate::Syntax::Json {
        let mut answer = respond::with_type(StatusCode::OK, "application/json", Body::Full(body.clone()));
        respond::mark_compressed(&mut answer);
        return answer;
    }
    let mut json = Vec::new();
    GzDecoder::new(&body[..]).read_to_end(&mut json).expect("it was compressed here");
    respond::encoded(StatusCode::OK, Form { gzip: false, ..form }, json.into())
}
