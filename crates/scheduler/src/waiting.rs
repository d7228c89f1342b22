//! Pods that were placed and wait on their node for their volumes. Time is given by the caller; the pods that exist are the
//! bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Key;
use tokio::time::Instant;

use crate::metrics::Watch;
use crate::pod::PodInfo;
use crate::volumes::{Decision, Progress, Storage};

/// How long volumes may take: upstream's default of `bindTimeoutSeconds`. A provisioner that is not there would otherwise keep
/// the room on the node for ever.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);

struct Entry {
    pod: Arc<PodInfo>,
    watch: Watch,
    decision: Decision,
    until: Instant,
    /// Whether what its volumes need is written.
    asked: bool,
}

/// What is to be done for a pod that has waited.
pub(crate) enum Step {
    /// Its volumes are bound.
    Bind { node: Arc<str>, watch: Watch },
    /// They will not be.
    GiveUp { watch: Watch, decision: Decision, why: String },
}

/// The pods.
#[derive(Default)]
pub(crate) struct Waiting {
    pods: HashMap<Key, Entry>,
    /// One was asked for since all were last looked at.
    asked: bool,
}

impl Waiting {
    pub(crate) fn insert(&mut self, pod: Arc<PodInfo>, watch: Watch, decision: Decision, now: Instant) {
        let key = pod.key.clone();
        self.pods.insert(key, Entry { pod, watch, decision, until: now + BIND_TIMEOUT, asked: false });
    }

    /// What a pod's volumes need has been written.
    pub(crate) fn asked(&mut self, pod: &PodInfo) {
        if let Some(entry) = self.pods.get_mut(&pod.key).filter(|entry| entry.pod.uid == pod.uid) {
            entry.asked = true;
            self.asked = true;
        }
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.pods.contains_key(key)
    }

    /// Forgets a pod: what was reserved for it.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Decision> {
        self.pods.remove(key).map(|entry| entry.decision)
    }

    /// The same for this very pod, with its watch.
    pub(crate) fn take(&mut self, pod: &PodInfo) -> Option<(Decision, Watch)> {
        self.pods.get(&pod.key).filter(|entry| entry.pod.uid == pod.uid)?;
        self.pods.remove(&pod.key).map(|entry| (entry.decision, entry.watch))
    }

    /// When the first has waited too long.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.pods.values().map(|entry| entry.until).min()
    }

    /// The pods that wait no longer, in the order of their keys. Looks only where `changed` says that something of storage
    /// did, or where time is up.
    pub(crate) fn steps(&mut self, storage: &Storage, changed: bool, now: Instant) -> Vec<(Arc<PodInfo>, Step)> {
        let changed = std::mem::take(&mut self.asked) | changed;
        if self.pods.is_empty() || !(changed || self.next_due().is_some_and(|due| due <= now)) {
            return Vec::new();
        }
        let ended = |entry: &Entry| match storage.progress(&entry.decision) {
            // What was seen before the answer to a write came is true all the same.
            Progress::Bound if entry.asked => Some(None),
            Progress::Failed(why) if entry.asked => Some(Some(why)),
            _ if entry.until <= now => Some(Some("context deadline exceeded".to_owned())),
            _ => None,
        };
        let mut done: Vec<(Key, Option<String>)> =
            self.pods.iter().filter_map(|(key, entry)| Some((key.clone(), ended(entry)?))).collect();
        done.sort();
        let step = |(key, failure): (Key, Option<String>)| {
            let Entry { pod, watch, decision, .. } = self.pods.remove(&key)?;
            let step = match failure {
                None => Step::Bind { node: decision.node, watch },
                Some(why) => Step::GiveUp { watch, decision, why },
            };
            Some((pod, step))
        };
        done.into_iter().filter_map(step).collect()
    }
}
