//! Placement, updates and repair of a DaemonSet, undisturbed and with every write failing.

use std::sync::Arc;

use control::harness::{Api, Env, Step, check_component};
use control::{Component, Controller};
use serde_json::json;

use super::*;
use crate::fixtures::{pod_template, ready_status, settings, until, with_controller};

/// Each run remembers its own failures only.
async fn check(objects: &[Value], steps: &[Step<'_>]) -> Api {
    let make = |env: Env| -> Arc<dyn Component> {
        let Env { api, client, informers, random, recorder } = env;
        let clock = Arc::new(api.clock());
        Controller::new(&CONTROLLER, Ctx { client, informers, clock, random, recorder, settings: settings() })
    };
    check_component(&make, &|_| {}, objects, steps).await
}

fn set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": pod_template("agent", "one")}})
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kind": "worker"}}, "spec": {}})
}

fn change(api: &Api, change: impl Fn(&mut Value)) {
    api.change_each(resources::DAEMON_SETS, |set| {
        change(&mut set["spec"]);
        set["metadata"]["generation"] = (set["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        true
    });
}

/// Binds each pod to its node and makes it ready.
fn run_pods(api: &Api) -> bool {
    api.change_each(resources::PODS, |pod| {
        if !pod["status"]["phase"].is_null() {
            return false;
        }
        pod["spec"]["nodeName"] = nodes::target(&pod["spec"]).expect("a node").into();
        pod["status"] = ready_status("2030-01-01T00:00:00Z");
        true
    })
}

/// Each pod's node and image, sorted.
fn pods(api: &Api) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = api.list(resources::PODS).into_iter();
    let mut pods: Vec<_> = pods
        .map(|pod| {
            let node = nodes::target(&pod["spec"]).unwrap_or_default().to_owned();
            (node, text(&pod["spec"]["containers"][0]["image"]))
        })
        .collect();
    pods.sort();
    pods
}

fn named(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
}

fn status(api: &Api) -> Value {
    api.get(resources::DAEMON_SETS, "n", "agent").expect("the set")["status"].clone()
}

/// Conformance: "should run and stop simple daemon", "should run and stop complex daemon", "should retry creating failed
/// daemon pods".
#[tokio::test(start_paused = true)]
async fn pods_follow_the_nodes() {
    let steps = [
        Step::UntilUnchanged(&run_pods),
        Step::Do(&|api| {
            assert_eq!(pods(api), named(&[("a", "one"), ("b", "one")]));
            assert_eq!(
                status(api),
                json!({"currentNumberScheduled": 2, "numberMisscheduled": 0, "desiredNumberScheduled": 2,
                    "numberReady": 2, "observedGeneration": 1, "updatedNumberScheduled": 2, "numberAvailable": 2})
            );
            api.put(node("c"));
        }),
        Step::UntilUnchanged(&run_pods),
        Step::Do(&|api| {
            assert_eq!(pods(api).len(), 3);
            // One loses its label: its pod goes. Another gets a taint that lets pods stay.
            change(api, |spec| spec["template"]["spec"]["nodeSelector"] = json!({"kind": "worker"}));
        }),
        Step::UntilUnchanged(&run_pods),
        Step::Do(&|api| {
            api.change_each(resources::NODES, |node| {
                match node["metadata"]["name"].as_str() {
                    Some("a") => node["metadata"]["labels"] = json!({}),
                    Some("b") => node["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]),
                    _ => return false,
                }
                true
            });
        }),
        Step::Do(&|api| {
            assert_eq!(pods(api), named(&[("b", "one"), ("c", "one")]));
            assert_eq!(
                (&status(api)["desiredNumberScheduled"], &status(api)["numberMisscheduled"]),
                (&json!(1), &json!(1))
            );
            api.change_each(resources::PODS, |pod| {
                let fails = pod["spec"]["nodeName"] == "c";
                if fails {
                    pod["status"] = json!({"phase": "Failed"});
                }
                fails
            });
        }),
        Step::Wait(Duration::from_secs(10)),
        Step::UntilUnchanged(&run_pods),
    ];
    let end = check(&[set(), node("a"), node("b")], &steps).await;
    assert_eq!((pods(&end).len(), &status(&end)["numberReady"]), (2, &json!(1)));
}

/// Conformance: "should update pod when spec was updated and update strategy is RollingUpdate", "should rollback without
/// unnecessary restarts", "should list and delete a collection of DaemonSets".
#[tokio::test(start_paused = true)]
async fn updates_go_node_by_node_and_back() {
    let image = |name: &'static str| move |spec: &mut Value| spec["template"] = pod_template("agent", name);
    let steps = [
        Step::UntilUnchanged(&run_pods),
        Step::Do(&|api| change(api, image("two"))),
        Step::Do(&|api| {
            let old = pods(api).into_iter().filter(|(_, image)| image == "one").count();
            assert_eq!(old, 1, "one at a time");
        }),
        // Back before the other was touched: it must not be restarted.
        Step::Do(&|api| change(api, image("one"))),
        Step::UntilUnchanged(&run_pods),
    ];
    let end = check(&[set(), node("a"), node("b")], &steps).await;
    assert_eq!(pods(&end), named(&[("a", "one"), ("b", "one")]));
    let revisions: Vec<_> = end.list(resources::CONTROLLER_REVISIONS);
    let mut numbers: Vec<_> = revisions.iter().filter_map(|one| one["revision"].as_i64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(status(&end)["updatedNumberScheduled"], 2);
}

#[tokio::test(start_paused = true)]
async fn surging_updates_start_the_new_pod_first() {
    let mut surging = set();
    surging["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": "50%"});
    let steps = [
        Step::UntilUnchanged(&run_pods),
        Step::Do(&|api| change(api, |spec| spec["template"] = pod_template("agent", "two"))),
        Step::Do(&|api| assert_eq!(pods(api), named(&[("a", "one"), ("a", "two"), ("b", "one")]))),
        Step::UntilUnchanged(&run_pods),
    ];
    let end = check(&[surging, node("a"), node("b")], &steps).await;
    assert_eq!(pods(&end), named(&[("a", "two"), ("b", "two")]));
}

/// Conformance: "should not update pod when spec was updated and update strategy is OnDelete".
#[tokio::test(start_paused = true)]
async fn on_delete_waits_for_the_user() {
    let mut manual = set();
    manual["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let steps = [
        Step::UntilUnchanged(&run_pods),
        Step::Do(&|api| change(api, |spec| spec["template"] = pod_template("agent", "two"))),
        Step::Do(&|api| {
            assert_eq!(pods(api), named(&[("a", "one")]));
            let name = api.list(resources::PODS)[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            api.delete(resources::PODS, "n", &name);
        }),
        Step::UntilUnchanged(&run_pods),
    ];
    let end = check(&[manual, node("a")], &steps).await;
    assert_eq!(pods(&end), named(&[("a", "two")]));
}

/// A write for each pod, a few for the status, and no read at all; nodes that only say that they live cost nothing.
#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_cost_a_thousand_times_as_much_as_one() {
    const NODES: usize = 1000;
    let nodes = (0..NODES).map(|number| node(&format!("node-{number}")));
    with_controller(&CONTROLLER, nodes.chain([set()]), async |api| {
        until(api, "each node has its pod", |api| api.list(resources::PODS).len() == NODES).await;
        run_pods(api);
        until(api, "all are available", |api| status(api)["numberAvailable"] == NODES).await;
        let writes = api.writes();
        assert!(writes <= NODES + 30, "{writes} writes");
        api.change_each(resources::NODES, |node| {
            node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            true
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(api.writes(), writes);
        assert!(api.reads() <= 6, "{} reads: the caches' own, and nothing else", api.reads());
    })
    .await;
}
