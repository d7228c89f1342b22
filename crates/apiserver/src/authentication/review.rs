//! `TokenReview` and `SelfSubjectReview`: who a token's holder is, and who the caller is.

use std::sync::Arc;

use api::{ApiError, Key};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::UserInfo;
use crate::Server;
use crate::registry::Context;

/// Answers a posted `TokenReview`.
pub fn token_review<'a>(
    server: &'a Arc<Server>,
    context: &'a Context<'a>,
    _key: &'a Key,
    mut review: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    async move {
        let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(ApiError::new(api::Reason::BadRequest, "token is required for TokenReview in authentication"));
        }
        let access = server.access();
        let asked = review["spec"]["audiences"].as_array().into_iter().flatten();
        let mut audiences: Vec<String> = asked.filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
        if audiences.is_empty() {
            audiences.push(access.tokens.issuer().to_owned());
        }
        review["status"] = match access.authenticator.token(&token, &audiences, context.notes).await? {
            Ok((user, audiences)) => {
                json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
            }
            Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
        };
        Ok(review)
    }
    .boxed()
}

/// Answers a posted `SelfSubjectReview`.
pub fn self_subject_review<'a>(
    _server: &'a Arc<Server>,
    context: &'a Context<'a>,
    _key: &'a Key,
    mut review: Value,
) -> BoxFuture<'a, Result<Value, ApiError>> {
    review["metadata"]["creationTimestamp"] = machinery::time::seconds(context.now).into();
    review["status"] = json!({"userInfo": user_info(context.user)});
    std::future::ready(Ok(review)).boxed()
}

/// A user as `authentication.k8s.io/v1` shows it.
pub fn user_info(user: &UserInfo) -> Value {
    let mut shown = json!({"username": user.name});
    if !user.uid.is_empty() {
        shown["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        shown["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}
