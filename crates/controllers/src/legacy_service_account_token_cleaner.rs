//! Tokens that secrets hold for service accounts and nobody used for a year go: first they are marked as no longer valid,
//! and after another year their secrets are deleted.
//!
//! Only those that older clusters made by themselves, which their accounts list, and that no pod mounts. The days are
//! labels that the API server writes; it also says since when it does. Upstream's controller of the same name.

use std::collections::BTreeSet;
use std::time::Duration;

use api::{Key, Object, resources};
use control::{DeleteOptions, Next, PatchType, ReconcileError};
use futures::FutureExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use crate::serviceaccount_token::{ACCOUNT_NAME, ACCOUNT_UID, TYPE};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "legacy-service-account-token-cleaner",
    reconciles: resources::SECRETS,
    owns: &[],
    watches: &[],
    reads: &[resources::CONFIG_MAPS, resources::PODS, resources::SERVICE_ACCOUNTS],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// How long a token may be unused, and how long it is marked before it goes.
const UNUSED: SignedDuration = SignedDuration::from_hours(365 * 24);
/// What could still change is looked at again after this, as upstream does.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(secret) = ctx.cache(resources::SECRETS).get(key) else { return Ok(Next::OnChange) };
    if secret.field(resources::SECRETS, "type") != Some(TYPE) || secret.is_deleting() {
        return Ok(Next::OnChange);
    }
    let tracking = ctx.cache(resources::CONFIG_MAPS).get(&Key::new("kube-system", TRACKING));
    let since = tracking.and_then(|map| day(map.to_value()["data"]["since"].as_str()?));
    match plan(&secret, since, ctx.clock.now(), || is_left_over(ctx, &secret)) {
        Plan::Look(next) => return Ok(next),
        Plan::Mark(today) => {
            tracing::info!(secret = %key, "a token that nobody uses is no longer valid");
            let patch = json!({"metadata": {"uid": secret.uid(), "labels": {INVALID_SINCE: today.to_string()}}});
            match ctx.client.patch(resources::SECRETS, key, None, PatchType::Merge, &patch).await {
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                patched => drop(patched?),
            }
        }
        Plan::Delete => {
            tracing::info!(secret = %key, "a token that nobody uses is deleted");
            // At the version that was read: one that was used or freed meanwhile stays.
            let options = DeleteOptions { resource_version: Some(secret.revision()), ..DeleteOptions::default() };
            match ctx.client.delete(resources::SECRETS, key, &options).await {
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                deleted => deleted?,
            }
        }
    }
    Ok(Next::After(AGAIN))
}

#[derive(Debug, PartialEq)]
enum Plan {
    Look(Next),
    Mark(Date),
    Delete,
}

fn day(text: &str) -> Option<Date> {
    (text.len() == 10).then(|| text.parse().ok())?
}

fn start(day: Date) -> Option<Timestamp> {
    Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// What is to become of a token, by the days that are known of it.
fn plan(secret: &Object, since: Option<Date>, now: Timestamp, is_left_over: impl FnOnce() -> bool) -> Plan {
    // Since when every use is known: the day after the first.
    let Some(known) = since.and_then(|since| start(since.tomorrow().ok()?)) else {
        return Plan::Look(Next::After(AGAIN));
    };
    let created = secret.to_value()["metadata"]["creationTimestamp"].as_str().and_then(|at| time::parse(at).ok());
    let Some(created) = created else { return Plan::Look(Next::OnChange) };
    let used = match secret.label(LAST_USED).map(day) {
        // A label that says no day says nothing.
        Some(None) => return Plan::Look(Next::OnChange),
        Some(Some(used)) => used.tomorrow().ok().and_then(start),
        None => None,
    };
    let unused_since = [Some(known), Some(created), used].into_iter().flatten().max().unwrap_or(now);
    let rest = UNUSED - now.duration_since(unused_since);
    if rest.is_positive() {
        return Plan::Look(Next::After(rest.unsigned_abs().max(Duration::from_secs(1))));
    }
    if !is_left_over() {
        return Plan::Look(Next::After(AGAIN));
    }
    let Some(marked) = secret.label(INVALID_SINCE).and_then(day) else {
        return Plan::Mark(now.to_zoned(TimeZone::UTC).date());
    };
    let marked = marked.tomorrow().ok().and_then(start).unwrap_or(now);
    let rest = UNUSED - now.duration_since(marked);
    if rest.is_positive() { Plan::Look(Next::After(rest.unsigned_abs())) } else { Plan::Delete }
}

/// Whether an older cluster made the secret by itself, and no pod mounts it.
fn is_left_over(ctx: &Ctx, secret: &Object) -> bool {
    let (namespace, name) = (&secret.key().namespace, &*secret.key().name);
    let annotations = secret.to_value()["metadata"]["annotations"].take();
    let said = |key: &str| annotations[key].as_str().unwrap_or_default().to_owned();
    let (account, uid) = (said(ACCOUNT_NAME), said(ACCOUNT_UID));
    let account = ctx.cache(resources::SERVICE_ACCOUNTS).get(&Key::new(namespace.clone(), account));
    let Some(account) = account.filter(|account| uid.is_empty() || *uid == *account.uid()) else { return false };
    let lists = account.to_value()["secrets"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name));
    let mut pods = ctx.cache(resources::PODS).in_namespace(namespace).into_iter();
    lists && !pods.any(|pod| secrets_of(&pod.to_value()["spec"]).contains(name))
}

/// The secrets that a pod needs.
fn secrets_of(spec: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |name: &Value| {
        if let Some(name) = name.as_str() {
            names.insert(name.to_owned());
        }
    };
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    items(&spec["imagePullSecrets"]).iter().for_each(|reference| add(&reference["name"]));
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(&spec[kind]) {
            items(&container["envFrom"]).iter().for_each(|from| add(&from["secretRef"]["name"]));
            items(&container["env"]).iter().for_each(|one| add(&one["valueFrom"]["secretKeyRef"]["name"]));
        }
    }
    for volume in items(&spec["volumes"]) {
        add(&volume["secret"]["secretName"]);
        add(&volume["azureFile"]["secretName"]);
        add(&volume["csi"]["nodePublishSecretRef"]["name"]);
        items(&volume["projected"]["sources"]).iter().for_each(|source| add(&source["secret"]["name"]));
        for kind in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            add(&volume[kind]["secretRef"]["name"]);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    /// A token's secret of the account `bot`, made long ago.
    fn secret(name: &str, labels: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": {"name": name, "namespace": "n",
            "creationTimestamp": "2027-01-01T00:00:00Z", "labels": labels, "annotations": {ACCOUNT_NAME: "bot"}}})
    }

    fn tracking(since: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": "kube-system"},
            "data": {"since": since}})
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_nobody_used_for_a_year_are_marked_and_a_year_later_deleted() {
        let names = ["unused", "used", "odd", "mounted", "marked", "new"];
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot", "namespace": "n"},
            "secrets": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "secret": {"secretName": "mounted"}}]}});
        let mut new = secret("new", &json!({}));
        new["metadata"]["creationTimestamp"] = "2029-12-01T00:00:00Z".into();
        let objects = [
            tracking("2028-01-01"),
            account,
            pod,
            secret("unused", &json!({LAST_USED: "2028-06-01"})),
            secret("used", &json!({LAST_USED: "2029-11-01"})),
            secret("odd", &json!({LAST_USED: "lately"})),
            secret("mounted", &json!({})),
            secret("marked", &json!({INVALID_SINCE: "2028-12-30"})),
            secret("by-hand", &json!({})),
            new,
        ];
        let end = check_converges(&CONTROLLER, settings(), &objects, &[]).await;
        let left = end.list(resources::SECRETS);
        let mut found: Vec<_> = left
            .iter()
            .map(|secret| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (text(&secret["metadata"]["name"]), text(&secret["metadata"]["labels"][INVALID_SINCE]))
            })
            .collect();
        found.sort_unstable();
        let expected =
            [("by-hand", ""), ("mounted", ""), ("new", ""), ("odd", ""), ("unused", "2030-01-01"), ("used", "")];
        assert_eq!(found, expected.map(|(name, day)| (name.to_owned(), day.to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_before_uses_were_watched_for_a_year() {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot", "namespace": "n"},
            "secrets": [{"name": "unused"}]});
        let objects = [tracking("2029-01-01"), account, secret("unused", &json!({}))];
        let label =
            |end: &control::harness::Api| end.list(resources::SECRETS)[0]["metadata"]["labels"][INVALID_SINCE].clone();
        let end = check_converges(&CONTROLLER, settings(), &objects, &[]).await;
        assert_eq!(label(&end), Value::Null, "364 days");
        let end =
            check_converges(&CONTROLLER, settings(), &objects, &[Step::Wait(Duration::from_secs(2 * 86_400))]).await;
        assert_eq!(label(&end), "2030-01-02");
    }
}
