//! The config maps and secrets that a pod refers to: one watch for each object, shared by the pods that name it and ended
//! with the last of them. A change wakes the pod's worker; nothing is listed and nothing is polled.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::typed::core::v1::{ConfigMap, Pod, Secret};
use api::{Key, Resource, Typed};
use base::{Stop, Tasks, chain};
use control::{Cache, Informers, WatchScope};

use crate::environment::{self, Lookup};
use crate::volumes::payload;

/// Kind (true: secret) and name.
type Name = (bool, String);

/// What one pod refers to. Dropping it ends the watches that nobody else needs.
pub(crate) struct References {
    namespace: String,
    informers: Informers,
    caches: BTreeMap<Name, (Cache, Stop)>,
}

impl Drop for References {
    fn drop(&mut self) {
        for (_, stop) in self.caches.values() {
            stop.stop();
        }
    }
}

impl References {
    pub(crate) fn new(namespace: &str, informers: Informers) -> Self {
        Self { namespace: namespace.to_owned(), informers, caches: BTreeMap::new() }
    }

    /// Watches what the pod names now; `changed` is called at every change from then on.
    pub(crate) fn follow(&mut self, pod: &Pod, tasks: &Tasks, stop: &Stop, changed: &Arc<dyn Fn() + Send + Sync>) {
        let wanted = names(pod);
        self.caches.retain(|name, (_, stop)| {
            let keep = wanted.contains(name);
            if !keep {
                stop.stop();
            }
            keep
        });
        for name in wanted {
            if self.caches.contains_key(&name) {
                continue;
            }
            let key = Key::new(self.namespace.as_str(), name.1.as_str());
            let cache = self.informers.cache(resource(name.0), WatchScope::key(&key));
            let stop = stop.child();
            let (forwarded, ended, changed) = (cache.clone(), stop.clone(), changed.clone());
            tasks.spawn(format!("reference {key}"), async move {
                let mut changes = forwarded.changes();
                while ended.or_stopped(changes.next()).await.is_some() {
                    changed();
                }
            });
            self.caches.insert(name, (cache, stop));
        }
    }

    /// Waits until it is known of every object whether it exists.
    pub(crate) fn synced(&self) -> impl Future<Output = ()> + Send + 'static {
        let caches: Vec<_> = self.caches.values().map(|(cache, _)| cache.clone()).collect();
        async move {
            for cache in caches {
                cache.synced().await;
            }
        }
    }

    /// Whether it is known of every object whether it exists.
    pub(crate) fn are_synced(&self) -> bool {
        self.caches.values().all(|(cache, _)| cache.is_synced())
    }

    /// The objects as they are known now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let caches = self.caches.iter().map(|(name, (cache, _))| (name.clone(), cache.clone())).collect();
        Snapshot { namespace: self.namespace.clone(), caches }
    }
}

/// Looks objects up in the caches of one pod.
#[derive(Clone)]
pub(crate) struct Snapshot {
    namespace: String,
    caches: BTreeMap<Name, Cache>,
}

impl Snapshot {
    fn get<T: Typed>(&self, secret: bool, name: &str) -> Option<T> {
        let cache = self.caches.get(&(secret, name.to_owned()))?;
        let object = cache.get(&Key::new(self.namespace.as_str(), name))?;
        match T::decode(object.json()) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::warn!(key = %object.key(), error = chain(&error), "an object that a pod names cannot be read");
                None
            }
        }
    }
}

impl Lookup for Snapshot {
    fn config_map(&self, name: &str) -> Option<ConfigMap> {
        self.get(false, name)
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.get(true, name)
    }
}

fn resource(secret: bool) -> &'static Resource {
    if secret { Secret::resource() } else { ConfigMap::resource() }
}

fn names(pod: &Pod) -> Vec<Name> {
    let (maps, secrets) = environment::references(pod);
    let (volume_maps, volume_secrets) = payload::references(pod);
    let pull =
        pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()).map(|secret| secret.name.clone());
    let maps = maps.into_iter().chain(volume_maps).map(|name| (false, name));
    let mut names: Vec<_> =
        maps.chain(secrets.into_iter().chain(volume_secrets).chain(pull).map(|name| (true, name))).collect();
    names.retain(|(_, name)| !name.is_empty());
    names.sort();
    names.dedup();
    names
}
