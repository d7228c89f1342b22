//! The watchers of one resource, filed by what they watch: a change is tested only against those that it may concern.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Key, Object, Resource};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Change, EventKind};

/// How many events may wait for one watcher. One that falls further behind is unhooked, catches up from the history, and is
/// cut off only when that has moved on as well: it never blocks others, and its memory is bounded.
pub(crate) const QUEUE_MAX: usize = 256;

/// A test on objects.
pub type Predicate = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// What a list or watch wants to see.
#[derive(Clone, Default)]
pub struct Filter {
    /// Only this namespace.
    pub namespace: Option<Arc<str>>,
    /// Only this name.
    pub name: Option<Arc<str>>,
    /// Only where the selectable field at this position has this value.
    pub field: Option<(usize, Box<str>)>,
    /// All other selectors.
    pub predicate: Option<Predicate>,
}

impl Filter {
    /// Whether an object is to be seen.
    pub fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.key().namespace)
            && self.name.as_ref().is_none_or(|name| *name == object.key().name)
            && self.field.as_ref().is_none_or(|(at, value)| object.index().fields.get(*at) == Some(value))
            && self.predicate.as_ref().is_none_or(|predicate| predicate(object))
    }

    /// What a change is to a watcher with this filter.
    pub fn kind(&self, change: &Change) -> Option<EventKind> {
        let before = change.old.as_ref().is_some_and(|old| self.matches(old));
        let after = change.new.as_ref().is_some_and(|new| self.matches(new));
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(EventKind::Added),
            (true, true) => Some(EventKind::Modified),
            (true, false) => Some(EventKind::Deleted),
        }
    }

    /// The narrowest place that every matching object is found by.
    pub(crate) fn place(&self, resource: &Resource) -> Place {
        match (&self.namespace, &self.name, &self.field) {
            (Some(namespace), Some(name), _) => Place::Object(Key { namespace: namespace.clone(), name: name.clone() }),
            (None, Some(name), _) if !resource.namespaced() => Place::Object(Key::new("", name.clone())),
            (_, _, Some((at, value))) => Place::Field(*at, value.clone()),
            (Some(namespace), _, _) => Place::Namespace(namespace.clone()),
            _ => Place::Everywhere,
        }
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, name, field, predicate } = self;
        write!(f, "Filter({namespace:?}, {name:?}, {field:?}, predicate: {})", predicate.is_some())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Everywhere,
    Namespace(Arc<str>),
    Object(Key),
    Field(usize, Box<str>),
}

/// What waits in a watcher's queue.
#[derive(Debug)]
pub(crate) enum Delivery {
    Change(EventKind, Arc<Change>),
    Bookmark(u64),
}

pub(crate) struct Watcher {
    pub(crate) id: u64,
    pub(crate) filter: Arc<Filter>,
    /// The first change that it has not been given on registration.
    pub(crate) from_sequence: u64,
    pub(crate) bookmarks: bool,
    pub(crate) queue: mpsc::Sender<Delivery>,
}

impl Watcher {
    /// Whether it keeps up.
    fn offer(&self, change: &Arc<Change>) -> bool {
        if change.sequence < self.from_sequence {
            return true;
        }
        let Some(kind) = self.filter.kind(change) else { return true };
        !matches!(self.queue.try_send(Delivery::Change(kind, change.clone())), Err(TrySendError::Full(_)))
    }
}

#[derive(Default)]
pub(crate) struct Watchers {
    next_id: u64,
    places: HashMap<Place, Vec<Watcher>>,
    /// Which positions of selectable fields somebody watches.
    fields: Vec<usize>,
}

impl Watchers {
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn add(&mut self, place: Place, watcher: Watcher) {
        if let Place::Field(at, _) = place
            && !self.fields.contains(&at)
        {
            self.fields.push(at);
        }
        self.places.entry(place).or_default().push(watcher);
    }

    pub(crate) fn remove(&mut self, place: &Place, id: u64) {
        let Some(watchers) = self.places.get_mut(place) else { return };
        watchers.retain(|watcher| watcher.id != id);
        if watchers.is_empty() {
            self.places.remove(place);
        }
    }

    /// Gives a change to everybody whom it concerns. Who cannot take it is unhooked: the end of its queue tells it.
    pub(crate) fn deliver(&mut self, change: &Arc<Change>) {
        if self.places.is_empty() {
            return;
        }
        let key = change.object(change.kind()).key();
        self.deliver_at(&Place::Everywhere, change);
        self.deliver_at(&Place::Object(key.clone()), change);
        if !key.namespace.is_empty() {
            self.deliver_at(&Place::Namespace(key.namespace.clone()), change);
        }
        for position in 0..self.fields.len() {
            let at = self.fields[position];
            let value =
                |object: &Option<Object>| object.as_ref().and_then(|object| object.index().fields.get(at).cloned());
            let (old, new) = (value(&change.old), value(&change.new));
            if old != new
                && let Some(old) = old
            {
                self.deliver_at(&Place::Field(at, old), change);
            }
            if let Some(new) = new {
                self.deliver_at(&Place::Field(at, new), change);
            }
        }
    }

    fn deliver_at(&mut self, place: &Place, change: &Arc<Change>) {
        if let Some(watchers) = self.places.get_mut(place) {
            watchers.retain(|watcher| watcher.offer(change));
        }
    }

    /// Tells everybody who wants to know how far they are. Who has events waiting learns it from those.
    pub(crate) fn bookmark(&mut self, revision: u64) {
        for watcher in self.places.values().flatten().filter(|watcher| watcher.bookmarks) {
            let _ = watcher.queue.try_send(Delivery::Bookmark(revision));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.values().map(Vec::len).sum()
    }
}
