//! The custom resources that are served, kept exactly as fresh as the cache of their definitions.
//!
//! A reader takes a snapshot: one reference count under a lock that is held for no longer than that. A change makes a new
//! table from the old one; what a change of a definition does not touch, such as its cache, goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use api::{Object, Resource};
use control::Queue;

use super::definition::{Definition, Storage, Version};
use super::status::Taken;
use super::strategy::CustomStrategy;
use crate::server::Served;
use crate::watch_cache::{Caches, Observer};

/// The custom resources at one moment.
#[derive(Default)]
pub struct Table {
    /// Grows with each change: who made something from a table knows by it whether that still holds.
    pub generation: u64,
    /// Sorted by group, version and plural.
    pub served: Vec<Arc<Served>>,
}

/// All definitions and the resources that they make.
pub struct Definitions {
    caches: Arc<Caches>,
    by_name: Mutex<BTreeMap<Box<str>, Definition>>,
    table: RwLock<Arc<Table>>,
    /// Definitions whose status may not be what it should be.
    pub(super) queue: Queue<Box<str>>,
}

const POISON: &str = "no holder of the definitions panics";

impl Definitions {
    /// Follows the definitions that `caches` holds.
    pub async fn follow(caches: &Arc<Caches>) -> Result<Arc<Self>, api::ApiError> {
        let definitions = Arc::new(Self {
            caches: caches.clone(),
            by_name: Mutex::default(),
            table: RwLock::default(),
            queue: Queue::new(),
        });
        caches.of(api::resources::CUSTOM_RESOURCE_DEFINITIONS).await?.observe(definitions.clone());
        Ok(definitions)
    }

    /// What is served now.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().expect(POISON).clone()
    }

    /// A resource by its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        let table = self.table.read().expect(POISON);
        let at = table.served.binary_search_by(|it| place(&it.resource).cmp(&(group, version, plural))).ok()?;
        table.served.get(at).cloned()
    }

    /// The names of the other definitions of a group.
    pub(super) fn names_taken(&self, group: &str, except: &str) -> Taken {
        let by_name = self.by_name.lock().expect(POISON);
        let others = by_name.iter().filter(|(name, it)| it.group == group && ***name != *except);
        others.fold(Taken::default(), |mut taken, (_, it)| {
            taken.add(&it.accepted);
            taken
        })
    }

    /// How a definition's objects are stored.
    pub(super) fn storage(&self, name: &str) -> Option<Arc<Storage>> {
        self.by_name.lock().expect(POISON).get(name)?.storage.clone()
    }

    /// Forgets what a definition made and takes what it makes now.
    fn replace(&self, earlier: Option<&Definition>, now: Option<&Definition>) {
        let shown = |definition: Option<&Definition>| definition.map(|it| it.versions.clone()).unwrap_or_default();
        let (before, after) = (shown(earlier), shown(now));
        let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            let mut table = self.table.write().expect(POISON);
            let mut served = table.served.clone();
            let is_before = |it: &Served| {
                it.custom.as_ref().is_some_and(|version| before.iter().any(|old| Arc::ptr_eq(old, version)))
            };
            served.retain(|it| !is_before(it));
            served.extend(after.into_iter().map(serve));
            served.sort_by(|a, b| place(&a.resource).cmp(&place(&b.resource)));
            *table = Arc::new(Table { generation: table.generation + 1, served });
        }
        let cache =
            |definition: Option<&Definition>| definition.and_then(|it| it.storage.as_ref()).map(|it| it.cache.clone());
        if let Some(old) = cache(earlier)
            && cache(now).is_none_or(|new| !Arc::ptr_eq(&old, &new))
        {
            self.caches.retire(&old);
        }
    }
}

impl Observer for Definitions {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(key) = new.or(old).map(Object::key) else { return };
        let mut by_name = self.by_name.lock().expect(POISON);
        let earlier = by_name.remove(&*key.name);
        let now = new.map(|object| Definition::read(object, earlier.as_ref()));
        self.replace(earlier.as_ref(), now.as_ref());
        self.queue.add(&Box::from(&*key.name));
        let names = |it: &Definition| (it.group.clone(), it.accepted.clone());
        if let Some((group, names)) =
            earlier.as_ref().map(names).filter(|before| now.as_ref().map(names).as_ref() != Some(before))
        {
            // A name that became free may be what another definition waits for.
            let waiting = by_name.iter().filter(|(_, it)| it.group == group && it.accepted != names);
            waiting.for_each(|(name, _)| self.queue.add(name));
        }
        if let Some(now) = now {
            by_name.insert((*key.name).into(), now);
        }
    }
}

fn place(resource: &Resource) -> (&str, &str, &str) {
    (&resource.group, &resource.version, &resource.plural)
}

fn serve(version: Arc<Version>) -> Arc<Served> {
    Arc::new(Served {
        resource: version.row.clone(),
        stored: version.storage.row.clone(),
        strategy: Arc::new(CustomStrategy(version.clone())),
        posted: Vec::new(),
        cache: Some(version.storage.cache.clone()),
        custom: Some(version),
    })
}
