//! Quotas run to rest over objects that come and go, undisturbed and with something going wrong.

use control::harness::{Api, Env, Step, check_component};

use super::*;
use crate::fixtures::{definition, settings};

fn make(env: Env) -> Arc<dyn Component> {
    let Env { api, client, informers, random, recorder } = env;
    let clock = Arc::new(api.clock());
    QuotaController::new(Ctx { client, informers, clock, random, recorder, settings: settings() })
}

fn quota(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name, "namespace": "n"}, "spec": spec})
}

fn pod(name: &str, cpu: &str) -> Value {
    let resources = if cpu.is_empty() { json!({}) } else { json!({"requests": {"cpu": cpu}}) };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
        "spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn used(api: &Api, name: &str) -> Value {
    api.get(resources::RESOURCE_QUOTAS, "n", name).expect("the quota")["status"]["used"].clone()
}

#[tokio::test(start_paused = true)]
async fn the_status_follows_what_comes_changes_and_goes() {
    let hard = json!({"pods": "5", "requests.cpu": "2", "count/secrets": "3", "count/deployments.apps": "1"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}});
    let elsewhere = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "other"}});
    let expect = |pods: &str, cpu: &str, secrets: &str| json!({"count/deployments.apps": "0", "count/secrets": secrets, "pods": pods, "requests.cpu": cpu});
    let end_one = |pod: &mut Value| {
        let first = pod["metadata"]["name"] == "a" && pod["status"].is_null();
        if first {
            pod["status"] = json!({"phase": "Succeeded"});
        }
        first
    };
    let steps = [
        Step::Do(&|api| assert_eq!(used(api, "q"), expect("2", "750m", "1"))),
        Step::Do(&|api| drop(api.put(pod("c", "1")))),
        Step::Do(&|api| assert_eq!(used(api, "q"), expect("3", "1750m", "1"))),
        Step::Do(&|api| assert!(api.change_each(resources::PODS, end_one))),
        Step::Do(&|api| assert_eq!(used(api, "q"), expect("2", "1250m", "1"), "what has ended counts no more")),
        Step::Do(&|api| {
            api.delete(resources::PODS, "n", "c");
            api.delete(resources::SECRETS, "n", "s");
        }),
        Step::Wait(Duration::from_secs(10)),
        Step::Do(&|api| assert_eq!(used(api, "q"), expect("1", "250m", "0"))),
        // Another spec counts other things.
        Step::Do(&|api| drop(api.put(quota("q", &json!({"hard": {"count/pods": "9"}}))))),
        Step::Wait(Duration::from_secs(10)),
    ];
    let objects = [quota("q", &json!({ "hard": hard })), pod("a", "500m"), pod("b", "250m"), secret, elsewhere];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(used(&end, "q"), json!({"count/pods": "2"}));
}

#[tokio::test(start_paused = true)]
async fn scopes_choose_the_pods_that_count() {
    let hard = json!({"pods": "5"});
    let mut ending = pod("deadline", "1");
    ending["spec"]["activeDeadlineSeconds"] = 60.into();
    let objects = [
        quota("terminating", &json!({"hard": hard, "scopes": ["Terminating"]})),
        quota("lasting", &json!({"hard": hard, "scopes": ["NotTerminating"]})),
        quota("poor", &json!({"hard": hard, "scopes": ["BestEffort"]})),
        ending,
        pod("plain", "1"),
        pod("poor", ""),
    ];
    let end = check_component(&make, &|_| {}, &objects, &[]).await;
    let all = ["terminating", "lasting", "poor"].map(|name| used(&end, name)["pods"].clone());
    assert_eq!(all, ["1", "2", "1"]);
}

#[tokio::test(start_paused = true)]
async fn what_admission_let_in_is_believed_until_it_should_have_come() {
    let reserve = |quota: &mut Value| {
        quota["status"]["used"]["pods"] = "4".into();
        true
    };
    let steps = [
        Step::Do(&|api| assert!(api.change_each(resources::RESOURCE_QUOTAS, reserve))),
        Step::Do(&|api| assert_eq!(used(api, "q")["pods"], "4")),
        Step::Wait(Duration::from_secs(6)),
    ];
    let objects = [quota("q", &json!({"hard": {"pods": "5"}})), pod("a", "1")];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(used(&end, "q")["pods"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_time_to_end_is_over_counts_no_more() {
    let steps = [Step::Do(&|api| assert_eq!(used(api, "q")["pods"], "2")), Step::Wait(Duration::from_secs(120))];
    let mut stuck = pod("stuck", "1");
    stuck["metadata"]["finalizers"] = json!(["example.com/hold"]);
    stuck["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:30Z".into();
    stuck["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    let objects = [quota("q", &json!({"hard": {"pods": "5"}})), pod("a", "1"), stuck];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(used(&end, "q")["pods"], "1");
}

#[tokio::test(start_paused = true)]
async fn custom_resources_count_from_their_definition_on() {
    let boat = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": name, "namespace": "n"}});
    let define = |api: &Api| {
        api.put(definition("boats", "Boat", "Namespaced"));
        api.put(boat("one"));
        api.put(boat("two"));
    };
    let steps = [Step::Do(&define), Step::Wait(Duration::from_secs(10))];
    let objects = [quota("q", &json!({"hard": {"count/boats.example.com": "3"}}))];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(used(&end, "q"), json!({"count/boats.example.com": "2"}));
}
