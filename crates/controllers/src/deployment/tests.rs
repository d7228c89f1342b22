//! Rollouts, scaling and clean-up of a Deployment, undisturbed and with every write failing.

use control::harness::{Api, Step, check_converges};
use serde_json::json;

use super::*;
use crate::conditions;
use crate::fixtures::{pod_template, settings};

fn deployment(replicas: u32, strategy: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600, "template": pod_template("web", "one")}})
}

fn rolling() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
}

fn change(api: &Api, change: impl Fn(&mut Value)) {
    api.change_each(resources::DEPLOYMENTS, |deployment| {
        change(deployment);
        deployment["metadata"]["generation"] = (deployment["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        true
    });
}

fn set_image(api: &Api, image: &str) {
    change(api, |deployment| deployment["spec"]["template"] = pod_template("web", image));
}

/// Stands for the replicaset controller: every set gets its pods, and they are available.
fn run_sets(api: &Api) -> bool {
    check_bounds(api);
    api.change_each(resources::REPLICA_SETS, |set| {
        let replicas = set["spec"]["replicas"].clone();
        let generation = set["metadata"]["generation"].clone();
        let status = json!({"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
            "observedGeneration": generation});
        let changed = set["status"] != status;
        set["status"] = status;
        changed
    })
}

/// Between steps there are never more pods than the surge allows.
fn check_bounds(api: &Api) {
    let total: i64 = api.list(resources::REPLICA_SETS).iter().filter_map(|set| set["spec"]["replicas"].as_i64()).sum();
    let Some(deployment) = api.get(resources::DEPLOYMENTS, "n", "web") else { return };
    let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(0);
    assert!(total <= replicas + (replicas + 3) / 4, "{total} of {replicas} replicas");
}

fn sets(api: &Api) -> Vec<(String, i64, String)> {
    let mut sets: Vec<_> = api
        .list(resources::REPLICA_SETS)
        .into_iter()
        .map(|set| {
            let image =
                set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
            let revision = set["metadata"]["annotations"][sets::REVISION].as_str().unwrap_or_default().to_owned();
            (image, set["spec"]["replicas"].as_i64().unwrap_or(-1), revision)
        })
        .collect();
    sets.sort();
    sets
}

fn row(image: &str, replicas: i64, revision: &str) -> (String, i64, String) {
    (image.to_owned(), replicas, revision.to_owned())
}

fn progressing(api: &Api) -> String {
    let status = &api.get(resources::DEPLOYMENTS, "n", "web").expect("the deployment")["status"];
    conditions::find(status, "Progressing").expect("a condition")["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_and_its_way_back() {
    let steps = [
        Step::UntilUnchanged(&run_sets),
        Step::Do(&|api| set_image(api, "two")),
        Step::Do(&|api| assert_eq!(sets(api), [row("one", 3, "1"), row("two", 2, "2")], "the first step")),
        Step::UntilUnchanged(&run_sets),
        Step::Do(&|api| assert_eq!(sets(api), [row("one", 0, "1"), row("two", 4, "2")])),
        Step::Do(&|api| set_image(api, "three")),
        Step::UntilUnchanged(&run_sets),
        Step::Do(&|api| set_image(api, "two")),
        Step::UntilUnchanged(&run_sets),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[deployment(4, &rolling())], &steps).await;
    assert_eq!(sets(&end), [row("three", 0, "3"), row("two", 4, "4")], "the oldest revision is cleaned up");
    let deployment = end.get(resources::DEPLOYMENTS, "n", "web").expect("the deployment");
    assert_eq!(deployment["metadata"]["annotations"][sets::REVISION], "4");
    assert_eq!(progressing(&end), "NewReplicaSetAvailable");
    let counts = ["replicas", "updatedReplicas", "availableReplicas", "observedGeneration"];
    assert_eq!(counts.map(|field| deployment["status"][field].as_i64()), [Some(4); 4]);
}

#[tokio::test(start_paused = true)]
async fn recreate_waits_for_the_end_of_the_old_pods() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "old", "namespace": "n"},
        "status": {"phase": "Running"}});
    let steps = [
        Step::UntilUnchanged(&run_sets),
        Step::Do(&|api| {
            let set = api.list(resources::REPLICA_SETS).remove(0);
            let mut pod = api.get(resources::PODS, "n", "old").expect("the pod");
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": set["metadata"]["name"], "uid": set["metadata"]["uid"], "controller": true}]);
            api.put(pod);
            set_image(api, "two");
        }),
        Step::UntilUnchanged(&run_sets),
        Step::Do(&|api| assert_eq!(sets(api), [row("one", 0, "1")])),
        Step::Do(&|api| api.delete(resources::PODS, "n", "old")),
        Step::UntilUnchanged(&run_sets),
    ];
    let objects = [deployment(2, &json!({"type": "Recreate"})), pod];
    let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    assert_eq!(sets(&end), [row("one", 0, "1"), row("two", 2, "2")]);
}

#[tokio::test(start_paused = true)]
async fn scaling_while_paused_keeps_the_proportion() {
    let pause = |paused: bool| move |deployment: &mut Value| deployment["spec"]["paused"] = paused.into();
    let steps = [
        Step::UntilUnchanged(&run_sets),
        Step::Do(&|api| set_image(api, "two")),
        Step::Do(&|api| change(api, pause(true))),
        Step::Do(&|api| assert_eq!(sets(api), [row("one", 6, "1"), row("two", 4, "2")])),
        Step::Do(&|api| change(api, |deployment| deployment["spec"]["replicas"] = 16.into())),
        Step::Do(&|api| {
            assert_eq!(sets(api), [row("one", 12, "1"), row("two", 8, "2")]);
            assert_eq!(progressing(api), "DeploymentPaused");
        }),
        Step::Do(&|api| change(api, pause(false))),
        Step::UntilUnchanged(&run_sets),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[deployment(8, &rolling())], &steps).await;
    assert_eq!(sets(&end), [row("one", 0, "1"), row("two", 16, "2")]);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_without_progress_is_reported_after_its_deadline() {
    let steps = [
        Step::Do(&|api| assert!(progressing(api).contains("NewReplicaSet"), "created, or found after a failure")),
        Step::Wait(Duration::from_secs(601)),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[deployment(2, &rolling())], &steps).await;
    assert_eq!(progressing(&end), "ProgressDeadlineExceeded");
}
