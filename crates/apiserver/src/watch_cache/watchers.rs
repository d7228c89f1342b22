//! The watchers of one resource, filed by what they watch: a change is tested only against those that it may concern.
//!
//! Watchers in this process are told of each change at once. Those over the network are told in turns with a rest between,
//! which [`super::turns`] measures out: what happens in a rest comes to them together.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Key, Object, Resource};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::turns::Turns;
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

/// When a watcher is told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once: it costs next to nothing to tell a watcher in this process.
    AtOnce,
    /// In turns with all others like it: each time costs an encrypted record, a system call and the client's wake-up.
    InTurns,
}

pub(crate) struct Watcher {
    pub(crate) id: u64,
    pub(crate) filter: Arc<Filter>,
    /// The first change that it has not been given on registration.
    pub(crate) from_sequence: u64,
    pub(crate) bookmarks: bool,
    pub(crate) queue: mpsc::Sender<Delivery>,
}

/// What came of offering changes to a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offered {
    /// None concerned it.
    Nothing,
    Given,
    /// It does not keep up.
    Full,
}

impl Watcher {
    fn offer<'a>(&self, changes: impl Iterator<Item = &'a Arc<Change>>) -> Offered {
        let mut offered = Offered::Nothing;
        for change in changes.filter(|change| change.sequence >= self.from_sequence) {
            let Some(kind) = self.filter.kind(change) else { continue };
            if let Err(TrySendError::Full(_)) = self.queue.try_send(Delivery::Change(kind, change.clone())) {
                return Offered::Full;
            }
            offered = Offered::Given;
        }
        offered
    }
}

/// All watchers of a resource.
#[derive(Default)]
pub(crate) struct Watchers {
    next_id: u64,
    at_once: Filed,
    in_turns: Filed,
    turns: Turns,
}

impl Watchers {
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn add(&mut self, pace: Pace, place: Place, watcher: Watcher) {
        self.of(pace).add(place, watcher);
    }

    pub(crate) fn remove(&mut self, pace: Pace, place: &Place, id: u64) {
        self.of(pace).remove(place, id);
    }

    fn of(&mut self, pace: Pace) -> &mut Filed {
        match pace {
            Pace::AtOnce => &mut self.at_once,
            Pace::InTurns => &mut self.in_turns,
        }
    }

    /// Gives changes to everybody whom they concern, or keeps them for those who rest: then says when their next turn is. Who
    /// cannot take a change is unhooked: the end of its queue tells it.
    pub(crate) fn deliver(&mut self, changes: &[Arc<Change>]) -> Option<Instant> {
        self.at_once.deliver(changes);
        self.turns.wait(changes.iter().filter(|change| self.in_turns.concerns(change)));
        self.take_turn(Instant::now())
    }

    /// Tells those who take turns what waits for them, unless they still rest: then says when the next turn is.
    pub(crate) fn take_turn(&mut self, now: Instant) -> Option<Instant> {
        let due = self.turns.due(now)?;
        if due > now {
            return Some(due);
        }
        let told = self.in_turns.deliver(&self.turns.take());
        self.turns.rest(now, told);
        None
    }

    /// Tells everybody who wants to know how far they are. Who has events waiting learns it from those.
    pub(crate) fn bookmark(&mut self, revision: u64) {
        self.in_turns.deliver(&self.turns.take());
        for watcher in self.all().filter(|watcher| watcher.bookmarks) {
            let _ = watcher.queue.try_send(Delivery::Bookmark(revision));
        }
    }

    /// Lets go of all watchers, which end when they have seen what there was.
    pub(crate) fn close(&mut self) {
        self.in_turns.deliver(&self.turns.take());
        *self = Self { next_id: self.next_id, ..Self::default() };
    }

    fn all(&self) -> impl Iterator<Item = &Watcher> {
        self.at_once.all().chain(self.in_turns.all())
    }

    pub(crate) fn len(&self) -> usize {
        self.all().count()
    }
}

/// Watchers by their places.
#[derive(Default)]
struct Filed {
    places: HashMap<Place, Vec<Watcher>>,
    /// Which positions of selectable fields somebody watches.
    fields: Vec<usize>,
}

impl Filed {
    fn add(&mut self, place: Place, watcher: Watcher) {
        if let Place::Field(at, _) = place
            && !self.fields.contains(&at)
        {
            self.fields.push(at);
        }
        self.places.entry(place).or_default().push(watcher);
    }

    fn remove(&mut self, place: &Place, id: u64) {
        let Some(watchers) = self.places.get_mut(place) else { return };
        watchers.retain(|watcher| watcher.id != id);
        if watchers.is_empty() {
            self.places.remove(place);
        }
    }

    fn concerns(&self, change: &Change) -> bool {
        !self.places.is_empty() && !self.places_of(change).is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Watcher> {
        self.places.values().flatten()
    }

    /// Gives changes, each watcher all of its own at a time. How many were told of any.
    fn deliver(&mut self, changes: &[Arc<Change>]) -> usize {
        if self.places.is_empty() {
            return 0;
        }
        if let [change] = changes {
            return self.places_of(change).iter().map(|place| self.deliver_at(place, &std::iter::once(change))).sum();
        }
        let mut concerned: HashMap<Place, Vec<usize>> = HashMap::new();
        for (at, change) in changes.iter().enumerate() {
            for place in self.places_of(change) {
                concerned.entry(place).or_default().push(at);
            }
        }
        concerned.iter().map(|(place, own)| self.deliver_at(place, &own.iter().map(|at| &changes[*at]))).sum()
    }

    /// Where watchers are whom a change may concern.
    fn places_of(&self, change: &Change) -> Vec<Place> {
        let key = change.object(change.kind()).key();
        let mut places = vec![Place::Everywhere, Place::Object(key.clone())];
        if !key.namespace.is_empty() {
            places.push(Place::Namespace(key.namespace.clone()));
        }
        for at in &self.fields {
            let value =
                |object: &Option<Object>| object.as_ref().and_then(|object| object.index().fields.get(*at).cloned());
            let (old, new) = (value(&change.old), value(&change.new));
            if old != new {
                places.extend(old.map(|old| Place::Field(*at, old)));
            }
            places.extend(new.map(|new| Place::Field(*at, new)));
        }
        places.retain(|place| self.places.contains_key(place));
        places
    }

    fn deliver_at<'a>(&mut self, place: &Place, changes: &(impl Iterator<Item = &'a Arc<Change>> + Clone)) -> usize {
        let mut told = 0;
        if let Some(watchers) = self.places.get_mut(place) {
            watchers.retain(|watcher| {
                let offered = watcher.offer(changes.clone());
                told += usize::from(offered == Offered::Given);
                offered != Offered::Full
            });
        }
        told
    }
}
