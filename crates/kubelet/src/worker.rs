//! One pod's worker: takes in what changed, asks [`plan`](crate::plan) what to do, starts it, writes the status that results,
//! and waits. It starts actions without waiting for them, so that a deletion is heard while an image is pulled or a
//! container is given its time to end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use api::typed::core::v1::Pod;
use api::{Object, Typed};
use base::{Backoff, Stop, chain};
use control::{ClientError, EventType};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::action::Target;
use crate::admission;
use crate::host::Host;
use crate::identity::{self, Identity, Role};
use crate::inbox::{Inbox, Mail};
use crate::job::{Failure, Job, ResizeError};
use crate::observed::{self, Observed, State};
use crate::plan::{self, Action, Memory, ProbeKind, Verdict, View, Waiting};
use crate::probe::{self, Prober, Report};
use crate::references::References;
use crate::resize::{self, Resources};
use crate::status::{self, Place};
use crate::tokens::Tokens;

/// First and longest wait after an action failed.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long after files of a volume could not be brought up to date they are tried again, unless a change comes first.
const VOLUMES_RETRY: Duration = Duration::from_secs(10);
/// A container that could not be started is tried again after this long at first; upstream's figures.
const START_RETRY_FIRST: Duration = Duration::from_secs(10);
const START_RETRY_MAX: Duration = Duration::from_secs(300);

/// What ended.
enum Done {
    Action(Action, Result<(), Option<Failure>>),
    /// Volumes were set up (with a sandbox, or brought up to date alone); the tokens come back.
    Volumes(Option<Action>, Tokens, Result<(), Failure>),
    Resize(Action, Result<(), ResizeError>),
    Status(Result<Object, ClientError>),
    Deleted(Result<(), ClientError>),
}

struct Retry {
    backoff: Backoff,
    until: Instant,
}

/// A pod's worker.
pub(crate) struct Worker {
    host: Arc<Host>,
    identity: Identity,
    inbox: Arc<Inbox>,
    /// The newest object that is known, from the watch or from an answer.
    object: Object,
    /// With the resources that were promised to it, which may be others than its spec's.
    pod: Arc<Pod>,
    /// What its spec wants.
    wanted: Resources,
    /// Whether it came from a file on this node.
    is_static: bool,
    /// The uid of the mirror pod that shows a static pod.
    mirror: Option<String>,
    gone: bool,
    /// `None` until the runtime was asked.
    observed: Option<Observed>,
    runtime_dirty: bool,
    volumes_dirty: bool,
    memory: Memory,
    references: References,
    /// Here unless a job has them.
    tokens: Option<Tokens>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    busy: BTreeSet<Action>,
    retries: BTreeMap<Action, Retry>,
    status_in_flight: bool,
    delete_in_flight: bool,
    api_retry: Option<Instant>,
    volumes_retry: Option<Instant>,
    api_backoff: Backoff,
    probers: BTreeMap<(String, ProbeKind), Stop>,
    /// Containers whose `preStop` hook was started.
    hooks_done: BTreeSet<String>,
    /// The runs for which the back-off was announced.
    announced: BTreeSet<String>,
    /// Given when the pod must end.
    cancel: Stop,
    stop: Stop,
}

impl Worker {
    /// A worker for a pod of the API, or, where `gone`, for what the runtime still has of one.
    pub(crate) fn new(
        host: Arc<Host>,
        identity: Identity,
        object: Object,
        gone: bool,
        inbox: Arc<Inbox>,
        stop: Stop,
    ) -> Self {
        let mut pod = decode(&object);
        let wanted = resize::of(&pod);
        // An earlier life of this process promised what the status tells.
        let promised = resize::remembered(&pod);
        resize::put(&mut pod, &promised);
        let pod = Arc::new(pod);
        Self {
            references: References::new(&identity.namespace, host.informers.clone()),
            host,
            identity,
            inbox,
            object,
            is_static: identity::is_static(&pod),
            pod,
            wanted,
            mirror: None,
            gone,
            observed: None,
            runtime_dirty: true,
            volumes_dirty: true,
            memory: Memory::default(),
            tokens: Some(Tokens::default()),
            jobs: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            retries: BTreeMap::new(),
            status_in_flight: false,
            delete_in_flight: false,
            api_retry: None,
            volumes_retry: None,
            api_backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            probers: BTreeMap::new(),
            hooks_done: BTreeSet::new(),
            announced: BTreeSet::new(),
            cancel: stop.child(),
            stop,
        }
    }

    /// Works until nothing of the pod is left, or until `stop`.
    pub(crate) async fn run(mut self) {
        self.admit();
        self.allocate();
        self.follow_references();
        loop {
            let mail = self.inbox.take();
            self.receive(mail);
            let host = self.host.clone();
            let mut released = std::pin::pin!(host.released.notified());
            if self.memory.resize_pending.is_some() {
                // Before the attempt, so that what is given back right after it is heard of.
                released.as_mut().enable();
                self.allocate();
            }
            let look_again = self.step().await;
            if self.is_over() {
                break;
            }
            tokio::select! {
                () = self.stop.stopped() => break,
                () = self.inbox.woken() => {}
                () = released, if self.memory.resize_pending.is_some() => {}
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.finish(done),
                () = until(look_again) => {}
            }
        }
        for stop in self.probers.values() {
            stop.stop();
        }
        if !self.stop.is_stopped() {
            admission::release(&self.host, &self.identity.uid);
        }
    }

    fn is_over(&self) -> bool {
        let empty = self.observed.as_ref().is_some_and(|seen| seen.sandboxes.is_empty() && seen.containers.is_empty());
        self.gone && self.memory.torn_down && empty && self.busy.is_empty()
    }

    fn admit(&mut self) {
        let known = self.pod.status.as_ref();
        let finished = known.is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
        if self.gone || finished || self.pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        if let Err(verdict) = admission::admit(&self.host, &self.identity.uid, &self.pod) {
            // A pod that runs already was let in by an earlier life of this process.
            if known.is_none_or(|status| status.start_time.is_none()) {
                self.host.event(&self.identity, String::new(), EventType::Warning, &verdict.reason, &verdict.message);
                self.memory.verdict = Some(verdict);
            }
        }
    }

    fn follow_references(&mut self) {
        let inbox = self.inbox.clone();
        let changed: Arc<dyn Fn() + Send + Sync> = Arc::new(move || inbox.put(|mail| mail.references = true));
        if !self.gone {
            self.references.follow(&self.pod, &self.host.tasks, &self.stop, &changed);
        }
    }

    fn receive(&mut self, mail: Mail) {
        self.runtime_dirty |= mail.runtime;
        if mail.mirror_gone {
            self.mirror = None;
        }
        self.gone |= mail.gone;
        self.memory.probes.extend(mail.probes);
        if let Some(verdict) = mail.verdict.filter(|_| self.memory.verdict.is_none() && !self.gone) {
            self.host.event(&self.identity, String::new(), EventType::Warning, &verdict.reason, &verdict.message);
            self.memory.verdict = Some(verdict);
        }
        if mail.references {
            self.volumes_dirty = true;
            self.volumes_retry = None;
            self.hurry();
        }
        if let Some(object) = mail.pod {
            self.learn(object);
        }
    }

    /// What failed for want of something is tried again at once.
    fn hurry(&mut self) {
        self.retries.retain(|action, _| !matches!(action, Action::Setup { .. } | Action::Start { .. }));
    }

    /// Takes in a newer state of the pod.
    fn learn(&mut self, object: Object) {
        if self.is_static {
            // Of a mirror pod only what it shows counts: the file says what the pod is.
            self.mirror = Some(object.uid().to_owned()).filter(|_| !object.is_deleting());
            let mut pod = Pod::clone(&self.pod);
            pod.status = decode(&object).status;
            self.pod = Arc::new(pod);
            return;
        }
        if object.revision() < self.object.revision() || object.uid() != self.identity.uid {
            return;
        }
        let mut pod = decode(&object);
        self.wanted = resize::of(&pod);
        resize::put(&mut pod, &resize::of(&self.pod));
        let old = std::mem::replace(&mut self.pod, Arc::new(pod));
        self.object = object;
        self.allocate();
        if old.spec != self.pod.spec {
            self.memory.waiting.clear();
            self.hurry();
            self.follow_references();
        }
        // Files of the downward API show labels and annotations.
        self.volumes_dirty |= old.metadata.labels != self.pod.metadata.labels
            || old.metadata.annotations != self.pod.metadata.annotations;
    }

    /// Promises the pod the resources that its spec wants, if they differ from those that it was promised and there is room.
    fn allocate(&mut self) {
        if self.gone || self.wanted == resize::of(&self.pod) {
            self.memory.resize_pending = None;
            return;
        }
        let mut pod = Pod::clone(&self.pod);
        resize::put(&mut pod, &self.wanted);
        match admission::resize(&self.host, &self.identity.uid, &pod) {
            Ok(()) => {
                self.pod = Arc::new(pod);
                (self.memory.resize_pending, self.memory.resize_error) = (None, None);
            }
            Err(pending) => {
                if self.memory.resize_pending.as_ref() != Some(&pending) {
                    let message = format!("Pod resize {}: {}", pending.reason, pending.message);
                    let reason = format!("Resize{}", pending.reason);
                    self.host.event(&self.identity, String::new(), EventType::Warning, &reason, &message);
                }
                self.memory.resize_pending = Some(pending);
            }
        }
    }

    /// Looks, plans, acts, reports; returns when to look again though nothing happens.
    async fn step(&mut self) -> Option<Instant> {
        if self.runtime_dirty {
            let Host { runtime, root_dir, log_dir, .. } = &*self.host;
            let logs = self.identity.log_directory(log_dir);
            match observed::observe(&**runtime, &self.identity, root_dir, &logs).await {
                Ok(observed) => {
                    self.observed = Some(observed);
                    self.runtime_dirty = false;
                }
                Err(error) => {
                    tracing::warn!(
                        pod = self.identity.display(),
                        error = chain(&error),
                        "cannot read the pod from the runtime"
                    );
                    return Some(Instant::now() + self.api_backoff.next_delay());
                }
            }
        }
        let now = self.host.clock.now();
        self.check_deadline(now);
        let observed = self.observed.take()?;
        let held = self.held();
        let view = View {
            pod: &self.pod,
            gone: self.gone,
            observed: &observed,
            memory: &self.memory,
            busy: &self.busy,
            held: &held,
            now,
        };
        let (plan, ending) = (plan::plan(&view), plan::ending(&view));
        let patch = self.wanted_patch(&view);
        let waits: Vec<_> = identity::containers(&self.pod)
            .filter_map(|(_, spec)| observed.latest(&spec.name))
            .filter(|run| run.state == State::Exited && !ending && !plan::starting(&view, &run.name))
            .filter(|run| plan::back_off_until(&self.memory, run).is_some_and(|at| at > now))
            .cloned()
            .collect();
        if ending {
            self.cancel.stop();
        }
        self.announce(&waits, &observed);
        self.keep_probes(&observed, ending);
        for action in plan.actions {
            // What the API shows of the containers is read from the runtime: it must be there before they are removed.
            if action == Action::TearDown && !self.gone && (patch.is_some() || self.status_in_flight) {
                continue;
            }
            self.begin(action, &observed);
        }
        self.refresh_volumes(&observed, ending, now);
        let finished = self.memory.torn_down && observed.sandboxes.is_empty() && observed.containers.is_empty();
        self.observed = Some(observed);
        self.write(patch, finished);
        self.next_look(plan.look_again_at, now)
    }

    fn check_deadline(&mut self, now: Timestamp) {
        if self.memory.verdict.is_none() && plan::deadline(&self.pod).is_some_and(|deadline| deadline <= now) {
            let verdict = Verdict {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
                grace_seconds: None,
            };
            self.host.event(&self.identity, String::new(), EventType::Normal, &verdict.reason, &verdict.message);
            self.memory.verdict = Some(verdict);
        }
    }

    fn held(&self) -> BTreeSet<Action> {
        let now = Instant::now();
        self.retries.iter().filter(|(_, retry)| retry.until > now).map(|(action, _)| action.clone()).collect()
    }

    fn next_look(&self, planned: Option<Timestamp>, now: Timestamp) -> Option<Instant> {
        let from_clock =
            |at: Timestamp| Instant::now() + Duration::try_from(at.duration_since(now)).unwrap_or_default();
        let retries = self.retries.values().map(|retry| retry.until).filter(|until| *until > Instant::now()).min();
        let tokens = self.tokens.as_ref().and_then(Tokens::renew_at).map(from_clock);
        // What is due already was begun in this step, or waits for the end of a job: looking again at once would spin.
        let due = [planned.map(from_clock), retries, self.api_retry, self.volumes_retry, tokens];
        due.into_iter().flatten().filter(|at| *at > Instant::now()).min()
    }

    /// The change of the API's status that this view asks for.
    fn wanted_patch(&self, view: &View<'_>) -> Option<Value> {
        if self.gone {
            return None;
        }
        let uid = if self.is_static { self.mirror.as_deref()? } else { self.identity.uid.as_str() };
        let place = Place { host_ips: &self.host.node_ips, runtime_name: &self.host.runtime_name };
        let wanted = Pod { status: Some(status::status(view, &place)), ..Pod::default() };
        let tree = |pod: &Pod| {
            serde_json::from_slice::<Value>(&pod.encode()).map_or(Value::Null, |mut pod| pod["status"].take())
        };
        let known = Pod { status: self.pod.status.clone(), ..Pod::default() };
        status::patch(uid, &tree(&known), &tree(&wanted))
    }

    fn write(&mut self, patch: Option<Value>, finished: bool) {
        if self.gone || self.api_retry.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.api_retry = None;
        if let Some(patch) = patch {
            if !self.status_in_flight {
                self.status_in_flight = true;
                let job = self.job(&[]);
                self.jobs.push(async move { Done::Status(job.write_status(&patch).await) }.boxed());
            }
        } else if finished
            && self.pod.metadata.deletion_timestamp.is_some()
            && !self.delete_in_flight
            && !self.status_in_flight
        {
            self.delete_in_flight = true;
            let job = self.job(&[]);
            self.jobs.push(async move { Done::Deleted(job.delete().await) }.boxed());
        }
    }

    fn job(&self, pod_ips: &[std::net::IpAddr]) -> Job {
        Job {
            host: self.host.clone(),
            identity: self.identity.clone(),
            pod: self.pod.clone(),
            objects: self.references.snapshot(),
            pod_ips: pod_ips.to_vec(),
            cancel: self.cancel.clone(),
        }
    }

    fn begin(&mut self, action: Action, observed: &Observed) {
        let ips = observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let job = self.job(&ips);
        let (key, busy) = (action.clone(), action.clone());
        let future = match action {
            Action::Setup { attempt } => {
                let Some(tokens) = self.tokens.take() else { return };
                self.volumes_dirty = false;
                let known = self.references.synced();
                async move {
                    let cancel = job.cancel.clone();
                    if cancel.or_stopped(known).await.is_none() {
                        return Done::Volumes(Some(key), tokens, Ok(()));
                    }
                    let (tokens, result) = job.set_up(attempt, tokens).await;
                    Done::Volumes(Some(key), tokens, result)
                }
                .boxed()
            }
            Action::Start { name, attempt } => self.begin_start(job, key, name, attempt, observed),
            Action::Kill { id, name, grace_seconds, message } => {
                let hook = self.hooks_done.insert(id.clone());
                async move { done(key, job.kill(&id, &name, grace_seconds, &message, hook).await) }.boxed()
            }
            Action::Resize { id, name, target } => {
                async move { Done::Resize(key, job.resize(&id, &name, target).await) }.boxed()
            }
            Action::RemoveContainer { id } => async move { done(key, job.remove_container(&id).await) }.boxed(),
            Action::StopSandbox { id } => async move { done(key, job.stop_sandbox(&id).await) }.boxed(),
            Action::RemoveSandbox { id } => async move { done(key, job.remove_sandbox(&id).await) }.boxed(),
            Action::Unmount => async move { done(key, job.unmount().await) }.boxed(),
            Action::TearDown => async move { done(key, job.tear_down().await) }.boxed(),
        };
        self.jobs.push(future);
        self.busy.insert(busy);
    }

    fn begin_start(
        &mut self,
        job: Job,
        key: Action,
        name: String,
        attempt: u32,
        observed: &Observed,
    ) -> BoxFuture<'static, Done> {
        if let Some(last) = observed.latest(&name).filter(|last| last.state == State::Exited) {
            let wait = plan::next_backoff(self.memory.backoff.get(&name).copied(), last);
            self.memory.backoff.insert(name.clone(), wait);
        }
        self.memory.hooks_running.insert(name.clone());
        let (references, services) = (self.references.synced(), self.host.services.clone());
        // A static pod starts without an API server, and so without the variables of its Services.
        let waits = !self.is_static;
        async move {
            let known = async {
                references.await;
                if waits {
                    services.synced().await;
                }
            };
            let result = job.start(&name, attempt, known).await;
            Done::Action(key, result.map_err(Some))
        }
        .boxed()
    }

    /// A line for each container that waits for its back-off, once for each of its runs.
    fn announce(&mut self, waits: &[observed::Container], observed: &Observed) {
        for run in waits {
            if self.announced.insert(run.id.clone()) {
                let message =
                    format!("Back-off restarting failed container {} in pod {}", run.name, self.identity.display());
                let path = identity::field_path(&self.pod, &run.name);
                self.host.event(&self.identity, path, EventType::Warning, "BackOff", &message);
            }
        }
        let present = |id: &String| observed.containers.iter().any(|run| run.id == *id);
        self.announced.retain(present);
        self.hooks_done.retain(present);
    }

    /// Brings the files of volumes up to date where what they are made from changed, or a token is due.
    fn refresh_volumes(&mut self, observed: &Observed, ending: bool, now: Timestamp) {
        if ending || observed.ready_sandbox().is_none() || !self.references.are_synced() {
            return;
        }
        let due = self.tokens.as_ref().and_then(Tokens::renew_at).is_some_and(|at| at <= now);
        if !(self.volumes_dirty || due) || self.volumes_retry.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let Some(mut tokens) = self.tokens.take() else { return };
        self.volumes_dirty = false;
        self.volumes_retry = None;
        let ips = observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let job = self.job(&ips);
        let future = async move {
            let result = job.make_volumes(&mut tokens).await;
            Done::Volumes(None, tokens, result)
        };
        self.jobs.push(future.boxed());
    }

    /// One task for each probe of each running container.
    fn keep_probes(&mut self, observed: &Observed, ending: bool) {
        let mut wanted = BTreeMap::new();
        for (role, spec) in identity::containers(&self.pod).filter(|(role, _)| *role != Role::Init) {
            let Some(run) = observed.latest(&spec.name).filter(|run| run.state == State::Running) else { continue };
            let started = plan::started(&self.memory, spec, run);
            for kind in ProbeKind::ALL.into_iter().filter(|kind| kind.of(spec).is_some()) {
                let due = match kind {
                    ProbeKind::Startup => !ending,
                    ProbeKind::Liveness => started && !ending,
                    // A pod that ends still says whether it takes traffic.
                    ProbeKind::Readiness => started,
                };
                if due {
                    wanted.insert((run.id.clone(), kind), (role, spec.clone(), run.started_at));
                }
            }
        }
        self.probers.retain(|key, stop| {
            let keep = wanted.contains_key(key);
            if !keep {
                stop.stop();
            }
            keep
        });
        self.memory.probes.retain(|(id, _), _| observed.containers.iter().any(|run| run.id == *id));
        let pod_ip = match self.pod.spec.as_ref().and_then(|spec| spec.host_network) {
            Some(true) => self.host.node_ips.first().copied(),
            _ => observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first().copied()),
        };
        for ((id, kind), (_, container, started_at)) in wanted {
            let decided = kind == ProbeKind::Startup && self.memory.probes.contains_key(&(id.clone(), kind));
            if self.probers.contains_key(&(id.clone(), kind)) || decided {
                continue;
            }
            self.start_probe(kind, container, Target { container_id: id, pod_ip }, started_at);
        }
    }

    fn start_probe(
        &mut self,
        kind: ProbeKind,
        container: api::typed::core::v1::Container,
        target: Target,
        started_at: Option<Timestamp>,
    ) {
        let age =
            started_at.map(|at| self.host.clock.now().duration_since(at)).and_then(|age| Duration::try_from(age).ok());
        let stop = self.stop.child();
        self.probers.insert((target.container_id.clone(), kind), stop.clone());
        let report = ProbeReport {
            host: self.host.clone(),
            identity: self.identity.clone(),
            field_path: identity::field_path(&self.pod, &container.name),
            inbox: self.inbox.clone(),
        };
        let name = format!("{} probe of {} in {}", kind.name(), container.name, self.identity.display());
        let runtime = self.host.runtime.clone();
        let pod = self.identity.clone();
        let tally = self.host.probes.count(probe::Name { pod, container: container.name.clone(), kind });
        let (age, report) = (age.unwrap_or_default(), Arc::new(report));
        let prober = Prober { kind, container, target, age, runtime, report, tally };
        self.host.tasks.spawn(name, prober.run(stop));
    }

    /// Takes in how a job ended.
    fn finish(&mut self, done: Done) {
        match done {
            Done::Action(action, result) => {
                self.busy.remove(&action);
                self.runtime_dirty = true;
                self.settle(action, result);
            }
            Done::Volumes(action, tokens, result) => {
                self.tokens = Some(tokens);
                match (action, result) {
                    (Some(action), result) => {
                        self.busy.remove(&action);
                        self.runtime_dirty = true;
                        if result.is_ok() {
                            self.memory.torn_down = false;
                        }
                        self.settle(action, result.map_err(Some));
                    }
                    (None, Ok(())) => {}
                    (None, Err(_)) => {
                        self.volumes_dirty = true;
                        self.volumes_retry = Some(Instant::now() + VOLUMES_RETRY);
                    }
                }
            }
            Done::Resize(action, result) => {
                self.busy.remove(&action);
                self.runtime_dirty = true;
                self.memory.resize_error = result.as_ref().err().map(|error| chain(error));
                self.settle(action, result.map_err(|_| None));
            }
            Done::Status(result) => {
                self.status_in_flight = false;
                self.written(result);
            }
            Done::Deleted(result) => {
                self.delete_in_flight = false;
                match result {
                    Ok(()) => self.gone = true,
                    Err(error) => self.api_failed(&error),
                }
            }
        }
    }

    fn written(&mut self, result: Result<Object, ClientError>) {
        match result {
            Ok(object) => {
                self.api_backoff.reset();
                self.learn(object);
            }
            // The watch will say that it is gone, or bring the pod that has its name now.
            Err(error) if self.is_static && (error.is_not_found() || error.is_conflict()) => self.mirror = None,
            Err(error) if error.is_not_found() => self.api_retry = Some(Instant::now() + RETRY_MAX),
            Err(error) => self.api_failed(&error),
        }
    }

    fn api_failed(&mut self, error: &ClientError) {
        tracing::warn!(pod = self.identity.display(), error = chain(error), "cannot write the pod; trying again");
        self.api_retry = Some(Instant::now() + self.api_backoff.next_delay());
    }

    fn settle(&mut self, action: Action, result: Result<(), Option<Failure>>) {
        if let Action::Start { name, .. } = &action {
            self.memory.hooks_running.remove(name);
        }
        match result {
            Ok(()) => {
                self.retries.remove(&action);
                match action {
                    Action::Start { name, .. } => {
                        self.memory.waiting.remove(&name);
                    }
                    Action::Unmount | Action::TearDown => {
                        self.memory.torn_down = true;
                        // What it asked for is free for others, though it may stay in the API for long.
                        admission::release(&self.host, &self.identity.uid);
                    }
                    _ => {}
                }
            }
            Err(failure) => self.hold_back(action, failure),
        }
    }

    fn hold_back(&mut self, action: Action, failure: Option<Failure>) {
        let start = matches!(action, Action::Start { .. });
        let (first, max) = if start { (START_RETRY_FIRST, START_RETRY_MAX) } else { (RETRY_FIRST, RETRY_MAX) };
        let now = Instant::now();
        // Failures of runs and sandboxes that are long gone are forgotten.
        self.retries.retain(|_, retry| retry.until + 2 * START_RETRY_MAX > now);
        let fresh = || Retry { backoff: Backoff::new(first, max), until: now };
        let retry = self.retries.entry(action.clone()).or_insert_with(fresh);
        let wait = retry.backoff.next_delay();
        retry.until = now + failure.as_ref().and_then(|failure| failure.retry_in).unwrap_or(wait);
        if let (Action::Start { name, .. }, Some(failure)) = (action, failure) {
            let Waiting { reason, message } = failure.waiting;
            self.memory.waiting.insert(name, Waiting { reason, message });
        }
    }
}

fn done<E: std::error::Error + 'static>(action: Action, result: Result<(), E>) -> Done {
    let result = result.map_err(|error| {
        tracing::warn!(?action, error = chain(&error), "an action of a pod failed; trying again");
        None
    });
    Done::Action(action, result)
}

/// The pod of an object; one that cannot be read runs nothing, and is said to be unreadable.
fn decode(object: &Object) -> Pod {
    let mut pod = Pod::decode(object.json()).unwrap_or_else(|error| {
        tracing::error!(pod = %object.key(), error = chain(&error), "a pod cannot be read and is not run");
        Pod::default()
    });
    identity::adopt_ephemeral(&mut pod);
    pod
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

struct ProbeReport {
    host: Arc<Host>,
    identity: Identity,
    field_path: String,
    inbox: Arc<Inbox>,
}

impl Report for ProbeReport {
    fn verdict(&self, container_id: &str, kind: ProbeKind, healthy: bool) {
        self.inbox.put(|mail| {
            mail.probes.insert((container_id.to_owned(), kind), healthy);
        });
    }

    fn failed(&self, kind: ProbeKind, message: &str) {
        let message = format!("{} probe failed: {message}", kind.name());
        self.host.event(&self.identity, self.field_path.clone(), EventType::Warning, "Unhealthy", &message);
    }
}
