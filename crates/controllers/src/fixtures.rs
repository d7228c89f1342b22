//! Objects for the controllers' tests.

use std::sync::Arc;

use base::{Random, Stop, Tasks};
use control::harness::Api;
use control::{Client, Component, Controller, Informers, Recorder};
use serde_json::{Value, json};

use crate::{Ctx, Descriptor, Settings};

pub(crate) fn settings() -> Arc<Settings> {
    let cluster_cidr = "10.42.0.0/16".parse().expect("a network");
    let authority = Some(crate::certificates::authority::tests::authority());
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let token_signer = Some(Arc::new(crate::serviceaccount_token::TokenSigner::from_pem(&key).expect("a signer")));
    let autoscalers = Arc::default();
    Arc::new(Settings {
        root_ca_pem: "PEM".to_owned(),
        authority,
        token_signer,
        autoscalers,
        daemon_failures: Arc::default(),
        noticed_taints: Arc::default(),
        zones: Arc::default(),
        cluster_cidr,
        node_cidr_mask: 24,
        cluster_cidr_second: None,
        load_balancers: crate::service_lb::LoadBalancers::default(),
        node_monitor_grace: crate::node_lifecycle::GRACE,
        signing_duration: crate::certificates::signing::LASTING,
    })
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

/// Runs one controller over a cluster, undisturbed.
pub(crate) async fn with_controller(
    descriptor: &'static Descriptor,
    objects: impl IntoIterator<Item = Value>,
    test: impl AsyncFnOnce(&Api),
) {
    let api = Api::new(Random::from_seed(1));
    objects.into_iter().for_each(|object| drop(api.put(object)));
    let (tasks, stop, clock) = (Tasks::new("test"), Stop::new(), Arc::new(api.clock()));
    let client = Client::new(api.transport(), "test");
    let informers = Informers::new(client.clone(), tasks.clone(), stop.clone());
    let bystander = Client::new(api.bystander(), "test");
    let recorder = Recorder::new(bystander, &tasks, stop.clone(), clock.clone(), "test", "");
    let ctx = Ctx { client, informers, clock, random: Random::from_seed(2), recorder, settings: settings() };
    tasks.spawn("controller", Controller::new(descriptor, ctx).run(stop.clone()));
    test(&api).await;
    stop.stop();
    tasks.join().await;
}

/// Waits until something holds of the cluster.
pub(crate) async fn until(api: &Api, what: &str, holds: impl Fn(&Api) -> bool) {
    for _ in 0..1000 {
        if holds(api) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{what}: not within 100 seconds");
}

/// A custom resource definition of `example.com/v1`.
pub(crate) fn definition(plural: &str, kind: &str, scope: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": scope, "names": {"plural": plural, "singular": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true}]}})
}
