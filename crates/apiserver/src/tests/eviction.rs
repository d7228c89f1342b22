//! Evictions and the budgets that allow or refuse them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Cluster, PODS};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn pod(cluster: &Cluster, name: &str, phase: &str, ready: bool) {
    let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "node", "terminationGracePeriodSeconds": 0}});
    cluster.post(PODS, pod).await;
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    let (code, answer) = cluster.call(Method::PATCH, &format!("{PODS}/{name}/status"), &status).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
}

async fn budget(cluster: &Cluster, name: &str, status: Value) {
    let budget = json!({"metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(BUDGETS, budget).await;
    set_budget(cluster, name, status).await;
}

async fn set_budget(cluster: &Cluster, name: &str, status: Value) {
    let (code, answer) =
        cluster.call(Method::PATCH, &format!("{BUDGETS}/{name}/status"), &json!({ "status": status })).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
}

fn allows(count: i64) -> Value {
    json!({"observedGeneration": 1, "disruptionsAllowed": count, "currentHealthy": 2, "desiredHealthy": 2 - count,
        "expectedPods": 2})
}

async fn evict(cluster: &Cluster, name: &str, options: Value) -> (StatusCode, Value) {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
        "deleteOptions": options});
    cluster.call(Method::POST, &format!("{PODS}/{name}/eviction"), &eviction).await
}

async fn exists(cluster: &Cluster, name: &str) -> bool {
    cluster.get(&format!("{PODS}/{name}")).await["kind"] == "Pod"
}

#[tokio::test]
async fn an_eviction_takes_one_disruption_and_the_next_is_refused() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        pod(&cluster, name, "Running", true).await;
    }
    budget(&cluster, "web", allows(1)).await;

    let (code, answer) = evict(&cluster, "a", json!({"dryRun": ["All"]})).await;
    assert_eq!((code, &answer["status"]), (StatusCode::CREATED, &json!("Success")), "{answer}");
    assert_eq!(cluster.get(&format!("{BUDGETS}/web")).await["status"]["disruptionsAllowed"], 1, "only tried");
    assert!(exists(&cluster, "a").await);

    let (code, answer) = evict(&cluster, "a", Value::Null).await;
    assert_eq!((code, &answer["code"]), (StatusCode::CREATED, &json!(201)), "{answer}");
    assert!(!exists(&cluster, "a").await);
    let status = cluster.get(&format!("{BUDGETS}/web")).await["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0);
    assert!(status["disruptedPods"]["a"].is_string(), "{status}");
    assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");

    let (code, answer) = evict(&cluster, "b", Value::Null).await;
    assert_eq!(code, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = &answer["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget web does not allow evicting pods currently");
    assert!(exists(&cluster, "b").await);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let cluster = Cluster::start().await;
    pod(&cluster, "a", "Running", true).await;
    budget(&cluster, "web", allows(0)).await;
    let condition = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed",
        "message": "no scale", "lastTransitionTime": "2030-01-01T00:00:00Z"}]);
    let mut failed = allows(0);
    failed["conditions"] = condition;
    let mut behind = allows(1);
    behind["observedGeneration"] = 0.into();
    for (status, why) in [
        (allows(0), "The disruption budget web needs 2 healthy pods and has 2 currently"),
        (failed, "The disruption budget web does not allow evicting pods currently because it failed sync: no scale"),
        (behind, "The disruption budget web is still being processed by the server."),
    ] {
        set_budget(&cluster, "web", status).await;
        let (code, answer) = evict(&cluster, "a", Value::Null).await;
        assert_eq!((code, &answer["details"]["causes"][0]["message"]), (StatusCode::TOO_MANY_REQUESTS, &json!(why)));
    }
    let (_, answer) = evict(&cluster, "a", Value::Null).await;
    assert_eq!(answer["details"]["retryAfterSeconds"], 10);
}

#[tokio::test]
async fn two_budgets_for_one_pod_are_not_supported() {
    let cluster = Cluster::start().await;
    pod(&cluster, "a", "Running", true).await;
    budget(&cluster, "web", allows(1)).await;
    budget(&cluster, "other", allows(1)).await;
    let (code, answer) = evict(&cluster, "a", Value::Null).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!(answer["message"], message);
}

#[tokio::test]
async fn what_disrupts_nothing_needs_no_budget() {
    let cluster = Cluster::start().await;
    budget(&cluster, "web", allows(0)).await;
    for phase in ["Succeeded", "Failed", "Pending"] {
        pod(&cluster, "ended", phase, false).await;
        let (code, answer) = evict(&cluster, "ended", Value::Null).await;
        assert_eq!(code, StatusCode::CREATED, "{phase}: {answer}");
        assert!(!exists(&cluster, "ended").await, "{phase}");
    }
    // A pod that is not ready takes nothing from a budget that has all it wants.
    pod(&cluster, "sick", "Running", false).await;
    assert_eq!(evict(&cluster, "sick", Value::Null).await.0, StatusCode::CREATED);
    // Nor where the budget says so, even if it lacks pods.
    let mut lacking = allows(0);
    lacking["currentHealthy"] = 1.into();
    set_budget(&cluster, "web", lacking).await;
    pod(&cluster, "sick", "Running", false).await;
    assert_eq!(evict(&cluster, "sick", Value::Null).await.0, StatusCode::TOO_MANY_REQUESTS);
    let policy = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    cluster.call(Method::PATCH, &format!("{BUDGETS}/web"), &policy).await;
    assert_eq!(evict(&cluster, "sick", Value::Null).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn preconditions_names_and_marks() {
    let cluster = Cluster::start().await;
    let own_time = json!({"metadata": {"name": "a", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "node"}});
    cluster.post(PODS, own_time).await;
    let (code, answer) = evict(&cluster, "a", json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert!(answer["message"].as_str().unwrap().contains("the UID in the precondition (other) does not match"));
    assert_eq!(evict(&cluster, "a", json!({"preconditions": {"resourceVersion": "1"}})).await.0, StatusCode::CONFLICT);
    let misnamed = json!({"metadata": {"name": "b"}});
    let (code, answer) = cluster.call(Method::POST, &format!("{PODS}/a/eviction"), &misnamed).await;
    let message = "name in URL does not match name in Eviction object";
    assert_eq!((code, &answer["message"]), (StatusCode::BAD_REQUEST, &json!(message)));

    let uid = cluster.get(&format!("{PODS}/a")).await["metadata"]["uid"].clone();
    let options = json!({"preconditions": {"uid": uid}, "gracePeriodSeconds": 7});
    let (code, answer) = evict(&cluster, "a", options).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let marked = cluster.get(&format!("{PODS}/a")).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = marked["status"]["conditions"].as_array().unwrap();
    let mark = conditions.iter().find(|row| row["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&mark["reason"], &mark["message"]),
        (&json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting"))
    );
    assert_eq!(evict(&cluster, "gone", Value::Null).await.0, StatusCode::NOT_FOUND);
}
