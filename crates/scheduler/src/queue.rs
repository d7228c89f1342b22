//! The pods that wait for a node.
//!
//! Each pod is in exactly one state: active (to be looked at next, by priority, then by arrival), in flight (being placed or
//! bound), backing off after a failure, or unschedulable until something changes that may help it. Time is given by the
//! caller. The queue is bounded by the pods that exist.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Key;
use tokio::time::Instant;

use crate::metrics;
use crate::plugins::PluginSet;
use crate::pod::PodInfo;

/// How long a pod waits after its first failure; each further one doubles it. Without, a pod that cannot be placed would be
/// tried at every change of the cluster, before all others of less priority.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After this time an unschedulable pod is tried without a reason: a net under hints that miss something.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// `PrioritySort`: the higher priority first, then who waits longer.
type Rank = (Reverse<i32>, u64);
/// When, and a number that tells apart what falls together.
type Due = (Instant, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gated,
    Active(Rank),
    InFlight,
    Backoff(Due),
    Unschedulable(Due),
}

struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    /// When the pod came.
    came: Instant,
    /// When the last attempt failed.
    failed: Instant,
    rejected_by: PluginSet,
    state: State,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<Key, Entry>,
    active: BTreeMap<Rank, Key>,
    backoff: BTreeMap<Due, Key>,
    unschedulable: BTreeMap<Due, Key>,
    gated: usize,
    next: u64,
}

impl Queue {
    /// Takes in a pod, or its new state. A pod whose needs changed is tried again; other changes (its status) move nothing.
    pub fn upsert(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let key = pod.key.clone();
        if let Some(entry) = self.pods.get_mut(&key) {
            if entry.pod.uid == pod.uid {
                let same = entry.pod.needs == pod.needs;
                let in_flight = entry.state == State::InFlight;
                entry.pod = pod;
                if !same && !in_flight {
                    self.reconsider(&key, now, "UnscheduledPodUpdate");
                }
                return;
            }
            self.remove(&key);
        }
        let rejected_by = PluginSet::default();
        let entry = Entry { pod, attempts: 0, came: now, failed: now, rejected_by, state: State::InFlight };
        self.pods.insert(key.clone(), entry);
        self.reconsider(&key, now, "UnscheduledPodAdd");
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &Key) {
        self.detach(key);
        if let Some(entry) = self.pods.remove(key) {
            metrics::refused_by(entry.rejected_by, -1);
        }
    }

    /// Forgets a pod that was bound, but not its successor of the same name.
    pub fn finish(&mut self, pod: &PodInfo) {
        if self.pods.get(&pod.key).is_some_and(|entry| entry.pod.uid == pod.uid) {
            self.remove(&pod.key);
        }
    }

    /// How often a pod was tried, and when it came.
    pub fn history(&self, key: &Key) -> Option<(u32, Instant)> {
        self.pods.get(key).map(|entry| (entry.attempts, entry.came))
    }

    /// Shows in the metrics who waits where.
    pub fn show(&self) {
        let rows = [
            ("active", self.active.len()),
            ("backoff", self.backoff.len()),
            ("unschedulable", self.unschedulable.len()),
            ("gated", self.gated),
        ];
        rows.into_iter().for_each(|(queue, pods)| metrics::pending(queue, pods));
    }

    /// The next pod to place. It is in flight until [`Queue::remove`], [`Queue::reject`] or [`Queue::retry`].
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, key) = self.active.pop_first()?;
        let entry = self.pods.get_mut(&key).expect("every active key has an entry");
        entry.state = State::InFlight;
        entry.attempts += 1;
        metrics::refused_by(std::mem::take(&mut entry.rejected_by), -1);
        Some(entry.pod.clone())
    }

    /// No node takes the pod: it waits for a change that concerns one of `plugins`.
    pub fn reject(&mut self, key: &Key, plugins: PluginSet, now: Instant) {
        let due = (now + UNSCHEDULABLE_MAX, self.number());
        self.fail(key, now, State::Unschedulable(due), plugins);
    }

    /// Something failed that has nothing to do with nodes: tried again after a while.
    pub fn retry(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.pods.get(key) else { return };
        let due = (now + backoff(entry.attempts), self.number());
        self.fail(key, now, State::Backoff(due), PluginSet::default());
    }

    fn fail(&mut self, key: &Key, now: Instant, state: State, plugins: PluginSet) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        if entry.state != State::InFlight {
            return;
        }
        (entry.failed, entry.rejected_by) = (now, plugins);
        metrics::refused_by(plugins, 1);
        self.attach(key, state, "ScheduleAttemptFailure");
    }

    /// Moves the unschedulable pods that `helps` says a change may help; `event` is the change's name.
    pub fn hint(&mut self, now: Instant, event: &'static str, helps: impl Fn(&PodInfo, PluginSet) -> bool) {
        let helped: Vec<Key> = self
            .unschedulable
            .values()
            .filter(|key| self.pods.get(*key).is_some_and(|entry| helps(&entry.pod, entry.rejected_by)))
            .cloned()
            .collect();
        for key in helped {
            self.reconsider(&key, now, event);
        }
    }

    /// Makes active what has waited long enough.
    pub fn advance(&mut self, now: Instant) {
        let due = |queue: &BTreeMap<Due, Key>| queue.range(..=(now, u64::MAX)).map(|(_, key)| key.clone()).collect();
        let (backed_off, forgotten): (Vec<Key>, Vec<Key>) = (due(&self.backoff), due(&self.unschedulable));
        backed_off.iter().for_each(|key| self.activate(key, "BackoffComplete"));
        forgotten.iter().for_each(|key| self.activate(key, "UnschedulableTimeout"));
    }

    /// When [`Queue::advance`] next has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let first = |queue: &BTreeMap<Due, Key>| queue.first_key_value().map(|(due, _)| due.0);
        [first(&self.backoff), first(&self.unschedulable)].into_iter().flatten().min()
    }

    /// Whether a pod is ready to be placed.
    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// How many pods are here, in flight ones too.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod is here.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Where a pod goes that may have become schedulable: not before its back-off has passed.
    fn reconsider(&mut self, key: &Key, now: Instant, event: &'static str) {
        let Some(entry) = self.pods.get(key) else { return };
        let due = entry.failed + backoff(entry.attempts);
        if !entry.pod.needs.gates.is_empty() {
            self.detach(key);
            self.attach(key, State::Gated, event);
        } else if entry.attempts > 0 && due > now {
            let due = (due, self.number());
            self.detach(key);
            self.attach(key, State::Backoff(due), event);
        } else {
            self.activate(key, event);
        }
    }

    fn activate(&mut self, key: &Key, event: &'static str) {
        let Some(entry) = self.pods.get(key) else { return };
        let priority = Reverse(entry.pod.needs.priority);
        self.detach(key);
        let rank = (priority, self.number());
        self.attach(key, State::Active(rank), event);
    }

    fn attach(&mut self, key: &Key, state: State, event: &'static str) {
        match state {
            State::Active(rank) => {
                self.active.insert(rank, key.clone());
                metrics::incoming(event, "active");
            }
            State::Backoff(due) => {
                self.backoff.insert(due, key.clone());
                metrics::incoming(event, "backoff");
            }
            State::Unschedulable(due) => {
                self.unschedulable.insert(due, key.clone());
                metrics::incoming(event, "unschedulable");
            }
            State::Gated => {
                self.gated += 1;
                metrics::incoming(event, "gated");
            }
            State::InFlight => {}
        }
        self.pods.get_mut(key).expect("the caller looked it up").state = state;
    }

    fn detach(&mut self, key: &Key) {
        match self.pods.get(key).map(|entry| entry.state) {
            Some(State::Active(rank)) => self.active.remove(&rank),
            Some(State::Backoff(due)) => self.backoff.remove(&due),
            Some(State::Unschedulable(due)) => self.unschedulable.remove(&due),
            Some(State::Gated) => {
                self.gated -= 1;
                None
            }
            Some(State::InFlight) | None => None,
        };
        if let Some(entry) = self.pods.get_mut(key) {
            entry.state = State::InFlight;
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// A scheduler that is started again begins with an empty queue.
impl Drop for Queue {
    fn drop(&mut self) {
        self.pods.values().for_each(|entry| metrics::refused_by(entry.rejected_by, -1));
    }
}

fn backoff(attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    BACKOFF_FIRST.saturating_mul(doubled).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::image::What;
    use crate::plugins::PLUGINS;
    use crate::pod::tests::pod;

    fn with_priority(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(pod(name, &json!({"priority": priority, "containers": []})))
    }

    fn popped(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|pod| pod.key.name.to_string()).collect()
    }

    fn rejected_by(name: &str) -> PluginSet {
        let mut set = PluginSet::default();
        set.insert(PLUGINS.iter().position(|plugin| plugin.name == name).unwrap());
        set
    }

    #[test]
    fn by_priority_then_by_arrival() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.upsert(with_priority(name, priority), now);
        }
        assert_eq!(popped(&mut queue), ["b", "d", "a", "c"]);
    }

    #[test]
    fn a_rejected_pod_waits_for_a_change_that_concerns_it_and_for_its_back_off() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let a = with_priority("a", 0);
        queue.upsert(a.clone(), start);
        queue.pop();
        queue.reject(&a.key, rejected_by("NodeResourcesFit"), start);
        let hinted = |what: What| move |_: &PodInfo, plugins: PluginSet| plugins.hinted_by(what);
        queue.hint(at(2), "NodeUpdate", hinted(What::TAINTS));
        assert!(!queue.has_active(), "taints do not make room");
        queue.hint(at(2), "NodeUpdate", hinted(What::RESOURCES));
        assert_eq!(popped(&mut queue), ["a"], "its second of back-off has passed");
        queue.reject(&a.key, rejected_by("NodeResourcesFit"), at(3));
        queue.hint(at(3), "NodeUpdate", hinted(What::RESOURCES));
        assert_eq!(
            (queue.has_active(), queue.next_due()),
            (false, Some(at(5))),
            "two seconds after the second failure"
        );
        queue.advance(at(5));
        assert_eq!(popped(&mut queue), ["a"]);
        queue.reject(&a.key, rejected_by("NodeResourcesFit"), at(6));
        queue.advance(at(305));
        assert!(!queue.has_active());
        queue.advance(at(306));
        assert_eq!(popped(&mut queue), ["a"], "tried at last without any hint");
    }

    #[test]
    fn a_failed_binding_backs_off_and_status_changes_move_nothing() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let a = with_priority("a", 0);
        queue.upsert(a.clone(), start);
        queue.pop();
        queue.upsert(a.clone(), start);
        assert!(!queue.has_active(), "in flight");
        queue.retry(&a.key, start);
        queue.upsert(a.clone(), start);
        assert_eq!((queue.has_active(), queue.next_due()), (false, Some(start + BACKOFF_FIRST)));
        queue.remove(&a.key);
        assert_eq!((queue.next_due(), queue.len()), (None, 0));
    }

    #[test]
    fn a_gated_pod_is_tried_once_its_gates_are_gone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.upsert(Arc::new(pod("a", &json!({"schedulingGates": [{"name": "x"}], "containers": []}))), now);
        queue.advance(now + UNSCHEDULABLE_MAX);
        queue.hint(now, "NodeAdd", |_, _| true);
        assert!(!queue.has_active());
        queue.upsert(with_priority("a", 0), now);
        assert_eq!(popped(&mut queue), ["a"]);
    }

    #[test]
    fn a_successor_of_the_same_name_starts_afresh() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let a = with_priority("a", 0);
        queue.upsert(a.clone(), now);
        queue.pop();
        queue.reject(&a.key, PluginSet::default(), now);
        queue.upsert(Arc::new(PodInfo { uid: "other".into(), ..(*a).clone() }), now);
        assert_eq!(popped(&mut queue), ["a"]);
    }
}
