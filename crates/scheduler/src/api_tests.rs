//! The scheduler over an API in memory: what it writes, and that failures and late watches lose and double nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::resources::{EVENTS, NODES, PODS};
use base::{Random, Stop, Tasks};
use control::harness::{Api, Fault};
use control::{Client, Informers, Recorder};
use serde_json::{Value, json};

use crate::{Config, run};

pub(crate) struct Running {
    pub(crate) api: Api,
    tasks: Tasks,
    stop: Stop,
}

impl Running {
    pub(crate) fn start(objects: &[Value], disturb: impl Fn(&Api)) -> Self {
        let api = Api::new(Random::from_seed(1));
        disturb(&api);
        objects.iter().for_each(|object| drop(api.put(object.clone())));
        let (tasks, stop) = (Tasks::new("test"), Stop::new());
        let client = Client::new(api.transport(), "scheduler");
        let bystander = Client::new(api.bystander(), "scheduler");
        let clock = Arc::new(api.clock());
        let config = Config {
            client: client.clone(),
            informers: Informers::new(client, tasks.clone(), stop.clone()),
            clock: clock.clone(),
            random: Random::from_seed(3),
            recorder: Recorder::new(bystander, &tasks, stop.clone(), clock, "default-scheduler", ""),
        };
        let stopped = stop.clone();
        tasks.spawn("scheduler", async move {
            let Ok(()) = run(config, stopped).await;
        });
        Self { api, tasks, stop }
    }

    /// Waits, in virtual time, until the cluster is as wanted.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Api) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !holds(&self.api) {
            assert!(tokio::time::Instant::now() < deadline, "{what} does not come: {:#?}", self.api.list(PODS));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.stop.stop();
        self.tasks.join().await;
    }
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
}

fn pod(name: &str, cpu: &str, over: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"}});
    machinery::patch::merge(&mut pod["spec"], over);
    pod
}

pub(crate) fn node_of(api: &Api, name: &str) -> Option<String> {
    api.get(PODS, "default", name)?["spec"]["nodeName"].as_str().map(str::to_owned)
}

pub(crate) fn condition(api: &Api, name: &str) -> Option<Value> {
    let pod = api.get(PODS, "default", name)?;
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "PodScheduled").cloned()
}

pub(crate) fn has_event(api: &Api, reason: &str, message: &str) -> bool {
    api.list(EVENTS).iter().any(|event| event["reason"] == reason && event["message"] == message)
}

#[tokio::test(start_paused = true)]
async fn binds_its_own_pods_and_says_so() {
    let running = Running::start(
        &[
            node("a", "4"),
            pod("p", "1", &json!({})),
            pod("foreign", "1", &json!({"schedulerName": "other"})),
            pod("gated", "1", &json!({"schedulingGates": [{"name": "g"}]})),
        ],
        |_| {},
    );
    running.until("a binding", |api| node_of(api, "p").is_some()).await;
    running.until("an event", |api| has_event(api, "Scheduled", "Successfully assigned default/p to a")).await;
    assert_eq!((node_of(&running.api, "foreign"), node_of(&running.api, "gated")), (None, None));
    let mut gated = running.api.get(PODS, "default", "gated").unwrap();
    gated["spec"]["schedulingGates"] = json!([]);
    running.api.put(gated);
    running.until("the gated pod", |api| node_of(api, "gated").is_some()).await;
    assert_eq!(node_of(&running.api, "foreign"), None);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn says_why_a_pod_waits_and_binds_it_when_a_node_helps() {
    let running = Running::start(&[node("a", "1"), pod("p", "2", &json!({}))], |_| {});
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                   victims found for incoming pod.";
    running.until("a condition", |api| condition(api, "p").is_some()).await;
    let found = condition(&running.api, "p").unwrap();
    assert_eq!(
        (&found["status"], &found["reason"], &found["message"]),
        (&json!("False"), &json!("Unschedulable"), &json!(message))
    );
    running.until("an event", |api| has_event(api, "FailedScheduling", message)).await;
    let writes = running.api.writes();
    // A node that does not help wakes nobody.
    running.api.put(node("b", "1"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(running.api.writes(), writes);
    running.api.put(node("c", "2"));
    running.until("a binding", |api| node_of(api, "p").as_deref() == Some("c")).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_makes_room() {
    let running =
        Running::start(&[node("a", "1"), pod("p", "1", &json!({"nodeName": "a"})), pod("q", "1", &json!({}))], |_| {});
    running.until("a condition", |api| condition(api, "q").is_some()).await;
    running.api.delete(PODS, "default", "p");
    // The harness has no kubelet: what it deletes gracefully is gone once it has ended.
    if let Some(mut p) = running.api.get(PODS, "default", "p") {
        p["status"]["phase"] = json!("Succeeded");
        running.api.put(p);
    }
    running.until("a binding", |api| node_of(api, "q").is_some()).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_more_important_pod_takes_the_room_of_a_lesser_one_and_no_other_gets_between() {
    let bound = |name: &str, cpu: &str, priority: i32| pod(name, cpu, &json!({"nodeName": "a", "priority": priority}));
    let running = Running::start(
        &[
            node("a", "4"),
            bound("low", "2", 1),
            bound("lower", "1", 0),
            bound("high", "1", 9),
            pod("new", "2", &json!({"priority": 5})),
        ],
        |_| {},
    );
    let gone = |api: &Api, name: &str| {
        api.get(PODS, "default", name).is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    };
    running
        .until("a promise", |api| api.get(PODS, "default", "new").unwrap()["status"]["nominatedNodeName"] == "a")
        .await;
    assert!(gone(&running.api, "low") && !gone(&running.api, "lower") && !gone(&running.api, "high"));
    // It comes when there is room, but that is promised.
    running.api.put(pod("between", "1", &json!({"priority": 4})));
    if let Some(mut low) = running.api.get(PODS, "default", "low") {
        low["status"]["phase"] = json!("Failed");
        running.api.put(low);
    }
    running.until("a binding", |api| node_of(api, "new").is_some()).await;
    assert_eq!(node_of(&running.api, "between"), None);
    running.end().await;
}

/// What dashboards are made from.
#[tokio::test(start_paused = true)]
async fn attempts_and_queues_are_counted_in_upstreams_names() {
    let running = Running::start(&[node("a", "1"), pod("p", "1", &json!({})), pod("q", "1", &json!({}))], |_| {});
    running.until("a condition", |api| condition(api, "q").is_some() || condition(api, "p").is_some()).await;
    let gated = pod("gated", "1", &json!({"schedulingGates": [{"name": "x"}]}));
    running.api.put(gated);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut text = base::metrics::Text::default();
    crate::metrics::METRICS.iter().for_each(|family| family.write(&mut text));
    let text = text.into_string();
    let profile = "profile=\"default-scheduler\"";
    for line in [
        format!("scheduler_schedule_attempts_total{{{profile},result=\"scheduled\"}} "),
        format!("scheduler_schedule_attempts_total{{{profile},result=\"unschedulable\"}} "),
        format!("scheduler_scheduling_attempt_duration_seconds_count{{{profile},result=\"scheduled\"}} "),
        "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"} ".to_owned(),
        "scheduler_pending_pods{queue=\"gated\"} 1".to_owned(),
        "scheduler_pending_pods{queue=\"unschedulable\"} 1".to_owned(),
        "scheduler_queue_incoming_pods_total{event=\"UnscheduledPodAdd\",queue=\"active\"} ".to_owned(),
        "scheduler_queue_incoming_pods_total{event=\"ScheduleAttemptFailure\",queue=\"unschedulable\"} ".to_owned(),
        format!("scheduler_unschedulable_pods{{plugin=\"NodeResourcesFit\",{profile}}} 1"),
        "scheduler_preemption_attempts_total ".to_owned(),
    ] {
        assert!(text.contains(&line), "no {line:?} in\n{text}");
    }
    running.end().await;
}

/// Eight pods that fill four nodes exactly: a pod lost, or one counted twice or not at all, shows.
#[tokio::test(start_paused = true)]
async fn failing_writes_and_late_watches_lose_and_over_commit_nothing() {
    let nodes = ["a", "b", "c", "d"].map(|name| node(name, "2"));
    let pods = (0..8).map(|number| pod(&format!("p{number}"), "1", &json!({})));
    let objects: Vec<Value> = nodes.into_iter().chain(pods).collect();
    for write in [1, 4, 8] {
        for fault in [Fault::NotDone, Fault::AnswerLost] {
            for delay in [0, 700] {
                let running = Running::start(&objects, |api| {
                    api.fail_write(write, fault);
                    api.delay_watches(Duration::from_millis(delay));
                });
                running.until("every binding", |api| (0..8).all(|n| node_of(api, &format!("p{n}")).is_some())).await;
                let mut used: BTreeMap<String, usize> = BTreeMap::new();
                for number in 0..8 {
                    *used.entry(node_of(&running.api, &format!("p{number}")).unwrap()).or_default() += 1;
                }
                assert!(used.values().all(|pods| *pods == 2), "write {write} {fault:?} delay {delay}: {used:?}");
                assert_eq!(running.api.list(NODES).len(), 4);
                running.end().await;
            }
        }
    }
}
