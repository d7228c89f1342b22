//! The columns of pods: how many containers are ready, and in one word how the pod is.

use serde_json::{Value, json};

use super::About::{Field, Text};
use super::cells::{condition, list, or_none, since, string};
use super::{AGE, Column, NAME, text, wide};

pub(super) const POD: &[Column] = &[
    NAME,
    text("Ready", Text("The aggregate readiness state of this pod for accepting traffic."), |pod, _| {
        let Summary { ready, total, .. } = Summary::of(pod);
        format!("{ready}/{total}").into()
    }),
    text("Status", Text("The aggregate status of the containers in this pod."), |pod, _| {
        Summary::of(pod).reason.into()
    }),
    text(
        "Restarts",
        Text(
            "The number of times the containers in this pod have been restarted and when the last container in this pod \
             has restarted.",
        ),
        |pod, now| {
            let Summary { restarts, last_restart, .. } = Summary::of(pod);
            match last_restart.filter(|_| restarts > 0) {
                Some(at) => format!("{restarts} ({} ago)", since(Some(at), now)).into(),
                None => restarts.to_string().into(),
            }
        },
    ),
    AGE,
    wide("IP", Field("api.core.v1.PodStatus.podIP"), |pod, _| or_none(pod, "/status/podIPs/0/ip")),
    wide("Node", Field("api.core.v1.PodSpec.nodeName"), |pod, _| or_none(pod, "/spec/nodeName")),
    wide("Nominated Node", Field("api.core.v1.PodStatus.nominatedNodeName"), |pod, _| {
        or_none(pod, "/status/nominatedNodeName")
    }),
    wide("Readiness Gates", Field("api.core.v1.PodSpec.readinessGates"), |pod, _| readiness_gates(pod)),
];

/// What a row says of a pod that has ended.
pub(super) fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match string(pod, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

/// What the cells of a pod are made of.
struct Summary<'a> {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn of(pod: &'a Value) -> Self {
        let containers = list(pod, "/spec/containers").len();
        let sidecars = list(pod, "/spec/initContainers").iter().filter(|one| one["restartPolicy"] == "Always").count();
        let mut summary =
            Self { ready: 0, total: containers + sidecars, reason: phase(pod), restarts: 0, last_restart: None };
        let initializing = summary.add_init_containers(pod);
        let initialized = condition(pod, "Initialized").is_some_and(|condition| condition["status"] == "True");
        if !initializing || initialized {
            summary.add_containers(pod);
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if pod["status"]["reason"] == "NodeLost" {
                "Unknown".clone_into(&mut summary.reason);
            } else if !matches!(string(pod, "/status/phase"), "Succeeded" | "Failed") {
                "Terminating".clone_into(&mut summary.reason);
            }
        }
        summary
    }

    /// Counts what the init containers did; true while one of them has not done its part.
    fn add_init_containers(&mut self, pod: &'a Value) -> bool {
        let total = list(pod, "/spec/initContainers").len();
        for (at, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.add_restarts(status);
            let state = &status["state"];
            let terminated = &state["terminated"];
            if terminated["exitCode"] == 0 {
                continue;
            }
            if is_sidecar(pod, status) && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = string(state, "/waiting/reason");
            self.reason = if !terminated.is_null() {
                format!("Init:{}", end_reason(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{at}/{total}")
            };
            return true;
        }
        false
    }

    fn add_containers(&mut self, pod: &'a Value) {
        // Those of init containers that have ended count no more.
        (self.restarts, self.last_restart) = (0, None);
        let sidecars = list(pod, "/status/initContainerStatuses").iter().filter(|status| is_sidecar(pod, status));
        sidecars.for_each(|status| self.add_restarts(status));
        let (mut running, mut failure) = (false, None);
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            self.add_restarts(status);
            let state = &status["state"];
            let (waiting, terminated) = (string(state, "/waiting/reason"), &state["terminated"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if !terminated.is_null() {
                self.reason = end_reason(terminated);
                if terminated["exitCode"].as_i64().unwrap_or(0) != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if status["ready"] == true && !state["running"].is_null() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            let ready = condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True");
            match failure {
                _ if running && ready => "Running".clone_into(&mut self.reason),
                Some(failure) => self.reason = failure,
                None if running => "NotReady".clone_into(&mut self.reason),
                None => {}
            }
        }
    }

    fn add_restarts(&mut self, status: &'a Value) {
        self.restarts += status["restartCount"].as_i64().unwrap_or(0);
        let ended = status["lastState"]["terminated"]["finishedAt"].as_str();
        self.last_restart = self.last_restart.max(ended);
    }
}

fn phase(pod: &Value) -> String {
    if condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled["reason"] == "SchedulingGated") {
        return "SchedulingGated".to_owned();
    }
    let reason = string(pod, "/status/reason");
    if reason.is_empty() { string(pod, "/status/phase") } else { reason }.to_owned()
}

fn end_reason(terminated: &Value) -> String {
    match (string(terminated, "/reason"), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Init containers that are always restarted count as containers.
fn is_sidecar(pod: &Value, status: &Value) -> bool {
    let of_status = |container: &&Value| container["name"] == status["name"];
    let container = list(pod, "/spec/initContainers").iter().find(of_status);
    container.is_some_and(|container| container["restartPolicy"] == "Always")
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = |gate: &&Value| {
        condition(pod, string(gate, "/conditionType")).is_some_and(|condition| condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &Value) -> Value {
        json!({"metadata": {"name": "a"}, "status": status, "spec": {"containers": [{"name": "c"}, {"name": "d"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}})
    }

    #[test]
    fn a_pod_is_described_in_one_word() {
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let sidecar = json!({"name": "s", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}});
        let waiting = json!([{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
        let up = json!({"name": "c", "ready": true, "restartCount": 1, "state": {"running": {}}});
        let completed = json!({"name": "d", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let failed = json!({"name": "c", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}});
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
        let inits = json!([done, sidecar]);
        let table = [
            (json!({"phase": "Pending"}), "0/3", "Pending", 0),
            (json!({"phase": "Pending", "conditions": gated}), "0/3", "SchedulingGated", 0),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"running": {}}}]}),
                "0/3",
                "Init:0/2",
                1,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1}}}]}),
                "0/3",
                "Init:ExitCode:1",
                0,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": inits, "containerStatuses": waiting}),
                "1/3",
                "ImagePullBackOff",
                2,
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": inits, "containerStatuses": [up, completed], "conditions": ready}),
                "2/3",
                "Running",
                3,
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": inits, "containerStatuses": [completed, up]}),
                "2/3",
                "NotReady",
                3,
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": inits, "containerStatuses": [completed, up], "conditions": ready}),
                "2/3",
                "Running",
                3,
            ),
            (
                json!({"phase": "Failed", "initContainerStatuses": inits, "containerStatuses": [completed, failed]}),
                "1/3",
                "Error",
                2,
            ),
            (
                json!({"phase": "Failed", "initContainerStatuses": inits, "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
                "1/3",
                "Signal:9",
                2,
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/3", "Evicted", 0),
        ];
        for (status, ready, word, restarts) in table {
            let pod = pod(&status);
            let summary = Summary::of(&pod);
            let seen = (format!("{}/{}", summary.ready, summary.total), &*summary.reason, summary.restarts);
            assert_eq!(seen, (ready.to_owned(), word, restarts), "{status}");
        }
        let mut leaving = pod(&json!({"phase": "Running"}));
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(Summary::of(&leaving).reason, "Terminating");
    }
}
