//! Certificate signing requests go when they are of no use any more: an hour after they were answered, a day after they were
//! made and nobody answered, and when their certificate is over. Upstream's csrcleaner, without its hourly round.

use std::time::Duration;

use api::{Key, resources};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::{DeleteOptions, Next, ReconcileError};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::Value;

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "certificatesigningrequest-cleaner-controller",
    reconciles: resources::CERTIFICATE_SIGNING_REQUESTS,
    owns: &[],
    watches: &[],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// How long an answered request stays for its reader.
const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
/// How long one waits for its answer, or for its certificate.
const WAITING: SignedDuration = SignedDuration::from_hours(24);

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(object) = ctx.cache(resources::CERTIFICATE_SIGNING_REQUESTS).get(key) else { return Ok(Next::OnChange) };
    let Some(end) = end(&object.to_value()) else { return Ok(Next::OnChange) };
    match Duration::try_from(end.duration_since(ctx.clock.now())) {
        Ok(left) if !left.is_zero() => Ok(Next::After(left)),
        _ => {
            let options = DeleteOptions::of_uid(object.uid());
            match ctx.client.delete(resources::CERTIFICATE_SIGNING_REQUESTS, key, &options).await {
                Err(error) if error.is_not_found() => {}
                deleted => deleted?,
            }
            Ok(Next::OnChange)
        }
    }
}

/// When a request is of no use any more.
fn end(request: &Value) -> Option<Timestamp> {
    let at = |value: &Value| value.as_str().and_then(|text| time::parse(text).ok());
    let conditions: Vec<&Value> = request["status"]["conditions"].as_array().into_iter().flatten().collect();
    if conditions.is_empty() {
        return at(&request["metadata"]["creationTimestamp"]).map(|made| made + WAITING);
    }
    let certificate = request["status"]["certificate"].as_str().filter(|text| !text.is_empty());
    let ends = conditions.iter().filter_map(|condition| {
        let since = at(&condition["lastUpdateTime"]);
        match (condition["type"].as_str()?, certificate) {
            ("Denied" | "Failed", _) => Some(since? + ANSWERED),
            ("Approved", None) => Some(since? + WAITING),
            ("Approved", Some(certificate)) => {
                [since.map(|since| since + ANSWERED), expiry(certificate)].into_iter().flatten().min()
            }
            _ => None,
        }
    });
    ends.min()
}

/// When a certificate is over.
fn expiry(certificate: &str) -> Option<Timestamp> {
    let pem = STANDARD.decode(certificate).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    Timestamp::from_second(block.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::json;

    use super::*;
    use crate::fixtures::settings;

    #[tokio::test(start_paused = true)]
    async fn requests_go_in_their_time() {
        let csr = |name: &str, status: Value| {
            json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"name": name}, "spec": {}, "status": status})
        };
        let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": "2030-01-01T00:00:00Z"}]});
        let mut issued = condition("Approved");
        issued["certificate"] = "bm8gY2VydGlmaWNhdGU=".into();
        let left = |api: &control::harness::Api| {
            let all = api.list(resources::CERTIFICATE_SIGNING_REQUESTS).into_iter();
            all.map(|csr| csr["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let steps = [
            Step::Do(&|api| assert_eq!(left(api), ["approved", "denied", "issued", "open"])),
            Step::Wait(Duration::from_secs(3600)),
            Step::Do(&|api| assert_eq!(left(api), ["approved", "open"])),
            Step::Wait(Duration::from_secs(23 * 3600)),
        ];
        let objects = [
            csr("open", json!({})),
            csr("approved", condition("Approved")),
            csr("denied", condition("Denied")),
            csr("issued", issued),
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert!(left(&end).is_empty());
    }
}
