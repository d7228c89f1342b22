//! Changing a running pod's CPU and memory: what is wanted (the pod's spec), what was promised to it (allocated), and what its
//! containers really have (actuated, read from the runtime). KEP-1287 defines it.
//!
//! The worker's pod always carries the allocated resources, so that everything else of the kubelet sees those; what is wanted
//! is kept here until it fits. What was allocated survives the process in the pod's status.

use std::collections::BTreeMap;

use api::typed::core::v1::{Container, Pod, ResourceRequirements};
use cri::v1;

use crate::identity::{self, Role};
use crate::observed;
use crate::resources::{self, Capacity};

/// Why a change waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred` or `Infeasible`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Each container's resources, by its name.
pub(crate) type Resources = BTreeMap<String, ResourceRequirements>;

/// Reads the resources of a pod's containers.
pub(crate) fn of(pod: &Pod) -> Resources {
    let list = identity::containers(pod).filter(|(role, _)| *role != Role::Ephemeral);
    list.map(|(_, spec)| (spec.name.clone(), spec.resources.clone().unwrap_or_default())).collect()
}

/// What was allocated to a pod by an earlier life of this process, as its status tells it.
pub(crate) fn remembered(pod: &Pod) -> Resources {
    let mut all = of(pod);
    let status = pod.status.as_ref();
    let lists = status.map(|status| [&status.container_statuses, &status.init_container_statuses]);
    for known in lists.iter().flatten().flat_map(|list| list.iter().flatten()) {
        let (Some(entry), Some(requests)) = (all.get_mut(&known.name), &known.allocated_resources) else { continue };
        entry.requests = Some(requests.clone());
        // Only what can change may differ from the spec; a limit that is there now was there then, or is being added.
        if let Some(limits) = known.resources.as_ref().map(|resources| resources.limits.clone()) {
            entry.limits = limits;
        }
    }
    all
}

/// Puts resources into a pod's containers.
pub(crate) fn put(pod: &mut Pod, all: &Resources) {
    let Some(spec) = &mut pod.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(resources) = all.get(&container.name) {
            container.resources = Some(resources.clone()).filter(|one| *one != ResourceRequirements::default());
        }
    }
}

/// What to do about a running container whose resources are others than those allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    InPlace(Target),
    Restart,
}

/// What a container shall have, in the runtime's words; the part of them that can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) cpu_shares: i64,
    pub(crate) cpu_quota: i64,
    pub(crate) memory_bytes: i64,
}

impl Target {
    pub(crate) fn of(linux: &v1::LinuxContainerResources) -> Self {
        // Without a limit some runtimes say -1.
        Self {
            cpu_shares: linux.cpu_shares,
            cpu_quota: linux.cpu_quota.max(0),
            memory_bytes: linux.memory_limit_in_bytes.max(0),
        }
    }
}

/// The change that a running container needs; `None` where it has what it shall have, or its runtime does not tell.
pub(crate) fn change(pod: &Pod, spec: &Container, run: &observed::Container) -> Option<Change> {
    let has = run.resources?;
    let wanted = Target::of(&resources::linux(pod, spec, Capacity::default()));
    if has == wanted {
        return None;
    }
    let restarts = |resource: &str| {
        let policies = spec.resize_policy.iter().flatten();
        policies
            .into_iter()
            .any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
    };
    let cpu = (has.cpu_shares, has.cpu_quota) != (wanted.cpu_shares, wanted.cpu_quota);
    let memory = has.memory_bytes != wanted.memory_bytes;
    let restart = cpu && restarts("cpu") || memory && restarts("memory");
    Some(if restart { Change::Restart } else { Change::InPlace(wanted) })
}

/// Whether any running container still has other resources than those allocated.
pub(crate) fn in_progress(pod: &Pod, observed: &observed::Observed) -> bool {
    identity::containers(pod).filter(|(role, _)| *role != Role::Ephemeral).any(|(_, spec)| {
        let run = observed.latest(&spec.name).filter(|run| run.state == observed::State::Running);
        run.is_some_and(|run| change(pod, spec, run).is_some())
    })
}

/// The resources that a container really has, as its status shows them.
pub(crate) fn actuated(pod: &Pod, spec: &Container, run: &observed::Container) -> ResourceRequirements {
    use api::typed::Quantity;
    let mut shown = spec.resources.clone().unwrap_or_default();
    shown.claims = None;
    let Some(has) = run.resources.filter(|_| run.state == observed::State::Running) else { return shown };
    let wanted = Target::of(&resources::linux(pod, spec, Capacity::default()));
    let set = |list: &mut Option<BTreeMap<String, Quantity>>, name: &str, value: String| {
        list.get_or_insert_default().insert(name.to_owned(), Quantity(value));
    };
    if has.cpu_shares != wanted.cpu_shares {
        let milli = (has.cpu_shares * 1000 + 512) / 1024;
        set(&mut shown.requests, "cpu", format!("{milli}m"));
    }
    if has.cpu_quota != wanted.cpu_quota && has.cpu_quota > 0 {
        set(&mut shown.limits, "cpu", format!("{}m", has.cpu_quota / 100));
    }
    if has.memory_bytes != wanted.memory_bytes && has.memory_bytes > 0 {
        set(&mut shown.limits, "memory", has.memory_bytes.to_string());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{observed, pod};

    fn with(resources: &str, policy: &str) -> Pod {
        pod(&format!(
            r#"{{"spec":{{"containers":[{{"name":"a","resources":{resources},"resizePolicy":[{policy}]}}]}}}}"#
        ))
    }

    #[test]
    fn a_change_is_made_in_place_unless_the_container_says_otherwise() {
        let restart = r#"{"resourceName":"memory","restartPolicy":"RestartContainer"}"#;
        let old = r#"{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"64Mi"}}"#;
        for (new, policy, wanted) in [
            (old, "", "None"),
            (
                r#"{"requests":{"cpu":"300m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"64Mi"}}"#,
                restart,
                "InPlace",
            ),
            (r#"{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"128Mi"}}"#, "", "InPlace"),
            (
                r#"{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"128Mi"}}"#,
                restart,
                "Restart",
            ),
            // The request of memory alone changes nothing that runs.
            (r#"{"requests":{"cpu":"100m","memory":"32Mi"},"limits":{"cpu":"200m","memory":"64Mi"}}"#, restart, "None"),
        ] {
            let before = with(old, policy);
            let mut seen = observed("a:running");
            let spec = &before.spec.as_ref().unwrap().containers[0];
            seen.containers[0].resources = Some(Target::of(&resources::linux(&before, spec, Capacity::default())));
            let after = with(new, policy);
            let spec = &after.spec.as_ref().unwrap().containers[0];
            let change = format!("{:?}", change(&after, spec, &seen.containers[0]));
            assert!(change.trim_start_matches("Some(").starts_with(wanted), "{new} {policy}: {change}");
            assert_eq!(in_progress(&after, &seen), wanted != "None");
        }
    }

    #[test]
    fn the_status_shows_what_a_container_has_and_remembers_what_was_promised() {
        let mut promised =
            with(r#"{"requests":{"cpu":"500m","memory":"1Mi"},"limits":{"cpu":"1","memory":"64Mi"}}"#, "");
        let mut seen = observed("a:running");
        seen.containers[0].resources = Some(Target { cpu_shares: 102, cpu_quota: 20_000, memory_bytes: 32 << 20 });
        let spec = promised.spec.as_ref().unwrap().containers[0].clone();
        let shown = actuated(&promised, &spec, &seen.containers[0]);
        let text =
            |list: &Option<BTreeMap<String, api::typed::Quantity>>, name: &str| list.as_ref().unwrap()[name].0.clone();
        assert_eq!(text(&shown.requests, "cpu"), "100m");
        assert_eq!(text(&shown.requests, "memory"), "1Mi");
        assert_eq!((text(&shown.limits, "cpu"), text(&shown.limits, "memory")), ("200m".into(), "33554432".into()));
        let known = api::typed::core::v1::ContainerStatus {
            name: "a".into(),
            allocated_resources: shown.requests.clone(),
            resources: Some(shown.clone()),
            ..Default::default()
        };
        let status = api::typed::core::v1::PodStatus { container_statuses: Some(vec![known]), ..Default::default() };
        promised.status = Some(status);
        let before = remembered(&promised);
        assert_eq!(before["a"], shown);
        put(&mut promised, &before);
        assert_eq!(of(&promised), before);
    }
}
