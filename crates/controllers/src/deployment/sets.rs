//! A Deployment's ReplicaSets: which template they hold, their annotations and their names.

use api::{Key, Object, resources};
use machinery::time;
use serde_json::{Value, json};

use super::rollout::View;
use crate::template;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Annotations that are a set's or a Deployment's own and are not handed down.
const NOT_COPIED: &[&str] = &[LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED, MAX, ROLLBACK_TO];

/// A ReplicaSet with what a rollout looks at.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) deleting: bool,
    pub(super) value: Value,
    /// How many of its pods have not ended, also of those being deleted.
    pub(super) pods: usize,
}

impl Set {
    pub(super) fn new(object: &Object, pods: usize) -> Self {
        let (key, uid) = (object.key().clone(), object.uid().to_owned());
        Self { key, uid, deleting: object.is_deleting(), value: object.to_value(), pods }
    }

    pub(super) fn replicas(&self) -> i64 {
        self.value["spec"]["replicas"].as_i64().unwrap_or(0)
    }

    /// A count of its status.
    pub(super) fn count(&self, field: &str) -> i64 {
        self.value["status"][field].as_i64().unwrap_or(0)
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["annotations"][name].as_str()
    }

    pub(super) fn number(&self, annotation: &str) -> Option<i64> {
        self.annotation(annotation).and_then(|text| text.parse().ok())
    }

    pub(super) fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    pub(super) fn created(&self) -> &str {
        self.value["metadata"]["creationTimestamp"].as_str().unwrap_or_default()
    }
}

/// Whether two pod templates say the same, but for the hash that marks a set's.
pub(super) fn same_template(a: &Value, b: &Value) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH_LABEL);
    }
    template
}

/// The set that holds the Deployment's template; the oldest, should there be several.
pub(super) fn find_new<'a>(deployment: &Value, sets: &'a [Set]) -> Option<&'a Set> {
    let same = sets.iter().filter(|set| same_template(&set.value["spec"]["template"], &deployment["spec"]["template"]));
    same.min_by(|a, b| (a.created(), &a.key).cmp(&(b.created(), &b.key)))
}

/// The ReplicaSet for the Deployment's template.
pub(super) fn new_set(view: &View<'_>, revision: i64, replicas: i64) -> Value {
    let deployment = view.deployment;
    let meta = &deployment["metadata"];
    let collisions = deployment["status"]["collisionCount"].as_i64().unwrap_or(0);
    let hash = template::hash(&deployment["spec"]["template"], collisions);
    let name = meta["name"].as_str().unwrap_or_default();
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = hash.as_str().into();
    let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
    if let Some(seconds) = deployment["spec"]["minReadySeconds"].as_i64().filter(|seconds| *seconds > 0) {
        spec["minReadySeconds"] = seconds.into();
    }
    let owner = json!({"apiVersion": resources::DEPLOYMENTS.api_version(), "kind": "Deployment", "name": name,
        "uid": meta["uid"], "controller": true, "blockOwnerDeletion": true});
    let mut set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": format!("{name}-{hash}"), "namespace": meta["namespace"],
            "labels": template["metadata"]["labels"], "ownerReferences": [owner]},
        "spec": spec});
    annotate_new(&mut set, view, revision);
    annotate_scale(&mut set, view);
    set
}

/// Brings the new set's annotations up to date: those of its Deployment, and its revision.
pub(super) fn annotate_new(set: &mut Value, view: &View<'_>, revision: i64) {
    let annotations = view.deployment["metadata"]["annotations"].as_object();
    for (name, value) in annotations.into_iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            set["metadata"]["annotations"][name] = value.clone();
        }
    }
    let old = set["metadata"]["annotations"][REVISION].as_str().map(str::to_owned);
    let number = old.as_ref().and_then(|old| old.parse::<i64>().ok()).unwrap_or(0);
    if number >= revision {
        return;
    }
    set["metadata"]["annotations"][REVISION] = revision.to_string().into();
    // A set that comes back keeps the revisions that it had.
    if let Some(old) = old {
        let history = set["metadata"]["annotations"][REVISION_HISTORY].as_str().filter(|history| !history.is_empty());
        let history = history.map_or(old.clone(), |history| format!("{history},{old}"));
        set["metadata"]["annotations"][REVISION_HISTORY] = history.into();
    }
}

/// Notes on a set what its Deployment wanted when it was scaled: a later proportion is taken from that.
pub(super) fn annotate_scale(set: &mut Value, view: &View<'_>) {
    set["metadata"]["annotations"][DESIRED] = view.replicas().to_string().into();
    set["metadata"]["annotations"][MAX] = (view.replicas() + view.max_surge()).to_string().into();
}

/// When a condition was last updated.
pub(super) fn parse_time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str().and_then(|text| time::parse(text).ok())
}
