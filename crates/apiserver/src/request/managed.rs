//! Managed fields: what a write does to the owners of an object's fields. The engine is `machinery::apply`; here are who
//! writes, in which version, and what the object brought along.
//!
//! Owners are counted from what the client sent, after defaulting and before admission, as upstream does: what the server itself
//! fills in belongs to nobody.

use std::sync::LazyLock;

use api::object::Tree;
use machinery::apply::schema::Place;
use machinery::apply::{Managers, Set, Tracker, Versions, Writer};
use serde_json::Value;

use super::{Call, metadata};
use crate::registry::Context;
use crate::{Server, conversion};

/// A user agent's first word is cut to this when it names a manager; a longer `fieldManager` is refused. Upstream's limit.
pub const MANAGER_BYTES_MAX: usize = 128;

/// Who owns an object's fields after a write.
#[derive(Debug, Clone)]
pub enum Owners {
    /// Whoever owned them, but for what the write changed: that is the writer's.
    Tracked,
    /// These.
    Are(Managers),
    /// Whoever owned them: the server wrote.
    Untouched,
}

/// Managed fields after a write.
pub struct Owned {
    /// As they are encoded; empty where there are none.
    pub encoded: Vec<u8>,
    /// Whether they are others than before, whenever that was.
    pub changed: bool,
}

/// Takes the managed fields out of the new object and gives those that it is to have. Without an old one it is created.
pub fn after(call: &Call, context: &Context<'_>, old: Option<&Tree>, new: &mut Value, owners: Owners) -> Owned {
    let given = metadata::fields(new).shift_remove("managedFields");
    let encoded_before = || old.and_then(|old| old.managed_fields.as_ref()).map_or(&[][..], |raw| raw.get().as_bytes());
    let managers = match owners {
        Owners::Untouched => return Owned { encoded: encoded_before().to_vec(), changed: false },
        Owners::Are(managers) => managers,
        Owners::Tracked => {
            let base = base(call, given, old);
            let writer_name = manager(call);
            let now = metadata::time(context.now);
            let writer = Writer { name: &writer_name, now: &now };
            with_tracker(call, |tracker| tracker.update(old.map(|old| &old.object), new, base, writer))
        }
    };
    let changed = !managers.same_but_for_times(&of(old));
    let encoded = if managers.is_empty() { Vec::new() } else { managers.encode() };
    Owned { encoded, changed }
}

/// An object's managers. What cannot be read counts as if it were not there.
pub fn of(tree: Option<&Tree>) -> Managers {
    let raw = tree.and_then(|tree| tree.managed_fields.as_ref());
    raw.and_then(|raw| Managers::parse(raw.get().as_bytes()).ok()).unwrap_or_default()
}

/// The managers that a write begins with: those that the client sent, where it sent any, since it may edit them. An empty
/// list, or one empty entry, asks for all to be forgotten.
fn base(call: &Call, given: Option<Value>, old: Option<&Tree>) -> Managers {
    let given = given.filter(|_| call.target.subresource.is_empty());
    let is_reset = given.as_ref().and_then(Value::as_array).is_some_and(|entries| match &entries[..] {
        [] => true,
        [only] => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    });
    if is_reset {
        return Managers::default();
    }
    let given = given.and_then(|given| Managers::from_value(&given).ok()).filter(|given| !given.is_empty());
    given.unwrap_or_else(|| of(old))
}

/// The writer's name: what it says, or how its user agent begins.
pub fn manager(call: &Call) -> String {
    if let Some(name) = call.query.get("fieldManager") {
        return name.to_owned();
    }
    let agent = call.headers.get(http::header::USER_AGENT).map_or(&[][..], http::HeaderValue::as_bytes);
    let agent = String::from_utf8_lossy(agent);
    let mut name = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// Calls with the tracker for what a call writes.
pub fn with_tracker<T>(call: &Call, with: impl FnOnce(&Tracker<'_>) -> T) -> T {
    let reset = Set::of(call.served.strategy.reset_fields(&call.target.subresource));
    let built_in = BuiltIn { server: &call.server, call };
    let versions = call.served.strategy.versions().unwrap_or(&built_in);
    let api_version = call.served.resource.api_version();
    let subresource = &*call.target.subresource;
    with(&Tracker { versions, api_version: &api_version, subresource, reset: &reset })
}

/// The versions of a built-in resource.
struct BuiltIn<'a> {
    server: &'a Server,
    call: &'a Call,
}

impl BuiltIn<'_> {
    fn served(&self, api_version: &str) -> Option<std::sync::Arc<crate::Served>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.server.find(group, version, &self.call.served.resource.plural)
    }
}

impl Versions for BuiltIn<'_> {
    fn root(&self, api_version: &str) -> Option<&dyn Place> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let of = api::schema::by_kind(group, version, &self.call.served.resource.kind)?;
        Some(of.place())
    }

    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<Value> {
        let stored = conversion::to_stored(&*self.served(from)?, object.clone());
        Some(conversion::from_stored(&*self.served(to)?, stored))
    }
}

/// The `Scale` of a workload, which has one version.
pub struct Scale;

impl Versions for Scale {
    fn root(&self, api_version: &str) -> Option<&dyn Place> {
        let (group, version) = api_version.split_once('/')?;
        Some(api::schema::by_kind(group, version, "Scale")?.place())
    }
    fn convert(&self, _: &Value, _: &str, _: &str) -> Option<Value> {
        None
    }
}

/// What a write to a scale cannot change.
pub static SCALE_RESET: LazyLock<Set> = LazyLock::new(|| Set::of(&[&["status"]]));
