//! `list`: all objects that match, at one revision, whole or in pages.
//!
//! A list is a snapshot of the cache: one pointer, whatever is written while it is sent. Items are copied into pieces of
//! bounded size, decoded only where a table or another version is asked for. A page's continue token names the revision of
//! the first page, so that all pages show the same moment.

use std::io::Write as _;
use std::sync::Arc;

use api::{ApiError, Key, Object, Reason};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use control::Body;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::negotiate::{Syntax, View};
use super::query::Query;
use super::respond::{self, Answer, GZIP_MIN};
use super::{Call, selectors};
use crate::watch_cache::{Filter, ResourceCache, Snapshot};
use crate::{conversion, table};

/// How much of a list is copied into one piece.
const PIECE: usize = 64 * 1024;

/// Which moment a list is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Everything that is committed when the request comes.
    Consistent,
    /// What the cache has.
    Any,
    /// This revision or a later one.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
}

/// Where a paged list goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Continue {
    v: String,
    /// The first page's revision; -1 to go on at the present.
    rv: i64,
    /// The last key that was sent.
    start: String,
}

struct Options {
    moment: Moment,
    limit: usize,
    after: Option<Key>,
}

/// Answers `list`.
pub async fn answer(call: Call) -> Result<Answer, ApiError> {
    let cache = call.cache().await?;
    let filter = selectors::filter(&call)?;
    let options = Options::of(&call.query)?;
    let snapshot = match snapshot(&call, &cache, options.moment).await? {
        Ok(snapshot) => snapshot,
        Err(()) => return Ok(expired(&options)),
    };
    let page = Page::of(&snapshot, &filter, &options);
    if call.form.view == View::Whole && call.form.syntax == Syntax::Json && call.served.is_stored_form() {
        return Ok(streamed(&call, page));
    }
    decoded(&call, &page)
}

async fn snapshot(call: &Call, cache: &Arc<ResourceCache>, moment: Moment) -> Result<Result<Snapshot, ()>, ApiError> {
    let caches = &call.server.caches;
    match moment {
        Moment::Consistent => caches.fresh().await,
        Moment::Any => {}
        Moment::NotOlderThan(revision) => caches.reached_in_time(revision).await?,
        Moment::Exact(revision) => {
            caches.reached_in_time(revision).await?;
            return Ok(cache.snapshot_at(revision).map_err(drop));
        }
    }
    Ok(Ok(caches.snapshot(cache)))
}

impl Options {
    fn of(query: &Query) -> Result<Self, ApiError> {
        let limit = query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        let revision = query.resource_version()?;
        if let Some(token) = query.get("continue") {
            if revision.is_some_and(|revision| revision != 0) {
                let message = "specifying resource version is not allowed when using continue";
                return Err(ApiError::new(Reason::BadRequest, message));
            }
            let token = decode_token(token).ok_or_else(|| {
                ApiError::new(Reason::BadRequest, "continue key is not valid: it was not made by this server")
            })?;
            let moment = u64::try_from(token.rv).map_or(Moment::Consistent, Moment::Exact);
            let after = token.start.split_once('/').map(|(namespace, name)| Key::new(namespace, name));
            return Ok(Self { moment, limit, after });
        }
        let moment = match (query.get("resourceVersionMatch"), revision) {
            (Some(_), None) => {
                let message = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
                return Err(ApiError::new(Reason::Invalid, message));
            }
            (Some("Exact"), Some(0)) => {
                let message = "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                return Err(ApiError::new(Reason::Invalid, message));
            }
            (Some("Exact"), Some(revision)) => Moment::Exact(revision),
            (Some(other), _) if other != "NotOlderThan" => {
                let message = format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                );
                return Err(ApiError::new(Reason::Invalid, message));
            }
            (None, None) => Moment::Consistent,
            (_, Some(0)) => Moment::Any,
            // Paged lists at a revision were exact before resourceVersionMatch, and still are without it.
            (None, Some(revision)) if limit > 0 => Moment::Exact(revision),
            (_, Some(revision)) => Moment::NotOlderThan(revision),
        };
        Ok(Self { moment, limit, after: None })
    }
}

struct Page {
    revision: u64,
    items: Vec<Object>,
    next: Option<String>,
    remaining: Option<usize>,
}

impl Page {
    fn of(snapshot: &Snapshot, filter: &Filter, options: &Options) -> Self {
        let namespace = filter.namespace.as_deref();
        let mut matching = snapshot
            .entries_after(namespace, options.after.as_ref())
            .map(|entry| &entry.object)
            .filter(|object| filter.matches(object));
        if options.limit == 0 {
            let items = matching.cloned().collect();
            return Self { revision: snapshot.revision, items, next: None, remaining: None };
        }
        let items: Vec<Object> = matching.by_ref().take(options.limit).cloned().collect();
        let rest = matching.count();
        let last = items.last().filter(|_| rest > 0);
        let next = last.map(|last| encode_token(snapshot.revision.cast_signed(), last.key()));
        // With selectors upstream does not count what is left, and clients must not rely on it.
        let counted = filter.predicate.is_none() && filter.field.is_none() && filter.name.is_none();
        Self { revision: snapshot.revision, items, next, remaining: (rest > 0 && counted).then_some(rest) }
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

fn encode_token(rv: i64, last: &Key) -> String {
    let token = Continue { v: "meta.k8s.io/v1".to_owned(), rv, start: format!("{}/{}", last.namespace, last.name) };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token is plain JSON"))
}

fn decode_token(token: &str) -> Option<Continue> {
    let json = URL_SAFE_NO_PAD.decode(token).ok()?;
    serde_json::from_slice(&json).ok()
}

/// 410, with a token that goes on at the present where the old one was a page's.
fn expired(options: &Options) -> Answer {
    let Some(after) = &options.after else {
        return respond::error(&ApiError::new(
            Reason::Expired,
            "The resourceVersion for the provided list is too old.",
        ));
    };
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                   list without the continue parameter, or use the continue token in this response to retrieve the \
                   remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
                   that were created, modified, or deleted between the time the first chunk was returned and now may show \
                   up in the list.";
    let mut status = ApiError::new(Reason::Expired, message).to_status();
    status["metadata"] = json!({"continue": encode_token(-1, after)});
    respond::json(StatusCode::GONE, status.to_string())
}

/// The stored bytes one behind the other.
fn streamed(call: &Call, page: Page) -> Answer {
    let resource = &*call.served.resource;
    let (kind, version) = (format!("{}List", resource.kind), resource.api_version());
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{},"items":["#, page.metadata());
    let commas = page.items.len().saturating_sub(1);
    let length = head.len() + page.items.iter().map(|item| item.json().len()).sum::<usize>() + commas + 3;
    let pieces = Pieces { head: Some(head), items: page.items.into_iter(), first: true, ended: false };
    if length < GZIP_MIN {
        let mut whole = Vec::with_capacity(length);
        pieces.for_each(|piece| whole.extend_from_slice(&piece));
        return respond::json(StatusCode::OK, whole);
    }
    if call.form.gzip {
        let body = Body::Stream(stream::iter(Compressed::new(pieces)).map(Ok).boxed());
        let mut response = respond::with_type(StatusCode::OK, "application/json", body);
        respond::mark_compressed(&mut response);
        return response;
    }
    let body = Body::Stream(stream::iter(pieces).map(Ok).boxed());
    let mut response = respond::with_type(StatusCode::OK, "application/json", body);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// A list in pieces of about [`PIECE`] bytes, each made when it is asked for.
struct Pieces {
    head: Option<String>,
    items: std::vec::IntoIter<Object>,
    first: bool,
    ended: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut piece = self.head.take().map(String::into_bytes).unwrap_or_default();
        piece.reserve(PIECE);
        while piece.len() < PIECE {
            let Some(item) = self.items.next() else {
                piece.extend_from_slice(b"]}\n");
                self.ended = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                piece.push(b',');
            }
            piece.extend_from_slice(item.json());
        }
        Some(piece.into())
    }
}

/// Pieces as one gzip stream.
struct Compressed {
    pieces: Pieces,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Compressed {
    fn new(pieces: Pieces) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Iterator for Compressed {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        const CANNOT_FAIL: &str = "compressing into memory does not fail";
        let encoder = self.encoder.as_mut()?;
        while encoder.get_ref().len() < PIECE / 4 {
            let Some(piece) = self.pieces.next() else {
                let encoder = self.encoder.take()?;
                return Some(encoder.finish().expect(CANNOT_FAIL).into());
            };
            encoder.write_all(&piece).expect(CANNOT_FAIL);
        }
        Some(std::mem::take(encoder.get_mut()).into())
    }
}

/// Lists that need decoding: tables, metadata, YAML, and other forms than the stored one.
fn decoded(call: &Call, page: &Page) -> Result<Answer, ApiError> {
    let resource = &*call.served.resource;
    let items = page.items.iter().map(|item| conversion::from_stored(&call.served, item.to_value()));
    let list = match call.form.view {
        View::Table => {
            table::of_list(&call.served, call.form.rows, items, &page.metadata(), call.server.config.clock.now())
        }
        View::Metadata => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": page.metadata(), "items": items.map(|item| respond::metadata_of(&item)).collect::<Vec<_>>()}),
        View::Whole => json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
            "metadata": page.metadata(), "items": items.collect::<Vec<_>>()}),
    };
    Ok(respond::encoded(StatusCode::OK, call.form, list.to_string().into()))
}
