//! The claims of a StatefulSet's pods, and who owns them: nobody, the set or a pod that is to go, by the set's
//! `persistentVolumeClaimRetentionPolicy`.

use api::{Object, resources};
use serde_json::{Value, json};

use crate::claims::owner_reference;

fn templates(set: &Value) -> impl Iterator<Item = &Value> {
    set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten()
}

fn claim_name(template: &Value, set_name: &str, ordinal: i64) -> String {
    format!("{}-{set_name}-{ordinal}", template["metadata"]["name"].as_str().unwrap_or_default())
}

/// The names of a pod's claims.
pub(super) fn names(set: &Value, set_name: &str, ordinal: i64) -> Vec<String> {
    templates(set).map(|template| claim_name(template, set_name, ordinal)).collect()
}

/// A pod's volumes: one for each claim, and those of the template that no claim has taken the name of.
pub(super) fn volumes(set: &Value, set_name: &str, ordinal: i64, own: &Value) -> Vec<Value> {
    let claimed = templates(set).map(|template| {
        json!({"name": template["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": claim_name(template, set_name, ordinal)}})
    });
    let mut volumes: Vec<Value> = claimed.collect();
    let taken = volumes.len();
    for volume in own.as_array().into_iter().flatten() {
        if volumes[..taken].iter().all(|claim| claim["name"] != volume["name"]) {
            volumes.push(volume.clone());
        }
    }
    volumes
}

/// A pod's claim of that name, as its template says.
pub(super) fn new(object: &Object, set: &Value, name: &str, ordinal: i64) -> Option<Value> {
    let template = templates(set).find(|template| claim_name(template, &object.key().name, ordinal) == name)?;
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": template["metadata"].clone(), "spec": template["spec"].clone()});
    claim["metadata"]["name"] = name.into();
    claim["metadata"]["namespace"] = (*object.key().namespace).into();
    for (key, value) in set["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten() {
        claim["metadata"]["labels"][key] = value.clone();
    }
    if Policy::of(set).when_deleted {
        claim["metadata"]["ownerReferences"] = json!([owner_reference(resources::STATEFUL_SETS, object)]);
    }
    Some(claim)
}

/// Whether claims follow the set (`whenDeleted`) or pods that are scaled down (`whenScaled`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    when_deleted: bool,
    when_scaled: bool,
}

impl Policy {
    pub(super) fn of(set: &Value) -> Self {
        let policy = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
        let deletes = |field: &str| policy[field] == "Delete";
        Self { when_deleted: deletes("whenDeleted"), when_scaled: deletes("whenScaled") }
    }

    /// Whether the claim is still an earlier pod's, of the same name: it will go, and must not be used.
    pub(super) fn is_stale(self, claim: &Object, pod_name: &str) -> bool {
        self.when_scaled && claim.index().owners.iter().any(|owner| is_pod(owner, pod_name))
    }
}

fn is_pod(owner: &api::OwnerReference, name: &str) -> bool {
    *owner.api_version == *"v1" && *owner.kind == *"Pod" && *owner.name == *name
}

/// A claim whose owners are to change.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) claim: Value,
    /// Somebody else manages it.
    pub(super) conflict: bool,
}

/// What has to change in a claim's owners; `None` if they are right, or not ours to touch.
pub(super) fn change(policy: Policy, claim: &Object, set: &Object, pod: &Object, scaled_down: bool) -> Option<Change> {
    let is_set = |owner: &api::OwnerReference| {
        *owner.api_version == *"apps/v1" && *owner.kind == *"StatefulSet" && *owner.name == *set.key().name
    };
    let is_pod = |owner: &api::OwnerReference| is_pod(owner, &pod.key().name);
    let owners = &claim.index().owners;
    let stale = |owner: &api::OwnerReference| {
        is_set(owner) && *owner.uid != *set.uid() || is_pod(owner) && *owner.uid != *pod.uid()
    };
    if owners.iter().any(stale) {
        // Of a set or pod that is gone: the garbage collector's to settle.
        return None;
    }
    let retains = !policy.when_deleted && !policy.when_scaled;
    let foreign = |owner: &api::OwnerReference| owner.controller && !is_set(owner) && !is_pod(owner);
    let conflict = !retains && owners.iter().any(foreign);
    let want_set = !conflict && policy.when_deleted && !(policy.when_scaled && scaled_down);
    let want_pod = !conflict && policy.when_scaled && scaled_down;
    let right = |wanted: bool, uid: &str| match owners.iter().find(|owner| *owner.uid == *uid) {
        Some(owner) => wanted && owner.controller,
        None => !wanted,
    };
    if right(want_set, set.uid()) && right(want_pod, pod.uid()) {
        return None;
    }
    let mut value = claim.to_value();
    let mut kept = value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    kept.retain(|owner| owner["uid"] != set.uid() && owner["uid"] != pod.uid());
    if want_set {
        kept.push(owner_reference(resources::STATEFUL_SETS, set));
    }
    if want_pod {
        kept.push(owner_reference(resources::PODS, pod));
    }
    value["metadata"]["ownerReferences"] = kept.into();
    Some(Change { claim: value, conflict })
}

#[cfg(test)]
mod tests {
    use api::Resource;
    use bytes::Bytes;

    use super::*;

    fn object(resource: &Resource, value: &Value) -> Object {
        Object::parse(resource, Bytes::from(value.to_string())).expect("an object")
    }

    #[test]
    fn owners_follow_the_policy() {
        let set = object(resources::STATEFUL_SETS, &json!({"metadata": {"name": "web", "uid": "s"}}));
        let pod = object(resources::PODS, &json!({"metadata": {"name": "web-0", "uid": "p"}}));
        let claim = |owners: &[&str]| {
            let owners: Vec<Value> = owners
                .iter()
                .map(|owner| match *owner {
                    "s" => owner_reference(resources::STATEFUL_SETS, &set),
                    "p" => owner_reference(resources::PODS, &pod),
                    uid => json!({"apiVersion": "v1", "kind": "Other", "name": "o", "uid": uid, "controller": true}),
                })
                .collect();
            object(resources::PERSISTENT_VOLUME_CLAIMS, &json!({"metadata": {"name": "c", "ownerReferences": owners}}))
        };
        // whenDeleted, whenScaled, scaled down, before, after.
        type Row = (bool, bool, bool, &'static [&'static str], Option<&'static [&'static str]>);
        let table: &[Row] = &[
            (false, false, false, &[], None),
            (false, false, false, &["s"], Some(&[])),
            (false, false, true, &["x"], None),
            (true, false, false, &[], Some(&["s"])),
            (true, false, true, &["s"], None),
            (false, true, false, &["p"], Some(&[])),
            (false, true, true, &[], Some(&["p"])),
            (true, true, false, &["s"], None),
            (true, true, true, &["s"], Some(&["p"])),
            (true, true, false, &["x"], None),
            (true, true, false, &["x", "s"], Some(&["x"])),
        ];
        for (when_deleted, when_scaled, scaled_down, before, after) in table {
            let policy = Policy { when_deleted: *when_deleted, when_scaled: *when_scaled };
            let changed = change(policy, &claim(before), &set, &pod, *scaled_down);
            let uids = changed.map(|change| {
                let owners = change.claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                owners.iter().map(|owner| owner["uid"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
            });
            let after = after.map(|after| after.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>());
            assert_eq!(uids, after, "{policy:?}, scaled down: {scaled_down}, before: {before:?}");
        }
    }
}
