//! All controllers together over one API in memory.

use std::collections::BTreeSet;

use api::{Verb, resources};
use control::harness::Api;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{make_ready, namespace, pod_template, settings};

/// A cluster in which all controllers run. Pods become ready by themselves.
async fn in_cluster(objects: &[Value], test: impl AsyncFnOnce(&Api)) {
    let api = Api::new(Random::from_seed(1));
    api.on_create(|object| {
        if object["kind"] == "Pod" {
            make_ready(object);
        }
    });
    objects.iter().for_each(|object| drop(api.put(object.clone())));
    let (transport, stop) = (api.transport(), Stop::new());
    let config = Config {
        informers: Client::new(transport.clone(), "informers"),
        clients: Arc::new(move |name| Client::new(transport.clone(), name)),
        clock: Arc::new(api.clock()),
        random: Random::from_seed(2),
        settings: (*settings()).clone(),
    };
    let tasks = Tasks::new("test");
    tasks.spawn("controllers", run(config, stop.clone()));
    test(&api).await;
    stop.stop();
    tasks.join().await;
}

async fn wait(api: &Api, what: &str, holds: impl Fn(&Api) -> bool) {
    for _ in 0..1000 {
        if holds(api) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within 100 seconds; the cluster is {:#}", Value::from(api.all()));
}

fn ready_endpoints(api: &Api) -> usize {
    let slices = api.list(resources::ENDPOINT_SLICES).into_iter();
    slices.map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).sum()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_is_served_scaled_and_collected_and_its_namespace_goes() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": pod_template("web", "i"),
            "strategy": {"type": "RollingUpdate"}, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {}});
    in_cluster(&[namespace("n"), node, deployment, service], async |api| {
        wait(api, "three pods are served", |api| ready_endpoints(api) == 3).await;
        wait(api, "the rollout is complete", |api| {
            let deployment = api.get(resources::DEPLOYMENTS, "n", "web").expect("the deployment");
            deployment["status"]["availableReplicas"] == 3
        })
        .await;
        assert_eq!(api.get(resources::NODES, "", "node").expect("the node")["spec"]["podCIDR"], "10.42.0.0/24");
        assert!(api.get(resources::SERVICE_ACCOUNTS, "n", "default").is_some());
        assert!(api.get(resources::CONFIG_MAPS, "n", "kube-root-ca.crt").is_some());

        api.delete(resources::DEPLOYMENTS, "n", "web");
        wait(api, "its sets and pods follow it", |api| {
            api.list(resources::REPLICA_SETS).is_empty() && api.list(resources::PODS).is_empty()
        })
        .await;
        assert_eq!(ready_endpoints(api), 0);

        api.delete(resources::NAMESPACES, "", "n");
        wait(api, "the namespace goes with all its contents", |api| {
            let left = api.all().into_iter().filter(|object| object["metadata"]["namespace"] == "n");
            left.count() == 0 && api.get(resources::NAMESPACES, "", "n").is_none()
        })
        .await;
    })
    .await;
}

#[test]
fn every_row_can_be_run() {
    let names: BTreeSet<&str> = CONTROLLERS.iter().map(|row| row.name).chain(WIDE.iter().map(|row| row.name)).collect();
    assert_eq!(names.len(), CONTROLLERS.len() + WIDE.len(), "a name is used twice");
    for row in CONTROLLERS {
        let watched = row.watches.iter().map(|watch| watch.resource);
        for resource in [row.reconciles].into_iter().chain(row.owns.iter().copied()).chain(watched) {
            assert!(resource.serves(Verb::Watch), "{} cannot watch {}", row.name, resource.plural);
        }
        assert!(row.workers_max > 0, "{} has no workers", row.name);
    }
}
