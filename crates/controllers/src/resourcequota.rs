//! A ResourceQuota's status says what it allows and how much of that is used.
//!
//! What is used is counted as objects come, change and go: each change moves the sums by its difference. Only resources that
//! some quota counts are followed, custom ones too. Admission adds what it lets in to the status before the object is stored;
//! so a status that says more than was counted is lowered at once by what was seen to go, and to what was counted only when
//! it has stood for a while: what was let in must have arrived by then. From time to time everything is counted again.
//! Defined by "Resource Quotas" in the Kubernetes documentation; what an object counts for is [`machinery::quota`]'s.

mod plan;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{Key, Object, Resource, Verb, resources};
use base::{Stop, Tasks, chain};
use bytes::Bytes;
use control::queue::Done;
use control::{Change, Component, Queue, ReconcileError, Served, Writes};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use machinery::pod_resources::{self, Amounts};
use machinery::quota;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use self::plan::{Counted, plan};
use self::tally::{Quota, Tally};
use crate::Ctx;

/// The name of the controller and of its identity.
pub const NAME: &str = "resourcequota-controller";

const WORKERS: usize = 5;

/// Everything is counted again after this time, should a difference ever have been lost. Upstream's figure.
const RESYNC: Duration = Duration::from_secs(300);

/// How long a worker waits until the caches show what it wrote.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Group and plural name.
type Name = (String, String);

/// The quota controller. [`Component::run`] starts it.
pub struct QuotaController {
    ctx: Ctx,
    queue: Queue<Key>,
    state: Mutex<State>,
    /// Some quota counts a resource that is not known.
    unknown: Notify,
}

#[derive(Default)]
struct State {
    quotas: BTreeMap<Key, Arc<Quota>>,
    counters: BTreeMap<Name, Counter>,
    /// Resources of custom resource definitions and aggregated servers; asked for once a quota counts one.
    customs: Vec<Resource>,
}

/// Counts the objects of one resource.
#[derive(Clone)]
struct Counter {
    resource: Resource,
    tally: Arc<Mutex<Tally>>,
    /// Counts from the start when this changes.
    restart: Arc<watch::Sender<()>>,
    stop: Stop,
}

impl QuotaController {
    /// A quota controller over everything that the API server serves.
    pub fn new(ctx: Ctx) -> Arc<Self> {
        Arc::new(Self { ctx, queue: Queue::new(), state: Mutex::default(), unknown: Notify::new() })
    }

    /// Keeps what is counted up to date with the quotas, until stopped.
    async fn follow_quotas(self: Arc<Self>, tasks: Tasks, stop: Stop) {
        let mut changes = self.ctx.cache(resources::RESOURCE_QUOTAS).changes();
        loop {
            match changes.next().await {
                Change::Applied(object) => {
                    let quota = Quota::of(&object.to_value()["spec"]);
                    self.set_quota(&tasks, &stop, object.key(), Some(quota));
                    self.queue.add(object.key());
                }
                Change::Deleted(object) => self.set_quota(&tasks, &stop, object.key(), None),
                Change::Synced => {}
            }
        }
    }

    fn set_quota(self: &Arc<Self>, tasks: &Tasks, stop: &Stop, key: &Key, quota: Option<Quota>) {
        let mut state = self.lock();
        let old = state.quotas.get(key).cloned();
        if old.as_deref() == quota.as_ref() {
            return;
        }
        let names: Vec<String> = old.iter().map(|old| &**old).chain(&quota).flat_map(|of| of.names.clone()).collect();
        match quota {
            Some(quota) => drop(state.quotas.insert(key.clone(), Arc::new(quota))),
            None => drop(state.quotas.remove(key)),
        }
        self.set_counters(&mut state, tasks, stop, &names);
    }

    /// Starts, restarts and ends counters: those of the resources that `changed` names count for begin again.
    fn set_counters(self: &Arc<Self>, state: &mut State, tasks: &Tasks, stop: &Stop, changed: &[String]) {
        let wanted = state.counted_resources();
        state.counters.retain(|name, counter| {
            // What is served in another version is counted anew.
            let keep = wanted.get(name).is_some_and(|row| *row == counter.resource);
            if !keep {
                counter.stop.stop();
            }
            keep
        });
        for (name, resource) in wanted {
            match state.counters.get(&name) {
                Some(counter) if counts_any(&resource, changed) => counter.restart.send_modify(|()| {}),
                Some(_) => {}
                None => {
                    let restart = Arc::new(watch::Sender::new(()));
                    let counter = Counter { resource, tally: Arc::default(), restart, stop: stop.child() };
                    let (this, own) = (self.clone(), counter.clone());
                    tasks.spawn(format!("counts {}", name.1), async move {
                        let _ = own.stop.clone().or_stopped(this.count(own)).await;
                    });
                    state.counters.insert(name, counter);
                }
            }
        }
        if state.has_unknown() {
            self.unknown.notify_one();
        }
    }

    /// Counts the objects of one resource for all quotas that count them.
    async fn count(self: Arc<Self>, counter: Counter) {
        let mut restart = counter.restart.subscribe();
        loop {
            restart.mark_unchanged();
            let mut fresh = Some(Tally::of(self.lock().quotas_of(&counter.resource)));
            let mut changes = self.ctx.cache(&counter.resource).changes();
            let resync = tokio::time::sleep(RESYNC);
            tokio::pin!(resync);
            loop {
                let (change, old) = tokio::select! {
                    _ = restart.changed() => break,
                    () = &mut resync => break,
                    change = changes.next_with_old() => change,
                };
                let concerned = self.take_in(&counter, &mut fresh, change, old.as_ref());
                concerned.iter().for_each(|key| self.queue.add(key));
            }
        }
    }

    /// Moves the sums. What is counted anew shows once all of it has been counted.
    fn take_in(&self, counter: &Counter, fresh: &mut Option<Tally>, change: Change, old: Option<&Object>) -> Vec<Key> {
        let (now, new) = match change {
            Change::Applied(object) => (Some(object), true),
            Change::Deleted(_) => (None, true),
            Change::Synced => (None, false),
        };
        let mut shared = counter.tally.lock().expect("no holder of a tally's lock panics");
        match fresh {
            Some(fresh) if new => {
                fresh.change(&counter.resource, old, now.as_ref());
                vec![]
            }
            None if new => shared.change(&counter.resource, old, now.as_ref()),
            _ => match fresh.take() {
                Some(counted) => shared.replace(counted),
                None => vec![],
            },
        }
    }

    /// Finds out about resources that no built-in row has, once a quota counts one, and again when definitions change.
    async fn follow_definitions(self: Arc<Self>, tasks: Tasks, stop: Stop) {
        self.unknown.notified().await;
        let mut changes = self.ctx.informers.served().changes();
        loop {
            let served = changes.next().await;
            self.set_customs(&tasks, &stop, &served);
        }
    }

    fn set_customs(self: &Arc<Self>, tasks: &Tasks, stop: &Stop, served: &Served) {
        let mut state = self.lock();
        let built_in = |row: &Resource| resources::find(&row.group, &row.version, &row.plural).is_some();
        let customs = served.resources.iter().filter(|row| row.namespaced() && !built_in(row));
        state.customs = customs.cloned().collect();
        let before: Vec<Name> = state.counters.keys().cloned().collect();
        self.set_counters(&mut state, tasks, stop, &[]);
        let gone = before.iter().any(|name| !state.counters.contains_key(name));
        if gone {
            // What is no longer served is no longer counted.
            state.quotas.keys().for_each(|key| self.queue.add(key));
        }
    }

    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            let writes = Writes::default();
            let ctx = Ctx { client: writes.recording(&self.ctx.client), ..self.ctx.clone() };
            let result = AssertUnwindSafe(self.reconcile(&ctx, &key)).catch_unwind().await;
            let settled = writes.settle(&ctx.informers);
            if tokio::time::timeout(SETTLE_TIME_MAX, settled).await.is_err() {
                tracing::warn!(controller = NAME, %key, "the caches have not seen the writes; going on without");
            }
            let done = match result {
                Ok(Ok(done)) => done,
                Ok(Err(error)) => {
                    tracing::debug!(controller = NAME, %key, error = chain(&error), "trying again");
                    Done::Failed
                }
                Err(_) => {
                    tracing::error!(controller = NAME, %key, "panicked; trying again");
                    Done::Failed
                }
            };
            self.queue.done(&key, done);
        }
    }

    async fn reconcile(&self, ctx: &Ctx, key: &Key) -> Result<Done, ReconcileError> {
        let cache = ctx.cache(resources::RESOURCE_QUOTAS);
        let (Some(object), Some(received)) = (cache.get(key), cache.received_at(key)) else {
            return Ok(Done::Settled);
        };
        let tree = object.to_value();
        // What is not counted yet, or not for this spec, comes back when it is.
        let Some(counted) = self.counted(key, &tree["spec"], ctx.clock.now()) else { return Ok(Done::Settled) };
        let plan = plan(&tree, &counted, received.elapsed());
        let Some(status) = plan.status else {
            return Ok(plan.next.map_or(Done::Settled, Done::After));
        };
        let mut updated = tree;
        updated["status"] = status;
        let body = Bytes::from(updated.to_string());
        // At the version that was read: what admission added meanwhile must not be lost.
        match ctx.client.update_status(resources::RESOURCE_QUOTAS, key, body).await {
            Ok(_) => {
                self.forget_released(key, &counted.released);
                Ok(plan.next.map_or(Done::Settled, Done::After))
            }
            Err(error) if error.is_not_found() => Ok(Done::Settled),
            Err(error) => Err(error.into()),
        }
    }

    /// What was counted for a quota; `None` while it is not complete.
    fn counted(&self, key: &Key, spec: &Value, now: Timestamp) -> Option<Counted> {
        let state = self.lock();
        let quota = state.quotas.get(key).filter(|quota| quota.spec == *spec)?;
        let mut counted = Counted::default();
        for counter in state.counters.values().filter(|counter| counts_any(&counter.resource, &quota.names)) {
            let tally = counter.tally.lock().expect("no holder of a tally's lock panics");
            tally.report(&counter.resource, key, quota, now, &mut counted)?;
        }
        Some(counted)
    }

    fn forget_released(&self, key: &Key, released: &Amounts) {
        for counter in self.lock().counters.values() {
            counter.tally.lock().expect("no holder of a tally's lock panics").forget_released(key, released);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the quota controller's state panics")
    }
}

impl State {
    /// The resources that some quota counts.
    fn counted_resources(&self) -> BTreeMap<Name, Resource> {
        let names: Vec<String> = self.quotas.values().flat_map(|quota| quota.names.iter().cloned()).collect();
        let built_in = resources::RESOURCES.iter().copied().filter(|row| is_countable(row));
        let all = built_in.chain(&self.customs).filter(|row| counts_any(row, &names));
        // A resource of several versions is counted once.
        let mut counted = BTreeMap::new();
        for row in all {
            counted.entry((row.group.to_string(), row.plural.to_string())).or_insert_with(|| row.clone());
        }
        counted
    }

    /// Whether some quota counts objects of a resource that is not known.
    fn has_unknown(&self) -> bool {
        let known = self.counted_resources();
        let known: Vec<String> = known.keys().map(|(group, plural)| quota::count_name(group, plural)).collect();
        let mut names = self.quotas.values().flat_map(|quota| &quota.names);
        names.any(|name| name.starts_with("count/") && !known.contains(name))
    }

    /// The quotas that count a resource, by namespace.
    fn quotas_of(&self, resource: &Resource) -> Vec<(Key, Arc<Quota>)> {
        let counting = self.quotas.iter().filter(|(_, quota)| counts_any(resource, &quota.names));
        counting.map(|(key, quota)| (key.clone(), quota.clone())).collect()
    }
}

/// Events are many and short-lived; what is not stored cannot be counted.
fn is_countable(resource: &Resource) -> bool {
    resource.namespaced()
        && *resource.plural != *"events"
        && [Verb::Create, Verb::List, Verb::Watch, Verb::Delete].into_iter().all(|verb| resource.serves(verb))
}

fn counts_any(resource: &Resource, names: &[String]) -> bool {
    !quota::counted(&resource.group, &resource.plural, names.iter().map(String::as_str)).is_empty()
}

impl Component for QuotaController {
    fn is_idle(&self) -> bool {
        self.queue.is_idle() && !self.queue.has_failures()
    }

    fn run(self: Arc<Self>, stop: Stop) -> BoxFuture<'static, ()> {
        async move {
            let tasks = Tasks::new(NAME);
            let (this, signal, own) = (self.clone(), stop.clone(), tasks.clone());
            tasks.spawn("quotas", async move {
                let _ = signal.or_stopped(this.follow_quotas(own, signal.clone())).await;
            });
            let (this, signal, own) = (self.clone(), stop.clone(), tasks.clone());
            tasks.spawn("definitions", async move {
                let _ = signal.or_stopped(this.follow_definitions(own, signal.clone())).await;
            });
            for number in 0..WORKERS {
                let (this, stop) = (self.clone(), stop.clone());
                tasks.spawn(format!("worker {number}"), async move {
                    let _ = stop.or_stopped(this.work()).await;
                });
            }
            tasks.join().await;
        }
        .boxed()
    }
}

/// The status as it is written.
fn status(hard: &Value, used: &Amounts) -> Value {
    json!({"hard": hard, "used": pod_resources::to_value(used)})
}
