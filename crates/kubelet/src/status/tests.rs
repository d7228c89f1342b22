//! Pod statuses, by table.

use std::collections::BTreeSet;
use std::time::Duration;

use api::Typed;
use api::typed::core::v1::Pod;
use base::Clock;

use super::*;
use crate::observed::Observed;
use crate::plan::{Memory, ProbeKind, Verdict, Waiting};
use crate::testing::{observed, pod, sandbox};

fn of(pod: &Pod, containers: &str, memory: &Memory) -> PodStatus {
    let (observed, none, now) = (observed(containers), BTreeSet::new(), base::FakeClock::default().now());
    let view = View { pod, gone: false, observed: &observed, memory, busy: &none, held: &none, now };
    status(&view, &Place { host_ips: &["192.0.2.1".parse().unwrap()], runtime_name: "timonier" })
}

/// `phase Ready/reason container=state`
fn line(status: &PodStatus) -> String {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
    let mut text = format!("{} {}", status.phase.as_deref().unwrap(), ready.status);
    if let Some(reason) = &ready.reason {
        text.push_str(&format!("/{reason}"));
    }
    for container in status.container_statuses.iter().flatten() {
        let state = container.state.clone().unwrap();
        let state = match (state.running, state.waiting, state.terminated) {
            (Some(_), ..) => "running".to_owned(),
            (_, Some(waiting), _) => waiting.reason.unwrap(),
            (.., Some(ended)) => format!("{}:{}", ended.reason.unwrap(), ended.exit_code),
            _ => "nothing".to_owned(),
        };
        text.push_str(&format!(" {}={state}#{}", container.name, container.restart_count));
    }
    text
}

#[test]
fn phase_and_readiness_follow_the_containers() {
    for (policy, containers, wanted) in [
        ("Always", "", "Pending False/ContainersNotReady a=ContainerCreating#0 b=ContainerCreating#0"),
        ("Always", "a:running", "Pending False/ContainersNotReady a=running#0 b=ContainerCreating#0"),
        ("Always", "a:running b:running", "Running True a=running#0 b=running#0"),
        ("Always", "a#2:running b:1", "Running False/ContainersNotReady a=running#2 b=Error:1#0"),
        ("Never", "a:0 b:0", "Succeeded False/PodCompleted a=Completed:0#0 b=Completed:0#0"),
        ("Never", "a:0 b:3", "Failed False/PodFailed a=Completed:0#0 b=Error:3#0"),
        ("OnFailure", "a:0 b:3", "Running False/ContainersNotReady a=Completed:0#0 b=Error:3#0"),
    ] {
        let pod =
            pod(&format!(r#"{{"spec":{{"restartPolicy":"{policy}","containers":[{{"name":"a"}},{{"name":"b"}}]}}}}"#));
        assert_eq!(line(&of(&pod, containers, &Memory::default())), wanted, "{policy} {containers}");
    }
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let json = r#"{"spec":{"restartPolicy":"Never","initContainers":[{"name":"i"}],"containers":[{"name":"a"}]}}"#;
    for (containers, wanted) in [
        ("i:running", "Pending False/ContainersNotReady a=PodInitializing#0"),
        ("i:0 a:running", "Running True a=running#0"),
        ("i:1", "Failed False/PodFailed a=PodInitializing#0"),
    ] {
        assert_eq!(line(&of(&pod(json), containers, &Memory::default())), wanted, "{containers}");
    }
}

/// Clients tell a pod that initializes from one that is being made by the reason of every container that waits.
#[test]
fn a_pod_with_init_containers_initializes_from_the_start() {
    let json = r#"{"spec":{"initContainers":[{"name":"i"},{"name":"j"}],"containers":[{"name":"a"}]}}"#;
    for containers in ["", "i:1", "i:0 j:created"] {
        let status = of(&pod(json), containers, &Memory::default());
        let second = status.init_container_statuses.iter().flatten().nth(1).unwrap();
        let reason = second.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref();
        assert_eq!(reason, Some("PodInitializing"), "{containers:?}");
    }
}

#[test]
fn probes_gates_and_back_off_show() {
    let json = r#"{"metadata":{"name":"p","namespace":"ns","uid":"u"},"spec":{"readinessGates":[{"conditionType":"example.com/lb"}],
        "containers":[{"name":"a","readinessProbe":{},"startupProbe":{}}]}}"#;
    let mut memory = Memory::default();
    assert_eq!(line(&of(&pod(json), "a:running", &memory)), "Running False/ContainersNotReady a=running#0");
    memory.probes.insert(("a-0".into(), ProbeKind::Startup), true);
    memory.probes.insert(("a-0".into(), ProbeKind::Readiness), true);
    assert_eq!(line(&of(&pod(json), "a:running", &memory)), "Running False/ReadinessGatesNotReady a=running#0");
    memory.backoff.insert("a".into(), Duration::from_secs(80));
    let status = of(&pod(json), "a#1:1 a:1", &memory);
    assert_eq!(line(&status), "Running False/ContainersNotReady a=CrashLoopBackOff#1");
    let container = &status.container_statuses.unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.message.unwrap(), "back-off 1m20s restarting failed container=a pod=p_ns(u)");
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
    memory.waiting.insert("a".into(), Waiting { reason: "ImagePullBackOff".into(), message: String::new() });
    assert_eq!(line(&of(&pod(json), "a#1:1", &memory)), "Running False/ContainersNotReady a=ImagePullBackOff#1");
}

#[test]
fn a_verdict_fails_the_pod_and_a_deleted_pod_ends_in_a_final_phase() {
    let pod = pod(r#"{"metadata":{"deletionTimestamp":"2030-01-01T00:00:00Z"},"spec":{"containers":[{"name":"a"}]}}"#);
    assert_eq!(line(&of(&pod, "a:137", &Memory::default())), "Failed False/PodFailed a=Error:137#0");
    assert_eq!(line(&of(&pod, "a:running", &Memory::default())), "Running True a=running#0");
    let verdict = Some(Verdict { reason: "OutOfcpu".into(), message: "no".into(), grace_seconds: None });
    let status = of(&pod, "", &Memory { verdict, ..Memory::default() });
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
}

/// A pod that was deleted before its containers started went out of the API as pending, which tells its owner that it may yet run.
#[test]
fn a_deleted_pod_that_never_started_has_failed_once_nothing_is_left() {
    let json = r#"{"metadata":{"deletionTimestamp":"2030-01-01T00:00:00Z"},
        "spec":{"initContainers":[{"name":"i"}],"containers":[{"name":"a"},{"name":"b"}]}}"#;
    let phase = |observed: &Observed| {
        let memory = Memory::default();
        let (pod, busy, now) = (pod(json), BTreeSet::new(), base::FakeClock::default().now());
        let view = View { pod: &pod, gone: false, observed, memory: &memory, busy: &busy, held: &busy, now };
        status(&view, &Place { host_ips: &[], runtime_name: "fake" }).phase.unwrap()
    };
    assert_eq!(phase(&Observed::default()), "Failed");
    let stopped = Observed { sandboxes: vec![sandbox(false)], ..observed("i:0 a:0") };
    assert_eq!(phase(&stopped), "Failed");
    assert_eq!(phase(&Observed { sandboxes: vec![sandbox(true)], ..Observed::default() }), "Pending");
}

#[test]
fn only_what_changed_is_patched_and_what_was_read_back_changes_nothing() {
    let mut pod = pod(r#"{"metadata":{"uid":"u"},"spec":{"containers":[{"name":"a"}]}}"#);
    let value =
        |pod: &Pod| serde_json::from_slice::<Value>(&pod.encode()).unwrap().get("status").cloned().unwrap_or_default();
    let before = value(&pod);
    pod.status = Some(of(&pod, "", &Memory::default()));
    let pending = value(&pod);
    assert!(patch("u", &before, &pending).is_some());
    let again = of(&pod, "", &Memory::default());
    pod.status = Some(again);
    assert_eq!(patch("u", &pending, &value(&pod)), None);
    pod.status = Some(of(&pod, "a:running", &Memory::default()));
    let patch = patch("u", &pending, &value(&pod)).unwrap();
    let ready = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &Value::Null));
    assert!(
        patch["status"]["conditions"].as_array().unwrap().iter().all(|condition| condition["type"] != "PodScheduled")
    );
}

#[test]
fn a_change_of_resources_shows_while_it_waits_or_is_made_and_then_no_more() {
    let json = r#"{"metadata":{"uid":"u"},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}}"#;
    let mut pod = pod(json);
    let pending = crate::resize::Pending { reason: "Deferred", message: "no room".into() };
    let mut memory = Memory { resize_pending: Some(pending), ..Memory::default() };
    let condition = |status: &PodStatus, name: &str| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == name).cloned()
    };
    let waits = of(&pod, "a:running", &memory);
    let shown = condition(&waits, "PodResizePending").unwrap();
    assert_eq!(
        (shown.status.as_str(), shown.reason.as_deref(), shown.message.as_deref()),
        ("True", Some("Deferred"), Some("no room"))
    );
    let container = &waits.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.allocated_resources.as_ref().unwrap()["cpu"].0, "1");
    let tree = |status: &PodStatus| {
        let pod = Pod { status: Some(status.clone()), ..Pod::default() };
        serde_json::from_slice::<Value>(&pod.encode()).unwrap()["status"].clone()
    };
    pod.status = Some(waits.clone());
    memory.resize_pending = None;
    let after = of(&pod, "a:running", &memory);
    assert_eq!(condition(&after, "PodResizePending"), None);
    let patch = patch("u", &tree(&waits), &tree(&after)).unwrap();
    assert_eq!(patch["status"]["conditions"], json!([{"$patch": "delete", "type": "PodResizePending"}]));
}
