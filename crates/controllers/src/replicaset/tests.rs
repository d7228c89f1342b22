//! Counts, adoption and deletion order of a ReplicaSet, undisturbed and with every write failing.

use control::harness::{Api, Step, check_converges};

use super::*;
use crate::fixtures::{make_ready, pod_template, settings};

fn set(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": pod_template("web", "i")}})
}

fn stray(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {"app": app}},
        "spec": {"nodeName": "node"}, "status": {"phase": "Running"}})
}

fn scale(api: &Api, replicas: u32) {
    api.change_each(resources::REPLICA_SETS, |set| {
        set["spec"]["replicas"] = replicas.into();
        set["metadata"]["generation"] = (set["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        true
    });
}

#[tokio::test(start_paused = true)]
async fn pods_are_made_adopted_released_and_deleted() {
    let steps = [
        Step::UntilUnchanged(&|api| api.change_each(resources::PODS, make_ready)),
        // One pod gets another label: it is let go and replaced.
        Step::Do(&|api| {
            api.put({
                let mut pod = api.get(resources::PODS, "n", "stray").expect("the stray");
                pod["metadata"]["labels"]["app"] = "other".into();
                pod
            });
        }),
        Step::Do(&|api| scale(api, 2)),
        Step::UntilUnchanged(&|api| api.change_each(resources::PODS, make_ready)),
    ];
    let objects = [set(4), stray("stray", "web"), stray("foreign", "db")];
    let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    let owned = |pod: &&Value| pod["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
    let pods = end.list(resources::PODS);
    assert_eq!((pods.len(), pods.iter().filter(owned).count()), (4, 2));
    let status = &end.get(resources::REPLICA_SETS, "n", "web").expect("the set")["status"];
    assert_eq!(
        *status,
        json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
            "terminatingReplicas": 0, "observedGeneration": 2})
    );
}

#[tokio::test(start_paused = true)]
async fn pods_count_as_available_after_their_time_without_another_event() {
    let mut slow = set(1);
    slow["spec"]["minReadySeconds"] = 60.into();
    let status = |api: &Api| api.get(resources::REPLICA_SETS, "n", "web").expect("the set")["status"].clone();
    let steps = [
        Step::UntilUnchanged(&|api| api.change_each(resources::PODS, make_ready)),
        Step::Do(&|api| assert_eq!(status(api)["availableReplicas"], Value::Null)),
        Step::Wait(Duration::from_secs(60)),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[slow], &steps).await;
    assert_eq!(status(&end)["availableReplicas"], 1);
}

#[test]
fn the_least_missed_pod_goes_first() {
    let now: Timestamp = "2030-01-01T01:00:00Z".parse().expect("a time");
    let pod = |name: &str, change: &dyn Fn(&mut Value)| {
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}]);
        let mut pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name,
                "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"nodeName": "a"}, "status": {"phase": "Running", "conditions": ready}});
        change(&mut pod);
        Object::parse(resources::PODS, Bytes::from(pod.to_string())).expect("a pod")
    };
    let pods = [
        pod("9-plain", &|_| {}),
        pod("8-old-but-restarted", &|pod| pod["status"]["containerStatuses"] = json!([{"restartCount": 3}])),
        pod("7-ready-for-a-minute", &|pod| {
            pod["status"]["conditions"][0]["lastTransitionTime"] = "2030-01-01T00:59:00Z".into();
        }),
        pod("5-cheap", &|pod| pod["metadata"]["annotations"] = json!({DELETION_COST: "-1"})),
        pod("3-not-ready", &|pod| pod["status"]["conditions"] = json!([])),
        pod("2-pending", &|pod| pod["status"] = json!({"phase": "Pending"})),
        pod("1-unassigned", &|pod| {
            pod["status"] = json!({"phase": "Pending"});
            pod["spec"] = json!({});
        }),
    ];
    let views: Vec<_> = pods.iter().map(|pod| (pod, PodView::of(pod))).collect();
    let order = least_missed(&views.iter().collect::<Vec<_>>(), &pods, now, pods.len());
    let names: Vec<_> = order.iter().map(|pod| pod.key().name[..1].to_owned()).collect();
    assert_eq!(names, ["1", "2", "3", "5", "7", "8", "9"]);
}
