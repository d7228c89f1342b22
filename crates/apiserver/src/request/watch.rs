//! `watch`: changes as they come, from the watch cache.
//!
//! The frames of a watch that sees whole objects are shared by all watchers, in this process too: an event is encoded once.
//! Tables, metadata and other forms than the stored one are made for each watcher.

use std::time::Duration;

use api::{ApiError, Object, Reason};
use bytes::Bytes;
use control::Body;
use futures::{Stream, StreamExt};
use http::StatusCode;
use serde_json::{Value, json};

use super::negotiate::View;
use super::respond::{self, Answer};
use super::{Call, selectors};
use crate::watch_cache::{EventKind, Expired, Start, WatchEvent, restamp};
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
    let cache = call.cache().await?;
    let filter = selectors::filter(&call)?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let start = start(&call, bookmarks).await?;
    let lasting = match call.query.number::<u64>("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds,
        _ => LASTS_SECONDS + call.server.config.random.below(LASTS_SECONDS as usize) as u64,
    };
    let watching = cache.watch(call.server.caches.applied(), filter, start, bookmarks, Duration::from_secs(lasting));
    let stop = call.server.stop.clone();
    let sent = metrics::WATCH_EVENTS.with([&resource.group, &resource.version, &resource.plural]);
    let mut encoder = Encoder::of(call);
    let encode = move |event| {
        sent.inc();
        Ok(encoder.encode(event))
    };
    let body = match watching {
        Ok(watching) => until(stop, watching.map(encode)).boxed(),
        Err(expired) => futures::stream::iter([Ok(error_frame(&expired.into()))]).boxed(),
    };
    Ok(respond::with_type(StatusCode::OK, "application/json", Body::Stream(body)))
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
    let forbidden = |field: &str, why: &str| {
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {why}");
        Err(ApiError::new(Reason::Invalid, message))
    };
    match (initial, call.query.get("resourceVersionMatch")) {
        (None, Some(_)) => forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), Some("NotOlderThan")) | (None, None) => Ok(()),
        (Some(_), _) => {
            forbidden("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
    }
}

fn until<S: Stream>(stop: base::Stop, stream: S) -> impl Stream<Item = S::Item> {
    stream.take_until(async move { stop.stopped().await })
}

/// `{"type":"ERROR","object":<Status>}`
pub fn error_frame(error: &ApiError) -> Bytes {
    format!("{}\n", json!({"type": "ERROR", "object": error.to_status()})).into()
}

/// Writes events in the form that a watcher asked for.
struct Encoder {
    call: Call,
    /// Whether a table's columns have been sent: the first event carries them.
    columns_sent: bool,
}

impl Encoder {
    fn of(call: Call) -> Self {
        Self { call, columns_sent: false }
    }

    fn encode(&mut self, event: WatchEvent) -> Bytes {
        let plain = self.call.form.view == View::Whole && self.call.served.is_stored_form();
        match event {
            WatchEvent::Initial(entry) if plain => entry.added_frame(),
            WatchEvent::Change(kind, change) if plain => change.frame(kind),
            WatchEvent::Initial(entry) => self.converted(EventKind::Added, &entry.object, None),
            WatchEvent::Change(kind, change) => {
                let revision = (kind == EventKind::Deleted).then_some(change.revision);
                self.converted(kind, change.object(kind), revision)
            }
            WatchEvent::Bookmark { revision, initial_events_end } => self.bookmark(revision, initial_events_end),
            WatchEvent::Expired(expired) => error_frame(&Expired::into(expired)),
        }
    }

    fn converted(&mut self, kind: EventKind, object: &Object, revision: Option<u64>) -> Bytes {
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
        line(&json!({"type": kind.name(), "object": shown}))
    }

    fn without_repeated_columns(&mut self, mut table: Value) -> Value {
        if std::mem::replace(&mut self.columns_sent, true) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    fn bookmark(&mut self, revision: u64, initial_events_end: bool) -> Bytes {
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
        line(&json!({"type": "BOOKMARK", "object": object}))
    }
}

fn line(event: &Value) -> Bytes {
    format!("{event}\n").into()
}
