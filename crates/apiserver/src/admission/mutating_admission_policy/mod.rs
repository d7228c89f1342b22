//! `MutatingAdmissionPolicy`: changes in CEL to what is written, made for requests by bindings.
//!
//! A mutation comes to a configuration, which is merged as server-side apply merges, or to a JSON patch. Who wants it is asked
//! again where a later one changed the object. Public behaviour: KEP-3962; texts are upstream's. Left out: writes to
//! subresources whose objects are of another kind, such as evictions and scales.

mod mutate;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use api::{ApiError, Reason, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::apply::schema::Place;
use machinery::cel::{Authority, Question};
use serde_json::{Value, json};

pub(crate) use self::policy::Compiled;

use super::policies::authority::{of_writer, request_resource};
use super::policies::params::Params;
use super::policies::scope::{Given, Scope};
use super::policies::{self, Binding, Hook, Source, matching};
use super::{Attempt, Descriptor, Operation, Plugin, forbidden};
use crate::authorization::Authorization;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "MutatingAdmissionPolicy",
    plugin: |parts| {
        Arc::new(MutatingAdmissionPolicy {
            params: Params { caches: parts.caches.clone(), definitions: parts.definitions.clone() },
            authorization: parts.access.authorization.clone(),
            source: Source::new(resources::MUTATING_ADMISSION_POLICIES, resources::MUTATING_ADMISSION_POLICY_BINDINGS),
        })
    },
};

/// The subresources that are written as objects of the resource's own kind.
const OWN_KIND: [&str; 6] = ["", "approval", "ephemeralcontainers", "finalize", "resize", "status"];

struct MutatingAdmissionPolicy {
    params: Params,
    authorization: Arc<Authorization>,
    source: Source<Compiled>,
}

impl Plugin for MutatingAdmissionPolicy {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let concerns = attempt.operation != Operation::Delete && OWN_KIND.contains(&attempt.subresource);
            if !concerns || !object.is_object() || matching::is_exempt(attempt.resource) {
                return Ok(());
            }
            let hooks = self.source.hooks(&self.params.caches).await?;
            if hooks.is_empty() {
                return Ok(());
            }
            attempt.again.begin(object);
            let result = self.change(attempt, object, &hooks).await;
            attempt.again.end(object);
            result
        }
        .boxed()
    }
}

impl MutatingAdmissionPolicy {
    async fn change(
        &self,
        attempt: &Attempt<'_>,
        object: &mut Value,
        hooks: &[Hook<Compiled>],
    ) -> Result<(), ApiError> {
        let namespace = policies::namespace(&self.params.caches, attempt).await?;
        let mut denials = Vec::new();
        for (policy, bindings) in hooks {
            let policy = policy.compiled();
            if !policy.matches.covers(attempt, object, namespace.as_ref()) {
                continue;
            }
            for binding in bindings {
                if !binding.matches.covers(attempt, object, namespace.as_ref()) {
                    continue;
                }
                let params = match self.params.of(policy.param_kind.as_ref(), binding, attempt).await {
                    Ok(params) => params,
                    Err(why) => {
                        denials.extend(denial(policy, binding, &format!("failed to configure binding: {why}")));
                        continue;
                    }
                };
                for params in &params {
                    let wrong = self.invoke(attempt, object, namespace.as_ref(), policy, binding, params);
                    denials.extend(wrong.iter().filter_map(|why| denial(policy, binding, why)));
                }
            }
        }
        if denials.is_empty() { Ok(()) } else { Err(refused(attempt, &denials)) }
    }

    /// Makes a policy's changes for one binding and parameter. Gives what went wrong.
    fn invoke(
        &self,
        attempt: &Attempt<'_>,
        object: &mut Value,
        namespace: Option<&Value>,
        policy: &Compiled,
        binding: &Binding,
        params: &Value,
    ) -> Vec<String> {
        let (authority, asked) = (of_writer(&self.authorization, attempt), request_resource(attempt));
        let request = matching::request(attempt);
        let write =
            Write { old: attempt.old, request: &request, namespace, params, authority: &authority, asked: &asked };
        match Scope::new(&policy.variables, &write.given(object)).conditions(&policy.conditions) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(why) => return vec![why],
        }
        let name = |value: &Value| value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = format!("{}/{}/{}/{}", policy.name, binding.name, params["metadata"]["namespace"], name(params));
        if !attempt.again.asks(&key) {
            return Vec::new();
        }
        let mut wrong = policy.errors.iter().map(|(.., why)| why.clone()).collect::<Vec<_>>();
        let Some(place) = place(attempt) else {
            let (kind, version) = (&attempt.resource.kind, attempt.resource.api_version());
            return vec![format!(
                "Resource kind {version}, Kind={kind} not found. There can be a delay between when CustomResourceDefinitions \
                 are created and when they are available."
            )];
        };
        for mutation in &policy.mutations {
            match mutate::mutated(mutation, &policy.variables, &write.given(object), place) {
                Ok(Some(new)) if new != *object => {
                    *object = new;
                    attempt.again.changed();
                }
                Ok(_) => {}
                Err(why) => wrong.push(why),
            }
        }
        if policy.reinvokes {
            attempt.again.asked(key);
        }
        wrong
    }
}

/// What expressions see of a write besides its object, which changes on the way.
struct Write<'w> {
    old: Option<&'w Value>,
    request: &'w Value,
    namespace: Option<&'w Value>,
    params: &'w Value,
    authority: &'w Arc<dyn Authority>,
    asked: &'w Question,
}

impl Write<'_> {
    fn given<'v>(&'v self, object: &'v Value) -> Given<'v> {
        Given {
            object,
            old: self.old,
            request: self.request,
            namespace: self.namespace,
            params: self.params,
            authority: self.authority,
            asked: self.asked,
        }
    }
}

/// The schema that configurations are merged by.
fn place<'a>(attempt: &'a Attempt<'_>) -> Option<&'a dyn Place> {
    let resource = attempt.resource;
    match attempt.strategy.versions() {
        Some(versions) => versions.root(&resource.api_version()),
        None => Some(api::schema::by_kind(&resource.group, &resource.version, &resource.kind)?.place()),
    }
}

fn denial(policy: &Compiled, binding: &Binding, why: &str) -> Option<String> {
    let told = || format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
    (!policy.ignores_failures).then(told)
}

fn refused(attempt: &Attempt<'_>, denials: &[String]) -> ApiError {
    let mut error = forbidden(attempt, "");
    error.message = denials.first().cloned().unwrap_or_default();
    error.reason = Reason::Invalid;
    error.details["causes"] = denials.iter().map(|message| json!({"message": message})).collect();
    error
}
