//! Runs a controller: triggers fill its queue, workers reconcile keys, and a key rests until the caches have seen what was
//! written for it.
//!
//! That last rule replaces expectation counters: a reconciler always sees its own last writes, so it never creates what it
//! has just created. Where the answer to a write was lost, the driver asks the API server what became of it.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Key, Object, Resource};
use base::{Random, SharedClock, Stop, Tasks, chain};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::cache::Cache;
use crate::changes::Change;
use crate::client::{Client, ClientError, WatchScope, Written};
use crate::events::Recorder;
use crate::informer::Informers;
use crate::queue::{Done, Queue};

/// How long a key waits for the caches to see its writes. They do within milliseconds, unless the watch is down; then it
/// is better to go on from old facts than never.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);

/// How long to wait before asking again what became of a write whose answer was lost.
const LOST_ANSWER_RETRY: Duration = Duration::from_millis(200);

/// One controller, as a row of a table. `S` is what the binary sets for all controllers of the table.
#[derive(Debug)]
pub struct Descriptor<S: 'static> {
    /// Upstream's name of the controller.
    pub name: &'static str,
    /// The resource whose keys are reconciled.
    pub reconciles: &'static Resource,
    /// Resources whose objects name one of those as their controller: a change reconciles that one.
    pub owns: &'static [&'static Resource],
    /// Other changes that reconcile keys.
    pub watches: &'static [Trigger],
    /// Resources that a reconcile reads, and that trigger nothing.
    pub reads: &'static [&'static Resource],
    /// How many keys are reconciled at the same time.
    pub workers_max: usize,
    /// Every key is reconciled again after about this time without a change; zero for never.
    pub resync: Duration,
    /// Brings one key closer to what it should be.
    pub reconcile: fn(Key, Ctx<S>) -> BoxFuture<'static, Result<Next, ReconcileError>>,
}

/// Finds the keys that a change of another resource concerns. Called with the new and, where there was one, the old state.
#[derive(Debug, Clone, Copy)]
pub struct Trigger {
    /// The other resource.
    pub resource: &'static Resource,
    /// The keys.
    pub keys: fn(&Informers, &Object) -> Vec<Key>,
}

/// What a reconcile asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    OnChange,
    /// Again after this time, or earlier when something changes.
    After(Duration),
}

/// Why a reconcile failed. The key is tried again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A call of the API failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An object is not what its resource says.
    #[error("cannot read {kind} {key}")]
    Decode {
        /// Its kind.
        kind: String,
        /// Namespace and name.
        key: Key,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The object asks for something that cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// What a reconcile works with. The client tells the driver of every write.
pub struct Ctx<S> {
    /// Acts under the controller's own identity.
    pub client: Client,
    /// The shared caches.
    pub informers: Informers,
    /// Wall-clock time.
    pub clock: SharedClock,
    /// Random names.
    pub random: Random,
    /// Events.
    pub recorder: Recorder,
    /// What the binary set.
    pub settings: Arc<S>,
}

impl<S> Clone for Ctx<S> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            informers: self.informers.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            recorder: self.recorder.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<S> Ctx<S> {
    /// The cache of a whole resource.
    pub fn cache(&self, resource: &Resource) -> Cache {
        self.informers.all(resource)
    }
}

/// Something that a harness can run to rest.
pub trait Component: Send + Sync + 'static {
    /// Whether it has nothing to do right now.
    fn is_idle(&self) -> bool;
    /// Runs until `stop`; returns when everything that it started has ended.
    fn run(self: Arc<Self>, stop: Stop) -> BoxFuture<'static, ()>;
}

/// One running controller.
pub struct Controller<S: 'static> {
    descriptor: &'static Descriptor<S>,
    ctx: Ctx<S>,
    queue: Arc<Queue<Key>>,
}

impl<S: Send + Sync + 'static> Controller<S> {
    /// A controller that [`Component::run`] starts.
    pub fn new(descriptor: &'static Descriptor<S>, ctx: Ctx<S>) -> Arc<Self> {
        Arc::new(Self { descriptor, ctx, queue: Arc::new(Queue::named(descriptor.name)) })
    }

    /// Starts the tasks that turn changes into keys, and waits until all caches are synchronised.
    async fn start_triggers(&self, tasks: &Tasks, stop: &Stop) {
        let Descriptor { reconciles, owns, watches, reads, .. } = *self.descriptor;
        let mut caches: Vec<Cache> = reads.iter().map(|resource| self.ctx.cache(resource)).collect();
        caches.push(self.trigger(tasks, stop, reconciles, |_, object| vec![object.key().clone()]));
        for resource in owns {
            let keys = move |_: &Informers, object: &Object| controller_key(reconciles, object).into_iter().collect();
            caches.push(self.trigger(tasks, stop, resource, keys));
        }
        for watch in watches {
            caches.push(self.trigger(tasks, stop, watch.resource, watch.keys));
        }
        for cache in caches {
            cache.synced().await;
        }
    }

    fn trigger(
        &self,
        tasks: &Tasks,
        stop: &Stop,
        resource: &Resource,
        keys: impl Fn(&Informers, &Object) -> Vec<Key> + Send + 'static,
    ) -> Cache {
        let cache = self.ctx.cache(resource);
        let (mut changes, queue) = (cache.changes(), self.queue.clone());
        let (informers, stop) = (self.ctx.informers.clone(), stop.clone());
        tasks.spawn(format!("changes of {}", resource.plural), async move {
            while let Some((change, old)) = stop.or_stopped(changes.next_with_old()).await {
                let now = match change {
                    Change::Applied(object) | Change::Deleted(object) => Some(object),
                    Change::Synced => None,
                };
                let mut wanted: Vec<Key> =
                    old.iter().chain(now.iter()).flat_map(|object| keys(&informers, object)).collect();
                wanted.sort();
                wanted.dedup();
                wanted.iter().for_each(|key| queue.add(key));
            }
        });
        cache
    }

    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            let done = self.reconcile(&key).await;
            self.queue.done(&key, done);
        }
    }

    async fn reconcile(&self, key: &Key) -> Done {
        let controller = self.descriptor.name;
        let writes = Writes::default();
        let ctx = Ctx { client: writes.recording(&self.ctx.client), ..self.ctx.clone() };
        let result = AssertUnwindSafe((self.descriptor.reconcile)(key.clone(), ctx)).catch_unwind().await;
        let settled = tokio::time::timeout(SETTLE_TIME_MAX, writes.settle(&self.ctx.informers)).await;
        if settled.is_err() {
            tracing::warn!(controller, %key, "the caches have not seen this key's writes; going on without");
        }
        match result {
            Ok(Ok(Next::After(delay))) => Done::After(delay),
            Ok(Ok(Next::OnChange)) => self.rest(key),
            Ok(Err(ReconcileError::Client(error))) if error.is_conflict() || error.is_not_found() => {
                // Someone else was faster, and the cache will tell.
                tracing::debug!(controller, %key, error = chain(&error), "reconciling again");
                Done::Failed
            }
            Ok(Err(ReconcileError::Client(error))) if error.is_forbidden() && self.queue.failures(key) > 0 => {
                // A quota may refuse for days. Events tell whoever owns the object; one line tells who reads the log.
                tracing::debug!(controller, %key, error = chain(&error), "still refused; trying again");
                Done::Failed
            }
            Ok(Err(error)) => {
                tracing::warn!(controller, %key, error = chain(&error), "cannot reconcile; trying again");
                Done::Failed
            }
            Err(_) => {
                tracing::error!(controller, %key, "the reconciler panicked; trying again");
                Done::Failed
            }
        }
    }

    fn rest(&self, key: &Key) -> Done {
        let resync = self.descriptor.resync;
        if resync.is_zero() || self.ctx.cache(self.descriptor.reconciles).get(key).is_none() {
            return Done::Settled;
        }
        // Spread out, so that not all keys come back in one moment.
        let spread = self.ctx.random.below(resync.as_millis() as usize / 5 + 1);
        Done::After(resync + Duration::from_millis(spread as u64))
    }
}

impl<S: Send + Sync + 'static> Component for Controller<S> {
    fn is_idle(&self) -> bool {
        self.queue.is_idle() && !self.queue.has_failures()
    }

    fn run(self: Arc<Self>, stop: Stop) -> BoxFuture<'static, ()> {
        async move {
            let tasks = Tasks::new(self.descriptor.name);
            if stop.or_stopped(self.start_triggers(&tasks, &stop)).await.is_some() {
                for number in 0..self.descriptor.workers_max {
                    let (this, stop) = (self.clone(), stop.clone());
                    tasks.spawn(format!("worker {number}"), async move {
                        let _ = stop.or_stopped(this.work()).await;
                    });
                }
            }
            tasks.join().await;
        }
        .boxed()
    }
}

/// The key of the `reconciles` that manages `object`.
pub fn controller_key(reconciles: &Resource, object: &Object) -> Option<Key> {
    let owner = object.controller()?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let ours = *owner.kind == *reconciles.kind && group == reconciles.group;
    let namespace = if reconciles.namespaced() { object.key().namespace.clone() } else { "".into() };
    ours.then(|| Key { namespace, name: (&*owner.name).into() })
}

/// What one piece of work wrote, and the wait until the caches show it.
#[derive(Clone, Default)]
pub struct Writes(Arc<Mutex<Vec<(Resource, Written)>>>);

impl Writes {
    /// A client whose writes are recorded here.
    pub fn recording(&self, client: &Client) -> Client {
        let writes = self.clone();
        client.observed(Arc::new(move |resource, written| {
            let mut writes = writes.0.lock().expect("no holder of the list of writes panics");
            writes.push((resource.clone(), written));
        }))
    }

    /// Waits until every cache of a written resource shows what was written.
    pub async fn settle(&self, informers: &Informers) {
        let writes = std::mem::take(&mut *self.0.lock().expect("no holder of the list of writes panics"));
        for (resource, written) in writes {
            let Some(cache) = informers.existing(&resource) else { continue };
            match written {
                Written::At(_, revision) => cache.wait_until(|cache| cache.revision() >= revision).await,
                Written::Deleted(key, uid) => cache.wait_until(|cache| is_deleted(cache, &key, uid.as_deref())).await,
                Written::Unknown(key) => settle_unknown(&cache, informers.client(), &resource, &key).await,
            }
        }
    }
}

fn is_deleted(cache: &Cache, key: &Key, uid: Option<&str>) -> bool {
    cache.get(key).is_none_or(|object| object.is_deleting() || uid.is_some_and(|uid| object.uid() != uid))
}

/// Asks what became of a write, and waits until the cache shows that. Asked as a list under the identity that watches:
/// upstream's roles let many controllers write what they may not get.
async fn settle_unknown(cache: &Cache, client: &Client, resource: &Resource, key: &Key) {
    loop {
        match client.list(resource, &WatchScope::key(key)).await {
            Ok(list) => match list.items.first().map(Object::revision) {
                Some(revision) => return cache.wait_until(|cache| cache.revision() >= revision).await,
                None => return cache.wait_until(|cache| cache.get(key).is_none()).await,
            },
            Err(_) => tokio::time::sleep(LOST_ANSWER_RETRY).await,
        }
    }
}

#[cfg(test)]
mod tests;
