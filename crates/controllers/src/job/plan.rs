//! What a Job's next writes are, and its status. Pure: a view in, a plan out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use api::Object;
use control::{EventType, Next};
use jiff::{SignedDuration, Timestamp};
use machinery::time;
use serde_json::{Value, json};

use super::indexes::Indexes;
use super::pods::{INDEX_FAILURES, INDEX_IGNORED_FAILURES, INDEX_LABEL, JobPod, finished_at, index_failures};
use super::policy::{self, Verdict};
use super::{JobEvent, TRACKING};
use crate::conditions;
use crate::pods::PodView;
use crate::replicaset::Rank;

/// How many pods one reconcile makes or deletes at most; the next goes on.
const BURST: usize = 500;

/// How many uids the status notes at most: more would make it larger than 20 kB. The next reconcile goes on.
const UNCOUNTED_MAX: usize = 500;

/// The wait after a first failure. It doubles with each further one.
const BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// All that a plan is made from.
pub(super) struct View<'a> {
    pub(super) job: &'a Value,
    pub(super) deleting: bool,
    pub(super) pods: Vec<JobPod>,
    pub(super) now: Timestamp,
}

/// What to do: first the pods, then the status, then the finalizers of what the status has noted.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) create: Vec<NewPod>,
    /// Pods that are not needed: they are let go first, and so not counted.
    pub(super) remove: Vec<Object>,
    /// Pods that the end of the Job ends.
    pub(super) end: Vec<Object>,
    /// The status when pods were made and deleted as planned.
    pub(super) status: Value,
    /// The counts as they are, where that failed.
    pub(super) seen: Value,
    pub(super) events: Vec<JobEvent>,
    /// Pods that the status has noted: their finalizer goes.
    pub(super) untrack: Vec<Object>,
    pub(super) next: Next,
}

/// A pod to make.
#[derive(Debug)]
pub(super) struct NewPod {
    pub(super) template: Value,
    /// How its name begins.
    pub(super) prefix: String,
}

/// Decides.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut work = Work::new(view);
    work.settle_counts();
    work.start();
    let target = work.target();
    match &target {
        Some(_) => work.end_active(),
        None if !view.deleting => work.manage(),
        None => {}
    }
    let target = target.or_else(|| work.completed());
    if target.is_none() && !view.deleting {
        work.set_suspended();
    }
    work.note_finished(target.as_ref());
    work.finish(target)
}

/// Why a Job ends: a condition's type (the interim one), reason and message.
#[derive(Debug, Clone)]
struct Target {
    succeeds: bool,
    reason: String,
    message: String,
}

impl Target {
    fn failure(reason: &str, message: &str) -> Self {
        Self { succeeds: false, reason: reason.to_owned(), message: message.to_owned() }
    }

    fn success(reason: &str, message: &str) -> Self {
        Self { succeeds: true, ..Self::failure(reason, message) }
    }

    /// The interim condition, which tells that pods are being ended.
    fn interim(&self) -> &'static str {
        if self.succeeds { "SuccessCriteriaMet" } else { "FailureTarget" }
    }
}

struct Work<'a> {
    view: &'a View<'a>,
    spec: &'a Value,
    status: Value,
    /// For indexed Jobs: what the status says has succeeded, and with what the pods add.
    noted: Indexes,
    succeeded: Indexes,
    failed_indexes: Option<Indexes>,
    /// Failed pods that are kept until the next pod of their index has taken over their count.
    kept: BTreeMap<i64, (JobPod, Value)>,
    /// With what is being counted.
    failed: i64,
    succeeded_count: i64,
    active: usize,
    terminating: usize,
    ready: usize,
    create: Vec<NewPod>,
    remove: Vec<Object>,
    end: Vec<Object>,
    untrack: Vec<Object>,
    events: Vec<JobEvent>,
    wait: Option<Duration>,
    more: bool,
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut status = view.job["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        let active = view.pods.iter().filter(|pod| pod.is_active());
        Self {
            view,
            spec: &view.job["spec"],
            status,
            noted: Indexes::default(),
            succeeded: Indexes::default(),
            failed_indexes: None,
            kept: BTreeMap::new(),
            failed: 0,
            succeeded_count: 0,
            active: active.clone().count(),
            terminating: view.pods.iter().filter(|pod| pod.is_terminating()).count(),
            ready: active.filter(|pod| PodView::of(&pod.object).is_ready()).count(),
            create: vec![],
            remove: vec![],
            end: vec![],
            untrack: vec![],
            events: vec![],
            wait: None,
            more: false,
        }
    }

    fn number(&self, field: &str) -> Option<i64> {
        self.spec[field].as_i64()
    }

    fn is_indexed(&self) -> bool {
        self.spec["completionMode"] == "Indexed"
    }

    fn is_suspended(&self) -> bool {
        self.spec["suspend"] == true
    }

    fn completions(&self) -> Option<i64> {
        self.number("completions")
    }

    fn limit_per_index(&self) -> Option<i64> {
        self.number("backoffLimitPerIndex").filter(|_| self.is_indexed())
    }

    /// Whether only pods that have ended are replaced, and not those that are ending.
    fn replaces_failed_only(&self) -> bool {
        match self.spec["podReplacementPolicy"].as_str() {
            Some(policy) => policy == "Failed",
            None => self.spec["podFailurePolicy"].is_object(),
        }
    }

    /// Whether a pod counts as failed. Where replacements need not wait, one that is being deleted does.
    fn has_failed(&self, pod: &JobPod) -> bool {
        pod.failed || !self.replaces_failed_only() && pod.object.is_deleting() && !pod.succeeded
    }

    /// Whether it is one that counts at all: in an indexed Job, of an index that the Job has.
    fn is_valid(&self, pod: &JobPod) -> bool {
        let below = |index: i64| self.completions().is_none_or(|completions| index < completions);
        !self.is_indexed() || pod.index.is_some_and(below)
    }

    fn verdict(&self, pod: &JobPod) -> Verdict {
        let rules = &self.spec["podFailurePolicy"];
        if rules.is_object() { policy::verdict(rules, &pod.object.to_value()) } else { Verdict::Count }
    }

    fn uncounted(&self, field: &str) -> HashSet<String> {
        let list = self.status["uncountedTerminatedPods"][field].as_array();
        list.into_iter().flatten().filter_map(|uid| uid.as_str().map(str::to_owned)).collect()
    }

    /// Turns notes of pods without finalizer into counts, and works out what the pods will add to them.
    fn settle_counts(&mut self) {
        let held: HashSet<&str> = self.view.pods.iter().filter(|pod| pod.tracked).map(|pod| pod.object.uid()).collect();
        for field in ["succeeded", "failed"] {
            let noted = self.status["uncountedTerminatedPods"][field].as_array().cloned().unwrap_or_default();
            let (waiting, done): (Vec<_>, Vec<_>) =
                noted.into_iter().partition(|uid| uid.as_str().is_some_and(|uid| held.contains(uid)));
            if !done.is_empty() {
                let count = self.status[field].as_i64().unwrap_or(0) + i64::try_from(done.len()).unwrap_or(i64::MAX);
                self.status[field] = count.into();
            }
            self.set_uncounted(field, waiting);
        }
        let (noted_succeeded, noted_failed) = (self.uncounted("succeeded"), self.uncounted("failed"));
        let tracked: Vec<&JobPod> = self.view.pods.iter().filter(|pod| pod.tracked && self.is_valid(pod)).collect();
        let new = |noted: &HashSet<String>, pod: &JobPod| !noted.contains(pod.object.uid());
        let failures = tracked.iter().filter(|pod| new(&noted_failed, pod) && self.has_failed(pod));
        let failures = failures.filter(|pod| self.verdict(pod) != Verdict::Ignore).count();
        let successes = tracked.iter().filter(|pod| new(&noted_succeeded, pod) && pod.succeeded).count();
        let total = |field: &str, noted: usize, new: usize| {
            self.status[field].as_i64().unwrap_or(0) + i64::try_from(noted + new).unwrap_or(i64::MAX)
        };
        self.failed = total("failed", noted_failed.len(), failures);
        self.succeeded_count = total("succeeded", noted_succeeded.len(), successes);
        if self.is_indexed() {
            self.settle_indexes(&tracked);
        }
    }

    fn set_uncounted(&mut self, field: &str, uids: Vec<Value>) {
        if !self.status["uncountedTerminatedPods"].is_object() {
            self.status["uncountedTerminatedPods"] = json!({});
        }
        let Some(notes) = self.status["uncountedTerminatedPods"].as_object_mut() else { return };
        if uids.is_empty() {
            notes.remove(field);
        } else {
            notes.insert(field.to_owned(), uids.into());
        }
    }

    fn settle_indexes(&mut self, tracked: &[&JobPod]) {
        let completions = self.completions().unwrap_or(0);
        let parse = |value: &Value| Indexes::parse(value.as_str().unwrap_or_default(), completions);
        self.noted = parse(&self.status["completedIndexes"]);
        let new = tracked.iter().filter(|pod| pod.succeeded).filter_map(|pod| pod.index);
        self.succeeded = self.noted.union(&Indexes::of(new));
        self.succeeded_count = self.succeeded.count();
        let Some(limit) = self.limit_per_index() else { return };
        let is_last = |pod: &&&JobPod| {
            let verdict = if self.has_failed(pod) { self.verdict(pod) } else { Verdict::Ignore };
            match verdict {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                _ => index_failures(&pod.object.to_value()).0 >= limit,
            }
        };
        let ended = tracked.iter().filter(is_last).filter_map(|pod| pod.index);
        let failed = parse(&self.status["failedIndexes"]).union(&Indexes::of(ended));
        let running: BTreeSet<i64> =
            self.view.pods.iter().filter(|pod| pod.is_active()).filter_map(|pod| pod.index).collect();
        let mut kept: BTreeMap<i64, (JobPod, Value)> = BTreeMap::new();
        for pod in tracked.iter().filter(|pod| self.has_failed(pod)) {
            let Some(index) = pod.index else { continue };
            if self.succeeded.contains(index) || failed.contains(index) || running.contains(&index) {
                continue;
            }
            let value = pod.object.to_value();
            let rank = |value: &Value| (index_failures(value).1, finished_at(value));
            if kept.get(&index).is_none_or(|(_, other)| rank(other) <= rank(&value)) {
                kept.insert(index, ((*pod).clone(), value));
            }
        }
        self.kept = kept;
        self.failed_indexes = Some(failed);
    }

    /// Notes when the Job first ran.
    fn start(&mut self) {
        if self.status["startTime"].is_null() && !self.is_suspended() {
            self.status["startTime"] = time::seconds(self.view.now).into();
        }
    }

    fn has(&self, condition: &str) -> Option<Target> {
        let found = conditions::find(&self.status, condition).filter(|found| found["status"] == "True")?;
        let text = |field: &str| found[field].as_str().unwrap_or_default();
        let target = Target::failure(text("reason"), text("message"));
        Some(Target { succeeds: condition == "SuccessCriteriaMet", ..target })
    }

    /// Why the Job ends, if it does for another reason than that all is done. What was decided once stays.
    fn target(&mut self) -> Option<Target> {
        let decided = self.has("SuccessCriteriaMet").or_else(|| self.has("FailureTarget"));
        let decided = decided.or_else(|| self.failed_by_policy()).or_else(|| self.failed_by_limit());
        let decided = decided.or_else(|| self.failed_by_indexes());
        decided.or_else(|| {
            let completions = self.completions().filter(|_| self.is_indexed())?;
            let message = policy::success(&self.spec["successPolicy"], completions, &self.succeeded)?;
            Some(Target::success("SuccessPolicy", &message))
        })
    }

    fn failed_by_policy(&self) -> Option<Target> {
        if !self.spec["podFailurePolicy"].is_object() {
            return None;
        }
        let failed = self.view.pods.iter().filter(|pod| self.has_failed(pod));
        failed.into_iter().find_map(|pod| match self.verdict(pod) {
            Verdict::FailJob(message) => Some(Target::failure("PodFailurePolicy", &message)),
            _ => None,
        })
    }

    fn failed_by_limit(&mut self) -> Option<Target> {
        let limit = self.number("backoffLimit").unwrap_or(6);
        if self.failed > limit || self.restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Target::failure("BackoffLimitExceeded", message));
        }
        let deadline = self.number("activeDeadlineSeconds").filter(|_| !self.is_suspended())?;
        let start = self.status["startTime"].as_str().and_then(|text| time::parse(text).ok())?;
        let rest = SignedDuration::from_secs(deadline) - self.view.now.duration_since(start);
        if rest.is_positive() {
            self.wait_for(rest.unsigned_abs());
            return None;
        }
        Some(Target::failure("DeadlineExceeded", "Job was active longer than specified deadline"))
    }

    /// Pods that restart their containers themselves never fail: their restarts count.
    fn restarted_too_often(&self, limit: i64) -> bool {
        if self.spec["template"]["spec"]["restartPolicy"] != "OnFailure" {
            return false;
        }
        let running = self.view.pods.iter().filter(|pod| !pod.succeeded && !pod.failed);
        let restarts: i64 = running.map(|pod| PodView::of(&pod.object).all_restarts()).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn failed_by_indexes(&self) -> Option<Target> {
        let failed = self.failed_indexes.as_ref()?.count();
        if self.number("maxFailedIndexes").is_some_and(|max| failed > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Target::failure("MaxFailedIndexesExceeded", message));
        }
        let all = failed > 0 && failed + self.succeeded.count() >= self.completions().unwrap_or(0);
        all.then(|| Target::failure("FailedIndexes", "Job has failed indexes"))
    }

    fn wait_for(&mut self, time: Duration) {
        self.wait = Some(self.wait.map_or(time, |wait| wait.min(time)));
    }

    fn active_pods(&self) -> Vec<&'a JobPod> {
        self.view.pods.iter().filter(|pod| pod.is_active()).collect()
    }

    /// Ends what still runs, because the Job ends.
    fn end_active(&mut self) {
        self.end = self.active_pods().into_iter().map(|pod| pod.object.clone()).collect();
        self.terminating += self.end.len();
        (self.active, self.ready) = (0, 0);
    }

    /// Makes and deletes pods.
    fn manage(&mut self) {
        let wanted = self.wanted_active();
        let surplus = self.surplus(self.active.saturating_sub(wanted));
        if !surplus.is_empty() {
            let ready = surplus.iter().filter(|pod| PodView::of(&pod.object).is_ready()).count();
            self.active -= surplus.len();
            self.ready -= ready;
            self.terminating += surplus.len();
            self.remove = surplus.into_iter().map(|pod| pod.object.clone()).collect();
            return;
        }
        let ending = if self.replaces_failed_only() { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(ending + self.active);
        if missing == 0 {
            return;
        }
        if self.limit_per_index().is_none()
            && let Some(wait) = self.backoff()
        {
            return self.wait_for(wait);
        }
        self.more = missing > BURST;
        self.create =
            if self.is_indexed() { self.new_indexed(missing.min(BURST)) } else { self.new_plain(missing.min(BURST)) };
        self.active += self.create.len();
    }

    fn wanted_active(&self) -> usize {
        let parallelism = usize::try_from(self.number("parallelism").unwrap_or(1)).unwrap_or(0);
        if self.is_suspended() {
            return 0;
        }
        match self.completions() {
            // A work queue: once one has succeeded, the others find their own end.
            None if self.succeeded_count > 0 => self.active,
            None => parallelism,
            Some(completions) => usize::try_from(completions - self.succeeded_count).unwrap_or(0).min(parallelism),
        }
    }

    /// At least `count` active pods, those that are missed least, and all that no index needs.
    fn surplus(&self, count: usize) -> Vec<&'a JobPod> {
        if count == 0 && !self.is_indexed() {
            return vec![];
        }
        let rank = |pod: &'a JobPod| (Rank::of(&pod.object, &PodView::of(&pod.object), 0, self.view.now), pod);
        let mut pods: Vec<(Rank<'_>, &JobPod)> = self.active_pods().into_iter().map(rank).collect();
        pods.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut surplus, mut seen, mut rest) = (vec![], BTreeSet::new(), vec![]);
        // Of two with the same index the one that is missed most stays.
        for (_, pod) in pods.into_iter().rev() {
            let needed = !self.is_indexed() || self.is_valid(pod) && pod.index.is_some_and(|index| seen.insert(index));
            if needed { rest.push(pod) } else { surplus.push(pod) }
        }
        let more = count.saturating_sub(surplus.len());
        surplus.extend(rest.into_iter().rev().take(more));
        surplus.truncate(BURST);
        surplus
    }

    /// How long to wait after the failures since the last success.
    fn backoff(&self) -> Option<Duration> {
        let ends = |holds: &dyn Fn(&JobPod) -> bool| -> Vec<Timestamp> {
            let pods = self.view.pods.iter().filter(|pod| holds(pod));
            pods.filter_map(|pod| finished_at(&pod.object.to_value())).collect()
        };
        let mut failures = ends(&|pod| self.has_failed(pod));
        let last_failure = failures.iter().max().copied()?;
        let last_success = ends(&|pod| pod.succeeded).into_iter().max();
        failures.retain(|at| last_success.is_none_or(|success| *at > success));
        remaining(failures.len(), last_failure, self.view.now)
    }

    fn template(&self) -> Value {
        let mut template = self.spec["template"].clone();
        let finalizers = template["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let mut finalizers: Vec<Value> = finalizers.into_iter().filter(|name| name != TRACKING).collect();
        finalizers.push(TRACKING.into());
        template["metadata"]["finalizers"] = finalizers.into();
        template
    }

    fn name(&self) -> &'a str {
        self.view.job["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn new_plain(&self, count: usize) -> Vec<NewPod> {
        let template = self.template();
        (0..count).map(|_| NewPod { template: template.clone(), prefix: format!("{}-", self.name()) }).collect()
    }

    fn new_indexed(&mut self, count: usize) -> Vec<NewPod> {
        let taken =
            self.view.pods.iter().filter(|pod| pod.is_active() || self.replaces_failed_only() && pod.is_terminating());
        let mut taken = self.succeeded.union(&Indexes::of(taken.filter_map(|pod| pod.index)));
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        let mut indexes = taken.first_absent(count, self.completions().unwrap_or(0));
        if self.limit_per_index().is_some() {
            let now = self.view.now;
            let wait = |index: &i64| {
                let (_, value) = self.kept.get(index)?;
                let count = usize::try_from(index_failures(value).1 + 1).unwrap_or(usize::MAX);
                remaining(count, finished_at(value)?, now)
            };
            let (waiting, due): (Vec<i64>, Vec<i64>) = indexes.into_iter().partition(|index| wait(index).is_some());
            if let Some(shortest) = waiting.iter().filter_map(wait).min() {
                self.wait_for(shortest);
            }
            indexes = due;
        }
        let template = self.template();
        indexes.into_iter().map(|index| self.indexed(template.clone(), index)).collect()
    }

    fn indexed(&self, mut template: Value, index: i64) -> NewPod {
        let name = self.name();
        for field in ["annotations", "labels"] {
            template["metadata"][field][INDEX_LABEL] = index.to_string().into();
        }
        template["spec"]["hostname"] = format!("{name}-{index}").into();
        for list in ["initContainers", "containers"] {
            for container in template["spec"][list].as_array_mut().into_iter().flatten() {
                add_index_variable(container);
            }
        }
        if self.limit_per_index().is_some() {
            let (mut counted, mut ignored) = (0, 0);
            if let Some((pod, value)) = self.kept.get(&index) {
                let (before, all) = index_failures(value);
                (counted, ignored) = (before, all - before);
                if self.verdict(pod) == Verdict::Ignore { ignored += 1 } else { counted += 1 }
            }
            template["metadata"]["annotations"][INDEX_FAILURES] = counted.to_string().into();
            if ignored > 0 {
                template["metadata"]["annotations"][INDEX_IGNORED_FAILURES] = ignored.to_string().into();
            }
        }
        let suffix = format!("-{index}-");
        let base: String = name.chars().take(58 - suffix.len()).collect();
        NewPod { template, prefix: format!("{base}{suffix}") }
    }

    /// Whether all is done.
    fn completed(&self) -> Option<Target> {
        let done = match self.completions() {
            None => self.succeeded_count > 0,
            Some(completions) => self.succeeded_count >= completions,
        };
        let message = "Reached expected number of succeeded pods";
        (done && self.active == 0).then(|| Target::success("CompletionsReached", message))
    }

    /// Says in the conditions whether the Job is suspended.
    fn set_suspended(&mut self) {
        let was = conditions::find(&self.status, "Suspended").map(|found| found["status"] == "True");
        let now = time::seconds(self.view.now);
        let (value, reason, message, event) = match (self.is_suspended(), was) {
            (true, None | Some(false)) => ("True", "JobSuspended", "Job suspended", "Suspended"),
            (false, Some(true)) => ("False", "JobResumed", "Job resumed", "Resumed"),
            _ => return,
        };
        self.put_condition("Suspended", value, reason, message);
        if self.is_suspended() {
            self.status.as_object_mut().map(|fields| fields.remove("startTime"));
        } else {
            // The deadline counts the time of running.
            self.status["startTime"] = now.into();
        }
        self.events.push((EventType::Normal, event.to_owned(), message.to_owned()));
    }

    fn put_condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) {
        let now = time::seconds(self.view.now);
        let condition = json!({"type": kind, "status": value, "lastProbeTime": now, "lastTransitionTime": now,
            "reason": reason, "message": message});
        conditions::put(&mut self.status, condition);
    }

    /// Notes in the status what has ended, so that its finalizers may go.
    fn note_finished(&mut self, target: Option<&Target>) {
        let (mut succeeded, mut failed) = (self.uncounted("succeeded"), self.uncounted("failed"));
        let mut lists = ["succeeded", "failed"]
            .map(|field| self.status["uncountedTerminatedPods"][field].as_array().cloned().unwrap_or_default());
        let mut indexes: Vec<i64> = vec![];
        let removed: HashSet<&str> = self.remove.iter().map(Object::uid).collect();
        let mut untrack = vec![];
        let mut more = false;
        for pod in self.view.pods.iter().filter(|pod| pod.tracked && !removed.contains(pod.object.uid())) {
            if !self.may_let_go(pod, target.is_some()) {
                continue;
            }
            if lists.iter().map(Vec::len).sum::<usize>() + indexes.len() >= UNCOUNTED_MAX {
                more = true;
                break;
            }
            let uid = pod.object.uid();
            untrack.push(pod.object.clone());
            // What a success ends has not failed; what a failure ends has.
            let counts = match target {
                Some(target) => pod.failed || !target.succeeds,
                None => self.has_failed(pod),
            };
            if pod.succeeded && !failed.contains(uid) {
                if !self.is_indexed() {
                    if succeeded.insert(uid.to_owned()) {
                        lists[0].push(uid.into());
                    }
                } else if let Some(index) = pod.index.filter(|index| self.is_valid(pod) && !self.noted.contains(*index))
                {
                    indexes.push(index);
                }
            } else if counts && self.is_valid(pod) && !failed.contains(uid) && self.verdict(pod) != Verdict::Ignore {
                failed.insert(uid.to_owned());
                lists[1].push(uid.into());
            }
        }
        let [succeeded, failed] = lists;
        self.set_uncounted("succeeded", succeeded);
        self.set_uncounted("failed", failed);
        if self.is_indexed() {
            let noted = self.noted.union(&Indexes::of(indexes));
            self.set_nonempty("completedIndexes", &noted);
            self.status["succeeded"] = noted.count().into();
            if let Some(failed) = self.failed_indexes.take() {
                self.status["failedIndexes"] = failed.to_string().into();
            }
        }
        self.untrack = untrack;
        self.more |= more;
    }

    fn set_nonempty(&mut self, field: &str, indexes: &Indexes) {
        if indexes.count() > 0 {
            self.status[field] = indexes.to_string().into();
        }
    }

    /// Whether a pod's finalizer may go once the status has noted it.
    fn may_let_go(&self, pod: &JobPod, ends: bool) -> bool {
        if self.view.deleting || ends || pod.succeeded {
            return true;
        }
        let kept = pod.index.and_then(|index| self.kept.get(&index));
        self.has_failed(pod) && kept.is_none_or(|(kept, _)| kept.object.uid() != pod.object.uid())
    }

    fn finish(mut self, target: Option<Target>) -> Plan {
        let seen = self.seen();
        if let Some(target) = target {
            if conditions::find(&self.status, target.interim()).is_none() {
                self.put_condition(target.interim(), "True", &target.reason, &target.message);
            }
            self.conclude(&target);
        }
        for field in ["succeeded", "failed"] {
            if self.status[field] == 0 {
                self.status.as_object_mut().map(|fields| fields.remove(field));
            }
        }
        for (field, count) in [("ready", self.ready), ("terminating", self.terminating)] {
            self.status[field] = count.into();
        }
        match self.active {
            0 => drop(self.status.as_object_mut().map(|fields| fields.remove("active"))),
            active => self.status["active"] = active.into(),
        }
        let wait = if self.more { Some(Duration::ZERO) } else { self.wait };
        Plan {
            create: self.create,
            remove: self.remove,
            end: self.end,
            status: self.status,
            seen,
            events: self.events,
            untrack: self.untrack,
            next: wait.map_or(Next::OnChange, Next::After),
        }
    }

    fn seen(&self) -> Value {
        let pods = &self.view.pods;
        let active = pods.iter().filter(|pod| pod.is_active());
        let ready = active.clone().filter(|pod| PodView::of(&pod.object).is_ready()).count();
        let terminating = pods.iter().filter(|pod| pod.is_terminating()).count();
        let mut seen = json!({"ready": ready, "terminating": terminating});
        let active = active.count();
        if active > 0 {
            seen["active"] = active.into();
        }
        seen
    }

    /// Says that the Job has ended, once no pod is left that runs, ends or waits to be counted.
    fn conclude(&mut self, target: &Target) {
        let noted = ["succeeded", "failed"].iter().any(|field| !self.uncounted(field).is_empty());
        if noted || self.terminating > 0 || self.active > 0 || !self.untrack.is_empty() || self.more {
            return;
        }
        if target.succeeds {
            self.put_condition("Complete", "True", &target.reason, &target.message);
            self.status["completionTime"] = time::seconds(self.view.now).into();
            let completions = self.completions().unwrap_or(i64::MAX);
            if self.status["succeeded"].as_i64().unwrap_or(0) > completions {
                let message = "Too many succeeded pods running after completion count reached";
                self.events.push((EventType::Warning, "TooManySucceededPods".to_owned(), message.to_owned()));
            }
            self.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
        } else {
            self.put_condition("Failed", "True", &target.reason, &target.message);
            self.events.push((EventType::Warning, target.reason.clone(), target.message.clone()));
        }
    }
}

/// What is left of the wait after so many failures in a row; `None` when it is over.
fn remaining(failures: usize, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures).unwrap_or(u32::MAX).checked_sub(1)?;
    let wait = BACKOFF.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(BACKOFF_MAX);
    let passed = now.duration_since(last).unsigned_abs();
    wait.checked_sub(passed).filter(|rest| !rest.is_zero())
}

fn add_index_variable(container: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let mut variables = container["env"].as_array().cloned().unwrap_or_default();
    if variables.iter().all(|variable| variable["name"] != NAME) {
        let path = format!("metadata.labels['{INDEX_LABEL}']");
        variables.push(json!({"name": NAME, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}));
        container["env"] = variables.into();
    }
}
