//! What both kinds of admission policies share: they are followed as they change and compiled when a request first needs
//! them; bindings make them count, for writes that both match, with objects as parameters.

pub(super) mod authority;
pub(super) mod expressions;
pub(super) mod matching;
pub(super) mod params;
pub(super) mod scope;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use api::{ApiError, Object, Resource, resources};
use serde_json::Value;
use tokio::sync::OnceCell;

use self::matching::Matches;
use super::Attempt;
use crate::registry::tree::text;
use crate::watch_cache::{Caches, Observer};

const POISON: &str = "no holder of the policies panics";

/// A policy, ready to be evaluated.
pub(super) trait Compile: Sized + Send + Sync + 'static {
    fn of(policy: &Value) -> Self;
}

/// A policy; compiled when it is first needed.
#[derive(Debug)]
pub(super) struct Policy<C> {
    object: Object,
    compiled: OnceLock<C>,
}

impl<C: Compile> Policy<C> {
    pub(super) fn compiled(&self) -> &C {
        self.compiled.get_or_init(|| C::of(&self.object.to_value()))
    }
}

/// What makes a policy count.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) matches: Matches,
    pub(super) params: Option<Value>,
    pub(super) spec: Value,
}

impl Binding {
    fn new(object: &Object) -> Self {
        let spec = object.to_value()["spec"].take();
        Self {
            name: object.key().name.to_string(),
            policy: text(&spec["policyName"]).to_owned(),
            matches: Matches::of(&spec["matchResources"]),
            params: spec.get("paramRef").filter(|params| !params.is_null()).cloned(),
            spec,
        }
    }
}

/// A policy with the bindings that make it count.
pub(super) type Hook<C> = (Arc<Policy<C>>, Vec<Arc<Binding>>);

/// The policies and bindings that there are, by name.
struct Known<C> {
    policies: BTreeMap<Arc<str>, Arc<Policy<C>>>,
    bindings: BTreeMap<Arc<str>, Arc<Binding>>,
}

/// Follows the policies and bindings of one kind.
pub(super) struct Source<C> {
    policies: &'static Resource,
    bindings: &'static Resource,
    known: Arc<Mutex<Known<C>>>,
    followed: OnceCell<()>,
}

struct FollowPolicies<C>(Arc<Mutex<Known<C>>>);

impl<C: Compile> Observer for FollowPolicies<C> {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(name) = new.or(old).map(|object| object.key().name.clone()) else { return };
        let policies = &mut self.0.lock().expect(POISON).policies;
        match new {
            Some(object) => {
                let policy = Policy { object: object.clone(), compiled: OnceLock::new() };
                policies.insert(name, Arc::new(policy));
            }
            None => drop(policies.remove(&name)),
        }
    }
}

struct FollowBindings<C>(Arc<Mutex<Known<C>>>);

impl<C: Compile> Observer for FollowBindings<C> {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(name) = new.or(old).map(|object| object.key().name.clone()) else { return };
        let bindings = &mut self.0.lock().expect(POISON).bindings;
        match new {
            Some(object) => drop(bindings.insert(name, Arc::new(Binding::new(object)))),
            None => drop(bindings.remove(&name)),
        }
    }
}

impl<C: Compile> Source<C> {
    pub(super) fn new(policies: &'static Resource, bindings: &'static Resource) -> Self {
        let known = Known { policies: BTreeMap::new(), bindings: BTreeMap::new() };
        Self { policies, bindings, known: Arc::new(Mutex::new(known)), followed: OnceCell::new() }
    }

    /// The policies that count, by name.
    pub(super) async fn hooks(&self, caches: &Arc<Caches>) -> Result<Vec<Hook<C>>, ApiError> {
        let follow = || async {
            caches.of(self.policies).await?.observe(Arc::new(FollowPolicies(self.known.clone())));
            caches.of(self.bindings).await?.observe(Arc::new(FollowBindings(self.known.clone())));
            Ok::<(), ApiError>(())
        };
        self.followed.get_or_try_init(follow).await?;
        let known = self.known.lock().expect(POISON);
        let mut hooks: BTreeMap<&str, Hook<C>> = BTreeMap::new();
        for binding in known.bindings.values() {
            let Some(policy) = known.policies.get(&*binding.policy) else { continue };
            hooks.entry(&binding.policy).or_insert_with(|| (policy.clone(), Vec::new())).1.push(binding.clone());
        }
        Ok(hooks.into_values().collect())
    }
}

/// The namespace that the write is in; none for what stands in none.
pub(super) async fn namespace(caches: &Caches, attempt: &Attempt<'_>) -> Result<Option<Value>, ApiError> {
    let name = &attempt.key.namespace;
    if name.is_empty() {
        return Ok(None);
    }
    let found = super::find(caches, resources::NAMESPACES, "", name).await?;
    let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
    Ok(Some(found.to_value()))
}
