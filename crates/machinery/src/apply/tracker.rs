//! What a write does to the managers of an object: [`Tracker::update`] for any write, [`Tracker::apply`] for an applied
//! configuration.
//!
//! Without a schema violation both end in the same place, whatever came between: what a manager owns is what it set last and
//! nobody changed since.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::Value;

use super::compare::{Comparison, compare};
use super::conflict::Conflicts;
use super::managers::{Manager, Managers, Operation};
use super::merge::{describe, merge, remove};
use super::schema::Place;
use super::set::Set;
use super::typed::{check, fields, reconciled, with_named_fields};

/// How many managers that do not apply are kept: the oldest beyond are counted as one. Without a limit, clients with names of
/// their own (one a pod, say) would fill each object they touch.
pub const UPDATERS_MAX: usize = 10;

/// Stands for the oldest managers beyond the limit.
const ANCIENT: &str = "ancient-changes";
/// Stands for whoever wrote an object whose managers nobody kept count of.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The fields that nobody owns.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::of(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// The versions that an object has.
pub trait Versions {
    /// The root of the objects of a version; `None` where it is not served (any more).
    fn root(&self, api_version: &str) -> Option<&dyn Place>;

    /// An object of one version in another; `None` where that is not served.
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<Value>;
}

/// How writes to one resource, in one version, are tracked.
#[derive(Clone, Copy)]
pub struct Tracker<'a> {
    /// The versions that its objects have.
    pub versions: &'a dyn Versions,
    /// The version that is written.
    pub api_version: &'a str,
    /// The subresource that is written; empty for the object itself.
    pub subresource: &'a str,
    /// What the write cannot change, since the server sets it back: nobody comes to own it.
    pub reset: &'a Set,
}

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The manager's name.
    pub name: &'a str,
    /// RFC 3339, with seconds.
    pub now: &'a str,
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// The request is wrong: HTTP 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the schema.
    #[error("{0}")]
    Type(String),
    /// Others own what it would change.
    #[error("{0}")]
    Conflicts(Conflicts),
}

/// What came of an applied configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object; `None` where it is as it was.
    pub object: Option<Value>,
    /// Its managers.
    pub managers: Managers,
}

impl<'a> Tracker<'a> {
    fn root(&self) -> &'a dyn Place {
        self.versions.root(self.api_version).unwrap_or(super::schema::ANY)
    }

    fn manager(&self, name: &str, operation: Operation, fields: Set) -> Manager {
        Manager {
            name: if name.is_empty() { "unknown".to_owned() } else { name.to_owned() },
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: String::new(),
            fields,
        }
    }

    /// The managers after a write that made `new` of `live` (`None`: out of nothing). An object of which nobody kept count goes
    /// on without.
    pub fn update(&self, live: Option<&Value>, new: &Value, managers: Managers, writer: Writer<'_>) -> Managers {
        if managers.is_empty() && live.is_some() {
            return managers;
        }
        let comparison = compare(live, new, self.root()).without(self.reset);
        let mut managers = self.reconciled(managers);
        let mut changes = Changes { tracker: self, live, new, known: vec![(self.api_version.into(), comparison)] };
        managers.0.retain_mut(|manager| {
            let Some(change) = changes.of(&manager.api_version) else { return false };
            manager.fields = lost(&manager.fields, change);
            !manager.fields.is_empty()
        });
        let (_, change) = changes.known.swap_remove(0);
        let own = change.modified.union(&change.added).difference(&UNOWNED);
        if own.is_empty() {
            return managers;
        }
        let own = Manager { time: writer.now.to_owned(), ..self.manager(writer.name, Operation::Update, own) };
        match managers.0.iter_mut().find(|manager| manager.is(&own)) {
            Some(known) => {
                known.fields = known.fields.union(&own.fields);
                known.time = own.time;
            }
            None => managers.0.push(own),
        }
        cap(&mut managers);
        managers
    }

    /// Applies a configuration to an object (`None`: there is none yet), which is not to be changed: what the manager applied
    /// before and leaves out now goes, unless others own it too.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        mut managers: Managers,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        self.check(config)?;
        let root = self.root();
        let nothing = Value::Object(serde_json::Map::new());
        let live_or_nothing = live.unwrap_or(&nothing);
        if let (true, Some(live)) = (managers.is_empty(), live) {
            managers = self.update(None, live, managers, Writer { name: BEFORE_FIRST_APPLY, ..writer });
        }
        let mut managers = self.reconciled(managers);
        let merged = merge(live_or_nothing, config, root);
        let own = self.manager(writer.name, Operation::Apply, fields(config, root).without(self.reset));
        let known = managers.0.iter().position(|manager| manager.is(&own)).map(|at| managers.0.swap_remove(at));
        managers.0.push(own);
        let new = self.pruned(merged, &managers, known.as_ref());
        self.settle(live, &new, &mut managers, force)?;
        let same = new == *live_or_nothing;
        if let Some(at) = managers.0.iter().position(|manager| {
            manager.operation == Operation::Apply
                && manager.is(&self.manager(writer.name, Operation::Apply, Set::default()))
        }) {
            let own = &mut managers.0[at];
            own.fields = own.fields.difference(&UNOWNED);
            own.time = if same { known.map(|known| known.time).unwrap_or_default() } else { writer.now.to_owned() };
            if own.fields.is_empty() {
                managers.0.swap_remove(at);
            }
        }
        Ok(Applied { object: (!same).then_some(new), managers })
    }

    fn check(&self, config: &Value) -> Result<(), ApplyError> {
        let given = config["apiVersion"].as_str().unwrap_or_default();
        if given != self.api_version {
            let expected = self.api_version;
            return Err(ApplyError::BadRequest(format!(
                "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {expected}"
            )));
        }
        if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        check(config, self.root()).map_err(|error| ApplyError::Type(describe(config, &error)))
    }

    fn reconciled(&self, mut managers: Managers) -> Managers {
        for manager in &mut managers.0 {
            if let Some(root) = self.versions.root(&manager.api_version) {
                manager.fields = reconciled(std::mem::take(&mut manager.fields), root);
            }
        }
        managers
    }

    /// Takes from all managers but the one that applies (the last) what the change takes, or says whom it would take it from.
    fn settle(
        &self,
        live: Option<&Value>,
        new: &Value,
        managers: &mut Managers,
        force: bool,
    ) -> Result<(), ApplyError> {
        let Some(own) = managers.0.pop() else { return Ok(()) };
        let mut changes = Changes { tracker: self, live, new, known: Vec::new() };
        managers.0.retain(|manager| changes.of(&manager.api_version).is_some());
        let mut conflicts = Conflicts::default();
        for manager in managers.0.iter().filter(|_| !force) {
            let Some(change) = changes.of(&manager.api_version) else { continue };
            let set = manager.fields.intersection(&change.modified.union(&change.added));
            conflicts.add(manager, &set);
        }
        if !conflicts.0.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        managers.0.retain_mut(|manager| {
            let Some(change) = changes.of(&manager.api_version) else { return false };
            manager.fields = lost(&manager.fields, change);
            !manager.fields.is_empty()
        });
        if !own.fields.is_empty() {
            managers.0.push(own);
        }
        Ok(())
    }

    /// Takes out of the merged object what the manager applied before and nobody owns now.
    fn pruned(&self, merged: Value, managers: &Managers, known: Option<&Manager>) -> Value {
        let Some(known) = known.filter(|known| !known.fields.is_empty()) else { return merged };
        let (version, last) = (&*known.api_version, &known.fields);
        let Some(root) = self.versions.root(version) else { return merged };
        let Some(merged_then) = self.converted(&merged, self.api_version, version) else { return merged };
        let mut pruned = merged_then.clone().into_owned();
        remove(&mut pruned, &with_named_fields(last, Some(root)), root);
        let pruned = self.with_owned(&merged_then, pruned, version, managers);
        let Some(pruned) = pruned else { return merged };
        // Only what the manager itself had applied may go.
        let named = |object: &Value| with_named_fields(&fields(object, root), Some(root));
        let gone = named(&merged_then).difference(&named(&pruned));
        let gone = gone.intersection(&with_named_fields(last, Some(root)));
        let mut kept = merged_then.into_owned();
        remove(&mut kept, &gone, root);
        if version == self.api_version {
            return kept;
        }
        self.versions.convert(&kept, version, self.api_version).unwrap_or(merged)
    }

    /// Puts back what anybody owns, version by version, that of the object first.
    fn with_owned(&self, merged: &Value, pruned: Value, version: &str, managers: &Managers) -> Option<Value> {
        let mut versions: Vec<&str> = vec![version];
        for manager in &managers.0 {
            if !versions.contains(&&*manager.api_version) {
                versions.push(&manager.api_version);
            }
        }
        let mut pruned = pruned;
        for other in versions {
            let owned = managers.0.iter().filter(|manager| manager.api_version == other);
            let owned = owned.fold(Set::default(), |all, manager| all.union(&manager.fields));
            let (Some(root), Some(whole), Some(part)) = (
                self.versions.root(other),
                self.converted(merged, version, other),
                self.converted(&pruned, version, other),
            ) else {
                continue;
            };
            let named = |set: &Set| with_named_fields(set, Some(root));
            let kept = named(&fields(&part, root)).union(&named(&owned));
            let gone = named(&fields(&whole, root)).difference(&kept);
            let mut whole = whole.into_owned();
            remove(&mut whole, &gone, root);
            pruned = if other == version { whole } else { self.versions.convert(&whole, other, version)? };
        }
        Some(pruned)
    }

    fn converted<'v>(&self, object: &'v Value, from: &str, to: &str) -> Option<Cow<'v, Value>> {
        if from == to { Some(Cow::Borrowed(object)) } else { self.versions.convert(object, from, to).map(Cow::Owned) }
    }
}

/// What is left to another manager after a change.
fn lost(fields: &Set, change: &Comparison) -> Set {
    fields.difference(&change.modified).difference(&change.added).difference(&change.removed)
}

/// The change in the versions in which managers name their fields, each made once.
struct Changes<'t> {
    tracker: &'t Tracker<'t>,
    live: Option<&'t Value>,
    new: &'t Value,
    known: Vec<(Box<str>, Comparison)>,
}

impl Changes<'_> {
    /// `None` where the version is not served any more.
    fn of(&mut self, version: &str) -> Option<&Comparison> {
        if let Some(at) = self.known.iter().position(|(known, _)| **known == *version) {
            return Some(&self.known[at].1);
        }
        let tracker = self.tracker;
        let root = tracker.versions.root(version)?;
        let convert = |object: &Value| tracker.converted(object, tracker.api_version, version).map(Cow::into_owned);
        let live = match self.live {
            Some(live) => Some(convert(live)?),
            None => None,
        };
        let change = compare(live.as_ref(), &convert(self.new)?, root).without(tracker.reset);
        self.known.push((version.into(), change));
        self.known.last().map(|(_, change)| change)
    }
}

/// Counts the oldest updaters as one, a version, until there are no more than may be.
fn cap(managers: &mut Managers) {
    let updaters = |managers: &Managers| managers.0.iter().filter(|one| one.operation == Operation::Update).count();
    if updaters(managers) <= UPDATERS_MAX {
        return;
    }
    managers.0.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.name.cmp(&b.name)));
    let mut at = 0;
    while updaters(managers) > UPDATERS_MAX && at < managers.0.len() {
        let is_update = managers.0[at].operation == Operation::Update;
        let version = managers.0[at].api_version.clone();
        let older = managers.0[..at]
            .iter()
            .position(|older| older.operation == Operation::Update && older.api_version == version);
        let (true, Some(older)) = (is_update, older) else {
            at += 1;
            continue;
        };
        let newer = managers.0.remove(at);
        let bucket = &mut managers.0[older];
        bucket.name = ANCIENT.to_owned();
        bucket.subresource.clear();
        bucket.fields = bucket.fields.union(&newer.fields);
        bucket.time = newer.time;
    }
}
