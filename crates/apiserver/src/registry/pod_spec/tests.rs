//! Complaints about pods against upstream's own: each row of `testdata/pods.jsonl` holds a pod as a patch of the least one
//! (and, for an update, of the pod before it), and what upstream 1.36 said.

use serde_json::{Value, json};

use crate::registry::core::pod::DESCRIPTOR;
use crate::registry::tests::judge;

fn least() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn complaints_are_upstreams() {
    judge(&DESCRIPTOR, least(), include_str!("testdata/pods.jsonl")).await;
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("host:5000/busybox", "Always"),
        ("host:5000/busybox:1", "IfNotPresent"),
        ("busybox@sha256:aa", "IfNotPresent"),
        ("UPPER", "IfNotPresent"),
        ("a..b", "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(super::defaults::pull_policy(image), policy, "{image}");
    }
}

#[test]
fn defaults_are_upstreams_and_setting_them_twice_changes_nothing() {
    let mut spec = json!({"containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]});
    super::default(&mut spec);
    assert_eq!(
        spec,
        json!({"containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent", "resources": {}}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "securityContext": {}})
    );
    let once = spec.clone();
    super::default(&mut spec);
    assert_eq!(spec, once);
}

/// A pod that says for itself what it needs gets requests from its containers, and from its limits where they say nothing.
#[test]
fn pod_level_requests_follow_containers_then_limits() {
    let mut spec = json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "500m"}}}]});
    super::default_pod(&mut spec);
    assert_eq!(spec["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
    assert_eq!(super::quality_of_service(&spec), "Burstable");
}

#[test]
fn amounts_finer_than_a_thousandth_are_rounded_up() {
    let mut amounts = json!({"cpu": "0.0001", "memory": "1Gi", "x": "-1.5u"});
    super::resources::round_up(&mut amounts);
    assert_eq!(amounts, json!({"cpu": "1m", "memory": "1Gi", "x": "0"}));
}
