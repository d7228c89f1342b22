//! `/openapi/v2` and `/openapi/v3`: the types and paths, for explain, validation and client generators.
//!
//! The documents are large and rarely asked for: each is made when it is, away from the threads that serve requests, and
//! only v2's compressed form and v3's hashes are kept. A change of a custom resource makes its own document's hash anew, and
//! v2 when somebody asks for it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use api::openapi::{self, Custom};
use api::{ApiError, Reason};
use bytes::Bytes;
use control::Body;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Server;
use crate::custom::Version;
use crate::custom::definitions::Table;
use crate::request::negotiate::{Form, Offer};
use crate::request::query::Query;
use crate::request::respond::{self, Answer};

/// The names under which clients in Go ask for v2 in protobuf: the one they send, which is no media type, and the one that is.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

const POISON: &str = "making documents does not panic";

/// What is kept.
#[derive(Default)]
pub(crate) struct Kept {
    /// v2, compressed.
    v2: Mutex<Option<(u64, Bytes)>>,
    /// v2 in protobuf, compressed, with the hash of the JSON that it was made of.
    v2_protobuf: Mutex<Option<([u8; 32], Bytes)>>,
    /// The hashes of v3's documents by their paths, each with the custom resources that it describes.
    hashes: Mutex<BTreeMap<String, Hashed>>,
}

/// The custom resources that a document describes, and its hash.
type Hashed = (Vec<Arc<Version>>, String);

/// Answers an OpenAPI path; `None` for other paths.
pub(crate) async fn answer(
    server: &Arc<Server>,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Option<Answer>, ApiError> {
    let Some(rest) = path.strip_prefix("/openapi/") else { return Ok(None) };
    let protobuf = rest == "v2" && wants_protobuf(headers);
    // What is offered besides JSON is offered under names of its own.
    let form = Form::of(headers, query, Offer::Documents);
    let form = if protobuf { form.unwrap_or_default() } else { form? };
    let (server, rest) = (server.clone(), rest.trim_end_matches('/').to_owned());
    let make = move || if protobuf { in_protobuf(&server, form) } else { make(&server, &rest, form) };
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|error| internal(&error))?;
    Ok(made.map(|answer| named(answer, path, query, headers)))
}

fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(Reason::InternalError, format!("Internal error occurred: {error}"))
}

fn wants_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| {
        let name = range.split(';').next().unwrap_or_default().trim();
        PROTOBUF.contains(&name)
    })
}

/// v2 in protobuf, made of the JSON and kept until that is another.
fn in_protobuf(server: &Server, form: Form) -> Option<Answer> {
    let json = make(server, "v2", Form::default())?.into_body();
    let Body::Full(json) = json else { return None };
    let hash: [u8; 32] = Sha256::digest(&json).into();
    let mut kept = server.openapi.v2_protobuf.lock().expect("writing a document does not panic");
    let body = match kept.as_ref().filter(|(of, _)| *of == hash) {
        Some((_, body)) => body.clone(),
        None => match openapi::v2_protobuf(&json) {
            Ok(made) => {
                let body = gzip(&made);
                *kept = Some((hash, body.clone()));
                body
            }
            Err(error) => return Some(respond::error(Form::default(), &internal(&error))),
        },
    };
    drop(kept);
    let mut answer = respond::with_type(StatusCode::OK, PROTOBUF[1], Body::Full(body.clone()));
    if form.gzip {
        respond::mark_compressed(&mut answer);
    } else {
        *answer.body_mut() = Body::Full(inflate(&body).into());
    }
    Some(answer)
}

/// Gives a document a name that changes with its content. Who has it already is told so; who asks for it by that name may keep
/// it for ever, and who asks by another is sent to the right one.
fn named(mut answer: Answer, path: &str, query: &Query, headers: &HeaderMap) -> Answer {
    if !answer.headers().contains_key(ETAG)
        && let Body::Full(body) = answer.body()
    {
        let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02X}")).collect();
        answer.headers_mut().insert(ETAG, quoted(&hash));
    }
    let etag = answer.headers().get(ETAG).cloned();
    if let (Some(asked), Some(etag)) = (query.get("hash"), &etag) {
        if quoted(asked) != *etag {
            let hash = etag.to_str().unwrap_or_default().trim_matches('"');
            let mut moved = respond::text(StatusCode::MOVED_PERMANENTLY, Bytes::new());
            let place = HeaderValue::from_str(&format!("{path}?hash={hash}"));
            moved.headers_mut().extend(place.ok().map(|place| (LOCATION, place)));
            return moved;
        }
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    if etag.is_some() && headers.get(IF_NONE_MATCH) == etag.as_ref() {
        *answer.body_mut() = Body::Full(Bytes::new());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().remove(CONTENT_ENCODING);
    }
    answer
}

fn quoted(hash: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

fn make(server: &Server, rest: &str, form: Form) -> Option<Answer> {
    let version = &server.config.version.git_version;
    let table = server.definitions.table();
    match rest {
        "v2" => Some(compressed(&v2(server, &table), form)),
        "v3" => {
            let hashes = hashes(server, &table);
            let index = openapi::v3_index(hashes.iter().map(|(path, hash)| (path.as_str(), hash.as_str())));
            Some(respond::encoded(StatusCode::OK, form, index.into()))
        }
        _ => {
            let path = rest.strip_prefix("v3/")?;
            let published = published(&table, |at| at == path);
            let document = openapi::v3(path, version, &customs(&published))?;
            let mut answer = respond::encoded(StatusCode::OK, form, document.json.into());
            answer.headers_mut().insert(ETAG, quoted(&document.hash));
            Some(answer)
        }
    }
}

/// Custom resources with their schemas, of which those are read whose document is wanted.
fn published(table: &Table, wanted: impl Fn(&str) -> bool) -> Vec<(Arc<Version>, Value)> {
    let versions = table.served.iter().filter_map(|served| served.custom.clone());
    let wanted = versions.filter(|version| wanted(&openapi::v3_path(&version.row)));
    wanted.map(|version| (version.clone(), version.lazy_schema().published())).collect()
}

fn customs(published: &[(Arc<Version>, Value)]) -> Vec<Custom<'_>> {
    published.iter().map(|(version, schema)| Custom { resource: &version.row, schema }).collect()
}

fn v2(server: &Server, table: &Table) -> Bytes {
    let mut kept = server.openapi.v2.lock().expect(POISON);
    if let Some((_, document)) = kept.as_ref().filter(|(generation, _)| *generation == table.generation) {
        return document.clone();
    }
    let published = published(table, |_| true);
    let document = gzip(&openapi::v2(&server.config.version.git_version, &customs(&published)));
    *kept = Some((table.generation, document.clone()));
    document
}

fn hashes(server: &Server, table: &Table) -> Vec<(String, String)> {
    let mut described: BTreeMap<String, Vec<Arc<Version>>> =
        openapi::v3_paths(&[]).into_iter().map(|path| (path, Vec::new())).collect();
    for version in table.served.iter().filter_map(|served| served.custom.as_ref()) {
        described.entry(openapi::v3_path(&version.row)).or_default().push(version.clone());
    }
    let mut kept = server.openapi.hashes.lock().expect(POISON);
    let same = |one: &[Arc<Version>], other: &[Arc<Version>]| {
        one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
    };
    kept.retain(|path, (of, _)| described.get(path).is_some_and(|now| same(of, now)));
    let missing: Vec<String> = described.keys().filter(|path| !kept.contains_key(*path)).cloned().collect();
    if !missing.is_empty() {
        let published = published(table, |path| missing.iter().any(|missing| missing == path));
        let (customs, version) = (customs(&published), &server.config.version.git_version);
        for document in openapi::v3_documents(missing, version, &customs) {
            let of = described.get(&document.path).cloned().unwrap_or_default();
            kept.insert(document.path, (of, document.hash));
        }
    }
    kept.iter().map(|(path, (_, hash))| (path.clone(), hash.clone())).collect()
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
    respond::encoded(StatusCode::OK, Form { gzip: false, ..form }, inflate(body).into())
}

fn inflate(body: &[u8]) -> Vec<u8> {
    let mut inflated = Vec::new();
    GzDecoder::new(body).read_to_end(&mut inflated).expect("it was compressed here");
    inflated
}
