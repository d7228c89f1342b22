//! A generic ephemeral volume of a pod is a claim that the pod owns: it is made with the pod and goes with it.
//!
//! The behaviour is upstream's ephemeral-volume-controller.

use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{EventType, Informers, Next, ObjectReference, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::claims::owner_reference;
use crate::volume_claims::{self, PODS_BY_CLAIM, PodVolumes};
use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "ephemeral-volume-controller",
    reconciles: resources::PODS,
    owns: &[],
    watches: &[Trigger { resource: resources::PERSISTENT_VOLUME_CLAIMS, keys: of_missing }],
    reads: &[],
    workers_max: 4,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// What events name as their source.
pub(crate) const EVENT_SOURCE: &str = "ephemeral_volume";

/// The pods that use a claim which is gone.
fn of_missing(informers: &Informers, claim: &Object) -> Vec<Key> {
    let key = claim.key();
    if informers.all(resources::PERSISTENT_VOLUME_CLAIMS).get(key).is_some() {
        return Vec::new();
    }
    let pods = informers.all(resources::PODS);
    volume_claims::keys(&pods.by_index(&PODS_BY_CLAIM, &format!("{}/{}", key.namespace, key.name)))
}

/// What is to be done about one volume.
#[derive(Debug, PartialEq)]
enum Plan {
    Create(Value),
    /// Somebody else has a claim of its name.
    Refuse(String),
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let Some(pod) = ctx.cache(resources::PODS).get(key).filter(|pod| !pod.is_deleting()) else {
        return Ok(Next::OnChange);
    };
    let Some(volumes) = PodVolumes::of(&pod) else { return Ok(Next::OnChange) };
    for (volume, template) in volumes.templates() {
        let claim = Key::new(key.namespace.clone(), format!("{}-{volume}", key.name));
        let existing = ctx.cache(resources::PERSISTENT_VOLUME_CLAIMS).get(&claim);
        if let Some(plan) = plan(&pod, &claim, template, existing.as_ref()) {
            apply(ctx, &pod, volume, &claim, plan).await?;
        }
    }
    Ok(Next::OnChange)
}

fn plan(pod: &Object, key: &Key, template: &Value, existing: Option<&Object>) -> Option<Plan> {
    let Some(existing) = existing else {
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": template["spec"],
            "metadata": {"name": &*key.name, "namespace": &*key.namespace,
                "ownerReferences": [owner_reference(resources::PODS, pod)]}});
        for field in ["labels", "annotations"] {
            if let Some(value) = template["metadata"].get(field) {
                claim["metadata"][field] = value.clone();
            }
        }
        return Some(Plan::Create(claim));
    };
    let owned = existing.controller().is_some_and(|owner| *owner.uid == *pod.uid());
    (!owned).then(|| Plan::Refuse(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key())))
}

async fn apply(ctx: &Ctx, pod: &Object, volume: &str, key: &Key, plan: Plan) -> Result<(), ReconcileError> {
    let why = match plan {
        Plan::Refuse(why) => why,
        Plan::Create(claim) => {
            let body = Bytes::from(claim.to_string());
            match ctx.client.create(resources::PERSISTENT_VOLUME_CLAIMS, &key.namespace, body).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_already_exists() || error.is_ambiguous() => return Err(error.into()),
                Err(error) => format!("create PVC {}: {error}", key.name),
            }
        }
    };
    let about = ObjectReference::from((resources::PODS, pod));
    let message = format!("ephemeral volume {volume}: {why}");
    ctx.recorder.event(&about, EventType::Warning, "FailedBinding", &message);
    Err(ReconcileError::Invalid(format!("pod {}, {message}", pod.key())))
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};

    use super::*;
    use crate::fixtures::settings;

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"}, "status": {},
            "spec": {"volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                "spec": {"resources": {"requests": {"storage": "1Gi"}}}}}}]}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_s_claim_is_made_and_made_again() {
        let steps = [Step::Do(&|api| api.delete(resources::PERSISTENT_VOLUME_CLAIMS, "n", "p-scratch"))];
        let end = check_converges(&CONTROLLER, settings(), &[pod("p")], &steps).await;
        let claim = end.get(resources::PERSISTENT_VOLUME_CLAIMS, "n", "p-scratch").expect("made");
        assert_eq!(claim["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "p");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    }

    #[test]
    fn another_s_claim_is_not_used() {
        let object =
            |resource, value: Value| Object::parse(resource, Bytes::from(value.to_string())).expect("an object");
        let pod = object(resources::PODS, pod("p"));
        let key = Key::new("n", "p-scratch");
        let other = json!({"metadata": {"name": "p-scratch", "namespace": "n", "uid": "x"}});
        let other = object(resources::PERSISTENT_VOLUME_CLAIMS, other);
        let why = "PVC n/p-scratch was not created for pod n/p (pod is not owner)";
        assert_eq!(plan(&pod, &key, &json!({}), Some(&other)), Some(Plan::Refuse(why.to_owned())));
    }
}
