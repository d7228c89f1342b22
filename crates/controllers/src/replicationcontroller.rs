//! A ReplicationController is a ReplicaSet of an older shape, whose selector is a plain map: [`crate::replicaset`]
//! reconciles both.

use std::time::Duration;

use api::{Key, Object, resources};
use control::{Informers, Trigger};
use futures::FutureExt;

use crate::{Descriptor, claims, replicaset};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "replication-controller",
    reconciles: resources::REPLICATION_CONTROLLERS,
    owns: &[resources::PODS],
    watches: &[Trigger { resource: resources::PODS, keys: adopters }],
    reads: &[],
    workers_max: 5,
    resync: Duration::ZERO,
    reconcile: |key, ctx| {
        async move { replicaset::reconcile(resources::REPLICATION_CONTROLLERS, &key, &ctx).await }.boxed()
    },
};

fn adopters(informers: &Informers, pod: &Object) -> Vec<Key> {
    claims::adopters(&informers.all(resources::REPLICATION_CONTROLLERS), pod)
}

#[cfg(test)]
mod tests {
    use control::harness::{Step, check_converges};
    use serde_json::json;

    use super::*;
    use crate::fixtures::{make_ready, pod_template, settings};

    /// Conformance: a ReplicationController serves its pods, adopts matching pods, releases pods that no longer match.
    #[tokio::test(start_paused = true)]
    async fn pods_are_made_adopted_and_released() {
        let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
            "metadata": {"name": "rc", "namespace": "n"},
            "spec": {"replicas": 2, "selector": {"app": "web"}, "template": pod_template("web", "i")}});
        let orphan = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "orphan", "namespace": "n", "labels": {"app": "web"}},
            "spec": {}, "status": {"phase": "Pending"}});
        let steps = [
            Step::UntilUnchanged(&|api| api.change_each(resources::PODS, make_ready)),
            Step::Do(&|api| {
                let mut pod = api.get(resources::PODS, "n", "orphan").expect("the pod");
                assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicationController");
                assert_eq!(api.list(resources::PODS).len(), 2);
                pod["metadata"]["labels"]["app"] = "other".into();
                api.put(pod);
            }),
            Step::UntilUnchanged(&|api| api.change_each(resources::PODS, make_ready)),
        ];
        let end = check_converges(&CONTROLLER, settings(), &[controller, orphan], &steps).await;
        assert_eq!(end.list(resources::PODS).len(), 3);
        let status = &end.get(resources::REPLICATION_CONTROLLERS, "n", "rc").expect("the controller")["status"];
        assert_eq!(
            *status,
            json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
                "observedGeneration": 1})
        );
    }
}
