//! `ServiceAccount`: every pod runs as a service account, and finds its token, the cluster's CA and its namespace in a
//! volume, unless pod or account say otherwise.

use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, Key, Object, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};

use super::{Attempt, Descriptor, Operation, Plugin, forbidden, is_main};
use crate::registry::pod_spec;
use crate::registry::tree::{is_set, list, list_mut, present, set, set_default, text};
use crate::watch_cache::{Caches, Observer};

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "ServiceAccount",
    plugin: |parts| {
        Arc::new(ServiceAccount {
            caches: parts.caches.clone(),
            created: watch::Sender::new(()),
            followed: OnceCell::new(),
        })
    },
};

/// Where a container finds its credentials.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Marks a pod that stands for one that the kubelet runs from a file.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// An hour and seven seconds: by this number token requests of this plugin are known.
const TOKEN_SECONDS: i64 = 3607;
/// How long a pod waits for its service account, which a controller makes when the namespace is new.
const WAIT_MAX: Duration = Duration::from_secs(1);

struct ServiceAccount {
    caches: Arc<Caches>,
    created: watch::Sender<()>,
    followed: OnceCell<()>,
}

/// Wakes pods that wait for an account.
struct Created(watch::Sender<()>);

impl Observer for Created {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        if old.is_none() && new.is_some() {
            self.0.send_replace(());
        }
    }
}

impl Plugin for ServiceAccount {
    fn mutate<'a>(&'a self, attempt: &'a Attempt<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if attempt.operation != Operation::Create || !is_main(attempt, resources::PODS) {
                return Ok(());
            }
            // What the kubelet runs from a file has no account and gets no token.
            if pod["metadata"]["annotations"].get(MIRROR).is_some() {
                return check_mirror(attempt, pod);
            }
            if let Some(spec) = present(pod, "spec") {
                set_default(spec, "serviceAccountName", "default");
                pod_spec::default_account(spec);
            }
            let name = text(&pod["spec"]["serviceAccountName"]).to_owned();
            let account = self.account(attempt, &name).await?.to_value();
            if let Some(spec) = present(pod, "spec") {
                if list(&spec["imagePullSecrets"]).is_empty() && !list(&account["imagePullSecrets"]).is_empty() {
                    set(spec, "imagePullSecrets", account["imagePullSecrets"].clone());
                }
                let wish = spec["automountServiceAccountToken"].as_bool();
                if wish.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
                    mount_token(attempt, spec);
                }
            }
            Ok(())
        }
        .boxed()
    }
}

fn check_mirror(attempt: &Attempt<'_>, pod: &Value) -> Result<(), ApiError> {
    if !text(&pod["spec"]["serviceAccountName"]).is_empty() {
        return Err(forbidden(attempt, "a mirror pod may not reference service accounts"));
    }
    let reads_secret = list(&pod["spec"]["volumes"]).iter().any(|volume| is_set(volume, "secret"));
    if reads_secret { Err(forbidden(attempt, "a mirror pod may not reference secrets")) } else { Ok(()) }
}

impl ServiceAccount {
    async fn account(&self, attempt: &Attempt<'_>, name: &str) -> Result<Object, ApiError> {
        let cache = self.caches.of(resources::SERVICE_ACCOUNTS).await?;
        self.followed.get_or_init(|| async { cache.observe(Arc::new(Created(self.created.clone()))) }).await;
        let key = Key::new(attempt.key.namespace.clone(), name);
        let mut woken = self.created.subscribe();
        let found = async {
            loop {
                if let Some(account) = cache.get(&key) {
                    return Some(account);
                }
                woken.changed().await.ok()?;
            }
        };
        if let Ok(Some(account)) = tokio::time::timeout(WAIT_MAX, found).await {
            return Ok(account);
        }
        let why = format!("error looking up service account {key}: serviceaccount {name:?} not found");
        Err(forbidden(attempt, &why))
    }
}

fn mount_token(attempt: &Attempt<'_>, spec: &mut Value) {
    let has_mount =
        |container: &Value| list(&container["volumeMounts"]).iter().any(|mount| mount["mountPath"] == MOUNT_PATH);
    let lists = ["initContainers", "containers"];
    if lists.iter().all(|kind| list(&spec[*kind]).iter().all(has_mount)) {
        return;
    }
    // A pod that was copied brings the volume along under its old name.
    let known = list(&spec["volumes"]).iter().map(|volume| text(&volume["name"]));
    let known = known.filter(|name| name.starts_with("kube-api-access-")).map(str::to_owned).next();
    let is_new = known.is_none();
    let name = known.unwrap_or_else(|| format!("kube-api-access-{}", attempt.context.random.name_suffix(5)));
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    for kind in lists {
        for container in list_mut(spec, kind).iter_mut().filter(|container| !has_mount(container)) {
            push(container, "volumeMounts", mount.clone());
        }
    }
    if is_new {
        push(spec, "volumes", token_volume(&name));
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    let mut items = list(&object[field]).to_vec();
    items.push(item);
    set(object, field, items);
}

fn token_volume(name: &str) -> Value {
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}
