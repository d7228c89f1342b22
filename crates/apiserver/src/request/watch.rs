//! `watch`: changes as they come, from the watch cache.
//!
//! The frames of a watch that sees whole objects are shared by all watchers, in this process too: an event is encoded once.
//! Tables, metadata and other forms than the stored one are made for each watcher.

use std::time::Duration;

use api::protobuf::encode::{self, EncodeError};
use api::{ApiError, Object, Reason};
use bytes::Bytes;
use control::Body;
use futures::{Stream, StreamExt};
use http::StatusCode;
use serde_json::{Value, json};

use super::negotiate::{Syntax, View};
use super::respond::{self, Answer};
use super::{Call, selectors};
use crate::invalid::{FieldError, invalid_options};
use crate::watch_cache::{EventKind, Expired, Protobuf, Start, WatchEvent, restamp};
use crate::{conversion, metrics, table};

/// How long a watch lasts at least that names no time: half of these are added by chance, so that watchers that began
/// together do not come back together.
const LASTS_SECONDS: u64 = 1800;

/// Answers `watch`. What is wrong with the start revision is an event, not an error: that is what clients look for.
pub async fn answer(call: Call) -> Result<Answer, ApiError> {
    let resource = &*call.served.resource;
    if !call.served.resource.serves(api::Verb::Watch) {
        let message = "the server does not allow this method on the requested resource";
        return Err(ApiError::about(Reason::MethodNotAllowed, &resource.group, &resource.plural, "", message));
    }
    call.form.check_streams()?;
    let cache = call.cache().await?;
    let filter = selectors::filter(&call)?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let start = start(&call, bookmarks).await?;
    let lasting = match call.query.number::<u64>("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds,
        _ => LASTS_SECONDS + call.server.config.random.below(LASTS_SECONDS as usize) as u64,
    };
    let lasting = Duration::from_secs(lasting);
    let begin = |filter| cache.watch(call.server.caches.applied(), filter, start, call.pace, bookmarks, lasting);
    let watching = match begin(filter.clone()) {
        // What the cache has no more, or never had, the store may have.
        Err(expired) if call.server.caches.recall(&cache, expired.asked).await? => begin(filter),
        watching => watching,
    };
    let stop = call.server.stop.clone();
    let sent = metrics::WATCH_EVENTS.with([&resource.group, &resource.version, &resource.plural]);
    let media_type = match call.form.syntax {
        Syntax::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let mut encoder = Encoder::of(call);
    let body = match watching {
        Ok(watching) => {
            let encode = move |event| {
                sent.inc();
                Ok(encoder.encode(event))
            };
            until(stop, watching.map(encode)).boxed()
        }
        Err(expired) => futures::stream::iter([Ok(encoder.error(&expired.into()))]).boxed(),
    };
    Ok(respond::with_type(StatusCode::OK, media_type, Body::Stream(body)))
}

async fn start(call: &Call, bookmarks: bool) -> Result<Start, ApiError> {
    let revision = call.query.resource_version()?;
    let initial = call.query.get("sendInitialEvents").is_some().then(|| call.query.flag("sendInitialEvents"));
    check_match(call, initial)?;
    match (initial, revision) {
        (None | Some(true), None) => call.server.caches.fresh().await,
        (Some(true), Some(revision)) => call.server.caches.reached_in_time(revision).await?,
        (None, Some(0)) => {}
        (Some(false), None | Some(0)) => {
            call.server.caches.fresh().await;
            return Ok(Start::After(call.server.caches.applied()));
        }
        (None | Some(false), Some(revision)) => return Ok(Start::After(revision)),
    }
    Ok(Start::State { bookmark: initial == Some(true) && bookmarks })
}

fn check_match(call: &Call, initial: Option<bool>) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let given = call.query.get(FIELD);
    let mut errors = Vec::new();
    if initial.is_some() && given != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(FIELD, why));
    }
    if let Some(given) = given {
        if initial.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if given != "NotOlderThan" {
            errors.push(FieldError::not_supported(FIELD, &json!(given), &["NotOlderThan"]));
        }
        if call.query.get("continue").is_some() {
            errors.push(FieldError::forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid_options("ListOptions", &errors)) }
}

fn until<S: Stream>(stop: base::Stop, stream: S) -> impl Stream<Item = S::Item> {
    stream.take_until(async move { stop.stopped().await })
}

/// Writes events in the form that a watcher asked for.
struct Encoder {
    call: Call,
    /// How whole objects are written, where that is not as they are stored.
    protobuf: Option<Protobuf>,
    /// Whether a table's columns have been sent: the first event carries them.
    columns_sent: bool,
}

impl Encoder {
    fn of(call: Call) -> Self {
        let protobuf = (call.form.syntax == Syntax::Protobuf).then(|| Protobuf::of(&call.served.resource)).flatten();
        Self { call, protobuf, columns_sent: false }
    }

    fn encode(&mut self, event: WatchEvent) -> Bytes {
        let plain = self.call.form.view == View::Whole && self.call.served.is_stored_form();
        let written = match (event, &self.protobuf) {
            (WatchEvent::Initial(entry), None) if plain => return entry.added_frame(),
            (WatchEvent::Change(kind, change), None) if plain => return change.frame(kind),
            (WatchEvent::Initial(entry), Some(protobuf)) if plain => protobuf.frame(EventKind::Added, &entry.object),
            (WatchEvent::Change(kind, change), Some(protobuf)) if plain => change.protobuf_frame(kind, protobuf),
            (WatchEvent::Initial(entry), _) => self.converted(EventKind::Added, &entry.object, None),
            (WatchEvent::Change(kind, change), _) => {
                let revision = (kind == EventKind::Deleted).then_some(change.revision);
                self.converted(kind, change.object(kind), revision)
            }
            (WatchEvent::Bookmark { revision, initial_events_end }, _) => self.bookmark(revision, initial_events_end),
            (WatchEvent::Expired(expired), _) => return self.error(&Expired::into(expired)),
        };
        written.unwrap_or_else(|why| self.error(&respond::unwritable(&why)))
    }

    /// An `ERROR` event with a `Status`.
    fn error(&self, error: &ApiError) -> Bytes {
        self.event("ERROR", &error.to_status()).expect("a Status is written from its own fields")
    }

    fn event(&self, name: &str, object: &Value) -> Result<Bytes, EncodeError> {
        if self.call.form.syntax == Syntax::Protobuf
            && let Some(enveloped) = encode::document(object.to_string().as_bytes())?
        {
            return Ok(encode::watch_frame(name, &enveloped).into());
        }
        Ok(format!("{}\n", json!({"type": name, "object": object})).into())
    }

    fn converted(&mut self, kind: EventKind, object: &Object, revision: Option<u64>) -> Result<Bytes, EncodeError> {
        let tree = match revision {
            Some(revision) => {
                let mut json = Vec::with_capacity(object.json().len() + 8);
                restamp(object.json(), revision, &mut json);
                serde_json::from_slice(&json).unwrap_or_else(|_| object.to_value())
            }
            None => object.to_value(),
        };
        let tree = conversion::from_stored(&self.call.served, tree);
        let shown = match self.call.form.view {
            View::Whole => tree,
            View::Metadata => respond::metadata_of(&tree),
            View::Table => {
                let (rows, now) = (self.call.form.rows, self.call.server.config.clock.now());
                self.without_repeated_columns(table::of_object(&self.call.served, rows, &tree, now))
            }
        };
        self.event(kind.name(), &shown)
    }

    fn without_repeated_columns(&mut self, mut table: Value) -> Value {
        if std::mem::replace(&mut self.columns_sent, true) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    fn bookmark(&mut self, revision: u64, initial_events_end: bool) -> Result<Bytes, EncodeError> {
        let resource = &*self.call.served.resource;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.call.form.view {
            View::Whole => json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata}),
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table => {
                let none = std::iter::empty();
                let (rows, now) = (self.call.form.rows, self.call.server.config.clock.now());
                let table = table::of_list(&self.call.served, rows, none, &metadata, now);
                self.without_repeated_columns(table)
            }
        };
        self.event("BOOKMARK", &object)
    }
}
