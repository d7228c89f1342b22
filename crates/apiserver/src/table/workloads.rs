//! Columns of the kinds that run pods.

use jiff::Timestamp;
use serde_json::Value;

use super::About::{Field, Metadata, Text};
use super::cells::{
    condition, count, human, labels, list, of_containers, or_none, plain, selector, shortened, since, size, string,
};
use super::{AGE, Column, NAME, boolean, number, text, wide};

const TEMPLATE: &str = "/spec/template/spec/containers";
const JOB_TEMPLATE: &str = "/spec/jobTemplate/spec/template/spec/containers";
const NAMES: super::About = Text("Names of each container in the template.");
const PICTURES: super::About = Text("Images referenced by each container in the template.");

const CONTAINERS: Column = wide("Containers", NAMES, |object, _| of_containers(object, TEMPLATE, "name"));
const IMAGES: Column = wide("Images", PICTURES, |object, _| of_containers(object, TEMPLATE, "image"));

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", NAMES, |template, _| of_containers(template, "/template/spec/containers", "name")),
    text("Images", PICTURES, |template, _| of_containers(template, "/template/spec/containers", "image")),
    text("Pod Labels", Text("The labels for the pod template."), |template, _| {
        labels(template, "/template/metadata/labels")
    }),
];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", Text("Number of the pod with ready state"), |deployment, _| {
        ratio(deployment, "/status/readyReplicas", "/spec/replicas")
    }),
    text("Up-to-date", Field("api.apps.v1.DeploymentStatus.updatedReplicas"), |deployment, _| {
        count(deployment, "/status/updatedReplicas")
    }),
    text("Available", Field("api.apps.v1.DeploymentStatus.availableReplicas"), |deployment, _| {
        count(deployment, "/status/availableReplicas")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("api.apps.v1.DeploymentSpec.selector"), |deployment, _| {
        selector(deployment, "/spec/selector")
    }),
];

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", Field("api.apps.v1.ReplicaSetSpec.replicas"), |set, _| count(set, "/spec/replicas")),
    number("Current", Field("api.apps.v1.ReplicaSetStatus.replicas"), |set, _| count(set, "/status/replicas")),
    number("Ready", Field("api.apps.v1.ReplicaSetStatus.readyReplicas"), |set, _| count(set, "/status/readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("api.apps.v1.ReplicaSetSpec.selector"), |set, _| selector(set, "/spec/selector")),
];

pub(super) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    number("Desired", Field("api.core.v1.ReplicationControllerSpec.replicas"), |set, _| count(set, "/spec/replicas")),
    number("Current", Field("api.core.v1.ReplicationControllerStatus.replicas"), |set, _| {
        count(set, "/status/replicas")
    }),
    number("Ready", Field("api.core.v1.ReplicationControllerStatus.readyReplicas"), |set, _| {
        count(set, "/status/readyReplicas")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("api.core.v1.ReplicationControllerSpec.selector"), |set, _| labels(set, "/spec/selector")),
];

pub(super) const STATEFUL_SET: &[Column] = &[
    NAME,
    text("Ready", Text("Number of the pod with ready state"), |set, _| {
        ratio(set, "/status/readyReplicas", "/spec/replicas")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", Field("api.apps.v1.DaemonSetStatus.desiredNumberScheduled"), |set, _| {
        count(set, "/status/desiredNumberScheduled")
    }),
    number("Current", Field("api.apps.v1.DaemonSetStatus.currentNumberScheduled"), |set, _| {
        count(set, "/status/currentNumberScheduled")
    }),
    number("Ready", Field("api.apps.v1.DaemonSetStatus.numberReady"), |set, _| count(set, "/status/numberReady")),
    number("Up-to-date", Field("api.apps.v1.DaemonSetStatus.updatedNumberScheduled"), |set, _| {
        count(set, "/status/updatedNumberScheduled")
    }),
    number("Available", Field("api.apps.v1.DaemonSetStatus.numberAvailable"), |set, _| {
        count(set, "/status/numberAvailable")
    }),
    text("Node Selector", Field("api.core.v1.PodSpec.nodeSelector"), |set, _| {
        labels(set, "/spec/template/spec/nodeSelector")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("api.apps.v1.DaemonSetSpec.selector"), |set, _| selector(set, "/spec/selector")),
];

pub(super) const JOB: &[Column] = &[
    NAME,
    text("Status", Text("Status of the job."), |job, _| job_status(job).into()),
    text("Completions", Field("api.batch.v1.JobStatus.succeeded"), |job, _| job_completions(job)),
    text("Duration", Text("Time required to complete the job."), job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", Field("api.batch.v1.JobSpec.selector"), |job, _| selector(job, "/spec/selector")),
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", Field("api.batch.v1.CronJobSpec.schedule"), |job, _| plain(job, "/spec/schedule")),
    text("Timezone", Field("api.batch.v1.CronJobSpec.timeZone"), |job, _| or_none(job, "/spec/timeZone")),
    boolean("Suspend", Field("api.batch.v1.CronJobSpec.suspend"), |job, _| match job["spec"]["suspend"].as_bool() {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }),
    number("Active", Field("api.batch.v1.CronJobStatus.active"), |job, _| size(job, "/status/active").into()),
    text("Last Schedule", Field("api.batch.v1.CronJobStatus.lastScheduleTime"), |job, now| {
        match job["status"]["lastScheduleTime"].as_str() {
            Some(at) => since(Some(at), now).into(),
            None => "<none>".into(),
        }
    }),
    AGE,
    wide("Containers", NAMES, |job, _| of_containers(job, JOB_TEMPLATE, "name")),
    wide("Images", PICTURES, |job, _| of_containers(job, JOB_TEMPLATE, "image")),
    wide("Selector", Field("api.batch.v1.JobSpec.selector"), |job, _| selector(job, "/spec/jobTemplate/spec/selector")),
];

pub(super) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text("Controller", Text("Controller of the object"), |revision, _| {
        let owners = list(revision, "/metadata/ownerReferences");
        let owner = owners.iter().find(|owner| owner["controller"] == true);
        owner.map_or_else(|| "<none>".into(), owner_name)
    }),
    text("Revision", Field("api.apps.v1.ControllerRevision.revision"), |revision, _| count(revision, "/revision")),
    AGE,
];

pub(super) const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", Text("The minimum number of pods that must be available."), |budget, _| {
        or_not_available(budget, "/spec/minAvailable")
    }),
    text("Max Unavailable", Text("The maximum number of pods that may be unavailable."), |budget, _| {
        or_not_available(budget, "/spec/maxUnavailable")
    }),
    number(
        "Allowed Disruptions",
        Text("Calculated number of pods that may be disrupted at this time."),
        |budget, _| count(budget, "/status/disruptionsAllowed"),
    ),
    AGE,
];

pub(super) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec.scaleTargetRef"), |autoscaler, _| {
        let target = |field: &str| string(&autoscaler["spec"]["scaleTargetRef"], field).to_owned();
        format!("{}/{}", target("/kind"), target("/name")).into()
    }),
    text("Targets", Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec.metrics"), |autoscaler, _| {
        let current = list(autoscaler, "/status/currentMetrics");
        let wanted = list(autoscaler, "/spec/metrics").iter().enumerate();
        let metrics: Vec<String> = wanted.map(|(at, metric)| target(metric, current.get(at))).collect();
        if metrics.is_empty() { "<none>".into() } else { shortened(metrics, 2, ", ").into() }
    }),
    text("MinPods", Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec.minReplicas"), |autoscaler, _| {
        let least = autoscaler["spec"]["minReplicas"].as_i64();
        least.map_or_else(|| "<unset>".into(), |least| least.to_string().into())
    }),
    text("MaxPods", Field("api.autoscaling.v2.HorizontalPodAutoscalerSpec.maxReplicas"), |autoscaler, _| {
        count(autoscaler, "/spec/maxReplicas")
    }),
    text("Replicas", Field("api.autoscaling.v2.HorizontalPodAutoscalerStatus.currentReplicas"), |autoscaler, _| {
        count(autoscaler, "/status/currentReplicas")
    }),
    AGE,
];

pub(super) const SCALE: &[Column] = &[
    Column { format: "", ..NAME },
    number("Desired", Field("api.autoscaling.v1.ScaleSpec.replicas"), |scale, _| count(scale, "/spec/replicas")),
    number("Available", Field("api.autoscaling.v1.ScaleStatus.replicas"), |scale, _| count(scale, "/status/replicas")),
    Column { about: Metadata("creationTimestamp"), ..AGE },
];

fn ratio(object: &Value, part: &str, whole: &str) -> Value {
    format!("{}/{}", count(object, part), count(object, whole)).into()
}

fn or_not_available(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(number) => number.to_string().into(),
        None => "N/A".into(),
    }
}

/// `deployment.apps/web`
fn owner_name(owner: &Value) -> Value {
    let kind = string(owner, "/kind").to_lowercase();
    let group = string(owner, "/apiVersion").split_once('/').map_or_else(String::new, |(group, _)| format!(".{group}"));
    format!("{kind}{group}/{}", string(owner, "/name")).into()
}

fn job_status(job: &Value) -> &'static str {
    let has = |kind: &str| condition(job, kind).is_some_and(|condition| condition["status"] == "True");
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

/// What a metric is and what it is to be: `cpu: 12%/50%`.
fn target(metric: &Value, status: Option<&Value>) -> String {
    let field = match string(metric, "/type") {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (metric, status) = (&metric[field], status.map(|status| &status[field]));
    let current = |name: &str| status.map(|status| &status["current"][name]).filter(|value| !value.is_null());
    let quantity = |name: &str| current(name).and_then(Value::as_str).unwrap_or("<unknown>").to_owned();
    let wanted = |name: &str| string(&metric["target"], &format!("/{name}")).to_owned();
    let average = !metric["target"]["averageValue"].is_null();
    match (field, average) {
        ("resource" | "containerResource", true) => {
            format!("{}: {}/{}", string(metric, "/name"), quantity("averageValue"), wanted("averageValue"))
        }
        ("resource" | "containerResource", false) => {
            let percent =
                |value: Option<i64>, none: &str| value.map_or_else(|| none.to_owned(), |value| format!("{value}%"));
            let now = percent(current("averageUtilization").and_then(Value::as_i64), "<unknown>");
            let wanted = percent(metric["target"]["averageUtilization"].as_i64(), "<auto>");
            format!("{}: {now}/{wanted}", string(metric, "/name"))
        }
        ("pods", _) => format!("{}/{}", quantity("averageValue"), wanted("averageValue")),
        (_, true) => format!("{}/{} (avg)", quantity("averageValue"), wanted("averageValue")),
        (_, false) => format!("{}/{}", quantity("value"), wanted("value")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_metric_is_told_with_what_it_is_to_be() {
        let resource = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let used = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12, "averageValue": "3m"}}});
        let object = json!({"type": "Object", "object": {"target": {"type": "Value", "value": "10"}}});
        let external = json!({"type": "External", "external": {"target": {"averageValue": "5"}}});
        let seen = json!({"type": "External", "external": {"current": {"averageValue": "4"}}});
        let table = [
            (&resource, None, "cpu: <unknown>/50%"),
            (&resource, Some(&used), "cpu: 12%/50%"),
            (&object, None, "<unknown>/10"),
            (&external, Some(&seen), "4/5 (avg)"),
        ];
        for (metric, status, expected) in table {
            assert_eq!(target(metric, status), expected);
        }
    }
}
