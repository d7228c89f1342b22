//! What happened to a resource before its history begins, read back from the store when a client names such a moment: who knew
//! the server before its restart goes on where it was, without listing again.
//!
//! Nothing is read before somebody asks. What the store has given up is gone: 410.

use api::{ApiError, storage_key};
use futures::StreamExt;
use store::{Batch, Range, RangeResult, Revision, StoreError};

use super::resource_cache::State;
use super::{Caches, Change, EventKind, ResourceCache, store_failed};

impl Caches {
    /// Takes the changes after `asked` into the cache's history, as far as the store has them. Whether `asked` is known now.
    pub async fn recall(&self, cache: &ResourceCache, asked: u64) -> Result<bool, ApiError> {
        // Many clients come back at once and name about the same moment: one reads for all.
        let _one = cache.recalling.lock().await;
        let until = cache.oldest();
        if until <= asked {
            return Ok(true);
        }
        match self.earlier(cache, asked, until).await {
            Ok(earlier) => Ok(cache.remember(asked, until, earlier)),
            Err(StoreError::NotRetained { .. } | StoreError::SlowWatcher { .. }) => Ok(false),
            Err(error) => Err(store_failed(&error)),
        }
    }

    /// What changed after `asked`, up to `until`.
    async fn earlier(&self, cache: &ResourceCache, asked: u64, until: u64) -> Result<Vec<Change>, StoreError> {
        let prefix = storage_key::prefix(cache.resource(), None);
        let range = Range::prefix(prefix.clone());
        let base = self.store.range(Range { at: Some(Revision(asked)), ..range.clone() }).await?;
        let mut past = cache.past(&base, &prefix);
        // Of everything, since only that shows every revision: the end is seen without waiting for one of this resource.
        let mut watch = self.watch_store(Revision(asked)).await?;
        let mut reached = asked;
        while reached < until {
            let Batch { revision, mut events } = match watch.next().await {
                Some(batch) => batch?,
                None => return Err(StoreError::Stopped("the watch ended".to_owned())),
            };
            reached = revision.0;
            events.retain(|event| range.contains(event.key()));
            if reached <= until {
                drop(cache.record(&mut past, reached, events));
            }
        }
        Ok(past.history.into_changes())
    }
}

impl ResourceCache {
    /// The state of the cache at an earlier revision.
    fn past(&self, base: &RangeResult, prefix: &str) -> State {
        let mut past = State::default();
        past.revision = base.revision.0;
        past.history.begin(base.revision.0);
        let entries = base.items.iter().filter_map(|item| self.entry(item, prefix, EventKind::Added));
        past.objects = entries.map(|entry| (entry.object.key().clone(), entry)).collect();
        past
    }

    /// Puts earlier changes in front of the history, unless that has moved on meanwhile.
    fn remember(&self, asked: u64, until: u64, earlier: Vec<Change>) -> bool {
        let mut state = self.state();
        let unmoved = state.history.oldest() == until;
        unmoved && state.history.prepend(asked, earlier)
    }
}
