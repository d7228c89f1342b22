//! The decisions of a pod worker, by table.

use std::time::Duration;

use base::Clock;

use super::*;
use crate::testing::{observed, pod, sandbox};

const WEB: &str = r#"{"metadata":{},"spec":{"containers":[{"name":"web"}]}}"#;

struct Case {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    gone: bool,
    busy: BTreeSet<Action>,
    held: BTreeSet<Action>,
    elapsed: Duration,
}

fn case(json: &str, containers: &str) -> Case {
    Case {
        pod: pod(json),
        observed: observed(containers),
        memory: Memory::default(),
        gone: false,
        busy: BTreeSet::new(),
        held: BTreeSet::new(),
        elapsed: Duration::ZERO,
    }
}

impl Case {
    fn plan(&self) -> Plan {
        let now = base::FakeClock::default().now() + self.elapsed;
        let Self { pod, observed, memory, gone, busy, held, .. } = self;
        plan(&View { pod, gone: *gone, observed, memory, busy, held, now })
    }

    /// The actions on one line.
    fn check(&self, wanted: &str) {
        let plan = self.plan();
        let text = plan.actions.iter().map(|action| match action {
            Action::Setup { attempt } => format!("setup#{attempt}"),
            Action::Start { name, attempt } => format!("start:{name}#{attempt}"),
            Action::Kill { name, grace_seconds, .. } => format!("kill:{name}/{grace_seconds}"),
            Action::Resize { name, target, .. } => format!("resize:{name}/{}", target.memory_bytes),
            Action::RemoveContainer { id } => format!("remove:{id}"),
            Action::StopSandbox { id } => format!("stop:{id}"),
            Action::RemoveSandbox { id } => format!("remove:{id}"),
            Action::Unmount => "unmount".to_owned(),
            Action::TearDown => "tear-down".to_owned(),
        });
        assert_eq!(text.collect::<Vec<_>>().join(" "), wanted);
    }
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_its_containers_together() {
    let mut new = case(r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#, "");
    new.check("start:a#0 start:b#0");
    new.observed.sandboxes.clear();
    new.check("setup#0");
    new.busy.insert(Action::Setup { attempt: 0 });
    new.check("");
}

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let json = r#"{"spec":{"initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"},{"name":"j"}],"containers":[{"name":"web"}]}}"#;
    for (containers, wanted) in [
        ("", "start:i#0"),
        ("i:running", ""),
        ("i:0", "start:s#0"),
        ("i:0 s:running", "start:j#0"),
        ("i:0 s:running j:0", "start:web#0"),
        ("i:0 s:1 j:0 web:running", "start:s#1"),
        ("i:1", "start:i#1"),
    ] {
        case(json, containers).check(wanted);
    }
}

#[test]
fn a_container_that_ended_restarts_as_its_policy_says() {
    for (policy, containers, wanted) in [
        ("Always", "web:0", "start:web#1"),
        ("OnFailure", "web:1", "start:web#1"),
        ("OnFailure", "web:0", "stop:sandbox"),
        ("Never", "web:1", "stop:sandbox"),
        ("Always", "web:created", "remove:web-0"),
        ("Always", "web#2:running web#1:1 web#0:1", "remove:web-0"),
    ] {
        let json = format!(r#"{{"spec":{{"restartPolicy":"{policy}","containers":[{{"name":"web"}}]}}}}"#);
        case(&json, containers).check(wanted);
    }
}

#[test]
fn a_crash_loop_waits_for_its_back_off() {
    let mut crashed = case(WEB, "web#3:1");
    crashed.memory.backoff.insert("web".into(), Duration::from_secs(20));
    let plan = crashed.plan();
    assert_eq!(plan.actions, []);
    assert_eq!(plan.look_again_at, Some(base::FakeClock::default().now() + Duration::from_secs(20)));
    crashed.elapsed = Duration::from_secs(20);
    crashed.check("start:web#4");
}

#[test]
fn back_off_doubles_and_starts_over_after_a_long_run() {
    let start = base::FakeClock::default().now();
    let mut run = observed("web:1").containers.remove(0);
    assert_eq!(next_backoff(None, &run).as_secs(), 10);
    assert_eq!(next_backoff(Some(Duration::from_secs(10)), &run).as_secs(), 20);
    assert_eq!(next_backoff(Some(Duration::from_secs(200)), &run).as_secs(), 300);
    run.finished_at = Some(start + Duration::from_secs(601));
    assert_eq!(next_backoff(Some(Duration::from_secs(300)), &run).as_secs(), 10);
}

#[test]
fn a_deleted_pod_ends_its_containers_then_its_sandbox_then_everything() {
    let json = r#"{"metadata":{"deletionTimestamp":"2030-01-01T00:00:00Z","deletionGracePeriodSeconds":7},
        "spec":{"initContainers":[{"name":"s","restartPolicy":"Always"},{"name":"t","restartPolicy":"Always"}],"containers":[{"name":"web"}]}}"#;
    let mut deleted = case(json, "s:running t:running web:running");
    deleted.check("kill:web/7");
    deleted.observed = observed("s:running t:running web:137");
    deleted.check("kill:t/7");
    deleted.observed = observed("s:running t:0 web:137");
    deleted.check("kill:s/7");
    deleted.observed = observed("s:0 t:0 web:137");
    deleted.check("stop:sandbox");
    deleted.observed.sandboxes = vec![sandbox(false)];
    deleted.check("tear-down");
    deleted.observed = Observed::default();
    deleted.memory.torn_down = true;
    deleted.check("");
}

#[test]
fn a_pod_that_is_gone_is_cleaned_up_and_a_shorter_grace_kills_again() {
    let mut gone = case(WEB, "web:running");
    gone.gone = true;
    gone.check("kill:web/30");
    let message = "Stopping container web".to_owned();
    gone.busy.insert(Action::Kill { id: "web-0".into(), name: "web".into(), grace_seconds: 30, message });
    gone.check("");
    gone.pod.metadata.deletion_grace_period_seconds = Some(0);
    gone.check("kill:web/1");
}

#[test]
fn a_finished_pod_keeps_its_containers_but_neither_sandbox_nor_volumes() {
    let json = r#"{"spec":{"restartPolicy":"Never","containers":[{"name":"job"}]}}"#;
    let mut finished = case(json, "job:0");
    finished.check("stop:sandbox");
    finished.observed.sandboxes = vec![sandbox(false)];
    finished.check("unmount");
    finished.memory.torn_down = true;
    finished.check("");
    finished.pod.metadata.deletion_timestamp = Some(api::typed::meta::Time(base::FakeClock::default().now()));
    finished.check("tear-down");
}

#[test]
fn a_failed_liveness_probe_or_a_new_image_kills_the_container() {
    let mut probed = case(WEB, "web:running");
    probed.memory.probes.insert(("web-0".into(), ProbeKind::Liveness), false);
    probed.check("kill:web/30");
    case(r#"{"spec":{"containers":[{"name":"web","image":"other"}]}}"#, "web:running").check("kill:web/30");
}

#[test]
fn a_dead_sandbox_is_replaced_after_its_containers_ended() {
    let mut broken = case(WEB, "web:running");
    broken.observed.sandboxes = vec![sandbox(false)];
    broken.check("kill:web/30");
    broken.observed.containers = observed("web:137").containers;
    broken.check("setup#1");
}

#[test]
fn what_failed_is_held_back_and_does_not_keep_a_deleted_pod() {
    let mut waiting = case(WEB, "");
    waiting.held.insert(Action::Start { name: "web".into(), attempt: 0 });
    waiting.check("");
    waiting.gone = true;
    waiting.check("stop:sandbox");
}

#[test]
fn an_ephemeral_container_runs_once_beside_everything_else() {
    let spec = |status: &str| {
        format!(
            r#"{{"spec":{{"containers":[{{"name":"a"}}],"initContainers":[{{"name":"i"}}],"ephemeralContainers":[{{"name":"e"}}]}},
            "status":{{{status}}}}}"#
        )
    };
    case(&spec(""), "a#0:running").check("start:e#0");
    // Its init container fails: that is when somebody wants to look into it.
    case(&spec(""), "i#0:running").check("start:e#0");
    case(&spec(""), "a#0:running e#0:running").check("");
    case(&spec(""), "a#0:running e#0:1").check("");
    case(&spec(""), "a#0:running e#0:created").check("remove:e-0");
    // It ended in a sandbox that is gone.
    let known = r#""ephemeralContainerStatuses":[{"name":"e","image":"","imageID":"","ready":false,"restartCount":0,"containerID":"x"}]"#;
    case(&spec(known), "a#0:running").check("");
    // The pod has ended although somebody still looks.
    let once = spec("").replace(r#""spec":{"#, r#""spec":{"restartPolicy":"Never","#);
    case(&once, "a#0:0 e#0:running").check("kill:e/30");
}

#[test]
fn a_running_container_gets_what_was_allocated_to_it() {
    let json = r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"memory":"64Mi"}}}]}}"#;
    let mut pod = case(json, "a:running");
    pod.check("");
    pod.observed.containers[0].resources = Some(Target { cpu_shares: 2, cpu_quota: 0, memory_bytes: 32 << 20 });
    pod.check("resize:a/67108864");
    pod.observed.containers[0].resources = Some(Target { cpu_shares: 2, cpu_quota: 0, memory_bytes: 64 << 20 });
    pod.check("");
    let policy = r#""resizePolicy":[{"resourceName":"memory","restartPolicy":"RestartContainer"}],"resources""#;
    let mut restarts = case(&json.replace(r#""resources""#, policy), "a:running");
    restarts.observed.containers[0].resources = Some(Target { cpu_shares: 2, cpu_quota: 0, memory_bytes: 32 << 20 });
    restarts.check("kill:a/30");
}
