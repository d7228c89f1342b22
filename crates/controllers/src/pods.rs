//! What controllers look at in a pod, read from its bytes without building a tree of all of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use api::Object;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// A pod's facts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodView<'a> {
    #[serde(borrow)]
    pub(crate) metadata: Meta<'a>,
    #[serde(borrow)]
    pub(crate) spec: Spec<'a>,
    #[serde(borrow)]
    pub(crate) status: Status<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Meta<'a> {
    #[serde(borrow)]
    pub(crate) annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    pub(crate) creation_timestamp: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec<'a> {
    #[serde(borrow)]
    pub(crate) node_name: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Status<'a> {
    #[serde(borrow)]
    pub(crate) phase: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) conditions: Option<Vec<Condition<'a>>>,
    pub(crate) container_statuses: Option<Vec<ContainerStatus>>,
    pub(crate) init_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    pub(crate) last_transition_time: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    pub(crate) restart_count: i64,
}

impl<'a> PodView<'a> {
    /// Reads a pod. One that has another shape counts as a pod without facts, and is logged.
    pub(crate) fn of(pod: &'a Object) -> Self {
        serde_json::from_slice(pod.json()).unwrap_or_else(|error| {
            tracing::error!(pod = %pod.key(), %error, "cannot read a pod");
            Self::default()
        })
    }

    /// Whether all its containers have ended for good.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    /// Whether it takes traffic.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready().is_some_and(|condition| condition.status == "True")
    }

    /// Since when it has been ready.
    pub(crate) fn ready_since(&self) -> Option<Timestamp> {
        self.ready().filter(|condition| condition.status == "True").and_then(|condition| condition.last_transition_time)
    }

    /// How long a pod that is ready has to stay so until it counts as available; `None` when it does.
    pub(crate) fn time_to_available(&self, min_ready: SignedDuration, now: Timestamp) -> Option<Duration> {
        let age = self.ready_since().map_or(SignedDuration::ZERO, |since| now.duration_since(since));
        (age < min_ready).then(|| (min_ready - age).unsigned_abs())
    }

    /// How often its containers were started again, the most of any.
    pub(crate) fn restarts(&self) -> i64 {
        let statuses = self.status.container_statuses.iter().flatten();
        statuses.map(|status| status.restart_count).max().unwrap_or(0)
    }

    /// How often its containers, also those that prepare it, were started again, all together.
    pub(crate) fn all_restarts(&self) -> i64 {
        let statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses).flatten();
        statuses.map(|status| status.restart_count).sum()
    }

    fn ready(&self) -> Option<&Condition<'a>> {
        self.status.conditions.iter().flatten().find(|condition| condition.kind == "Ready")
    }
}

/// Whether it counts as a replica: neither ended nor being deleted.
pub(crate) fn is_active(pod: &Object, view: &PodView<'_>) -> bool {
    !pod.is_deleting() && !view.is_terminal()
}
