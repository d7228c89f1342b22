//! What a StatefulSet's next steps are. Pure: a view in, a plan out.

use std::collections::BTreeMap;

use api::{Key, Object};
use control::Next;
use serde_json::{Value, json};

use super::claim::{self, Policy};
use super::members::{Member, NAME_LABEL, new_pod};
use crate::history::{History, Revision};

/// All that a plan is made from.
pub(super) struct View<'a> {
    pub(super) object: &'a Object,
    pub(super) set: &'a Value,
    pub(super) history: &'a History,
    pub(super) members: Vec<Member<'a>>,
    /// Looks up a claim by its name.
    pub(super) claim: &'a dyn Fn(&str) -> Option<Object>,
}

/// What to do, in this order, and the status.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) status: Value,
    pub(super) next: Next,
}

/// One step.
#[derive(Debug)]
pub(super) enum Step {
    Create { pod: Value, claims: Vec<Value> },
    CreateClaims { pod: String, claims: Vec<Value> },
    Blocked { pod: String, why: String },
    UpdatePod { key: Key, pod: Value },
    UpdateClaim { key: Key, claim: Value, conflict: bool },
    Delete { key: Key, uid: String },
}

/// Decides.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut work = Work::new(view);
    if !view.object.is_deleting() {
        work.all();
    }
    let waits = view.members.iter().filter_map(|member| match member.next {
        Next::After(delay) => Some(delay),
        Next::OnChange => None,
    });
    let next = waits.min().map_or(Next::OnChange, Next::After);
    Plan { status: work.status(), steps: work.steps, next }
}

/// Whether the pods that come later have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Wait,
}

struct Work<'a> {
    view: &'a View<'a>,
    steps: Vec<Step>,
    current: &'a Revision,
    start: i64,
    replicas: i64,
    ordered: bool,
    policy: Policy,
    /// The pods of the numbers that the set has.
    living: BTreeMap<i64, &'a Member<'a>>,
    /// The pods of other numbers, the highest first.
    condemned: Vec<&'a Member<'a>>,
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let spec = &view.set["spec"];
        let start = spec["ordinals"]["start"].as_i64().unwrap_or(0);
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let numbers = start..start + replicas;
        let (living, condemned): (Vec<_>, Vec<_>) = view
            .members
            .iter()
            .filter(|member| member.ordinal >= 0)
            .partition(|member| numbers.contains(&member.ordinal));
        let mut condemned = condemned;
        condemned.sort_by_key(|member| -member.ordinal);
        let name = view.set["status"]["currentRevision"].as_str().unwrap_or_default();
        let current = view.history.revisions.iter().find(|revision| revision.name() == name);
        Self {
            view,
            steps: vec![],
            current: current.unwrap_or(view.history.update()),
            start,
            replicas,
            ordered: spec["podManagementPolicy"] != "Parallel",
            policy: Policy::of(view.set),
            living: living.into_iter().map(|member| (member.ordinal, member)).collect(),
            condemned,
        }
    }

    fn all(&mut self) {
        let flow = self.bring_up();
        if flow == Flow::Wait {
            return;
        }
        for member in self.condemned.clone() {
            self.fix_claims(member, true);
        }
        if self.scale_down() == Flow::Wait {
            return;
        }
        self.update();
    }

    /// Each pod that there should be, from the lowest number on.
    fn bring_up(&mut self) -> Flow {
        for ordinal in self.start..self.start + self.replicas {
            let flow = match self.living.get(&ordinal).copied() {
                Some(member) => self.tend(member),
                None => self.create(ordinal),
            };
            if self.ordered && flow == Flow::Wait {
                return Flow::Wait;
            }
        }
        Flow::GoOn
    }

    fn tend(&mut self, member: &Member<'_>) -> Flow {
        if member.ended {
            // Whatever the reason of its end: a set's pods run.
            if !member.object.is_deleting() {
                self.delete(member);
            }
            return Flow::Wait;
        }
        if member.pending {
            let claims = self.missing_claims(member.ordinal);
            if !claims.is_empty() {
                self.steps.push(Step::CreateClaims { pod: member.object.key().name.to_string(), claims });
            }
            // Not only once it is ready: its set may be deleted before.
            self.fix_claims(member, false);
        }
        let waits = member.object.is_deleting() || !member.ready || !member.available;
        if self.ordered && waits {
            return Flow::Wait;
        }
        if !member.object.is_deleting() {
            self.fix_identity(member);
            if !member.pending {
                self.fix_claims(member, false);
            }
        }
        Flow::GoOn
    }

    fn create(&mut self, ordinal: i64) -> Flow {
        let (object, set) = (self.view.object, self.view.set);
        let pod_name = format!("{}-{ordinal}", object.key().name);
        let claims = claim::names(set, &object.key().name, ordinal);
        let present: Vec<Object> = claims.iter().filter_map(|name| (self.view.claim)(name)).collect();
        if present.iter().any(|claim| self.policy.is_stale(claim, &pod_name)) {
            return Flow::Wait;
        }
        if let Some(going) = present.iter().find(|claim| claim.is_deleting()) {
            let why = format!("pvc {} is being deleted", going.key().name);
            self.steps.push(Step::Blocked { pod: pod_name, why });
            return Flow::Wait;
        }
        let revision = self.revision_of(ordinal);
        let pod = new_pod(object, set, revision, ordinal);
        let claims = self.missing_claims(ordinal);
        self.steps.push(Step::Create { pod, claims });
        Flow::Wait
    }

    /// Which revision a new pod of that number gets: below the partition the current one.
    fn revision_of(&self, ordinal: i64) -> &'a Revision {
        let strategy = &self.view.set["spec"]["updateStrategy"];
        let rolling = &strategy["rollingUpdate"];
        let keeps = if rolling.is_object() {
            rolling["partition"].as_i64().unwrap_or(0)
        } else if strategy["type"] == "RollingUpdate" {
            self.view.set["status"]["currentReplicas"].as_i64().unwrap_or(0)
        } else {
            0
        };
        if ordinal < self.start + keeps { self.current } else { self.view.history.update() }
    }

    fn missing_claims(&self, ordinal: i64) -> Vec<Value> {
        let (object, set) = (self.view.object, self.view.set);
        let names = claim::names(set, &object.key().name, ordinal).into_iter();
        let missing = names.filter(|name| (self.view.claim)(name).is_none());
        missing.filter_map(|name| claim::new(object, set, &name, ordinal)).collect()
    }

    fn fix_identity(&mut self, member: &Member<'_>) {
        let (key, name) = (member.object.key(), &*member.object.key().name);
        if member.object.label(NAME_LABEL) == Some(name) {
            return;
        }
        let mut pod = member.object.to_value();
        pod["metadata"]["labels"][NAME_LABEL] = name.into();
        self.steps.push(Step::UpdatePod { key: key.clone(), pod });
    }

    fn fix_claims(&mut self, member: &Member<'_>, scaled_down: bool) {
        let object = self.view.object;
        for name in claim::names(self.view.set, &object.key().name, member.ordinal) {
            let Some(present) = (self.view.claim)(&name) else { continue };
            if let Some(change) = claim::change(self.policy, &present, object, member.object, scaled_down) {
                let claim::Change { claim, conflict } = change;
                self.steps.push(Step::UpdateClaim { key: present.key().clone(), claim, conflict });
            }
        }
    }

    /// Takes away the pods of numbers that the set does not have: all at once, or the highest alone.
    fn scale_down(&mut self) -> Flow {
        if !self.ordered {
            let (before, condemned) = (self.steps.len(), self.condemned.clone());
            condemned.into_iter().filter(|member| !member.object.is_deleting()).for_each(|member| self.delete(member));
            return if self.steps.len() > before { Flow::Wait } else { Flow::GoOn };
        }
        let Some(highest) = self.condemned.first().copied() else { return Flow::GoOn };
        let broken = self.first_unavailable();
        let is_first_broken = broken.is_some_and(|broken| std::ptr::eq(broken, highest));
        let healthy = highest.ready && highest.available;
        if !highest.object.is_deleting() && (healthy || is_first_broken) {
            self.delete(highest);
        }
        Flow::Wait
    }

    fn first_unavailable(&self) -> Option<&'a Member<'a>> {
        let all = self.living.values().chain(self.condemned.iter().rev());
        all.copied().find(|member| member.is_unavailable())
    }

    /// Replaces the pod with the highest number that is not of the newest revision, once all above it are available.
    fn update(&mut self) {
        let strategy = &self.view.set["spec"]["updateStrategy"];
        if strategy["type"] == "OnDelete" {
            return;
        }
        let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
        let update = self.view.history.update().name();
        for ordinal in (self.start + partition..self.start + self.replicas).rev() {
            let Some(member) = self.living.get(&ordinal).copied() else { return };
            if member.revision() != update && !member.object.is_deleting() {
                // One that has ended goes for that reason already.
                if !member.ended {
                    self.delete(member);
                }
                return;
            }
            if member.is_unavailable() {
                return;
            }
        }
    }

    fn delete(&mut self, member: &Member<'_>) {
        let (key, uid) = (member.object.key().clone(), member.object.uid().to_owned());
        self.steps.push(Step::Delete { key, uid });
    }

    /// The status, of the pods as they are.
    fn status(&self) -> Value {
        let (update, current) = (self.view.history.update().name(), self.current.name());
        let count = |holds: &dyn Fn(&Member<'_>) -> bool| {
            i64::try_from(self.view.members.iter().filter(|member| holds(member)).count()).unwrap_or(i64::MAX)
        };
        let of = |revision: &str| count(&|member| !member.object.is_deleting() && member.revision() == revision);
        let (replicas, ready) = (count(&|_| true), count(&|member| member.ready));
        let (mut of_current, of_update) = (of(current), of(update));
        let mut current = current;
        let rolling = self.view.set["spec"]["updateStrategy"]["type"] == "RollingUpdate";
        if rolling && [of_update, ready, replicas].iter().all(|count| *count == self.replicas) {
            (of_current, current) = (of_update, update);
        }
        let mut status = json!({"observedGeneration": self.view.set["metadata"]["generation"], "replicas": replicas});
        for (field, count) in
            [("readyReplicas", ready), ("currentReplicas", of_current), ("updatedReplicas", of_update)]
        {
            if count > 0 {
                status[field] = count.into();
            }
        }
        status["currentRevision"] = current.into();
        status["updateRevision"] = update.into();
        status["collisionCount"] = self.view.set["status"]["collisionCount"].as_i64().unwrap_or(0).into();
        status["availableReplicas"] = count(&|member| member.ready && member.available).into();
        if let Some(conditions) = self.view.set["status"].get("conditions") {
            status["conditions"] = conditions.clone();
        }
        status
    }
}
