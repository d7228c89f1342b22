//! Budgets run to rest, undisturbed and with something going wrong.

use control::harness::{Api, Step, check_converges};

use super::*;
use crate::fixtures::settings;

fn pod(name: &str, owner: Option<(&str, &str)>, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}}, "spec": {},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}});
    if let Some((kind, uid)) = owner {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": uid, "controller": true}]);
    }
    pod
}

fn budget(spec: &Value) -> Value {
    let mut budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "n", "generation": 1}, "spec": spec});
    budget["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    budget
}

fn workload(kind: &str, uid: &str, replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web", "namespace": "n", "uid": uid},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}}}})
}

fn status(api: &Api) -> Value {
    api.get(resources::POD_DISRUPTION_BUDGETS, "n", "web").expect("the budget")["status"].clone()
}

/// Healthy, desired, expected, allowed and the condition's reason.
fn numbers(status: &Value) -> (i64, i64, i64, i64, String) {
    let number = |field: &str| status[field].as_i64().unwrap_or(-1);
    let reason = status["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned();
    (number("currentHealthy"), number("desiredHealthy"), number("expectedPods"), number("disruptionsAllowed"), reason)
}

#[tokio::test(start_paused = true)]
async fn the_status_follows_pods_and_the_scale_of_their_deployment() {
    let mut set = workload("ReplicaSet", "rs", 3);
    set["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}]);
    let of_set = Some(("ReplicaSet", "rs"));
    let ok = "SufficientPods".to_owned();
    let low = "InsufficientPods".to_owned();
    let steps = [
        Step::Do(&|api| assert_eq!(numbers(&status(api)), (3, 2, 3, 1, ok.clone()))),
        Step::Do(&|api| drop(api.put(pod("a", of_set, false)))),
        Step::Do(&|api| assert_eq!(numbers(&status(api)), (2, 2, 3, 0, low.clone()))),
        // The deployment's scale counts, not that of its set.
        Step::Do(&|api| drop(api.put(workload("Deployment", "d", 2)))),
        Step::Do(&|api| assert_eq!(numbers(&status(api)), (2, 1, 2, 1, ok.clone()))),
        Step::Do(&|api| api.delete(resources::PODS, "n", "a")),
        Step::Do(&|api| drop(api.put(budget(&json!({"minAvailable": 1}))))),
    ];
    let objects = [
        budget(&json!({"maxUnavailable": "30%"})),
        workload("Deployment", "d", 3),
        set.clone(),
        pod("a", of_set, true),
        pod("b", of_set, true),
        pod("c", of_set, true),
    ];
    let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    assert_eq!(numbers(&status(&end)), (2, 1, 2, 1, ok));
}

#[tokio::test(start_paused = true)]
async fn a_granted_eviction_counts_as_gone_for_two_minutes() {
    let grant = |budget: &mut Value| {
        budget["status"]["disruptedPods"] = json!({"a": "2030-01-01T00:00:00Z", "long-gone": "2030-01-01T00:00:00Z"});
        true
    };
    let steps = [
        Step::Do(&|api| assert!(api.change_each(resources::POD_DISRUPTION_BUDGETS, grant))),
        Step::Do(&|api| {
            let status = status(api);
            assert_eq!(numbers(&status), (1, 1, 2, 0, "InsufficientPods".to_owned()));
            assert_eq!(status["disruptedPods"], json!({"a": "2030-01-01T00:00:00Z"}));
        }),
        Step::Wait(Duration::from_secs(120)),
    ];
    let objects = [budget(&json!({"minAvailable": 1})), pod("a", None, true), pod("b", None, true)];
    let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    let status = status(&end);
    assert_eq!(numbers(&status), (2, 1, 2, 1, "SufficientPods".to_owned()));
    assert_eq!(status.get("disruptedPods"), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_may_be_disrupted_where_the_numbers_cannot_be_worked_out() {
    let steps = [
        Step::Do(&|api| {
            let status = status(api);
            assert_eq!(status["disruptionsAllowed"], 0);
            let condition = &status["conditions"][0];
            assert_eq!((&condition["reason"], &condition["status"]), (&json!("SyncFailed"), &json!("False")));
            assert_eq!(condition["message"], "found no controllers for pod \"a\"");
        }),
        // The controller comes: the numbers do too.
        Step::Do(&|api| drop(api.put(workload("StatefulSet", "s", 2)))),
    ];
    let objects = [budget(&json!({"minAvailable": "50%"})), pod("a", Some(("StatefulSet", "s")), true)];
    let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
    assert_eq!(numbers(&status(&end)), (1, 1, 2, 0, "InsufficientPods".to_owned()));
}

#[test]
fn the_warning_about_unmanaged_pods_shows_the_selector_as_upstream_does() {
    let selector = json!({"matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]});
    assert!(unmanaged(&selector).starts_with(
        "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},\
         MatchExpressions:[]LabelSelectorRequirement{{tier In [a b]},},}) were found to be unmanaged. "
    ));
}
