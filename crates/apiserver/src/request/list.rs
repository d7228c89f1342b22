//! `list`: all objects that match, at one revision, whole or in pages.
//!
//! A list is a snapshot of the cache: one pointer, whatever is written while it is sent. A page's continue token names the
//! revision of the first page, so that all pages show the same moment.

mod body;
pub mod options;

use std::sync::Arc;

use api::{ApiError, Key, Object, Reason};
use http::StatusCode;
use serde_json::{Value, json};

use self::options::{Moment, Options, token};
use super::respond::{self, Answer};
use super::{Call, selectors};
use crate::watch_cache::{Filter, ListOf, ResourceCache, Snapshot};

/// Answers `list`.
pub async fn answer(call: Call) -> Result<Answer, ApiError> {
    let cache = call.cache().await?;
    let filter = selectors::filter(&call)?;
    let options = Options::of(&call.query)?;
    let Some(snapshot) = snapshot(&call, &cache, options.moment).await? else {
        return expired(&call, options.after.as_ref());
    };
    let whole = whole(&cache, &snapshot, &filter, &options);
    if let Some(kept) = whole.as_ref().and_then(|whole| body::kept(&call, snapshot.revision, whole)) {
        return Ok(kept);
    }
    let page = Page::of(&snapshot, &filter, &options);
    drop(snapshot);
    body::answer(&call, page, whole).await
}

/// The moment that is to be shown; `None` where it is too long ago.
async fn snapshot(call: &Call, cache: &Arc<ResourceCache>, moment: Moment) -> Result<Option<Snapshot>, ApiError> {
    let caches = &call.server.caches;
    match moment {
        Moment::Consistent => caches.fresh().await,
        Moment::Any => {}
        Moment::NotOlderThan(revision) => caches.reached_in_time(revision).await?,
        Moment::Exact(revision) => {
            caches.reached_in_time(revision).await?;
            if !caches.is_listed_at(revision) {
                return Ok(None);
            }
            if let Ok(snapshot) = cache.snapshot_at(revision) {
                return Ok(Some(snapshot));
            }
            let known = caches.recall(cache, revision).await?;
            return Ok(cache.snapshot_at(revision).ok().filter(|_| known));
        }
    }
    Ok(Some(caches.snapshot(cache)))
}

/// Which list it is, where nothing is left out of it.
fn whole(cache: &Arc<ResourceCache>, snapshot: &Snapshot, filter: &Filter, options: &Options) -> Option<ListOf> {
    let Filter { namespace, name: None, field: None, predicate: None } = filter else { return None };
    let Options { limit: 0, after: None, .. } = options else { return None };
    Some(ListOf { cache: cache.clone(), namespace: namespace.clone(), changed: snapshot.changed? })
}

/// What of a snapshot is to be sent.
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
        let revision = snapshot.revision;
        if options.limit == 0 {
            return Self { revision, items: matching.cloned().collect(), next: None, remaining: None };
        }
        let items: Vec<Object> = matching.by_ref().take(options.limit).cloned().collect();
        // With selectors upstream does not count what is left, and clients must not rely on it.
        let counted = filter.predicate.is_none() && filter.field.is_none() && filter.name.is_none();
        let rest = if counted { matching.count() } else { usize::from(matching.next().is_some()) };
        let next = items.last().filter(|_| rest > 0).map(|last| token(revision.cast_signed(), last.key()));
        Self { revision, items, next, remaining: (rest > 0 && counted).then_some(rest) }
    }

    /// One without its items, which are known.
    fn emptied(revision: u64) -> Self {
        Self { revision, items: Vec::new(), next: None, remaining: None }
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

/// 410, with a token that goes on at the present where the old one was a page's.
fn expired(call: &Call, after: Option<&Key>) -> Result<Answer, ApiError> {
    let Some(after) = after else {
        return Err(ApiError::new(Reason::Expired, "The resourceVersion for the provided list is too old."));
    };
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                   list without the continue parameter, or use the continue token in this response to retrieve the \
                   remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
                   that were created, modified, or deleted between the time the first chunk was returned and now may show \
                   up in the list.";
    let mut status = ApiError::new(Reason::Expired, message).to_status();
    status["metadata"] = json!({"continue": token(-1, after)});
    Ok(respond::status(call.form, StatusCode::GONE, &status))
}
