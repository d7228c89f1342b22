//! Shared informer caches: one watch for each resource and scope keeps a [`Cache`] up to date for as long as it is wanted.
//!
//! A watch begins with all present objects (the streaming list of KEP-3157), or with a list where the server refuses that.
//! It resumes from the last revision after a lost connection, and starts over only when the server has given that revision
//! up (410). Events are taken in in the server's order; one that cannot be read is logged and left out.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use api::{Key, Object, Resource, resources};
use base::{Backoff, Random, Stop, Tasks, chain};

use crate::cache::{Cache, Handle, Shared};
use crate::client::{Client, ClientError, WatchScope};
use crate::served::{ServedResources, WeakServed};
use crate::watch::{Event, Start, WatchError};

/// The server ends a watch after a time between this and its double, so that watches spread over the servers again after
/// one of them was away.
const WATCH_SECONDS_MIN: u32 = 300;

/// How long to wait after a failed attempt, at first and at most: a server that comes back is found soon and not stormed.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// The caches that the parts of one component share. Cloning shares them.
#[derive(Clone)]
pub struct Informers(Arc<Inner>);

struct Inner {
    client: Client,
    tasks: Tasks,
    stop: Stop,
    random: Random,
    caches: Mutex<BTreeMap<CacheName, Entry>>,
    served: Mutex<WeakServed>,
}

/// API version and plural name of the resource, and the scope.
type CacheName = (String, String, WatchScope);

enum Entry {
    /// A whole built-in resource: watched until the end.
    Held(Cache),
    /// A part of one, or a resource of a definition, which may go: watched while somebody holds it.
    Loose(Weak<Handle>),
}

impl Informers {
    /// No caches yet. Their watches are tasks of `tasks`, run under the client's identity and end with `stop`.
    pub fn new(client: Client, tasks: Tasks, stop: Stop) -> Self {
        let random = Random::from_os();
        Self(Arc::new(Inner { client, tasks, stop, random, caches: Mutex::default(), served: Mutex::default() }))
    }

    /// The cache of a resource and scope; the first call starts its watch, later ones share it.
    pub fn cache(&self, resource: &Resource, scope: WatchScope) -> Cache {
        let lasting = scope == WatchScope::default()
            && resources::find(&resource.group, &resource.version, &resource.plural).is_some();
        let name = (resource.api_version(), resource.plural.to_string(), scope.clone());
        let mut caches = self.lock();
        if let Some(cache) = caches.get(&name).and_then(Entry::get) {
            return cache;
        }
        // Parts that nobody holds any more leave their names behind: they go when the next part comes.
        caches.retain(|_, entry| entry.get().is_some());
        let (shared, stop) = (Arc::new(Shared::new(resource.clone())), self.0.stop.child());
        let cache = Cache(Arc::new(Handle { shared: shared.clone(), stop: stop.clone() }));
        let entry = if lasting { Entry::Held(cache.clone()) } else { Entry::Loose(Arc::downgrade(&cache.0)) };
        caches.insert(name, entry);
        drop(caches);
        let (client, random) = (self.0.client.clone(), self.0.random.clone());
        let reflector =
            Reflector { client, resource: resource.clone(), scope, shared, random, resume: None, lists: false };
        self.0.tasks.spawn(format!("informer {}", resource.plural), reflector.run(stop));
        cache
    }

    /// The cache of a whole resource.
    pub fn all(&self, resource: &Resource) -> Cache {
        self.cache(resource, WatchScope::default())
    }

    /// The cache of a whole resource, if somebody asked for it before.
    pub fn existing(&self, resource: &Resource) -> Option<Cache> {
        let name = (resource.api_version(), resource.plural.to_string(), WatchScope::default());
        self.lock().get(&name).and_then(Entry::get)
    }

    /// What is served, followed for as long as somebody holds the answer: all share one follower.
    pub fn served(&self) -> ServedResources {
        let mut served = self.0.served.lock().expect("no holder of the follower panics");
        if let Some(following) = served.upgrade() {
            return following;
        }
        let (following, task) = ServedResources::new(self.clone(), self.0.stop.child());
        *served = following.downgrade();
        self.0.tasks.spawn("served resources", task);
        following
    }

    /// Waits until every cache that was asked for so far is synchronised.
    pub async fn synced(&self) {
        let caches: Vec<Cache> = self.lock().values().filter_map(Entry::get).collect();
        for cache in caches {
            cache.synced().await;
        }
    }

    /// The client under whose identity the watches run.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CacheName, Entry>> {
        self.0.caches.lock().expect("no holder of the list of caches panics")
    }
}

impl Entry {
    fn get(&self) -> Option<Cache> {
        match self {
            Self::Held(cache) => Some(cache.clone()),
            Self::Loose(handle) => handle.upgrade().map(Cache),
        }
    }
}

/// Keeps one cache up to date.
struct Reflector {
    client: Client,
    resource: Resource,
    scope: WatchScope,
    shared: Arc<Shared>,
    random: Random,
    /// The revision up to which the cache is complete; `None`: start over.
    resume: Option<u64>,
    /// Whether the server refused to send initial events.
    lists: bool,
}

/// How one watch ended, when nothing failed.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It brought something, or was refused in a way that the next attempt heeds: go on at once.
    WithProgress,
    /// It brought nothing: wait before the next.
    Empty,
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("the server ended the watch")]
    Failed(#[source] api::ApiError),
}

impl Reflector {
    async fn run(mut self, stop: Stop) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut failures = 0_u32;
        while let Some(result) = stop.or_stopped(self.session()).await {
            match result {
                Ok(Ended::WithProgress) => {
                    backoff.reset();
                    failures = 0;
                    continue;
                }
                Ok(Ended::Empty) => {}
                Err(error) => {
                    failures += 1;
                    let (resource, error) = (&*self.resource.plural, chain(&error));
                    // The first failures are what every start and every restart of a server looks like.
                    if failures > 3 {
                        tracing::warn!(resource, error, failures, "cannot watch; trying again");
                    } else {
                        tracing::debug!(resource, error, "cannot watch; trying again");
                    }
                }
            }
            if stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await.is_none() {
                break;
            }
        }
    }

    /// One watch from its beginning to its end.
    async fn session(&mut self) -> Result<Ended, SessionError> {
        if self.resume.is_none() && self.lists {
            self.list().await?;
        }
        let seconds = WATCH_SECONDS_MIN + self.random.below(WATCH_SECONDS_MIN as usize) as u32;
        let start = match self.resume {
            Some(revision) => Start::after(revision, seconds),
            None => Start::with_initial_events(seconds),
        };
        let silence_max = start.silence_max();
        let mut stream = match self.client.watch(&self.resource, &self.scope, start).await {
            Err(error) if self.resume.is_some() && error.is_expired() => {
                self.resume = None;
                return Ok(Ended::WithProgress);
            }
            Err(ClientError::Api(error)) if self.resume.is_none() && matches!(error.code, 400 | 422) => {
                self.lists = true;
                return Ok(Ended::WithProgress);
            }
            opened => opened?,
        };
        let mut initial = self.resume.is_none().then(HashSet::new);
        let mut ended = Ended::Empty;
        // A watch that is silent for longer than the server may keep it open has lost its connection.
        while let Ok(Some(event)) = tokio::time::timeout(silence_max, stream.next()).await {
            match event {
                Ok(event) => {
                    if !self.take(event, &mut initial)? {
                        return Ok(Ended::WithProgress);
                    }
                    ended = Ended::WithProgress;
                }
                Err(error @ WatchError::Frame { .. }) => {
                    tracing::error!(error = chain(&error), "left out a watch event");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ended)
    }

    /// Takes in one event. `initial`: the keys so far, while the present objects are still coming. False: start over.
    fn take(&mut self, event: Event, initial: &mut Option<HashSet<Key>>) -> Result<bool, SessionError> {
        match (event, initial.as_mut()) {
            (Event::Applied(object), Some(present)) => {
                present.insert(object.key().clone());
                self.shared.apply(object);
            }
            (Event::Deleted(object), Some(present)) => {
                present.remove(object.key());
                self.shared.remove(object);
            }
            (Event::Applied(object), None) => self.complete_to(object.revision(), |cache| cache.apply(object)),
            (Event::Deleted(object), None) => self.complete_to(object.revision(), |cache| cache.remove(object)),
            (Event::Bookmark { revision, initial_events_end: true }, Some(present)) => {
                self.shared.retain(present);
                self.complete_to(revision, |_| {});
                self.shared.set_synced();
                *initial = None;
            }
            (Event::Bookmark { .. }, Some(_)) => {
                // The server ignored the wish for initial events: only a list tells what is present.
                self.lists = true;
                return Ok(false);
            }
            (Event::Bookmark { revision, .. }, None) => self.complete_to(revision, |_| {}),
            (Event::Failed(error), _) if error.code == 410 => {
                self.resume = None;
                return Ok(false);
            }
            (Event::Failed(error), _) => return Err(SessionError::Failed(error)),
        }
        Ok(true)
    }

    fn complete_to(&mut self, revision: u64, change: impl FnOnce(&Shared)) {
        change(&self.shared);
        self.resume = Some(revision);
        self.shared.advance(revision);
    }

    async fn list(&mut self) -> Result<(), ClientError> {
        let list = self.client.list(&self.resource, &self.scope).await?;
        let present: HashSet<Key> = list.items.iter().map(|object: &Object| object.key().clone()).collect();
        list.items.into_iter().for_each(|object| self.shared.apply(object));
        self.shared.retain(&present);
        self.complete_to(list.revision, |_| {});
        self.shared.set_synced();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
