//! Objects whose owners are all gone are deleted; an owner that waits for its dependents goes after them; orphans are let
//! go.
//!
//! The graph of owners is the caches' own index: work is proportional to what changes. That an owner is gone is believed
//! only after asking the API server, and a deletion names uid and revision of what it was decided on. Defined by "Garbage
//! Collection" in the Kubernetes documentation; finalizers, order and events are upstream's.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{Key, Object, OwnerReference, Resource};
use base::{Stop, Tasks, chain};
use control::queue::Done;
use control::{
    Cache, Change, Component, DeleteOptions, EventType, ObjectReference, PatchType, Propagation, Queue, ReconcileError,
    Served, Writes,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::{Ctx, claims};

/// The name of the controller and of its identity.
pub const NAME: &str = "generic-garbage-collector";

const WORKERS: usize = 10;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Owners known to be gone. A uid never comes back, so forgetting one costs a question and nothing else.
const ABSENT_MAX: usize = 1000;

/// How long a worker waits until the caches show what it wrote.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Group and plural name: the version in which a resource is watched does not matter.
type Name = (String, String);

/// One object to look at.
type Item = (Name, Key);

/// The garbage collector. [`Component::run`] starts it.
pub struct GarbageCollector {
    ctx: Ctx,
    queue: Queue<Item>,
    monitors: Mutex<Arc<Monitors>>,
    absent: Mutex<HashSet<String>>,
}

/// The resources that are watched.
#[derive(Default)]
struct Monitors(BTreeMap<Name, Monitor>);

#[derive(Clone)]
struct Monitor {
    cache: Cache,
    stop: Stop,
}

/// What an owner reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is there.
    Solid,
    /// It is gone.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What becomes of an object that is not being deleted.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Keep,
    /// Keep it, without these owners.
    Drop(Vec<String>),
    Delete(Propagation),
}

impl GarbageCollector {
    /// A garbage collector over everything that the API server serves.
    pub fn new(ctx: Ctx) -> Arc<Self> {
        Arc::new(Self {
            ctx,
            queue: Queue::named("garbage_collector"),
            monitors: Mutex::default(),
            absent: Mutex::default(),
        })
    }

    /// Keeps the monitors up to date with what is served, until stopped.
    async fn watch_resources(self: Arc<Self>, tasks: Tasks, stop: Stop) {
        let mut changes = self.ctx.informers.served().changes();
        loop {
            let served = changes.next().await;
            self.set_monitors(&tasks, &stop, &served);
        }
    }

    fn set_monitors(self: &Arc<Self>, tasks: &Tasks, stop: &Stop, served: &Served) {
        let mut monitors = self.monitors().0.clone();
        let unanswered = |name: &Name| served.failed.iter().any(|(version, _)| version.starts_with(&name.0));
        let wanted: BTreeMap<Name, &Resource> = served.resources.iter().map(|row| (name_of(row), row)).collect();
        // A server that does not answer for a while still has its objects. What is served in another version, or has come
        // back as something else, is watched anew.
        monitors.retain(|name, monitor| {
            let keep = match wanted.get(name) {
                Some(row) => *monitor.cache.resource() == **row,
                None => !name.0.is_empty() && unanswered(name),
            };
            if !keep {
                monitor.stop.stop();
            }
            keep
        });
        let mut added = Vec::new();
        for (name, resource) in wanted {
            // Events are many, short-lived and own nothing.
            if *resource.kind == *"Event" || monitors.contains_key(&name) {
                continue;
            }
            let monitor = Monitor { cache: self.ctx.cache(resource), stop: stop.child() };
            let (this, following) = (self.clone(), monitor.clone());
            tasks.spawn(format!("changes of {}", resource.plural), async move { this.follow(following).await });
            added.push(resource);
            monitors.insert(name, monitor);
        }
        *self.lock_monitors() = Arc::new(Monitors(monitors));
        self.add_owned_by_kinds(&added);
    }

    /// Looks again at what is owned by objects of kinds that were not served before.
    fn add_owned_by_kinds(&self, added: &[&Resource]) {
        let is_new = |owner: &OwnerReference| {
            added.iter().any(|resource| group_of(owner) == resource.group && *owner.kind == *resource.kind)
        };
        for (name, monitor) in &self.monitors().0 {
            for object in monitor.cache.all() {
                if object.index().owners.iter().any(is_new) {
                    self.queue.add(&(name.clone(), object.key().clone()));
                }
            }
        }
    }

    /// Turns the changes of one resource into items.
    async fn follow(self: Arc<Self>, monitor: Monitor) {
        let name = name_of(monitor.cache.resource());
        let mut changes = monitor.cache.changes();
        while let Some((change, old)) = monitor.stop.or_stopped(changes.next_with_old()).await {
            let (now, gone) = match change {
                Change::Synced => continue,
                Change::Deleted(object) => (None, Some(object)),
                Change::Applied(object) => {
                    let replaced = old.clone().filter(|old| old.uid() != object.uid());
                    (Some(object), replaced)
                }
            };
            if let Some(gone) = &gone {
                self.dependents(gone.uid()).into_iter().for_each(|item| self.queue.add(&item.0));
            }
            if let Some(now) = now.as_ref().filter(|now| is_news(old.as_ref(), now)) {
                self.queue.add(&(name.clone(), now.key().clone()));
            }
            for object in old.iter().chain(&now).chain(&gone) {
                self.add_waiting_owners(object);
            }
        }
    }

    /// Owners that wait for their dependents may have waited for this one.
    fn add_waiting_owners(&self, dependent: &Object) {
        let monitors = self.monitors();
        for owner in &dependent.index().owners {
            let Some((name, monitor)) = monitors.of(owner) else { continue };
            let key = owner_key(monitor.cache.resource(), owner, dependent);
            if monitor.cache.get_uid(&key, &owner.uid).is_some_and(|owner| owner.is_deleting()) {
                self.queue.add(&(name.clone(), key));
            }
        }
    }

    fn dependents(&self, uid: &str) -> Vec<(Item, Object)> {
        let monitors = self.monitors();
        let all = monitors.0.iter().flat_map(|(name, monitor)| {
            let owned = monitor.cache.owned_by(uid).into_iter();
            owned.map(|object| ((name.clone(), object.key().clone()), object))
        });
        all.collect()
    }

    async fn work(&self) {
        loop {
            let item = self.queue.next().await;
            let done = self.process_settled(&item).await;
            self.queue.done(&item, done);
        }
    }

    async fn process_settled(&self, item: &Item) -> Done {
        let writes = Writes::default();
        let ctx = Ctx { client: writes.recording(&self.ctx.client), ..self.ctx.clone() };
        let result = AssertUnwindSafe(self.process(&ctx, item)).catch_unwind().await;
        let settled = writes.settle(&ctx.informers);
        if tokio::time::timeout(SETTLE_TIME_MAX, settled).await.is_err() {
            tracing::warn!(controller = NAME, key = %item.1, "the caches have not seen the writes; going on without");
        }
        match result {
            Ok(Ok(())) => Done::Settled,
            Ok(Err(error)) => {
                tracing::debug!(controller = NAME, key = %item.1, error = chain(&error), "trying again");
                Done::Failed
            }
            Err(_) => {
                tracing::error!(controller = NAME, key = %item.1, "panicked; trying again");
                Done::Failed
            }
        }
    }

    async fn process(&self, ctx: &Ctx, (name, key): &Item) -> Result<(), ReconcileError> {
        let Some(monitor) = self.monitors().0.get(name).cloned() else { return Ok(()) };
        let Some(object) = monitor.cache.get(key) else { return Ok(()) };
        let resource = monitor.cache.resource();
        if object.is_deleting() {
            return self.help_to_end(ctx, resource, &object).await;
        }
        let mut owners = Vec::new();
        for owner in &object.index().owners {
            owners.push((owner.uid.to_string(), self.classify(ctx, resource, &object, owner).await?));
        }
        let dependents = self.dependents(object.uid());
        match plan(&object, &owners, !dependents.is_empty()) {
            Plan::Keep => Ok(()),
            Plan::Delete(Propagation::Foreground) if closes_circle(&object, &dependents) => {
                // Its change brings it back, and then it is deleted.
                claims::patch_owners(ctx, resource, &object, unblocked(&object)).await
            }
            Plan::Drop(uids) => {
                let value = object.to_value();
                let kept = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
                let kept = kept.filter(|owner| !uids.iter().any(|uid| owner["uid"] == **uid)).cloned().collect();
                claims::patch_owners(ctx, resource, &object, kept).await
            }
            Plan::Delete(propagation) => {
                let options = DeleteOptions {
                    uid: Some(object.uid().to_owned()),
                    resource_version: Some(object.revision()),
                    propagation: Some(propagation),
                    ..DeleteOptions::default()
                };
                match ctx.client.delete(resource, key, &options).await {
                    Err(error) if error.is_not_found() => Ok(()),
                    deleted => Ok(deleted?),
                }
            }
        }
    }

    async fn classify(
        &self,
        ctx: &Ctx,
        resource: &Resource,
        object: &Object,
        owner: &OwnerReference,
    ) -> Result<Owner, ReconcileError> {
        let monitors = self.monitors();
        let Some((_, monitor)) = monitors.of(owner) else {
            // Perhaps it is served later, and then this is looked at again: better a leftover than a loss.
            tracing::debug!(controller = NAME, key = %object.key(), owner = %owner.kind, "owner of a kind not served");
            return Ok(Owner::Solid);
        };
        let owners = monitor.cache.resource();
        if owners.namespaced() && object.key().namespace.is_empty() {
            let message = format!(
                "ownerRef [{}/{}, namespace: , name: {}, uid: {}] does not exist in namespace \"\"",
                owner.api_version, owner.kind, owner.name, owner.uid
            );
            let about = ObjectReference::from((resource, object));
            ctx.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", &message);
            return Ok(Owner::Solid);
        }
        let key = owner_key(owners, owner, object);
        if let Some(present) = monitor.cache.get_uid(&key, &owner.uid) {
            return Ok(present_owner(&present));
        }
        if self.lock_absent().contains(&*owner.uid) {
            return Ok(Owner::Dangling);
        }
        match ctx.client.get(owners, &key).await {
            Ok(present) if *present.uid() == *owner.uid => return Ok(present_owner(&present)),
            Err(error) if !error.is_not_found() => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        let mut absent = self.lock_absent();
        if absent.len() >= ABSENT_MAX {
            absent.clear();
        }
        absent.insert(owner.uid.to_string());
        Ok(Owner::Dangling)
    }

    /// An object that is being deleted waits here for its dependents, or lets them go first.
    async fn help_to_end(&self, ctx: &Ctx, resource: &Resource, object: &Object) -> Result<(), ReconcileError> {
        if !has_finalizer(object, ORPHAN) && !has_finalizer(object, FOREGROUND) {
            return Ok(());
        }
        if let Some(blind) = self.monitors().0.values().find(|monitor| !monitor.cache.is_synced()) {
            // Dependents that are not seen yet would be forgotten.
            return Err(ReconcileError::Invalid(format!("{:?} is not synchronised yet", blind.cache)));
        }
        let dependents = self.dependents(object.uid());
        if has_finalizer(object, ORPHAN) {
            for ((name, _), dependent) in &dependents {
                let Some(monitor) = self.monitors().0.get(name).cloned() else { continue };
                let kept = claims::owners_without(dependent, object.uid());
                claims::patch_owners(ctx, monitor.cache.resource(), dependent, kept).await?;
            }
            return remove_finalizer(ctx, resource, object, ORPHAN).await;
        }
        let blocks = |dependent: &Object| {
            let mut owners = dependent.index().owners.iter();
            owners.any(|owner| *owner.uid == *object.uid() && owner.block_owner_deletion)
        };
        if !dependents.iter().any(|(_, dependent)| blocks(dependent)) {
            return remove_finalizer(ctx, resource, object, FOREGROUND).await;
        }
        // Their own turn finds this owner waiting. Their end, or their change, brings this one back.
        dependents.iter().filter(|(_, dependent)| !dependent.is_deleting()).for_each(|(item, _)| self.queue.add(item));
        Ok(())
    }

    fn monitors(&self) -> Arc<Monitors> {
        self.lock_monitors().clone()
    }

    fn lock_monitors(&self) -> MutexGuard<'_, Arc<Monitors>> {
        self.monitors.lock().expect("no holder of the list of monitors panics")
    }

    fn lock_absent(&self) -> MutexGuard<'_, HashSet<String>> {
        self.absent.lock().expect("no holder of the set of absent owners panics")
    }
}

impl Component for GarbageCollector {
    fn is_idle(&self) -> bool {
        self.queue.is_idle() && !self.queue.has_failures()
    }

    fn run(self: Arc<Self>, stop: Stop) -> BoxFuture<'static, ()> {
        async move {
            let tasks = Tasks::new(NAME);
            let (this, signal, own) = (self.clone(), stop.clone(), tasks.clone());
            tasks.spawn("resources", async move {
                let _ = signal.or_stopped(this.watch_resources(own, signal.clone())).await;
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

impl Monitors {
    /// The resource that an owner reference names.
    fn of(&self, owner: &OwnerReference) -> Option<(&Name, &Monitor)> {
        self.0.iter().find(|(name, monitor)| name.0 == group_of(owner) && *monitor.cache.resource().kind == *owner.kind)
    }
}

fn group_of(owner: &OwnerReference) -> &str {
    owner.api_version.split_once('/').map_or("", |(group, _)| group)
}

fn name_of(resource: &Resource) -> Name {
    (resource.group.to_string(), resource.plural.to_string())
}

fn owner_key(resource: &Resource, owner: &OwnerReference, dependent: &Object) -> Key {
    let namespace = if resource.namespaced() { dependent.key().namespace.clone() } else { "".into() };
    Key { namespace, name: (&*owner.name).into() }
}

fn has_finalizer(object: &Object, name: &str) -> bool {
    object.index().finalizers.iter().any(|finalizer| **finalizer == *name)
}

fn present_owner(owner: &Object) -> Owner {
    if owner.is_deleting() && has_finalizer(owner, FOREGROUND) { Owner::Waiting } else { Owner::Solid }
}

/// Whether an object would wait for one that, by way of others, waits for it: none of them would ever go.
fn closes_circle(object: &Object, dependents: &[(Item, Object)]) -> bool {
    let waits = |dependent: &Object| dependent.is_deleting() && has_finalizer(dependent, FOREGROUND);
    object.index().owners.iter().any(|owner| owner.block_owner_deletion)
        && dependents.iter().any(|(_, dependent)| waits(dependent))
}

/// The owner references of an object, none of which holds its owner up.
fn unblocked(object: &Object) -> Vec<Value> {
    let mut owners = object.to_value()["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    owners.iter_mut().for_each(|owner| owner["blockOwnerDeletion"] = false.into());
    owners
}

/// Whether a change concerns us: an object's status changes often and its owners hardly ever.
fn is_news(old: Option<&Object>, now: &Object) -> bool {
    let index = now.index();
    let concerned = !index.owners.is_empty() || now.is_deleting() && !index.finalizers.is_empty();
    let same = old.is_some_and(|old| {
        let old = old.index();
        let kept = old.uid == index.uid && old.deletion_timestamp == index.deletion_timestamp;
        kept && old.owners == index.owners && old.finalizers == index.finalizers
    });
    concerned && !same
}

fn plan(object: &Object, owners: &[(String, Owner)], has_dependents: bool) -> Plan {
    let any = |kind: Owner| owners.iter().any(|(_, owner)| *owner == kind);
    if owners.is_empty() {
        return Plan::Keep;
    }
    if any(Owner::Solid) {
        let gone = owners.iter().filter(|(_, owner)| *owner != Owner::Solid);
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        return if gone.is_empty() { Plan::Keep } else { Plan::Drop(gone) };
    }
    // An owner that waits for this object waits for the objects below it too.
    let propagation = if any(Owner::Waiting) && has_dependents || has_finalizer(object, FOREGROUND) {
        Propagation::Foreground
    } else if has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else {
        Propagation::Background
    };
    Plan::Delete(propagation)
}

async fn remove_finalizer(ctx: &Ctx, resource: &Resource, object: &Object, name: &str) -> Result<(), ReconcileError> {
    let kept: Vec<&str> = object.index().finalizers.iter().map(|kept| &**kept).filter(|kept| *kept != name).collect();
    let patch = json!({"metadata": {"resourceVersion": object.revision().to_string(), "finalizers": kept}});
    match ctx.client.patch(resource, object.key(), None, PatchType::Merge, &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

#[cfg(test)]
mod tests;
