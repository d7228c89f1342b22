//! Columns of the kinds that run pods.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, count, human, joined, list, number, or_none, selector, since, text, wide};

const CONTAINERS: Column = wide("Containers", |object, _| of_containers(object, "name"));
const IMAGES: Column = wide("Images", |object, _| of_containers(object, "image"));
const SELECTOR: Column = wide("Selector", |object, _| selector(object, "/spec/selector"));

pub(super) const DEPLOYMENT: &[Column] = &[
    text("Ready", |deployment, _| ratio(deployment, "/status/readyReplicas", "/spec/replicas")),
    text("Up-to-date", |deployment, _| count(deployment, "/status/updatedReplicas")),
    text("Available", |deployment, _| count(deployment, "/status/availableReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REPLICA_SET: &[Column] = &[
    number("Desired", |set, _| count(set, "/spec/replicas")),
    number("Current", |set, _| count(set, "/status/replicas")),
    number("Ready", |set, _| count(set, "/status/readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Column] =
    &[text("Ready", |set, _| ratio(set, "/status/readyReplicas", "/spec/replicas")), AGE, CONTAINERS, IMAGES];

pub(super) const DAEMON_SET: &[Column] = &[
    number("Desired", |set, _| count(set, "/status/desiredNumberScheduled")),
    number("Current", |set, _| count(set, "/status/currentNumberScheduled")),
    number("Ready", |set, _| count(set, "/status/numberReady")),
    number("Up-to-date", |set, _| count(set, "/status/updatedNumberScheduled")),
    number("Available", |set, _| count(set, "/status/numberAvailable")),
    text("Node Selector", |set, _| selector(set, "/spec/template/spec/nodeSelector")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const JOB: &[Column] = &[
    text("Status", |job, _| job_status(job).into()),
    text("Completions", |job, _| job_completions(job)),
    text("Duration", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Column] = &[
    text("Schedule", |job, _| or_none(job, "/spec/schedule")),
    text("Timezone", |job, _| or_none(job, "/spec/timeZone")),
    text("Suspend", |job, _| if job["spec"]["suspend"] == true { "True".into() } else { "False".into() }),
    number("Active", |job, _| list(job, "/status/active").len().into()),
    text("Last Schedule", |job, now| match job["status"]["lastScheduleTime"].as_str() {
        Some(at) => since(Some(at), now).into(),
        None => "<none>".into(),
    }),
    AGE,
    wide("Containers", |job, _| of_containers_at(job, "/spec/jobTemplate/spec/template/spec/containers", "name")),
    wide("Images", |job, _| of_containers_at(job, "/spec/jobTemplate/spec/template/spec/containers", "image")),
];

pub(super) const POD_DISRUPTION_BUDGET: &[Column] = &[
    text("Min Available", |budget, _| or_not_available(budget, "/spec/minAvailable")),
    text("Max Unavailable", |budget, _| or_not_available(budget, "/spec/maxUnavailable")),
    number("Allowed Disruptions", |budget, _| count(budget, "/status/disruptionsAllowed")),
    AGE,
];

pub(super) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    text("Reference", |autoscaler, _| {
        let target = &autoscaler["spec"]["scaleTargetRef"];
        let field = |name: &str| target[name].as_str().unwrap_or_default();
        format!("{}/{}", field("kind"), field("name")).into()
    }),
    text("MinPods", |autoscaler, _| or_unset(autoscaler, "/spec/minReplicas")),
    text("MaxPods", |autoscaler, _| count(autoscaler, "/spec/maxReplicas")),
    text("Replicas", |autoscaler, _| count(autoscaler, "/status/currentReplicas")),
    AGE,
];

fn of_containers(object: &Value, field: &str) -> Value {
    of_containers_at(object, "/spec/template/spec/containers", field)
}

fn of_containers_at(object: &Value, pointer: &str, field: &str) -> Value {
    joined(list(object, pointer).into_iter().filter_map(|container| container[field].as_str()))
}

fn ratio(object: &Value, part: &str, whole: &str) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    format!("{}/{}", number(part), number(whole)).into()
}

fn or_unset(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).map_or_else(|| "<unset>".into(), |value| value.to_string().into())
}

fn or_not_available(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(number) => number.to_string().into(),
        None => "N/A".into(),
    }
}

fn job_status(job: &Value) -> &'static str {
    let has =
        |kind: &str| list(job, "/status/conditions").iter().any(|one| one["type"] == kind && one["status"] == "True");
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if !job["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn job_completions(job: &Value) -> Value {
    let succeeded = job["status"]["succeeded"].as_i64().unwrap_or(0);
    match (job["spec"]["completions"].as_i64(), job["spec"]["parallelism"].as_i64().unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}").into(),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}").into(),
        (None, _) => format!("{succeeded}/1").into(),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> Value {
    let time = |field: &str| job["status"][field].as_str().and_then(|at| machinery::time::parse(at).ok());
    match (time("startTime"), time("completionTime")) {
        (None, _) => "".into(),
        (Some(start), end) => human(end.unwrap_or(now).duration_since(start).as_secs()).into(),
    }
}
