//! `ValidatingAdmissionPolicy`: rules in CEL about what is written, made for requests by bindings.
//!
//! Policies and bindings are followed as they change and compiled when a request first needs them; a request that no
//! binding is for costs a look at a map. Public behaviour: KEP-3488; texts are upstream's. Left out: the check of types
//! against published schemas (`status.typeChecking`).

mod evaluate;
mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{ApiError, Reason, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

pub(crate) use self::policy::Compiled;

use self::evaluate::{Action, Outcome};
use super::policies::authority::{of_writer, request_resource};
use super::policies::params::Params;
use super::policies::scope::Given;
use super::policies::{self, Binding, Hook, Source, matching};
use super::{Attempt, Descriptor, Plugin, forbidden};
use crate::authorization::Authorization;
use crate::registry::tree::list;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "ValidatingAdmissionPolicy",
    plugin: |parts| {
        Arc::new(ValidatingAdmissionPolicy {
            params: Params { caches: parts.caches.clone(), definitions: parts.definitions.clone() },
            authorization: parts.access.authorization.clone(),
            source: Source::new(
                resources::VALIDATING_ADMISSION_POLICIES,
                resources::VALIDATING_ADMISSION_POLICY_BINDINGS,
            ),
        })
    },
};

const AUDIT_KEY: &str = "validation.policy.admission.k8s.io/validation_failure";
/// A longer value of an audit annotation is cut.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

struct ValidatingAdmissionPolicy {
    params: Params,
    authorization: Arc<Authorization>,
    source: Source<Compiled>,
}

impl Plugin for ValidatingAdmissionPolicy {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if matching::is_exempt(attempt.resource) {
                return Ok(());
            }
            let hooks = self.source.hooks(&self.params.caches).await?;
            if hooks.is_empty() {
                return Ok(());
            }
            self.judge(attempt, object, &hooks).await
        }
        .boxed()
    }
}

impl ValidatingAdmissionPolicy {
    async fn judge(&self, attempt: &Attempt<'_>, object: &Value, hooks: &[Hook<Compiled>]) -> Result<(), ApiError> {
        let namespace = policies::namespace(&self.params.caches, attempt).await?;
        let (authority, asked) = (of_writer(&self.authorization, attempt), request_resource(attempt));
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
                let params = match self.params.of(policy.param_kind.as_ref(), binding, attempt).await {
                    Ok(params) => params,
                    Err(why) => {
                        if !policy.ignores_failures {
                            denials.add(policy, binding, &format!("failed to configure binding: {why}"), "");
                        }
                        continue;
                    }
                };
                for params in &params {
                    let given = Given {
                        object,
                        old: attempt.old,
                        request: &request,
                        namespace: namespace.as_ref(),
                        params,
                        authority: &authority,
                        asked: &asked,
                    };
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
        for action in list(&binding.spec["validationActions"]).iter().filter_map(Action::of) {
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
