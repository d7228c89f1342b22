//! What the API is told of a pod: phase, conditions and container states, with upstream's reasons. Pure.

use std::net::IpAddr;

use api::typed::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, PodCondition, PodIP, PodStatus,
};
use api::typed::meta::Time;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::identity::{self, Role};
use crate::observed::{Container, State};
use crate::plan::{self, View};
use crate::resize;
use crate::resources;

/// What the node adds to a pod's status.
pub(crate) struct Place<'a> {
    pub(crate) host_ips: &'a [IpAddr],
    /// The runtime's name, before `://` in container ids.
    pub(crate) runtime_name: &'a str,
}

/// Seconds, as the API keeps time stamps: fractions would make every comparison with what was read back differ.
pub(crate) fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The status of a pod as it is now.
pub(crate) fn status(view: &View<'_>, place: &Place<'_>) -> PodStatus {
    let known = view.pod.status.clone().unwrap_or_default();
    let of = |wanted: &[Role]| -> Vec<ContainerStatus> {
        let list = identity::containers(view.pod).filter(|(role, _)| wanted.contains(role));
        list.map(|(role, spec)| container_status(view, place, role, spec)).collect()
    };
    let main = of(&[Role::Main]);
    let init = of(&[Role::Init, Role::Sidecar]);
    let ephemeral = of(&[Role::Ephemeral]);
    let phase = phase(view, &main, &init);
    let conditions = conditions(view, &known, phase, &main, &init);
    let (reason, message) = match &view.memory.verdict {
        Some(verdict) => (Some(verdict.reason.clone()), Some(verdict.message.clone())),
        None if phase == "Failed" => (known.reason.clone(), known.message.clone()),
        None => (None, None),
    };
    let ips = pod_ips(view, place, &known);
    // A pod that was not let in has no containers to tell of: with them `kubectl` would show it as one that starts.
    let told = known.container_statuses.as_ref().is_some_and(|list| !list.is_empty());
    let never_let_in = phase == "Failed" && !told && view.observed.containers.is_empty();
    let (main, init) = if never_let_in { (Vec::new(), Vec::new()) } else { (main, init) };
    PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        container_statuses: Some(main).filter(|list| !list.is_empty()),
        init_container_statuses: Some(init).filter(|list| !list.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|list| !list.is_empty()),
        host_ip: place.host_ips.first().map(ToString::to_string),
        host_ips: Some(place.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: Some(ips.into_iter().map(|ip| PodIP { ip }).collect()).filter(|ips: &Vec<_>| !ips.is_empty()),
        qos_class: Some(known.qos_class.clone().unwrap_or_else(|| resources::qos(view.pod).name().to_owned())),
        start_time: known.start_time.clone().or_else(|| Some(seconds(view.now))),
        observed_generation: view.pod.metadata.generation,
        // Of the pod as a whole, where it says so as a whole.
        allocated_resources: pod_level(view).and_then(|resources| resources.requests.clone()),
        resources: pod_level(view).cloned(),
        ..known
    }
}

fn pod_level<'a>(view: &View<'a>) -> Option<&'a api::typed::core::v1::ResourceRequirements> {
    view.pod.spec.as_ref()?.resources.as_ref()
}

fn pod_ips(view: &View<'_>, place: &Place<'_>, known: &PodStatus) -> Vec<String> {
    if view.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return place.host_ips.iter().map(ToString::to_string).collect();
    }
    let sandbox = view
        .observed
        .ready_sandbox()
        .or_else(|| view.observed.sandboxes.first())
        .filter(|sandbox| !sandbox.ips.is_empty());
    match sandbox {
        Some(sandbox) => sandbox.ips.iter().map(ToString::to_string).collect(),
        // A sandbox that is stopped has given its address back; the API keeps the last one.
        None => known.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

fn container_status(view: &View<'_>, place: &Place<'_>, role: Role, spec: &Spec) -> ContainerStatus {
    let name = &spec.name;
    let Some(run) = view.observed.latest(name) else {
        return unseen(view, role, spec);
    };
    let previous = view.observed.previous(name).map(|run| terminated(run, place));
    let waiting = view.memory.waiting.get(name);
    let backs_off = !plan::ending(view) && !plan::starting(view, name);
    let (state, last_state) = match run.state {
        State::Running => (running(run), previous),
        State::Created => (waiting_state(creating(view), ""), previous.or_else(|| told_end(view, name))),
        State::Exited
            if backs_off
                && waiting.is_none()
                && plan::back_off_until(view.memory, run).is_some_and(|at| at > view.now) =>
        {
            let wait = view.memory.backoff.get(name).map_or(0, std::time::Duration::as_secs);
            (crash_loop(view, name, wait), Some(terminated(run, place)))
        }
        State::Exited => match waiting.filter(|_| !plan::ending(view)) {
            Some(waiting) => (waiting_state(&waiting.reason, &waiting.message), Some(terminated(run, place))),
            None => (terminated(run, place), previous),
        },
    };
    let ready = match (role, run.state) {
        (Role::Init, State::Exited) => run.exit_code == 0,
        // Ephemeral ones take no traffic.
        (Role::Init | Role::Ephemeral, _) => false,
        _ => plan::ready(view.memory, spec, run),
    };
    ContainerStatus {
        name: name.clone(),
        image: if run.image.is_empty() { spec.image.clone().unwrap_or_default() } else { run.image.clone() },
        image_id: run.image_id.clone(),
        container_id: Some(format!("{}://{}", place.runtime_name, run.id)),
        restart_count: i32::try_from(run.attempt).unwrap_or(i32::MAX),
        ready,
        started: match role {
            Role::Init => Some(run.state == State::Running),
            Role::Ephemeral => None,
            Role::Main | Role::Sidecar => Some(plan::started(view.memory, spec, run)),
        },
        state: Some(state),
        last_state,
        user: run.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()).filter(|groups| !groups.is_empty()),
            }),
        }),
        allocated_resources: spec
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.clone())
            .filter(|requests| role != Role::Ephemeral && !requests.is_empty()),
        resources: (role != Role::Ephemeral).then(|| resize::actuated(view.pod, spec, run)),
        ..Default::default()
    }
}

/// A container of which the runtime knows nothing: it has not been made yet, or the runtime's data was lost.
fn unseen(view: &View<'_>, role: Role, spec: &Spec) -> ContainerStatus {
    let known = plan::known_status(view.pod, &spec.name);
    let known = known.filter(|known| known.container_id.is_some());
    let blank = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: (role != Role::Ephemeral).then_some(false),
        ..Default::default()
    };
    if let Some(known) = known {
        let ended = known.state.as_ref().is_some_and(|state| state.terminated.is_some());
        if ended && plan::ending(view) {
            return known.clone();
        }
        let lost = ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                container_id: known.container_id.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let last = if ended { known.state.clone() } else { Some(lost) };
        let base = ContainerStatus { restart_count: known.restart_count, image_id: known.image_id.clone(), ..blank };
        if plan::ending(view) {
            return ContainerStatus { state: last, container_id: known.container_id.clone(), ..base };
        }
        return ContainerStatus { state: Some(not_yet(view, spec)), last_state: last, ..base };
    }
    // One that was lost before, and told as such, is not forgotten while it waits for its next start.
    let told = plan::known_status(view.pod, &spec.name);
    ContainerStatus {
        state: Some(not_yet(view, spec)),
        last_state: told.and_then(|told| told.last_state.clone()),
        restart_count: told.map_or(0, |told| told.restart_count),
        ..blank
    }
}

/// How a container ended before, as the API was told: the runtime may keep no record of it.
fn told_end(view: &View<'_>, name: &str) -> Option<ContainerState> {
    let told = plan::known_status(view.pod, name)?;
    let ended = |state: &Option<ContainerState>| state.clone().filter(|state| state.terminated.is_some());
    ended(&told.state).or_else(|| ended(&told.last_state))
}

fn not_yet(view: &View<'_>, spec: &Spec) -> ContainerState {
    if let Some(waiting) = view.memory.waiting.get(&spec.name) {
        return waiting_state(&waiting.reason, &waiting.message);
    }
    waiting_state(creating(view), "")
}

/// Why a container waits that has not been started yet.
fn creating(view: &View<'_>) -> &'static str {
    let has_init = identity::containers(view.pod).any(|(role, _)| matches!(role, Role::Init | Role::Sidecar));
    if has_init { "PodInitializing" } else { "ContainerCreating" }
}

fn running(run: &Container) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning { started_at: run.started_at.map(seconds) }),
        ..Default::default()
    }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

fn crash_loop(view: &View<'_>, name: &str, wait_seconds: u64) -> ContainerState {
    let meta = &view.pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let message = format!(
        "back-off {} restarting failed container={name} pod={}_{}({})",
        go_duration(wait_seconds),
        text(&meta.name),
        text(&meta.namespace),
        text(&meta.uid)
    );
    waiting_state("CrashLoopBackOff", &message)
}

/// `10s`, `1m20s`, `5m0s`: how upstream's messages write durations.
pub(crate) fn go_duration(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn terminated(run: &Container, place: &Place<'_>) -> ContainerState {
    let reason = match (run.reason.is_empty(), run.exit_code) {
        (false, _) => run.reason.clone(),
        (true, 0) => "Completed".to_owned(),
        (true, _) => "Error".to_owned(),
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: run.exit_code,
            reason: Some(reason),
            message: Some(run.message.clone()).filter(|message| !message.is_empty()),
            started_at: run.started_at.map(seconds),
            finished_at: run.finished_at.map(seconds),
            container_id: Some(format!("{}://{}", place.runtime_name, run.id)),
            signal: None,
        }),
        ..Default::default()
    }
}

/// Upstream's `getPhase`: what the containers say together.
fn phase(view: &View<'_>, main: &[ContainerStatus], init: &[ContainerStatus]) -> &'static str {
    let known = view.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match known {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if view.memory.verdict.is_some() {
        return "Failed";
    }
    let sidecar =
        |name: &str| identity::containers(view.pod).any(|(role, spec)| role == Role::Sidecar && spec.name == name);
    let (mut pending_init, mut failed_init) = (false, false);
    for status in init {
        let state = status.state.as_ref();
        if sidecar(&status.name) {
            pending_init |= status.started != Some(true)
                && state.is_some_and(|state| state.waiting.is_some())
                && main.iter().all(never_ran);
        } else {
            match state.and_then(|state| state.terminated.as_ref()) {
                Some(ended) => failed_init |= ended.exit_code != 0,
                None => pending_init |= main.iter().all(never_ran),
            }
        }
    }
    let (mut running, mut waiting, mut succeeded, mut failed) = (0, 0, 0, 0);
    for status in main {
        let state = status.state.as_ref();
        let ended = state.and_then(|state| state.terminated.as_ref());
        // A container that waits for its restart has ended.
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        match (state.is_some_and(|state| state.running.is_some()), ended.or(last)) {
            (true, _) => running += 1,
            (false, Some(ended)) if ended.exit_code == 0 => succeeded += 1,
            (false, Some(_)) => failed += 1,
            (false, None) => waiting += 1,
        }
    }
    if failed_init && plan::finished(view) {
        return "Failed";
    }
    if ended_early(view) {
        return if waiting + failed == 0 && succeeded > 0 { "Succeeded" } else { "Failed" };
    }
    if (pending_init || failed_init) && running == 0 {
        return "Pending";
    }
    // A pod runs once all its containers have been started.
    if waiting > 0 && !plan::ending(view) {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if plan::finished(view) || (plan::ending(view) && succeeded + failed > 0) {
        if view.observed.running().next().is_some() {
            return "Running";
        }
        return if failed > 0 || waiting > 0 { "Failed" } else { "Succeeded" };
    }
    if succeeded + failed > 0 { "Running" } else { "Pending" }
}

/// Whether a pod is deleted and nothing of it runs or will run, also where none of its containers ever did: it must not leave the
/// API without having ended there.
fn ended_early(view: &View<'_>) -> bool {
    view.pod.metadata.deletion_timestamp.is_some()
        && view.observed.ready_sandbox().is_none()
        && view.observed.running().next().is_none()
        && view.busy.is_empty()
}

fn never_ran(status: &ContainerStatus) -> bool {
    status.container_id.is_none()
}

fn conditions(
    view: &View<'_>,
    known: &PodStatus,
    phase: &str,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
) -> Vec<PodCondition> {
    let done = matches!(phase, "Succeeded" | "Failed");
    let completed = |condition: Truth| match phase {
        "Succeeded" => Truth(false, Some("PodCompleted"), None),
        "Failed" => Truth(false, Some("PodFailed"), None),
        _ => condition,
    };
    let unready: Vec<_> = main
        .iter()
        .chain(init.iter().filter(|status| is_sidecar(view, &status.name)))
        .filter(|status| !status.ready)
        .map(|status| status.name.clone())
        .collect();
    let containers_ready = completed(match unready.is_empty() {
        true => Truth::yes(),
        false => Truth(
            false,
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        ),
    });
    let ready = match (done || !containers_ready.0, gates_message(view, known)) {
        (false, Some(message)) => Truth(false, Some("ReadinessGatesNotReady"), Some(message)),
        _ => containers_ready.clone(),
    };
    let incomplete: Vec<_> =
        init.iter().filter(|status| !initialized(view, status)).map(|status| status.name.clone()).collect();
    let any_main = main.iter().any(|status| !never_ran(status));
    let initialized = match (phase, incomplete.is_empty() || any_main) {
        ("Succeeded", _) => Truth(true, Some("PodCompleted"), None),
        (_, true) => Truth::yes(),
        (_, false) => Truth(
            false,
            Some("ContainersNotInitialized"),
            Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
        ),
    };
    let sandbox = view.observed.ready_sandbox().is_some_and(|sandbox| {
        !sandbox.ips.is_empty() || view.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    });
    let list = [
        ("PodReadyToStartContainers", Truth(sandbox, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Truth::yes()),
    ];
    let mut owned: Vec<_> = list.iter().map(|(name, _)| *name).collect();
    owned.extend(RESIZE_CONDITIONS);
    let disruption = disruption(view);
    owned.extend(disruption.as_ref().map(|(name, _)| *name));
    let generation = view.pod.metadata.generation;
    let ours = list
        .into_iter()
        .chain(resize_conditions(view))
        .chain(disruption)
        .map(|(name, truth)| condition(view.now, known, name, truth, generation));
    // Others' conditions (readiness gates, `DisruptionTarget`) are theirs to change.
    let others =
        known.conditions.iter().flatten().filter(|condition| !owned.contains(&condition.type_.as_str())).cloned();
    ours.chain(others).collect()
}

/// A pod that was evicted says that its end was none of its own doing.
fn disruption(view: &View<'_>) -> Option<(&'static str, Truth)> {
    let verdict = view.memory.verdict.as_ref().filter(|verdict| verdict.reason == "Evicted")?;
    // One that was refused never ran: nothing was disrupted.
    verdict.grace_seconds?;
    Some(("DisruptionTarget", Truth(true, Some("TerminationByKubelet"), Some(verdict.message.clone()))))
}

/// Conditions that are there only while they are true.
const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resize_conditions(view: &View<'_>) -> Vec<(&'static str, Truth)> {
    let mut found = Vec::new();
    if plan::ending(view) {
        return found;
    }
    if let Some(pending) = &view.memory.resize_pending {
        found.push((RESIZE_CONDITIONS[0], Truth(true, Some(pending.reason), Some(pending.message.clone()))));
    }
    if resize::in_progress(view.pod, view.observed) {
        let error = view.memory.resize_error.clone();
        found.push((RESIZE_CONDITIONS[1], Truth(true, error.as_ref().map(|_| "Error"), error)));
    }
    found
}

/// Status, reason and message of a condition.
#[derive(Clone)]
struct Truth(bool, Option<&'static str>, Option<String>);

impl Truth {
    fn yes() -> Self {
        Self(true, None, None)
    }
}

fn is_sidecar(view: &View<'_>, name: &str) -> bool {
    identity::containers(view.pod).any(|(role, spec)| role == Role::Sidecar && spec.name == name)
}

fn initialized(view: &View<'_>, status: &ContainerStatus) -> bool {
    if is_sidecar(view, &status.name) { status.started == Some(true) } else { status.ready }
}

fn gates_message(view: &View<'_>, known: &PodStatus) -> Option<String> {
    let gates = view.pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let messages = gates.iter().filter_map(|gate| {
        let name = &gate.condition_type;
        let found = known.conditions.iter().flatten().find(|condition| condition.type_ == *name);
        match found.map(|condition| condition.status.as_str()) {
            Some("True") => None,
            Some(status) => Some(format!("the status of pod readiness gate \"{name}\" is not \"True\", but {status}")),
            None => Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
        }
    });
    Some(messages.collect::<Vec<_>>().join(", ")).filter(|message| !message.is_empty())
}

fn condition(now: Timestamp, known: &PodStatus, name: &str, truth: Truth, generation: Option<i64>) -> PodCondition {
    let status = if truth.0 { "True" } else { "False" };
    let old = known.conditions.iter().flatten().find(|condition| condition.type_ == name);
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: truth.1.map(str::to_owned),
        message: truth.2,
        last_transition_time: since.or_else(|| Some(seconds(now))),
        observed_generation: generation,
        last_probe_time: None,
    }
}

/// The strategic merge patch that turns the status that the API has into the one wanted; `None` where they agree.
pub(crate) fn patch(uid: &str, old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut changes = Map::new();
    for (field, value) in new {
        if old.get(field) == Some(value) {
            continue;
        }
        let change = match field.as_str() {
            // Merged by type: only those that changed, so that others' conditions are not written over.
            "conditions" => changed_conditions(old.get(field), value),
            // Merged by address: without the directive the old address would stay.
            "podIPs" | "hostIPs" => {
                let mut list = value.as_array().cloned().unwrap_or_default();
                if old.contains_key(field) {
                    list.push(json!({"$patch": "replace"}));
                }
                Value::Array(list)
            }
            _ => value.clone(),
        };
        if change != Value::Array(Vec::new()) || !old.contains_key(field) {
            changes.insert(field.clone(), change);
        }
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        changes.insert(field.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Value {
    let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let changed = new.as_array().into_iter().flatten().filter(|condition| !old.contains(condition));
    let with_nulls = changed.map(|condition| {
        let mut condition = condition.clone();
        let before = old.iter().find(|before| before["type"] == condition["type"]).and_then(Value::as_object);
        // A merge keeps the fields that it does not name: an old reason must be named to go.
        let stale: Vec<_> = before
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| condition.get(key.as_str()).is_none())
            .cloned()
            .collect();
        for key in stale {
            condition[key] = Value::Null;
        }
        condition
    });
    let gone = old.iter().filter(|before| {
        let kind = before["type"].as_str().unwrap_or_default();
        let still = new.as_array().into_iter().flatten().any(|condition| condition["type"] == before["type"]);
        RESIZE_CONDITIONS.contains(&kind) && !still
    });
    let gone = gone.map(|condition| json!({"$patch": "delete", "type": condition["type"]}));
    Value::Array(with_nulls.chain(gone).collect())
}

#[cfg(test)]
mod tests;
