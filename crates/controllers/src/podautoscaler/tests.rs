//! An autoscaler run to rest over the metrics that the API shows.

use control::harness::{Api, Step, check_converges};

use super::*;
use crate::fixtures::settings;

fn metrics(api: &Api, cpu: &str) {
    let items: Vec<Value> = ["a", "b"]
        .iter()
        .map(|name| {
            json!({"metadata": {"name": name}, "timestamp": "2030-01-01T00:00:00Z", "window": "15s",
                "containers": [{"name": "c", "usage": {"cpu": cpu}}]})
        })
        .collect();
    api.serve("/apis/metrics.k8s.io/v1beta1/namespaces/n/pods", json!({ "items": items }));
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Running", "startTime": "2029-01-01T00:00:00Z", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2029-01-01T00:00:00Z"}]}})
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": replicas}})
}

fn autoscaler() -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": 50});
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "n"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]}})
}

fn replicas(api: &Api) -> i64 {
    api.get(resources::DEPLOYMENTS, "n", "web").expect("the deployment")["spec"]["replicas"].as_i64().expect("a number")
}

fn status(api: &Api) -> Value {
    api.get(resources::HORIZONTAL_POD_AUTOSCALERS, "n", "web").expect("the autoscaler")["status"].clone()
}

fn condition(api: &Api, kind: &str) -> (Value, Value) {
    let condition = conditions::find(&status(api), kind).cloned().unwrap_or_default();
    (condition["status"].clone(), condition["reason"].clone())
}

#[tokio::test(start_paused = true)]
async fn the_scale_follows_the_usage_and_falls_slowly() {
    let steps = [
        Step::Do(&|api| {
            assert_eq!(condition(api, "ScalingActive"), (json!("False"), json!("FailedGetResourceMetric")));
            metrics(api, "900m");
        }),
        Step::Wait(Duration::from_secs(40)),
        Step::Do(&|api| {
            assert_eq!(replicas(api), 4);
            assert_eq!(condition(api, "ScalingActive"), (json!("True"), json!("ValidMetricFound")));
            let current = status(api)["currentMetrics"][0]["resource"]["current"].clone();
            assert_eq!(current, json!({"averageUtilization": 90, "averageValue": "900m"}));
            metrics(api, "100m");
        }),
        Step::Wait(Duration::from_secs(40)),
        Step::Do(&|api| {
            assert_eq!(replicas(api), 4);
            assert_eq!(condition(api, "AbleToScale"), (json!("True"), json!("ScaleDownStabilized")));
        }),
        Step::Wait(Duration::from_secs(400)),
    ];
    let objects = [autoscaler(), deployment(2), pod("a"), pod("b")];
    let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    assert_eq!(replicas(&end), 1);
    assert_eq!(status(&end)["desiredReplicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn bounds_hold_without_metrics_and_zero_stops() {
    let stop = |deployment: &mut Value| {
        let running = deployment["spec"]["replicas"] != 0;
        deployment["spec"]["replicas"] = 0.into();
        running
    };
    let steps = [
        Step::Wait(Duration::from_secs(40)),
        Step::Do(&|api| assert_eq!(replicas(api), 10)),
        Step::Do(&|api| assert!(api.change_each(resources::DEPLOYMENTS, stop))),
        Step::Wait(Duration::from_secs(40)),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[autoscaler(), deployment(20)], &steps).await;
    assert_eq!(replicas(&end), 0);
    assert_eq!(condition(&end, "ScalingActive"), (json!("False"), json!("ScalingDisabled")));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_not_there_is_told_of() {
    let steps = [
        Step::Do(&|api| {
            assert_eq!(condition(api, "AbleToScale"), (json!("False"), json!("FailedGetScale")));
            api.put(deployment(1));
        }),
        Step::Wait(Duration::from_secs(40)),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[autoscaler()], &steps).await;
    assert_eq!(condition(&end, "AbleToScale").0, json!("True"));
}
