//! Decides what a pod's worker does next. Pure and level-triggered: the pod, what the runtime shows and the worker's memory
//! in, actions out; nothing here knows which event woke the worker.
//!
//! The order is upstream's: a working sandbox, init containers one after the other, sidecars started before what follows
//! them, then the containers together. A pod that ends stops its containers first, its sidecars after them in reverse order,
//! then its sandbox; what is on disk goes last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::typed::core::v1::{Container as Spec, ContainerStatus, Pod};
use jiff::Timestamp;

use crate::identity::{self, Role};
use crate::observed::{Container, Observed, State};
use crate::resize::{self, Change, Pending, Target};

/// First and longest wait before a container that ended is started again; a container that ran for twice the longest wait
/// starts over.
pub(crate) const CRASH_BACKOFF_FIRST: Duration = Duration::from_secs(10);
pub(crate) const CRASH_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Why a pod ends before its containers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Seconds that its containers get, where they are fewer than its own.
    pub(crate) grace_seconds: Option<i64>,
}

/// Why a container does not run yet, as its status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

/// What a worker knows that the runtime does not. Lost with the process, as upstream's is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// Restart back-off of each container.
    pub(crate) backoff: BTreeMap<String, Duration>,
    /// Containers that could not be started.
    pub(crate) waiting: BTreeMap<String, Waiting>,
    /// Results of probes, by container id.
    pub(crate) probes: BTreeMap<(String, ProbeKind), bool>,
    /// Containers whose `postStart` hook has not ended.
    pub(crate) hooks_running: BTreeSet<String>,
    /// Why a change of the pod's resources waits.
    pub(crate) resize_pending: Option<Pending>,
    /// Why a change that was promised could not be made.
    pub(crate) resize_error: Option<String>,
    /// Why the pod must end.
    pub(crate) verdict: Option<Verdict>,
    /// Whether volumes and directories are gone.
    pub(crate) torn_down: bool,
}

/// Everything that the decision is made from.
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    /// The pod is no longer in the API.
    pub(crate) gone: bool,
    pub(crate) observed: &'a Observed,
    pub(crate) memory: &'a Memory,
    /// What is being done already.
    pub(crate) busy: &'a BTreeSet<Action>,
    /// What failed and is not due again yet.
    pub(crate) held: &'a BTreeSet<Action>,
    pub(crate) now: Timestamp,
}

/// One thing to do. Equal actions are not done twice at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Mounts the volumes and makes a sandbox.
    Setup { attempt: u32 },
    /// Makes and starts a container.
    Start { name: String, attempt: u32 },
    /// Ends a container.
    Kill { id: String, name: String, grace_seconds: i64, message: String },
    /// Changes what a running container may use.
    Resize { id: String, name: String, target: Target },
    /// Removes an old run of a container.
    RemoveContainer { id: String },
    /// Stops a sandbox and gives its address back.
    StopSandbox { id: String },
    /// Removes a sandbox that was replaced.
    RemoveSandbox { id: String },
    /// Unmounts volumes; the pod stays in the API and its containers' logs on disk.
    Unmount,
    /// Removes everything that the pod has on this node.
    TearDown,
}

/// What to do now, and when to look again though nothing happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) look_again_at: Option<Timestamp>,
}

impl Plan {
    fn look_again(&mut self, at: Timestamp) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |known| known.min(at)));
    }
}

/// Decides.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if let Some(deadline) = deadline(view.pod).filter(|_| !ending(view)) {
        plan.look_again(deadline);
    }
    if ending(view) {
        end(view, &mut plan);
    } else {
        run(view, &mut plan);
    }
    plan.actions.retain(|action| !view.busy.contains(action) && !view.held.contains(action));
    plan
}

/// Whether the pod's containers shall end or have ended for good.
pub(crate) fn ending(view: &View<'_>) -> bool {
    view.gone || view.pod.metadata.deletion_timestamp.is_some() || view.memory.verdict.is_some() || finished(view)
}

/// When `activeDeadlineSeconds` is over.
pub(crate) fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    started.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with this code is started again.
fn restarts(pod: &Pod, role: Role, spec: &Spec, exit_code: i32) -> bool {
    for rule in spec.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        if rule.action == "Restart" && listed == (codes.operator == "In") {
            return true;
        }
    }
    match (role, spec.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod))) {
        (Role::Sidecar, _) => true,
        // An init container that succeeded is done under every policy.
        (Role::Init, "Always" | "OnFailure") | (Role::Main, "OnFailure") => exit_code != 0,
        (Role::Main, "Always") => true,
        _ => false,
    }
}

/// Whether every container has ended for good, or an init container failed for good. A phase that the API has already seen
/// ended never turns back.
pub(crate) fn finished(view: &View<'_>) -> bool {
    let phase = view.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return true;
    }
    let failed = |role, spec: &Spec| {
        role == Role::Init
            && ended_for_good(view, role, spec)
            && view.observed.latest(&spec.name).is_some_and(|run| run.exit_code != 0)
    };
    if identity::containers(view.pod).any(|(role, spec)| failed(role, spec)) {
        return true;
    }
    let mut main = identity::containers(view.pod).filter(|(role, _)| *role == Role::Main).peekable();
    main.peek().is_some() && main.all(|(role, spec)| ended_for_good(view, role, spec))
}

/// Whether the newest run of a container ended and no other follows.
fn ended_for_good(view: &View<'_>, role: Role, spec: &Spec) -> bool {
    view.observed
        .latest(&spec.name)
        .is_some_and(|run| run.state == State::Exited && !restarts(view.pod, role, spec, run.exit_code))
}

fn run(view: &View<'_>, plan: &mut Plan) {
    // No pod of the API is without containers: this one could not be read.
    if view.pod.spec.as_ref().is_none_or(|spec| spec.containers.is_empty()) {
        return;
    }
    let Some(sandbox) = view.observed.ready_sandbox() else {
        replace_sandbox(view, plan);
        return;
    };
    // Containers of a sandbox that died belong to no pod network any more.
    for container in view.observed.running().filter(|container| container.sandbox_id != sandbox.id) {
        plan.actions.push(kill(
            container,
            grace(view),
            "Pod sandbox changed, it will be killed and re-created.".to_owned(),
        ));
    }
    let any_main = identity::containers(view.pod)
        .filter(|(role, _)| *role == Role::Main)
        .any(|(_, spec)| in_sandbox(view, &spec.name, &sandbox.id).is_some());
    // Whoever looks into a pod may want to do so because it does not start.
    for (_, spec) in identity::containers(view.pod).filter(|(role, _)| *role == Role::Ephemeral) {
        run_once(view, plan, &spec.name);
    }
    for (role, spec) in identity::containers(view.pod).filter(|(role, _)| *role != Role::Ephemeral) {
        let done = run_one(view, plan, &sandbox.id, role, spec, any_main);
        if role != Role::Main && !done && !any_main {
            break;
        }
    }
    collect_old_runs(view, plan);
}

/// The newest run of a container, if it belongs to the present sandbox.
fn in_sandbox<'a>(view: &View<'a>, name: &str, sandbox: &str) -> Option<&'a Container> {
    view.observed.latest(name).filter(|container| container.sandbox_id == sandbox)
}

fn replace_sandbox(view: &View<'_>, plan: &mut Plan) {
    let mut still = false;
    for container in view.observed.running() {
        still = true;
        plan.actions.push(kill(
            container,
            grace(view),
            "Pod sandbox changed, it will be killed and re-created.".to_owned(),
        ));
    }
    if still || view.busy.iter().any(|action| matches!(action, Action::Setup { .. })) {
        return;
    }
    let attempt = view.observed.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
    plan.actions.push(Action::Setup { attempt });
}

/// Starts an ephemeral container, if no run of it was ever seen.
fn run_once(view: &View<'_>, plan: &mut Plan, name: &str) {
    match view.observed.latest(name) {
        Some(run) if run.state == State::Created && !starting(view, name) => {
            plan.actions.push(Action::RemoveContainer { id: run.id.clone() });
        }
        None if next_attempt(view, name) == 0 => {
            plan.actions.push(Action::Start { name: name.to_owned(), attempt: 0 });
        }
        _ => {}
    }
}

/// Brings one container forward; true when what comes after it in the init order may start.
fn run_one(view: &View<'_>, plan: &mut Plan, sandbox: &str, role: Role, spec: &Spec, any_main: bool) -> bool {
    let name = &spec.name;
    let run = in_sandbox(view, name, sandbox);
    let attempt = next_attempt(view, name);
    if run.is_none_or(|run| run.state != State::Running) && starting(view, name) {
        return false;
    }
    match run {
        // Init containers that ended in an older sandbox run again, unless the pod is past them.
        None if role == Role::Init && any_main => true,
        // It was done for good in a sandbox that has since been replaced.
        None if role == Role::Main && ended_for_good(view, role, spec) => true,
        None => {
            plan.actions.push(Action::Start { name: name.clone(), attempt });
            false
        }
        Some(run) if run.state == State::Created => {
            plan.actions.push(Action::RemoveContainer { id: run.id.clone() });
            false
        }
        Some(run) if run.state == State::Running => {
            if let Some(message) = must_be_killed(view, role, spec, run) {
                plan.actions.push(kill(run, probe_grace(view, spec, run), message));
                return false;
            }
            if let Some(Change::InPlace(target)) = resize::change(view.pod, spec, run) {
                plan.actions.push(Action::Resize { id: run.id.clone(), name: name.clone(), target });
            }
            role != Role::Init && started(view.memory, spec, run)
        }
        Some(run) if restarts(view.pod, role, spec, run.exit_code) => {
            if role == Role::Init && any_main {
                return true;
            }
            match back_off_until(view.memory, run).filter(|at| *at > view.now) {
                Some(at) => plan.look_again(at),
                None => plan.actions.push(Action::Start { name: name.clone(), attempt }),
            }
            false
        }
        Some(_) => true,
    }
}

/// Whether a new run of a container is on its way.
pub(crate) fn starting(view: &View<'_>, name: &str) -> bool {
    view.busy.iter().any(|action| matches!(action, Action::Start { name: busy, .. } if busy == name))
}

/// The number of the next run: one more than the runtime's newest, or than what the API remembers where the runtime has
/// forgotten (its data was removed).
pub(crate) fn next_attempt(view: &View<'_>, name: &str) -> u32 {
    if let Some(latest) = view.observed.latest(name) {
        return latest.attempt + 1;
    }
    known_status(view.pod, name)
        .filter(|status| status.container_id.is_some())
        .map_or(0, |status| u32::try_from(status.restart_count).unwrap_or(0) + 1)
}

/// What the API remembers of a container.
pub(crate) fn known_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// When a container that ended may start again; `None` where it never waited or ran long enough to start over.
pub(crate) fn back_off_until(memory: &Memory, run: &Container) -> Option<Timestamp> {
    let wait = memory.backoff.get(&run.name)?;
    let finished = run.finished_at?;
    finished.checked_add(*wait).ok()
}

/// The next wait after one more start of a container whose last run ended.
pub(crate) fn next_backoff(known: Option<Duration>, last: &Container) -> Duration {
    let ran = last.started_at.zip(last.finished_at).map(|(from, to)| to.duration_since(from));
    let long = ran.is_some_and(|ran| ran >= jiff::SignedDuration::from_secs(2 * CRASH_BACKOFF_MAX.as_secs() as i64));
    match known {
        Some(wait) if !long => (wait * 2).min(CRASH_BACKOFF_MAX),
        _ => CRASH_BACKOFF_FIRST,
    }
}

/// Whether a running container counts as started: its hook has run and its startup probe, if any, has succeeded.
pub(crate) fn started(memory: &Memory, spec: &Spec, run: &Container) -> bool {
    run.state == State::Running
        && !memory.hooks_running.contains(&run.name)
        && (spec.startup_probe.is_none() || memory.probes.get(&(run.id.clone(), ProbeKind::Startup)) == Some(&true))
}

/// Whether a running container is ready for traffic.
pub(crate) fn ready(memory: &Memory, spec: &Spec, run: &Container) -> bool {
    started(memory, spec, run)
        && (spec.readiness_probe.is_none() || memory.probes.get(&(run.id.clone(), ProbeKind::Readiness)) == Some(&true))
}

fn must_be_killed(view: &View<'_>, role: Role, spec: &Spec, run: &Container) -> Option<String> {
    let failed = |kind| view.memory.probes.get(&(run.id.clone(), kind)) == Some(&false);
    let again = restarts(view.pod, role, spec, 137);
    let then = if again { ", will be restarted" } else { "" };
    if run.hash != identity::hash(spec) {
        return Some(format!("Container {} definition changed{then}", spec.name));
    }
    if resize::change(view.pod, spec, run) == Some(Change::Restart) {
        return Some(format!("Container {} resize requires restart", spec.name));
    }
    if failed(ProbeKind::Liveness) {
        return Some(format!("Container {} failed liveness probe{then}", spec.name));
    }
    failed(ProbeKind::Startup).then(|| format!("Container {} failed startup probe{then}", spec.name))
}

fn probe_grace(view: &View<'_>, spec: &Spec, run: &Container) -> i64 {
    let failed = |kind| view.memory.probes.get(&(run.id.clone(), kind)) == Some(&false);
    let own = |probe: &Option<api::typed::core::v1::Probe>| probe.as_ref()?.termination_grace_period_seconds;
    let liveness = own(&spec.liveness_probe).filter(|_| failed(ProbeKind::Liveness));
    let startup = own(&spec.startup_probe).filter(|_| failed(ProbeKind::Startup));
    liveness.or(startup).unwrap_or_else(|| grace(view))
}

/// Seconds that containers get to end.
fn grace(view: &View<'_>) -> i64 {
    let spec = view.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let own = match view.pod.metadata.deletion_grace_period_seconds {
        Some(seconds) => seconds.max(1),
        None => spec.max(1),
    };
    view.memory.verdict.as_ref().and_then(|verdict| verdict.grace_seconds).map_or(own, |seconds| own.min(seconds))
}

/// Removes all but the newest two runs of each container, and dead sandboxes that nothing of those is in: without it a
/// container in a crash loop fills the disk.
fn collect_old_runs(view: &View<'_>, plan: &mut Plan) {
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sandboxes_in_use = BTreeSet::new();
    for container in &view.observed.containers {
        let count = kept.entry(&container.name).or_default();
        *count += 1;
        if *count > 2 && container.state != State::Running {
            plan.actions.push(Action::RemoveContainer { id: container.id.clone() });
        } else {
            sandboxes_in_use.insert(&container.sandbox_id);
        }
    }
    for sandbox in view.observed.sandboxes.iter().filter(|sandbox| !sandbox.ready) {
        if !sandboxes_in_use.contains(&sandbox.id) {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

fn kill(container: &Container, grace_seconds: i64, message: String) -> Action {
    Action::Kill { id: container.id.clone(), name: container.name.clone(), grace_seconds, message }
}

fn end(view: &View<'_>, plan: &mut Plan) {
    let grace = grace(view);
    let role = |name: &str| identity::containers(view.pod).find(|(_, spec)| spec.name == name).map(|(role, _)| role);
    let (sidecars, main): (Vec<_>, Vec<_>) =
        view.observed.running().partition(|container| role(&container.name) == Some(Role::Sidecar));
    let message = |container: &Container| format!("Stopping container {}", container.name);
    if !main.is_empty() {
        plan.actions.extend(main.iter().map(|container| kill(container, grace, message(container))));
        return;
    }
    // Sidecars serve what started after them, so they end in reverse order, each when the next is gone.
    let last =
        identity::containers(view.pod).filter_map(|(_, spec)| sidecars.iter().find(|run| run.name == spec.name)).last();
    if let Some(container) = last.or(sidecars.first()) {
        plan.actions.push(kill(container, grace, message(container)));
        return;
    }
    if !view.busy.is_empty() {
        // A start that is still on its way may yet make a container: look again when it has ended.
        return;
    }
    let leaves = view.gone || view.pod.metadata.deletion_timestamp.is_some();
    if let Some(sandbox) = view.observed.ready_sandbox() {
        plan.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
    } else if !view.memory.torn_down {
        plan.actions.push(if leaves { Action::TearDown } else { Action::Unmount });
    } else if leaves && !(view.observed.sandboxes.is_empty() && view.observed.containers.is_empty()) {
        // It was unmounted as a finished pod, and now it is deleted.
        plan.actions.push(Action::TearDown);
    }
}

#[cfg(test)]
mod tests;
