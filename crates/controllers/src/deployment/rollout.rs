//! What a Deployment's next writes are. Pure: a view in, a plan out.

use api::Key;
use control::Next;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::sets::{self, DESIRED, MAX, REVISION, Set};
use super::status;
use crate::conditions;

/// All that a plan is made from.
pub(super) struct View<'a> {
    pub(super) deployment: &'a Value,
    pub(super) deleting: bool,
    pub(super) sets: Vec<Set>,
    pub(super) now: Timestamp,
}

/// What to do, in this order, and the Deployment as it will be.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) deployment: Option<Updated>,
    pub(super) next: Next,
}

/// The changed Deployment and which parts of it changed.
#[derive(Debug)]
pub(super) struct Updated {
    pub(super) value: Value,
    pub(super) metadata: bool,
    pub(super) status: bool,
}

/// One write of a ReplicaSet; `message` is of the event `ScalingReplicaSet`.
#[derive(Debug)]
pub(super) enum Action {
    Create { set: Value, message: Option<String> },
    Update { key: Key, set: Value, message: Option<String> },
    Delete { key: Key, uid: String },
}

impl View<'_> {
    pub(super) fn spec(&self) -> &Value {
        &self.deployment["spec"]
    }

    pub(super) fn replicas(&self) -> i64 {
        self.spec()["replicas"].as_i64().unwrap_or(1)
    }

    pub(super) fn recreates(&self) -> bool {
        self.spec()["strategy"]["type"] == "Recreate"
    }

    /// How many pods more than asked for there may be for a while; rounded up.
    pub(super) fn max_surge(&self) -> i64 {
        self.fence_posts().0
    }

    /// How many pods may be missing; rounded down.
    pub(super) fn max_unavailable(&self) -> i64 {
        self.fence_posts().1.min(self.replicas())
    }

    fn fence_posts(&self) -> (i64, i64) {
        let rolling = &self.spec()["strategy"]["rollingUpdate"];
        if self.recreates() || self.replicas() == 0 {
            return (0, 0);
        }
        let quarter = json!("25%");
        let or_quarter = |value: &Value| if value.is_null() { quarter.clone() } else { value.clone() };
        let surge = share(&or_quarter(&rolling["maxSurge"]), self.replicas(), Rounding::Up);
        let unavailable = share(&or_quarter(&rolling["maxUnavailable"]), self.replicas(), Rounding::Down);
        // Both zero would be no way forward.
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }
}

#[derive(Debug, Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

/// A number, or a percentage of `total`.
fn share(value: &Value, total: i64, rounding: Rounding) -> i64 {
    let Some(percent) = value.as_str() else { return value.as_i64().unwrap_or(0) };
    let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
    match rounding {
        Rounding::Up => (percent * total + 99) / 100,
        Rounding::Down => percent * total / 100,
    }
}

/// Decides.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut work = Work::new(view);
    if view.deleting {
        return work.finish(Progress::Leave);
    }
    let paused = view.spec()["paused"] == true;
    work.set_paused_condition(paused);
    // One that recreates has nothing to share out: it scales as it goes.
    if paused || !view.recreates() && work.is_scaling_event() {
        work.sync_revision(false);
        work.scale();
        if paused {
            work.clean_up();
        }
        return work.finish(Progress::Leave);
    }
    if view.recreates() {
        work.recreate();
    } else {
        work.roll();
    }
    work.finish(Progress::Update)
}

/// Whether the condition `Progressing` is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Leave,
    Update,
}

/// A plan in the making. `sets` shows them as they will be.
struct Work<'a> {
    view: &'a View<'a>,
    sets: Vec<Set>,
    deployment: Value,
    new: Option<usize>,
    actions: Vec<Action>,
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut sets = view.sets.clone();
        sets.sort_by(|a, b| (a.created(), &a.key).cmp(&(b.created(), &b.key)));
        let uid = sets::find_new(view.deployment, &sets).map(|set| set.uid.clone());
        let new = uid.and_then(|uid| sets.iter().position(|set| set.uid == uid));
        Self { view, sets, deployment: view.deployment.clone(), new, actions: vec![] }
    }

    fn new_set(&self) -> Option<&Set> {
        self.new.map(|at| &self.sets[at])
    }

    /// The numbers of the old sets, the oldest first.
    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|at| Some(*at) != self.new).collect()
    }

    fn old_active(&self) -> Vec<usize> {
        self.old().into_iter().filter(|at| self.sets[*at].replicas() > 0).collect()
    }

    fn total_replicas(&self) -> i64 {
        self.sets.iter().map(Set::replicas).sum()
    }

    /// Whether the number of replicas was changed while a rollout is under way: then the sets grow or shrink in
    /// proportion, before the rollout goes on.
    fn is_scaling_event(&self) -> bool {
        let active = self.sets.iter().filter(|set| set.replicas() > 0);
        active.into_iter().any(|set| set.number(DESIRED).is_some_and(|desired| desired != self.view.replicas()))
    }

    fn set_paused_condition(&mut self, paused: bool) {
        if !status::has_progress_deadline(self.view) {
            return;
        }
        let reason = conditions::find(&self.deployment["status"], "Progressing").map(|found| found["reason"].clone());
        if reason.as_ref().is_some_and(|reason| reason == "ProgressDeadlineExceeded") {
            return;
        }
        let was = reason.is_some_and(|reason| reason == "DeploymentPaused");
        let (why, message) = match (paused, was) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        status::set_condition(&mut self.deployment["status"], "Progressing", "Unknown", why, message, self.view.now);
    }

    /// Finds the new set, or makes it where `create` says so, and gives it and the Deployment the newest revision.
    fn sync_revision(&mut self, create: bool) {
        let old = self.old().into_iter().map(|at| self.sets[at].revision()).max().unwrap_or(0);
        let revision = old + 1;
        match self.new {
            Some(at) => {
                let mut updated = self.sets[at].value.clone();
                sets::annotate_new(&mut updated, self.view, revision);
                let seconds = self.view.spec()["minReadySeconds"].as_i64().unwrap_or(0);
                if updated["spec"]["minReadySeconds"].as_i64().unwrap_or(0) != seconds {
                    updated["spec"]["minReadySeconds"] = seconds.into();
                }
                self.update(at, updated, None);
                let revision = self.sets[at].annotation(REVISION).map(str::to_owned);
                self.set_revision(revision);
                let name = self.sets[at].key.name.clone();
                let progressing = conditions::find(&self.deployment["status"], "Progressing").is_some();
                if status::has_progress_deadline(self.view) && !progressing {
                    self.progress("FoundNewReplicaSet", &format!("Found new replica set \"{name}\""));
                }
            }
            None if create => {
                let replicas = self.new_replicas(0);
                let set = sets::new_set(self.view, revision, replicas);
                let name = set["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let message = (replicas > 0).then(|| format!("Scaled up replica set {name} from 0 to {replicas}"));
                self.actions.push(Action::Create { set, message });
                self.set_revision(Some(revision.to_string()));
                if status::has_progress_deadline(self.view) {
                    self.progress("NewReplicaSetCreated", &format!("Created new replica set \"{name}\""));
                }
            }
            None => {}
        }
    }

    fn set_revision(&mut self, revision: Option<String>) {
        if let Some(revision) = revision {
            self.deployment["metadata"]["annotations"][REVISION] = revision.into();
        }
    }

    fn progress(&mut self, reason: &str, message: &str) {
        status::set_condition(&mut self.deployment["status"], "Progressing", "True", reason, message, self.view.now);
    }

    /// How many replicas the new set, which has `present`, may have now.
    fn new_replicas(&self, present: i64) -> i64 {
        let wanted = self.view.replicas();
        if self.view.recreates() {
            return wanted;
        }
        let room = wanted + self.view.max_surge() - self.total_replicas();
        if room <= 0 { present } else { present + room.min(wanted - present) }
    }

    /// Notes a changed set; writes nothing when it says the same.
    fn update(&mut self, at: usize, value: Value, message: Option<String>) {
        if value == self.sets[at].value {
            return;
        }
        let key = self.sets[at].key.clone();
        self.sets[at].value = value.clone();
        // A set that is written twice is written once, with both changes.
        let earlier = self.actions.iter_mut().find_map(|action| match action {
            Action::Update { key: of, set, message } if *of == key => Some((set, message)),
            _ => None,
        });
        match earlier {
            Some((set, earlier)) => {
                *set = value;
                *earlier = message.or(earlier.take());
            }
            None => self.actions.push(Action::Update { key, set: value, message }),
        }
    }

    /// Scales a set, and notes on it what was wanted.
    fn scale_set(&mut self, at: usize, replicas: i64) {
        let (before, name) = (self.sets[at].replicas(), self.sets[at].key.name.clone());
        let mut value = self.sets[at].value.clone();
        sets::annotate_scale(&mut value, self.view);
        value["spec"]["replicas"] = replicas.into();
        let direction = if replicas > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {before} to {replicas}");
        self.update(at, value, (replicas != before).then_some(message));
    }

    fn roll(&mut self) {
        self.sync_revision(true);
        let Some(new) = self.new else { return };
        let (present, wanted) = (self.sets[new].replicas(), self.view.replicas());
        if present != wanted {
            let target = if present > wanted { wanted } else { self.new_replicas(present) };
            if target != present {
                return self.scale_set(new, target);
            }
        }
        if self.scale_down_old(new) {
            return;
        }
        self.clean_up_if_complete();
    }

    /// Takes pods away from the old sets, unhealthy ones first, as far as enough stay available.
    fn scale_down_old(&mut self, new: usize) -> bool {
        let old = self.old_active();
        let minimum = self.view.replicas() - self.view.max_unavailable();
        let new_missing = self.sets[new].replicas() - self.sets[new].count("availableReplicas");
        let mut allowed = self.total_replicas() - minimum - new_missing;
        if old.is_empty() || allowed <= 0 {
            return false;
        }
        let mut targets: Vec<(usize, i64)> = old.iter().map(|at| (*at, self.sets[*at].replicas())).collect();
        for (at, target) in &mut targets {
            let unhealthy = (*target - self.sets[*at].count("availableReplicas")).clamp(0, allowed);
            *target -= unhealthy;
            allowed -= unhealthy;
        }
        let available: i64 = self.sets.iter().map(|set| set.count("availableReplicas")).sum();
        let mut spare = (available - minimum).max(0);
        for (_, target) in &mut targets {
            let down = (*target).min(spare);
            *target -= down;
            spare -= down;
        }
        let before = self.actions.len();
        for (at, target) in targets {
            if target != self.sets[at].replicas() {
                self.scale_set(at, target);
            }
        }
        self.actions.len() > before
    }

    fn recreate(&mut self) {
        let active = self.old_active();
        if self.new.is_some() {
            self.sync_revision(false);
        }
        if !active.is_empty() {
            return active.into_iter().for_each(|at| self.scale_set(at, 0));
        }
        if self.old().into_iter().any(|at| self.sets[at].pods > 0) {
            return;
        }
        match self.new {
            None => self.sync_revision(true),
            Some(at) if self.sets[at].replicas() != self.view.replicas() => self.scale_set(at, self.view.replicas()),
            Some(_) => self.clean_up_if_complete(),
        }
    }

    /// Brings the sets to a changed number of replicas without moving on between templates.
    fn scale(&mut self) {
        let wanted = self.view.replicas();
        let active: Vec<usize> = (0..self.sets.len()).filter(|at| self.sets[*at].replicas() > 0).collect();
        let latest = self.new.or_else(|| self.old().last().copied());
        if active.len() <= 1 {
            let only = active.first().copied().or(latest);
            if let Some(at) = only.filter(|at| self.sets[*at].replicas() != wanted || self.lacks_scale_notes(*at)) {
                self.scale_set(at, wanted);
            }
            return;
        }
        if self.new_set().is_some_and(|set| self.is_saturated(set)) {
            return self.old_active().into_iter().for_each(|at| self.scale_set(at, 0));
        }
        if !self.view.recreates() {
            self.scale_in_proportion(active);
        }
    }

    fn lacks_scale_notes(&self, at: usize) -> bool {
        self.sets[at].replicas() > 0 && self.sets[at].number(DESIRED) != Some(self.view.replicas())
    }

    fn is_saturated(&self, set: &Set) -> bool {
        let wanted = self.view.replicas();
        set.replicas() == wanted && set.number(DESIRED) == Some(wanted) && set.count("availableReplicas") == wanted
    }

    /// Shares the difference among the active sets by their sizes; what rounding leaves goes to the largest.
    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let wanted = self.view.replicas();
        let allowed = if wanted > 0 { wanted + self.view.max_surge() } else { 0 };
        let difference = allowed - active.iter().map(|at| self.sets[*at].replicas()).sum::<i64>();
        // The largest first; among equals the newest when growing and the oldest when shrinking.
        active.sort_by_key(|at| {
            let age = if difference > 0 { -(*at as i64) } else { *at as i64 };
            (-self.sets[*at].replicas(), age)
        });
        let mut added = 0;
        let mut targets = Vec::new();
        for at in &active {
            let part = self.proportion(*at, difference, added);
            added += part;
            targets.push((*at, self.sets[*at].replicas() + part));
        }
        if let Some(first) = targets.first_mut() {
            first.1 = (first.1 + difference - added).max(0);
        }
        for (at, target) in targets {
            self.scale_set(at, target);
        }
    }

    fn proportion(&self, at: usize, difference: i64, added: i64) -> i64 {
        let replicas = self.sets[at].replicas();
        if replicas == 0 || difference == 0 || difference == added {
            return 0;
        }
        let whole = if self.view.replicas() == 0 {
            -replicas
        } else {
            let max_now = self.view.replicas() + self.view.max_surge();
            let max_then = self.sets[at].number(MAX).filter(|max| *max > 0);
            let max_then = max_then.unwrap_or(self.deployment["status"]["replicas"].as_i64().unwrap_or(0)).max(1);
            (replicas as f64 * max_now as f64 / max_then as f64).round() as i64 - replicas
        };
        let rest = difference - added;
        if difference > 0 { whole.min(rest) } else { whole.max(rest) }
    }

    fn clean_up_if_complete(&mut self) {
        let status = status::counts(self.view, &self.sets, self.new_set());
        if status::is_complete(self.view, &status) {
            self.clean_up();
        }
    }

    /// Deletes the oldest revisions beyond the limit that have no pods left.
    fn clean_up(&mut self) {
        let Some(limit) = self.view.spec()["revisionHistoryLimit"].as_u64() else { return };
        let mut old: Vec<usize> = self.old().into_iter().filter(|at| !self.sets[*at].deleting).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        old.sort_by_key(|at| self.sets[*at].revision());
        for at in old.into_iter().take(surplus) {
            let set = &self.sets[at];
            let observed = set.value["metadata"]["generation"].as_i64().unwrap_or(0) <= set.count("observedGeneration");
            if set.replicas() == 0 && set.count("replicas") == 0 && observed {
                self.actions.push(Action::Delete { key: set.key.clone(), uid: set.uid.clone() });
            }
        }
    }

    /// The plan, with the Deployment's status as the sets' statuses give it now.
    fn finish(self, progress: Progress) -> Plan {
        let mut deployment = self.deployment.clone();
        // Of the sets as they are: a status tells what is, not what was ordered.
        let new = self.new_set().and_then(|new| self.view.sets.iter().find(|set| set.uid == new.uid));
        let next = status::update(self.view, &mut deployment, new, progress);
        let metadata = deployment["metadata"] != self.view.deployment["metadata"];
        let status = deployment["status"] != self.view.deployment["status"];
        let updated = (metadata || status).then_some(Updated { value: deployment, metadata, status });
        Plan { actions: self.actions, deployment: updated, next }
    }
}
