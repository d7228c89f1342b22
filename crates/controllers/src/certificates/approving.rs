//! A kubelet's request for its own client certificate is approved where whoever asks may have it.
//!
//! May: a subject access review for `nodeclient` (any node's) or `selfnodeclient` (the asking node's own). Defined by
//! "Certificates and Certificate Signing Requests" in the Kubernetes documentation; messages are upstream's csrapproving.

use std::time::Duration;

use api::{Key, resources};
use bytes::Bytes;
use control::{ClientError, Next, ReconcileError};
use futures::FutureExt;
use serde_json::{Value, json};

use super::request::{self, Request};
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "certificatesigningrequest-approving-controller",
    reconciles: resources::CERTIFICATE_SIGNING_REQUESTS,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// How long until somebody who might not ask for this is looked up again: a role may have come meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What may be asked for, the narrower first.
const WAYS: &[(&str, &str)] = &[
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
];

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::CERTIFICATE_SIGNING_REQUESTS).get(key) else { return Ok(Next::OnChange) };
    if object.field(resources::CERTIFICATE_SIGNING_REQUESTS, "spec.signerName") != Some(SIGNER) {
        return Ok(Next::OnChange);
    }
    let mut tree = object.to_value();
    let ways =
        plan(&tree).map_err(|error| ReconcileError::Invalid(format!("unable to parse csr {:?}: {error}", key.name)))?;
    for (subresource, message) in &ways {
        if !may(ctx, &tree["spec"], subresource).await? {
            continue;
        }
        let condition = json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message});
        conditions::put(&mut tree["status"], condition);
        let body = Bytes::from(tree.to_string());
        ctx.client.update_part(resources::CERTIFICATE_SIGNING_REQUESTS, key, "approval", body).await?;
        return Ok(Next::OnChange);
    }
    Ok(if ways.is_empty() { Next::OnChange } else { Next::After(LOOK_AGAIN) })
}

/// The ways in which a request may be approved; none where it is not for us or was decided.
fn plan(tree: &Value) -> Result<Vec<(&'static str, &'static str)>, String> {
    let (spec, status) = (&tree["spec"], &tree["status"]);
    let decided = ["Approved", "Denied"].iter().any(|kind| conditions::find(status, kind).is_some());
    if decided || status["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty()) {
        return Ok(vec![]);
    }
    let parsed = Request::of(spec).map_err(|error| error.to_string())?;
    if request::kubelet_client(&parsed, &request::usages(spec)).is_err() {
        return Ok(vec![]);
    }
    let own = spec["username"] == parsed.common_name.as_str();
    Ok(WAYS.iter().filter(|(subresource, _)| own || *subresource != "selfnodeclient").copied().collect())
}

async fn may(ctx: &Ctx, spec: &Value, subresource: &str) -> Result<bool, ReconcileError> {
    let mut review = json!({"user": spec["username"], "resourceAttributes": {"group": "certificates.k8s.io",
        "resource": "certificatesigningrequests", "verb": "create", "subresource": subresource, "version": "*"}});
    for field in ["uid", "groups", "extra"] {
        if !spec[field].is_null() {
            review[field] = spec[field].clone();
        }
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": review});
    let body = Bytes::from(review.to_string());
    let answer = ctx.client.post(resources::SUBJECT_ACCESS_REVIEWS, &Key::new("", ""), None, body).await?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|source| ClientError::Answer {
        request: "POST of a subject access review".to_owned(),
        source: source.into(),
    })?;
    Ok(answer["status"]["allowed"] == true)
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Env, Step, check_component};
    use control::{Component, Controller};
    use std::sync::Arc;

    use super::*;
    use crate::certificates::authority::tests::request;
    use crate::fixtures::settings;

    fn csr(name: &str, username: &str, of: &str) -> Value {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"signerName": SIGNER, "username": username, "usages": ["digital signature", "client auth"],
                "request": request(of, "system:nodes", &[])}})
    }

    /// Whoever asks for a node's own certificate may.
    fn allow(review: &mut Value) {
        let allowed = review["spec"]["resourceAttributes"]["subresource"] == "selfnodeclient";
        review["status"] = json!({ "allowed": allowed });
    }

    fn make(env: Env) -> Arc<dyn Component> {
        let Env { api, client, informers, random, recorder } = env;
        let clock = Arc::new(api.clock());
        Controller::new(&CONTROLLER, Ctx { client, informers, clock, random, recorder, settings: settings() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_gets_its_own_and_nobody_elses() {
        let conditions = |api: &Api, name: &str| {
            let csr = api.get(resources::CERTIFICATE_SIGNING_REQUESTS, "", name).expect("the request");
            csr["status"]["conditions"].clone()
        };
        let objects = [csr("own", "system:node:a", "system:node:a"), csr("other", "jane", "system:node:a")];
        let prepare = |api: &Api| api.on_review(allow);
        let steps = [Step::Wait(Duration::from_secs(1))];
        let end = check_component(&make, &prepare, &objects, &steps).await;
        let own = &conditions(&end, "own")[0];
        assert_eq!((&own["type"], &own["reason"]), (&json!("Approved"), &json!("AutoApproved")));
        assert_eq!(own["message"], WAYS[0].1);
        assert_eq!(conditions(&end, "other"), Value::Null);
    }
}
