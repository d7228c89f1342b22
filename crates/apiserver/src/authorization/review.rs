//! Access reviews: may I, may they, and what may I.

use std::sync::Arc;

use api::{ApiError, Key, Reason};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attributes, Authorization, Decision};
use crate::Server;
use crate::authentication::{MASTERS, UserInfo};
use crate::registry::Context;

/// Answers a posted `SelfSubjectAccessReview`: about the caller.
pub fn self_subject<'a>(
    server: &'a Arc<Server>,
    context: &'a Context<'a>,
    _key: &'a Key,
    review: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    std::future::ready(answer(&server.access().authorization, context.user, review)).boxed()
}

/// Answers a posted `SubjectAccessReview`: about the user that the spec names.
pub fn subject<'a>(
    server: &'a Arc<Server>,
    _context: &'a Context<'a>,
    _key: &'a Key,
    review: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    let user = subject_of(&review["spec"]);
    std::future::ready(user.and_then(|user| answer(&server.access().authorization, &user, review))).boxed()
}

/// Answers a posted `LocalSubjectAccessReview`: as [`subject`], in the namespace of the request.
pub fn local_subject<'a>(
    server: &'a Arc<Server>,
    _context: &'a Context<'a>,
    key: &'a Key,
    review: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    let asked = review["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    let checked = if asked == &*key.namespace {
        subject_of(&review["spec"])
    } else {
        let why = format!("spec.resourceAttributes.namespace must match namespace: {}", key.namespace);
        Err(ApiError::new(Reason::BadRequest, why))
    };
    std::future::ready(checked.and_then(|user| answer(&server.access().authorization, &user, review))).boxed()
}

/// Answers a posted `SelfSubjectRulesReview`: every rule of the caller in a namespace.
pub fn self_rules<'a>(
    server: &'a Arc<Server>,
    context: &'a Context<'a>,
    _key: &'a Key,
    mut review: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
    if namespace.is_empty() {
        let error = ApiError::new(Reason::BadRequest, "no namespace on request");
        return std::future::ready(Err(error)).boxed();
    }
    let (mut rules, mut paths) = server.access().authorization.rbac.rules(context.user, &namespace);
    if context.user.in_group(MASTERS) {
        rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    // What the node authorizer gives depends on pods and cannot be written as rules.
    let incomplete = super::NodeAuthorizer::node_of(context.user).is_some();
    review["status"] = json!({"resourceRules": rules, "nonResourceRules": paths, "incomplete": incomplete});
    if incomplete {
        review["status"]["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    std::future::ready(Ok(review)).boxed()
}

fn answer(authorization: &Authorization, user: &UserInfo, mut review: Value) -> Result<Value, ApiError> {
    let attributes = attributes(&review["spec"])?;
    review["status"] = match authorization.decide(user, &attributes) {
        Decision::Allow { reason } => status(true, false, &reason),
        Decision::Deny { reason } => status(false, true, &reason),
        Decision::NoOpinion { reason } => status(false, false, &reason),
    };
    Ok(review)
}

fn status(allowed: bool, denied: bool, reason: &str) -> Value {
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

fn subject_of(spec: &Value) -> Result<UserInfo, ApiError> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let (name, groups) = (spec["user"].as_str().unwrap_or_default(), list(&spec["groups"]));
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::new(
            Reason::Invalid,
            "spec.user: Required value: at least one of user or group must be specified",
        ));
    }
    let extra = spec["extra"].as_object().into_iter().flatten();
    let extra = extra.map(|(key, values)| (key.clone(), list(values))).collect();
    let uid = spec["uid"].as_str().unwrap_or_default().to_owned();
    Ok(UserInfo { name: name.to_owned(), uid, groups, extra })
}

fn attributes(spec: &Value) -> Result<Attributes, ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(asked), None) => Ok(Attributes {
            verb: text(&asked["verb"]),
            group: text(&asked["group"]),
            version: text(&asked["version"]),
            resource: text(&asked["resource"]),
            subresource: text(&asked["subresource"]),
            namespace: text(&asked["namespace"]),
            name: text(&asked["name"]),
            path: String::new(),
            fields: fields(&asked["fieldSelector"]),
        }),
        (None, Some(asked)) => {
            Ok(Attributes { verb: text(&asked["verb"]), path: text(&asked["path"]), ..Attributes::default() })
        }
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            Err(ApiError::new(Reason::Invalid, why))
        }
    }
}

/// The values that a reviewed request's field selector fixes: from its requirements or its text.
fn fields(selector: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(raw) = selector["rawSelector"].as_str() {
        let parsed = machinery::FieldSelector::parse(raw).unwrap_or_default();
        let exact = parsed.requirements().iter().filter(|requirement| !requirement.negated);
        return exact.map(|requirement| (requirement.field.clone(), requirement.value.clone())).collect();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let exact = requirements.filter(|requirement| requirement["operator"] == "In");
    let single = exact.filter_map(|requirement| match requirement["values"].as_array().map(Vec::as_slice) {
        Some([value]) => Some((text(&requirement["key"]), text(value))),
        _ => None,
    });
    single.collect()
}
