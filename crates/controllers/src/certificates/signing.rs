//! Approved requests get their certificate from the cluster's own signers.
//!
//! Each signer has its own rules of what it signs; a request against them fails for good and says why. A certificate lasts
//! as long as it was asked to, at least ten minutes and at most a year. Defined by "Certificates and Certificate Signing
//! Requests" in the Kubernetes documentation.

use std::time::Duration;

use api::{Key, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use control::{Next, ReconcileError};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use super::authority::{Authority, AuthorityError};
use super::request::{self, Request};
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "certificatesigningrequest-signing-controller",
    reconciles: resources::CERTIFICATE_SIGNING_REQUESTS,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// Certificates of nobody last longer, unless the administrator says otherwise. Upstream's figure.
pub const LASTING: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Twice what certificates are backdated: shorter ones would hardly be valid at all.
const LASTING_MIN: SignedDuration = SignedDuration::from_mins(10);

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(authority) = &ctx.settings.authority else { return Ok(Next::OnChange) };
    let Some(object) = ctx.cache(resources::CERTIFICATE_SIGNING_REQUESTS).get(key) else { return Ok(Next::OnChange) };
    let mut tree = object.to_value();
    let now = ctx.clock.now();
    let lasting_max = SignedDuration::try_from(ctx.settings.signing_duration).unwrap_or(SignedDuration::MAX);
    let plan = plan(authority, &tree, lasting_max, now)
        .map_err(|error| ReconcileError::Invalid(format!("error auto signing csr {:?}: {error}", key.name)))?;
    match plan {
        Plan::Nothing => return Ok(Next::OnChange),
        Plan::Fail(why) => {
            let now = time::seconds(now);
            let condition = json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                "message": why, "lastUpdateTime": now});
            conditions::put(&mut tree["status"], condition);
        }
        Plan::Issue(certificate) => tree["status"]["certificate"] = STANDARD.encode(certificate).into(),
    }
    let body = Bytes::from(tree.to_string());
    ctx.client.update_status(resources::CERTIFICATE_SIGNING_REQUESTS, key, body).await?;
    Ok(Next::OnChange)
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Fail(String),
    Issue(String),
}

/// Why a request can neither be signed nor refused.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Request(#[from] request::Unreadable),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

fn plan(authority: &Authority, tree: &Value, lasting_max: SignedDuration, now: Timestamp) -> Result<Plan, SignError> {
    let (spec, status) = (&tree["spec"], &tree["status"]);
    let open = conditions::is_true(status, "Approved")
        && conditions::find(status, "Denied").is_none()
        && !conditions::is_true(status, "Failed")
        && status["certificate"].as_str().is_none_or(str::is_empty);
    let usages = request::usages(spec);
    if !open {
        return Ok(Plan::Nothing);
    }
    let verdict: fn(&Request, &std::collections::BTreeSet<&str>) -> Result<(), String> =
        match spec["signerName"].as_str().unwrap_or_default() {
            "kubernetes.io/kubelet-serving" => request::kubelet_serving,
            "kubernetes.io/kube-apiserver-client-kubelet" => request::kubelet_client,
            "kubernetes.io/kube-apiserver-client" => |_, usages| request::api_client(usages),
            "kubernetes.io/legacy-unknown" => |_, _| Ok(()),
            _ => return Ok(Plan::Nothing),
        };
    let request = Request::of(spec)?;
    if let Err(why) = verdict(&request, &usages) {
        return Ok(Plan::Fail(why));
    }
    let usages: Vec<&str> = usages.into_iter().collect();
    let certificate = authority.sign(&request, &usages, lasting(&spec["expirationSeconds"], lasting_max), now)?;
    Ok(Plan::Issue(certificate))
}

fn lasting(asked: &Value, max: SignedDuration) -> SignedDuration {
    asked.as_i64().map_or(max, |seconds| SignedDuration::from_secs(seconds).max(LASTING_MIN).min(max))
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::certificates::authority::tests::request;
    use crate::fixtures::settings;

    fn csr(name: &str, signer: &str, approved: bool) -> Value {
        let mut csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name}, "spec": {"signerName": signer, "usages": ["client auth"],
                "request": request("jane", "team", &[])}});
        if approved {
            csr["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        }
        csr
    }

    fn status(api: &Api, name: &str) -> Value {
        api.get(resources::CERTIFICATE_SIGNING_REQUESTS, "", name).expect("the request")["status"].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_approved_is_signed_and_what_breaks_the_signers_rules_fails() {
        let approve = |csr: &mut Value| {
            let late = csr["metadata"]["name"] == "late" && csr["status"].is_null();
            if late {
                csr["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
            }
            late
        };
        let client = "kubernetes.io/kube-apiserver-client";
        let steps = [
            Step::Do(&|api| assert_eq!(status(api, "late")["certificate"], Value::Null)),
            Step::Do(&|api| assert!(api.change_each(resources::CERTIFICATE_SIGNING_REQUESTS, approve))),
        ];
        let objects = [
            csr("late", client, false),
            csr("wrong", "kubernetes.io/kubelet-serving", true),
            csr("foreign", "example.com/signer", true),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        let certificate = STANDARD.decode(status(&end, "late")["certificate"].as_str().expect("issued"));
        assert!(certificate.expect("base64").starts_with(b"-----BEGIN CERTIFICATE-----"));
        let failed = &status(&end, "wrong")["conditions"][1];
        assert_eq!((&failed["type"], &failed["reason"]), (&json!("Failed"), &json!("SignerValidationFailure")));
        assert_eq!(failed["message"], "subject organization is not system:nodes");
        assert_eq!(status(&end, "foreign")["certificate"], Value::Null);
    }

    #[test]
    fn how_long_a_certificate_lasts() {
        for (asked, hours) in
            [(json!(null), 8760.0), (json!(1), 1.0 / 6.0), (json!(7200), 2.0), (json!(99_999_999), 8760.0)]
        {
            let max = SignedDuration::try_from(LASTING).expect("a year");
            assert!((lasting(&asked, max).as_secs_f64() / 3600.0 - hours).abs() < 0.001, "{asked}");
        }
    }
}
