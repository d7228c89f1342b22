//! `serviceaccounts/NAME/token`: a new token for a service account, bound to a pod, a secret or a node if asked.

use std::sync::Arc;

use api::{ApiError, Key, Object, Reason, Resource, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::Server;
use crate::invalid::{FieldError, invalid};
use crate::registry::Context;
use crate::tokens::{Bindings, Claims, Reference};

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// What a projected pod token asks for when its pod spec does not say: one hour and seven seconds, by which it is known.
/// Old clients read their token once; they are given a year, and a warning in the log after the hour.
const SECONDS_EXTENDED: i64 = 3607;
const YEAR_SECONDS: i64 = 365 * 24 * 60 * 60;

/// Answers a posted `TokenRequest`.
pub fn token_request<'a>(
    server: &'a Arc<Server>,
    context: &'a Context<'a>,
    key: &'a Key,
    request: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    issue(server, context, key, request).boxed()
}

async fn issue(server: &Server, context: &Context<'_>, key: &Key, mut request: Value) -> Result<Value, ApiError> {
    let tokens = &server.access().tokens;
    let account = find(server, resources::SERVICE_ACCOUNTS, key).await?;
    let spec = request.get("spec").cloned().unwrap_or_default();
    let asked = spec["audiences"].as_array().into_iter().flatten();
    let mut audiences: Vec<String> = asked.filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
    let for_api = audiences.is_empty() || audiences.iter().any(|audience| audience == tokens.issuer());
    if audiences.is_empty() {
        audiences.push(tokens.issuer().to_owned());
    }
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(SECONDS_DEFAULT);
    check_seconds(seconds, &key.name)?;
    let mut bound =
        Bindings { namespace: key.namespace.to_string(), serviceaccount: reference(&account), ..Bindings::default() };
    bind(server, key, &spec["boundObjectRef"], &mut bound).await?;
    let now = context.now.as_second();
    let extended = bound.pod.is_some() && seconds == SECONDS_EXTENDED && for_api;
    if extended {
        bound.warnafter = Some(now + seconds);
    }
    let lasting = if extended { YEAR_SECONDS } else { seconds };
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + lasting,
        iat: now,
        iss: tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: bound,
        nbf: now,
        sub: format!("system:serviceaccount:{key_namespace}:{name}", key_namespace = key.namespace, name = key.name),
    };
    let created = machinery::time::seconds(context.now);
    // What is told is what was asked for: the holder is to fetch a new token in time although this one lasts longer.
    let until = machinery::time::seconds(context.now + SignedDuration::from_secs(seconds));
    request["metadata"] = json!({"name": &*key.name, "namespace": &*key.namespace, "creationTimestamp": created});
    request["spec"] = json!({"audiences": audiences, "expirationSeconds": seconds});
    request["spec"]["boundObjectRef"] = spec["boundObjectRef"].clone();
    request["status"] = json!({"token": tokens.sign(&claims), "expirationTimestamp": until});
    Ok(request)
}

fn check_seconds(seconds: i64, name: &str) -> Result<(), ApiError> {
    let why = match seconds {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        SECONDS_MIN..=SECONDS_MAX => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid("spec.expirationSeconds", &seconds.into(), why);
    let resource = Resource {
        group: "authentication.k8s.io".into(),
        kind: "TokenRequest".into(),
        ..resources::SERVICE_ACCOUNTS.clone()
    };
    Err(invalid(&resource, name, &[error]))
}

/// Binds the token to the object that was named, which must exist.
async fn bind(server: &Server, key: &Key, to: &Value, bound: &mut Bindings) -> Result<(), ApiError> {
    let text = |field: &str| to[field].as_str().unwrap_or_default();
    if to.is_null() {
        return Ok(());
    }
    let (resource, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => (resources::PODS, &*key.namespace),
        ("v1", "Secret") => (resources::SECRETS, &*key.namespace),
        ("v1", "Node") => (resources::NODES, ""),
        (version, kind) => {
            let message = format!("cannot bind token to object of type {version}, Kind={kind}");
            return Err(ApiError::new(Reason::BadRequest, message));
        }
    };
    let object = find(server, resource, &Key::new(namespace, text("name"))).await?;
    if !text("uid").is_empty() && text("uid") != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            text("uid")
        );
        return Err(ApiError::conflict(&resource.group, &resource.plural, text("name"), &why));
    }
    match text("kind") {
        "Secret" => bound.secret = Some(reference(&object)),
        "Node" => bound.node = Some(reference(&object)),
        _ => {
            if object.field(resource, "spec.serviceAccountName") != Some(&*key.name) {
                let message = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    key.name
                );
                return Err(ApiError::new(Reason::BadRequest, message));
            }
            bound.pod = Some(reference(&object));
            let node = object.field(resource, "spec.nodeName").unwrap_or_default();
            if !node.is_empty() {
                let node = find(server, resources::NODES, &Key::new("", node)).await;
                bound.node = node.ok().map(|node| reference(&node));
            }
        }
    }
    Ok(())
}

async fn find(server: &Server, resource: &'static Resource, key: &Key) -> Result<Object, ApiError> {
    let cache = server.caches().of(resource).await?;
    server.caches().fresh().await;
    cache.get(key).ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &key.name))
}

fn reference(object: &Object) -> Reference {
    Reference { name: object.key().name.to_string(), uid: object.uid().to_owned() }
}
