//! `ValidatingAdmissionPolicy`: rules in CEL about what is written, made for requests by bindings.
//!
//! Policies and bindings are followed as they change and compiled when a request first needs them; a request that no
//! binding is for costs a look at a map. Public behaviour: KEP-3488; texts are upstream's. Left out: the variable
//! `authorizer`, and the check of types against published schemas (`status.typeChecking`).

mod evaluate;
mod matching;
mod policy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::{ApiError, Key, Object, Reason, Resource, Scope, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Selector;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub(crate) use self::policy::Compiled;

use self::evaluate::{Action, Given, Outcome};
use self::policy::{Binding, Policy};
use super::{Attempt, Descriptor, Plugin, forbidden};
use crate::custom::Definitions;
use crate::registry::tree::{list, text};
use crate::watch_cache::{Caches, Observer};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "ValidatingAdmissionPolicy",
    plugin: |parts| {
        Arc::new(ValidatingAdmissionPolicy {
            caches: parts.caches.clone(),
            definitions: parts.definitions.clone(),
            known: Arc::default(),
            followed: OnceCell::new(),
        })
    },
};

const POISON: &str = "no holder of the policies panics";
const AUDIT_KEY: &str = "validation.policy.admission.k8s.io/validation_failure";
/// A longer value of an audit annotation is cut.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

struct ValidatingAdmissionPolicy {
    caches: Arc<Caches>,
    definitions: Arc<Definitions>,
    known: Arc<Mutex<Known>>,
    followed: OnceCell<()>,
}

/// The policies and bindings that there are, by name.
#[derive(Default)]
struct Known {
    policies: BTreeMap<Arc<str>, Arc<Policy>>,
    bindings: BTreeMap<Arc<str>, Arc<Binding>>,
}

struct FollowPolicies(Arc<Mutex<Known>>);

impl Observer for FollowPolicies {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(name) = new.or(old).map(|object| object.key().name.clone()) else { return };
        let policies = &mut self.0.lock().expect(POISON).policies;
        match new {
            Some(object) => drop(policies.insert(name, Arc::new(Policy::new(object.clone())))),
            None => drop(policies.remove(&name)),
        }
    }
}

struct FollowBindings(Arc<Mutex<Known>>);

impl Observer for FollowBindings {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(name) = new.or(old).map(|object| object.key().name.clone()) else { return };
        let bindings = &mut self.0.lock().expect(POISON).bindings;
        match new {
            Some(object) => drop(bindings.insert(name, Arc::new(Binding::new(object)))),
            None => drop(bindings.remove(&name)),
        }
    }
}

impl Plugin for ValidatingAdmissionPolicy {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if matching::is_exempt(attempt.resource) {
                return Ok(());
            }
            self.follow().await?;
            let hooks = self.hooks();
            if hooks.is_empty() {
                return Ok(());
            }
            self.judge(attempt, object, &hooks).await
        }
        .boxed()
    }
}

/// A policy with the bindings that make it count.
type Hook = (Arc<Policy>, Vec<Arc<Binding>>);

impl ValidatingAdmissionPolicy {
    async fn follow(&self) -> Result<(), ApiError> {
        let follow = || async {
            let policies = self.caches.of(resources::VALIDATING_ADMISSION_POLICIES).await?;
            policies.observe(Arc::new(FollowPolicies(self.known.clone())));
            let bindings = self.caches.of(resources::VALIDATING_ADMISSION_POLICY_BINDINGS).await?;
            bindings.observe(Arc::new(FollowBindings(self.known.clone())));
            Ok(())
        };
        self.followed.get_or_try_init(follow).await.map(drop)
    }

    fn hooks(&self) -> Vec<Hook> {
        let known = self.known.lock().expect(POISON);
        let mut hooks: BTreeMap<&str, Hook> = BTreeMap::new();
        for binding in known.bindings.values() {
            let Some(policy) = known.policies.get(&*binding.policy) else { continue };
            hooks.entry(&binding.policy).or_insert_with(|| (policy.clone(), Vec::new())).1.push(binding.clone());
        }
        hooks.into_values().collect()
    }

    async fn judge(&self, attempt: &Attempt<'_>, object: &Value, hooks: &[Hook]) -> Result<(), ApiError> {
        let namespace = self.namespace(attempt).await?;
        let request = matching::request(attempt);
        let mut denials = Denials { attempt, first: None };
        for (policy, bindings) in hooks {
            let policy = policy.compiled();
            if !policy.matches.covers(attempt, object, namespace.as_ref()) {
                continue;
            }
            let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for binding in bindings {
                if !binding.matches.covers(attempt, object, namespace.as_ref()) {
                    continue;
                }
                let params = match self.params(policy, binding, attempt).await {
                    Ok(params) => params,
                    Err(why) => {
                        if !policy.ignores_failures {
                            denials.add(policy, binding, &format!("failed to configure binding: {why}"), "");
                        }
                        continue;
                    }
                };
                for params in &params {
                    let given =
                        Given { object, old: attempt.old, request: &request, namespace: namespace.as_ref(), params };
                    let outcome = evaluate::evaluate(policy, &given);
                    apply(&mut denials, policy, binding, outcome, &mut annotations);
                }
            }
            for (key, values) in annotations {
                attempt.context.notes.annotate(format!("{}/{key}", policy.name), values.join(", "));
            }
        }
        denials.first.map_or(Ok(()), Err)
    }

    /// The namespace that the write is in; none for what stands in none.
    async fn namespace(&self, attempt: &Attempt<'_>) -> Result<Option<Value>, ApiError> {
        let name = &attempt.key.namespace;
        if name.is_empty() {
            return Ok(None);
        }
        let found = super::find(&self.caches, resources::NAMESPACES, "", name).await?;
        let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        Ok(Some(found.to_value()))
    }

    /// The objects that a binding gives its policy as parameters, each in turn; one null where it gives none.
    async fn params(&self, policy: &Compiled, binding: &Binding, attempt: &Attempt<'_>) -> Result<Vec<Value>, String> {
        let (Some((api_version, kind)), Some(wanted)) = (&policy.param_kind, &binding.params) else {
            return Ok(vec![Value::Null]);
        };
        let unknown = || format!("paramKind kind `{api_version}, Kind={kind}` not known");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (cache, scope) = match resources::by_kind(group, version, kind) {
            Some(resource) => (self.caches.of(resource).await.map_err(|error| error.message)?, resource.scope),
            None => {
                let table = self.definitions.table();
                let is_it = |row: &Resource| *row.group == *group && *row.version == *version && *row.kind == **kind;
                let served = table.served.iter().find(|served| is_it(&served.resource)).ok_or_else(unknown)?;
                (served.cache.clone().ok_or_else(unknown)?, served.resource.scope)
            }
        };
        self.caches.loaded(&cache).await.map_err(|error| error.message)?;
        let namespace = match (scope, text(&wanted["namespace"]), &*attempt.key.namespace) {
            (Scope::Cluster, "", _) => "",
            (Scope::Cluster, ..) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
            }
            (_, "", "") => {
                let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (_, "", own) => own,
            (_, given, _) => given,
        };
        let name = text(&wanted["name"]);
        let found: Vec<Value> = if name.is_empty() {
            let selector = Selector::from_label_selector(&wanted["selector"]).map_err(|error| error.to_string())?;
            let snapshot = self.caches.snapshot(&cache);
            let within = Some(namespace).filter(|namespace| !namespace.is_empty());
            let entries = snapshot.entries(within).filter(|entry| selector.matches(|key| entry.object.label(key)));
            entries.map(|entry| entry.object.to_value()).collect()
        } else {
            cache.get(&Key::new(namespace, name)).map(|object| object.to_value()).into_iter().collect()
        };
        if found.is_empty() && wanted["parameterNotFoundAction"] == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found)
    }
}

/// Does with an outcome what the binding says.
fn apply(
    denials: &mut Denials<'_>,
    policy: &Compiled,
    binding: &Binding,
    outcome: Outcome,
    annotations: &mut BTreeMap<String, Vec<String>>,
) {
    let notes = denials.attempt.context.notes;
    for failure in &outcome.failures {
        for action in &binding.actions {
            match action {
                Action::Deny => denials.add(policy, binding, &failure.message, &failure.reason),
                Action::Warn => notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, failure.message
                )),
                Action::Audit => {
                    let value = json!([{"message": failure.message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": failure.index, "validationActions": list(&binding.spec["validationActions"])}]);
                    notes.annotate(AUDIT_KEY, value.to_string());
                }
            }
        }
    }
    for (key, mut value) in outcome.annotations {
        let mut ends = value.len().min(ANNOTATION_BYTES_MAX);
        while !value.is_char_boundary(ends) {
            ends -= 1;
        }
        value.truncate(ends);
        let values = annotations.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    for why in &outcome.annotation_errors {
        denials.add(policy, binding, why, "");
    }
}

/// Why a write is refused: the first reason counts.
struct Denials<'a> {
    attempt: &'a Attempt<'a>,
    first: Option<ApiError>,
}

impl Denials<'_> {
    fn add(&mut self, policy: &Compiled, binding: &Binding, why: &str, reason: &str) {
        if self.first.is_some() {
            return;
        }
        let message = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {why}",
            policy.name, binding.name
        );
        let mut error = forbidden(self.attempt, &message);
        error.reason = match reason {
            "Forbidden" => Reason::Forbidden,
            "Unauthorized" => Reason::Unauthorized,
            "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
            _ => Reason::Invalid,
        };
        error.code = error.reason.code();
        error.details["causes"] = json!([{"message": message}]);
        self.first = Some(error);
    }
}
