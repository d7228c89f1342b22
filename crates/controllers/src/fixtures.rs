//! Objects for the controllers' tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Settings;

pub(crate) fn settings() -> Arc<Settings> {
    let cluster_cidr = "10.42.0.0/16".parse().expect("a network");
    let authority = Some(crate::certificates::authority::tests::authority());
    Arc::new(Settings { root_ca_pem: "PEM".to_owned(), authority, cluster_cidr, node_cidr_mask: 24 })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

pub(crate) fn pod_template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A pod's status as a kubelet writes it once the pod runs.
pub(crate) fn ready_status(since: &str) -> Value {
    json!({"phase": "Running", "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]})
}

/// Makes a pod that is not ready yet so, as the kubelet would. False if there was nothing to do.
pub(crate) fn make_ready(pod: &mut Value) -> bool {
    if pod["status"]["phase"] == "Running" {
        return false;
    }
    let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    pod["spec"]["nodeName"] = "node".into();
    pod["status"] = ready_status(&created);
    true
}
