//! What a Job looks at in its pods. Most of it is in the index beside a pod's bytes; what is not is read where it is needed.

use api::{Object, resources};
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::Value;

use super::TRACKING;

pub(super) const INDEX_LABEL: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// A pod of the Job.
#[derive(Debug, Clone)]
pub(super) struct JobPod {
    pub(super) object: Object,
    pub(super) succeeded: bool,
    pub(super) failed: bool,
    /// Whether it still waits to be counted.
    pub(super) tracked: bool,
    /// Its completion index, if it has one.
    pub(super) index: Option<i64>,
}

impl JobPod {
    /// One that is being adopted gets the finalizer with that.
    pub(super) fn of(object: &Object, adopted: bool) -> Self {
        let phase = object.field(resources::PODS, "status.phase").unwrap_or_default();
        let index = object.label(INDEX_LABEL).and_then(|text| text.parse().ok());
        Self {
            succeeded: phase == "Succeeded",
            failed: phase == "Failed",
            tracked: adopted || object.index().finalizers.iter().any(|name| **name == *TRACKING),
            index: index.filter(|index| *index >= 0),
            object: object.clone(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        !self.succeeded && !self.failed && !self.object.is_deleting()
    }

    pub(super) fn is_terminating(&self) -> bool {
        !self.succeeded && !self.failed && self.object.is_deleting()
    }
}

/// How often its index has failed before, from its annotations: counted failures, and all of them.
pub(super) fn index_failures(pod: &Value) -> (i64, i64) {
    let annotations = &pod["metadata"]["annotations"];
    let number = |name: &str| {
        let count = annotations[name].as_str().and_then(|text| text.parse::<i32>().ok());
        i64::from(count.unwrap_or(0).max(0))
    };
    let counted = number(INDEX_FAILURES);
    (counted, counted + number(INDEX_IGNORED_FAILURES))
}

/// When a pod ended: when the last of its containers did, or else when it stopped being ready, was deleted, was created.
pub(super) fn finished_at(pod: &Value) -> Option<Timestamp> {
    let at = |value: &Value| value.as_str().and_then(|text| time::parse(text).ok());
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ends: Option<Vec<Timestamp>> =
        statuses.map(|status| at(&status["state"]["terminated"]["finishedAt"])).collect();
    if let Some(last) = ends.and_then(|ends| ends.into_iter().max()) {
        return Some(last);
    }
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|one| one["type"] == "Ready" && one["status"] == "False");
    let unready = ready.and_then(|ready| at(&ready["lastTransitionTime"]));
    let meta = &pod["metadata"];
    let deleted = || {
        let grace = SignedDuration::from_secs(meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0));
        at(&meta["deletionTimestamp"]).and_then(|at| at.checked_sub(grace).ok())
    };
    unready.or_else(deleted).or_else(|| at(&meta["creationTimestamp"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_a_pod_is_what_is_known_best() {
        let ended = |at: &str| json!({"state": {"terminated": {"finishedAt": at}}});
        let (one, two) = ("2030-01-01T00:00:01Z", "2030-01-01T00:00:02Z");
        let table = [
            (json!({"status": {"containerStatuses": [ended(two), ended(one)]}}), two),
            (
                json!({"status": {"containerStatuses": [ended(one), {"state": {"running": {}}}],
                    "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": two}]}}),
                two,
            ),
            (json!({"metadata": {"deletionTimestamp": two, "deletionGracePeriodSeconds": 1}}), one),
            (json!({"metadata": {"creationTimestamp": one}}), one),
        ];
        for (pod, at) in table {
            assert_eq!(finished_at(&pod), time::parse(at).ok(), "{pod}");
        }
    }
}
