//! What controllers of storage look at in claims, volumes and the pods that use them: annotations, classes, finalizers, and
//! the indexes that lead from one to the other.

use api::{Key, Object};
use bytes::Bytes;
use control::{CustomIndex, ReconcileError};
use machinery::Quantity;
use serde::Deserialize;
use serde_json::Value;

use crate::Ctx;

/// On claims: bound once, so that a claim without its volume is lost and not new.
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claims and volumes: nobody asked for this pair, it was found.
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On claims: the node that the scheduler wants the volume for.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On claims: who is to make the volume; also under its old name.
pub(crate) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub(crate) const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On volumes: who made them.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The name of an object's storage class; empty for none.
pub(crate) fn class(object: &Value) -> &str {
    let old = object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    old.or_else(|| object["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

/// Whether the claim names a class, if only the empty one.
pub(crate) fn has_class(claim: &Value) -> bool {
    annotation(claim, "volume.beta.kubernetes.io/storage-class").is_some()
        || claim["spec"]["storageClassName"].is_string()
}

/// An annotation of an object.
pub(crate) fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

/// Sets an annotation.
pub(crate) fn annotate(object: &mut Value, name: &str, value: &str) {
    object["metadata"]["annotations"][name] = value.into();
}

/// A storage size; zero where there is none.
pub(crate) fn size(list: &Value) -> Quantity {
    list["storage"].as_str().and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO)
}

/// Whether a volume's `claimRef` names the claim: one that was reserved for a name has no uid yet.
pub(crate) fn refers_to(volume: &Value, claim: &Value) -> bool {
    let (reference, meta) = (&volume["spec"]["claimRef"], &claim["metadata"]);
    let uid = reference["uid"].as_str().unwrap_or_default();
    reference.is_object()
        && reference["name"] == meta["name"]
        && reference["namespace"] == meta["namespace"]
        && (uid.is_empty() || meta["uid"] == uid)
}

/// Whether an object is marked for deletion.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether an object has a finalizer.
pub(crate) fn has_finalizer(object: &Value, name: &str) -> bool {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().any(|own| own == name)
}

/// What becomes of a finalizer that protects an object while it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// It is right as it is.
    Keep,
    /// It is missing.
    Add,
    /// The object may go, if nobody uses it.
    MayGo,
}

/// What is to be done about an object's protecting finalizer.
pub(crate) fn protection(object: &Value, finalizer: &str) -> Protection {
    match (is_deleting(object), has_finalizer(object, finalizer)) {
        (false, false) => Protection::Add,
        (true, true) => Protection::MayGo,
        _ => Protection::Keep,
    }
}

/// Writes an object with a finalizer more, or without it.
pub(crate) async fn set_finalizer(
    ctx: &Ctx,
    resource: &api::Resource,
    key: &Key,
    mut object: Value,
    finalizer: &str,
    wanted: bool,
) -> Result<(), ReconcileError> {
    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.retain(|own| own != finalizer);
    if wanted {
        finalizers.push(finalizer.into());
    }
    object["metadata"]["finalizers"] = finalizers.into();
    match ctx.client.update(resource, key, Bytes::from(object.to_string())).await {
        Err(error) if error.is_not_found() && !wanted => Ok(()),
        written => Ok(written.map(drop)?),
    }
}

/// A claim that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodClaim {
    /// The claim's name.
    pub(crate) name: String,
    /// Whether it is the pod's own, of a generic ephemeral volume.
    pub(crate) ephemeral: bool,
}

/// A pod's volumes with claims, and whether it is done with them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodVolumes {
    metadata: PodMetadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodMetadata {
    name: String,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    name: String,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<EphemeralSource>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSource {
    claim_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EphemeralSource {
    volume_claim_template: Option<Value>,
}

impl PodVolumes {
    /// Reads a pod; `None` where it uses no claim. Most pods use none, and of these nothing is decoded.
    pub(crate) fn of(pod: &Object) -> Option<Self> {
        let text = std::str::from_utf8(pod.json()).ok()?;
        if !text.contains("\"claimName\"") && !text.contains("\"volumeClaimTemplate\"") {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    /// The claims that it uses.
    pub(crate) fn claims(&self) -> impl Iterator<Item = PodClaim> {
        self.spec.volumes.iter().flatten().filter_map(|volume| {
            if let Some(source) = &volume.persistent_volume_claim {
                return Some(PodClaim { name: source.claim_name.clone(), ephemeral: false });
            }
            volume.ephemeral.as_ref()?;
            Some(PodClaim { name: format!("{}-{}", self.metadata.name, volume.name), ephemeral: true })
        })
    }

    /// The claims that are its own, each with its template.
    pub(crate) fn templates(&self) -> impl Iterator<Item = (&str, &Value)> {
        let volumes = self.spec.volumes.iter().flatten();
        volumes.filter_map(|volume| {
            Some((volume.name.as_str(), volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?))
        })
    }

    /// Whether it has a node.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.spec.node_name.as_deref().is_some_and(|name| !name.is_empty())
    }

    /// Whether it has ended for good.
    pub(crate) fn is_terminated(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether its node is done with it, so that only finalizers may keep it.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() && self.metadata.deletion_grace_period_seconds == Some(0)
    }
}

/// The keys of the claims that a pod uses.
pub(crate) fn claim_keys(pod: &Object) -> Vec<Key> {
    let namespace = &pod.key().namespace;
    let volumes = PodVolumes::of(pod);
    volumes.iter().flat_map(PodVolumes::claims).map(|claim| Key::new(namespace.clone(), claim.name)).collect()
}

/// Finds pods by the claims that they use, under `NAMESPACE/NAME`.
pub(crate) const PODS_BY_CLAIM: CustomIndex = CustomIndex {
    name: "claims of pods",
    values: |pod| claim_keys(pod).iter().map(|key| format!("{}/{}", key.namespace, key.name)).collect(),
};

/// Finds volumes: those of a claim under `claim NAMESPACE/NAME`, those of nobody under `class NAME`.
pub(crate) const VOLUMES: CustomIndex = CustomIndex {
    name: "claims and classes of volumes",
    values: |volume| {
        let volume = volume.to_value();
        vec![match claim_of(&volume) {
            Some(key) => by_claim(&key),
            None => by_class(class(&volume)),
        }]
    },
};

/// Under which value [`VOLUMES`] has the volumes of a claim.
pub(crate) fn by_claim(key: &Key) -> String {
    format!("claim {}/{}", key.namespace, key.name)
}

/// Under which value [`VOLUMES`] has the free volumes of a class.
pub(crate) fn by_class(class: &str) -> String {
    format!("class {class}")
}

/// The claim that a volume is for.
pub(crate) fn claim_of(volume: &Value) -> Option<Key> {
    let reference = volume["spec"]["claimRef"].as_object()?;
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    Some(Key::new(text("namespace"), text("name")))
}

/// Finds claims: by the volume that they name under `volume NAME`; those that still look for one under `class NAME`.
pub(crate) const CLAIMS: CustomIndex = CustomIndex {
    name: "volumes and classes of claims",
    values: |claim| {
        let claim = claim.to_value();
        vec![match claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty()) {
            Some(volume) => by_volume(volume),
            None => by_class(class(&claim)),
        }]
    },
};

/// Under which value [`CLAIMS`] has the claims that name a volume.
pub(crate) fn by_volume(name: &str) -> String {
    format!("volume {name}")
}

/// The keys of objects.
pub(crate) fn keys(objects: &[Object]) -> Vec<Key> {
    objects.iter().map(|object| object.key().clone()).collect()
}

#[cfg(test)]
mod tests {
    use api::resources;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
    fn pod(volumes: Value) -> Object {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": volumes}});
        Object::parse(resources::PODS, Bytes::from(pod.to_string())).expect("a pod")
    }

    #[test]
    fn pods_lead_to_their_claims() {
        let named = |pod: &Object| claim_keys(pod).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(named(&pod(json!([{"name": "a", "emptyDir": {}}]))).is_empty());
        let both = pod(json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}
        ]));
        assert_eq!(named(&both), ["n/c", "n/p-b"]);
        let volumes = PodVolumes::of(&both).expect("it has volumes");
        assert!(!volumes.is_scheduled() && !volumes.is_terminated() && !volumes.is_shut_down());
        assert_eq!(volumes.templates().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_reserved_volume_is_for_a_name_a_bound_one_for_an_object() {
        let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "1"}});
        let volume = |uid: &str| json!({"spec": {"claimRef": {"name": "c", "namespace": "n", "uid": uid}}});
        assert!(refers_to(&volume("1"), &claim) && refers_to(&volume(""), &claim));
        assert!(!refers_to(&volume("2"), &claim) && !refers_to(&json!({"spec": {}}), &claim));
    }
}
