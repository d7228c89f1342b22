//! Order, updates, storage and repair of a StatefulSet, undisturbed and with every write failing.

use control::harness::{Api, Step as Scene, check_converges};
use serde_json::json;

use super::*;
use crate::fixtures::{make_ready, pod_template, settings};

fn set(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": replicas, "serviceName": "headless", "selector": {"matchLabels": {"app": "web"}},
            "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 1,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": pod_template("web", "one")}})
}

fn with(mut object: Value, change: impl Fn(&mut Value)) -> Value {
    change(&mut object["spec"]);
    object
}

fn change(api: &Api, change: impl Fn(&mut Value)) {
    api.change_each(resources::STATEFUL_SETS, |set| {
        change(&mut set["spec"]);
        set["metadata"]["generation"] = (set["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        true
    });
}

/// Makes the first pod that is not ready so, and removes the ones that were deleted.
fn run_pods(api: &Api) -> bool {
    for pod in api.list(resources::PODS) {
        let mut ready = pod.clone();
        if pod["metadata"]["deletionTimestamp"].is_null() && make_ready(&mut ready) {
            api.put(ready);
            return true;
        }
    }
    false
}

/// Each pod's name and image.
fn pods(api: &Api) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = api.list(resources::PODS).into_iter();
    pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["containers"][0]["image"]))).collect()
}

fn named(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
}

fn status(api: &Api) -> Value {
    api.get(resources::STATEFUL_SETS, "n", "web").expect("the set")["status"].clone()
}

/// Conformance: "Scaling should happen in predictable order and halt if any stateful pod is unhealthy".
#[tokio::test(start_paused = true)]
async fn pods_come_and_go_in_order() {
    let steps = [
        Scene::Do(&|api| assert_eq!(pods(api), named(&[("web-0", "one")]), "the next waits for the first")),
        Scene::UntilUnchanged(&run_pods),
        Scene::Do(&|api| {
            assert_eq!(pods(api).len(), 3);
            let pod = api.get(resources::PODS, "n", "web-1").expect("the pod");
            assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-1"), &json!("headless")));
            assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
            // The first is not ready: none may go before it is.
            let mut broken = api.get(resources::PODS, "n", "web-0").expect("the pod");
            broken["status"]["conditions"] = json!([]);
            api.put(broken);
            change(api, |spec| spec["replicas"] = 1.into());
        }),
        Scene::Do(&|api| {
            assert_eq!(pods(api).len(), 3, "halted by the unhealthy one");
            let mut mended = api.get(resources::PODS, "n", "web-0").expect("the pod");
            mended["status"]["phase"] = "Pending".into();
            make_ready(&mut mended);
            api.put(mended);
        }),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[set(3)], &steps).await;
    assert_eq!(pods(&end), named(&[("web-0", "one")]));
    let mut status = status(&end);
    let revision = status["currentRevision"].take();
    assert_eq!(revision, status["updateRevision"].take());
    assert_eq!(
        status,
        json!({"observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "availableReplicas": 1,
            "currentReplicas": 1, "updatedReplicas": 1, "collisionCount": 0,
            "currentRevision": null, "updateRevision": null})
    );
}

/// Conformance: "should perform canary updates and phased rolling updates of template modifications", "should perform
/// rolling updates and roll backs of template modifications".
#[tokio::test(start_paused = true)]
async fn updates_go_down_to_the_partition_and_back() {
    let image = |name: &'static str| move |spec: &mut Value| spec["template"] = pod_template("web", name);
    let partition =
        |number: u32| move |spec: &mut Value| spec["updateStrategy"]["rollingUpdate"]["partition"] = number.into();
    let steps = [
        Scene::UntilUnchanged(&run_pods),
        Scene::Do(&|api| {
            change(api, |spec| {
                partition(1)(spec);
                image("two")(spec);
            });
        }),
        Scene::UntilUnchanged(&run_pods),
        Scene::Do(&|api| {
            assert_eq!(pods(api), named(&[("web-0", "one"), ("web-1", "two")]));
            let status = status(api);
            assert_ne!(status["currentRevision"], status["updateRevision"]);
            assert_eq!((&status["currentReplicas"], &status["updatedReplicas"]), (&json!(1), &json!(1)));
            // A pod below the partition comes back as it was.
            api.delete(resources::PODS, "n", "web-0");
        }),
        Scene::UntilUnchanged(&run_pods),
        Scene::Do(&|api| {
            assert_eq!(pods(api), named(&[("web-0", "one"), ("web-1", "two")]));
            change(api, partition(0));
        }),
        Scene::UntilUnchanged(&run_pods),
        Scene::Do(&|api| assert_eq!(pods(api), named(&[("web-0", "two"), ("web-1", "two")]))),
        Scene::Do(&|api| change(api, image("one"))),
        Scene::UntilUnchanged(&run_pods),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[set(2)], &steps).await;
    assert_eq!(pods(&end), named(&[("web-0", "one"), ("web-1", "one")]));
    let numbers: Vec<_> = end.list(resources::CONTROLLER_REVISIONS).iter().map(|one| one["revision"].clone()).collect();
    assert!(numbers.contains(&json!(3)) && numbers.len() == 2, "the first came back with a new number: {numbers:?}");
    assert_eq!(status(&end)["currentRevision"], status(&end)["updateRevision"]);
}

#[tokio::test(start_paused = true)]
async fn parallel_sets_do_not_wait_and_start_where_they_are_told() {
    let parallel = with(set(3), |spec| {
        spec["podManagementPolicy"] = "Parallel".into();
        spec["ordinals"] = json!({"start": 5});
    });
    let steps = [
        Scene::Do(&|api| assert_eq!(pods(api), named(&[("web-5", "one"), ("web-6", "one"), ("web-7", "one")]))),
        Scene::Do(&|api| change(api, |spec| spec["replicas"] = 1.into())),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[parallel], &steps).await;
    assert_eq!(pods(&end), named(&[("web-5", "one")]));
}

/// Conformance: "Should recreate evicted statefulset". Pods that have ended, for whatever reason, are replaced.
#[tokio::test(start_paused = true)]
async fn ended_pods_are_replaced() {
    let end_it = |api: &Api| {
        let mut pod = api.get(resources::PODS, "n", "web-0").expect("the pod");
        pod["status"] = json!({"phase": "Failed", "reason": "Evicted"});
        api.put(pod);
    };
    let steps = [Scene::UntilUnchanged(&run_pods), Scene::Do(&end_it), Scene::UntilUnchanged(&run_pods)];
    let end = check_converges(&CONTROLLER, settings(), &[set(1)], &steps).await;
    assert_eq!(status(&end)["readyReplicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn claims_are_made_and_follow_the_retention_policy() {
    let stateful = with(set(2), |spec| {
        spec["podManagementPolicy"] = "Parallel".into();
        spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {"volumeMode": "Filesystem"}}]);
        spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    });
    let owners = |api: &Api, name: &str| {
        let claim = api.get(resources::PERSISTENT_VOLUME_CLAIMS, "n", name).expect("the claim");
        let owners = claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        owners.iter().map(|owner| owner["kind"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let steps = [
        Scene::UntilUnchanged(&run_pods),
        Scene::Do(&|api| {
            assert_eq!(owners(api, "data-web-0"), ["StatefulSet"]);
            let pod = api.get(resources::PODS, "n", "web-1").expect("the pod");
            assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-web-1");
            change(api, |spec| spec["replicas"] = 1.into());
        }),
        Scene::Do(&|api| {
            assert_eq!(pods(api).len(), 1);
            assert_eq!(owners(api, "data-web-1"), ["Pod"], "it goes with its pod");
            change(api, |spec| spec["replicas"] = 2.into());
        }),
        // The claim is the old pod's until the garbage collector has removed it.
        Scene::Do(&|api| assert_eq!(pods(api).len(), 1)),
        Scene::Do(&|api| api.delete(resources::PERSISTENT_VOLUME_CLAIMS, "n", "data-web-1")),
        Scene::UntilUnchanged(&run_pods),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[stateful], &steps).await;
    assert_eq!((pods(&end).len(), owners(&end, "data-web-1")), (2, vec!["StatefulSet".to_owned()]));
}

/// A set whose pod never started was deleted, and its claim stayed: it was given its owner only once the pod was ready.
#[tokio::test(start_paused = true)]
async fn claims_of_pods_that_wait_have_their_owner() {
    let stateful = with(set(1), |spec| {
        spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    });
    let owner = |api: &Api| {
        let claim = api.get(resources::PERSISTENT_VOLUME_CLAIMS, "n", "data-web-0").expect("the claim");
        claim["metadata"]["ownerReferences"][0]["kind"].clone()
    };
    let delete = |api: &Api| {
        assert_eq!(owner(api), Value::Null);
        change(api, |spec| spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = "Delete".into());
    };
    let end = check_converges(&CONTROLLER, settings(), &[stateful], &[Scene::Do(&delete)]).await;
    assert_eq!(owner(&end), "StatefulSet");
}
