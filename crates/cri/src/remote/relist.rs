//! What changed between two looks at a runtime: events for runtimes that send none, and for what a stream of events missed.

use std::collections::BTreeMap;

use crate::runtime::ContainerChange;
use crate::v1::{self, ContainerEventType as Event, ContainerState};

/// The label that the kubelet gives all of a pod's containers.
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";

/// A container, or a sandbox under its own id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    sandbox_id: String,
    pod_uid: String,
    state: ContainerState,
}

/// A runtime's sandboxes and containers at one moment, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot(BTreeMap<String, Seen>);

impl Snapshot {
    pub(super) fn new(sandboxes: Vec<v1::PodSandbox>, containers: Vec<v1::Container>) -> Self {
        let mut all = BTreeMap::new();
        for sandbox in sandboxes {
            let state = match sandbox.state() {
                v1::PodSandboxState::SandboxReady => ContainerState::ContainerRunning,
                v1::PodSandboxState::SandboxNotready => ContainerState::ContainerExited,
            };
            let pod_uid = sandbox.metadata.map(|pod| pod.uid).unwrap_or_default();
            all.insert(sandbox.id.clone(), Seen { sandbox_id: sandbox.id, pod_uid, state });
        }
        for container in containers {
            let state = container.state();
            let labelled = container.labels.get(POD_UID).cloned();
            let of_sandbox = || all.get(&container.pod_sandbox_id).map(|sandbox| sandbox.pod_uid.clone());
            let pod_uid = labelled.or_else(of_sandbox).unwrap_or_default();
            all.insert(container.id, Seen { sandbox_id: container.pod_sandbox_id, pod_uid, state });
        }
        Self(all)
    }

    /// The pod of a container or sandbox.
    pub(super) fn pod_of(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(|seen| seen.pod_uid.as_str())
    }

    /// What happened from `self` to `later`, in the order of the ids.
    pub(super) fn until(&self, later: &Self) -> Vec<ContainerChange> {
        let gone = self.0.iter().filter(|(id, _)| !later.0.contains_key(*id));
        let gone = gone.map(|(id, seen)| change(id, seen, Event::ContainerDeletedEvent));
        let changed =
            later.0.iter().filter(|(id, seen)| self.0.get(*id).is_none_or(|before| before.state != seen.state));
        gone.chain(changed.map(|(id, seen)| change(id, seen, event(seen.state)))).collect()
    }
}

fn event(state: ContainerState) -> Event {
    match state {
        ContainerState::ContainerCreated => Event::ContainerCreatedEvent,
        ContainerState::ContainerRunning => Event::ContainerStartedEvent,
        // A container whose state nobody knows does not run for us.
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => Event::ContainerStoppedEvent,
    }
}

fn change(id: &str, seen: &Seen, event: Event) -> ContainerChange {
    ContainerChange {
        container_id: id.to_owned(),
        sandbox_id: seen.sandbox_id.clone(),
        pod_uid: seen.pod_uid.clone(),
        event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, state: ContainerState) -> v1::Container {
        let (id, pod_sandbox_id) = (id.to_owned(), "s1".to_owned());
        v1::Container { id, pod_sandbox_id, state: state as i32, ..v1::Container::default() }
    }

    fn snapshot(containers: Vec<v1::Container>) -> Snapshot {
        let metadata = v1::PodSandboxMetadata { uid: "u1".to_owned(), ..v1::PodSandboxMetadata::default() };
        let sandbox = v1::PodSandbox { id: "s1".to_owned(), metadata: Some(metadata), ..v1::PodSandbox::default() };
        Snapshot::new(vec![sandbox], containers)
    }

    #[test]
    fn differences_are_events() {
        use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        let first = snapshot(vec![container("a", ContainerRunning), container("b", ContainerRunning)]);
        let second = snapshot(vec![container("b", ContainerExited), container("c", ContainerCreated)]);
        let seen: Vec<_> = first.until(&second).into_iter().map(|change| (change.container_id, change.event)).collect();
        let wanted = [
            ("a", Event::ContainerDeletedEvent),
            ("b", Event::ContainerStoppedEvent),
            ("c", Event::ContainerCreatedEvent),
        ];
        assert_eq!(seen, wanted.map(|(id, event)| (id.to_owned(), event)));
        assert_eq!(first.until(&first), []);
        assert_eq!(second.pod_of("c"), Some("u1"), "known from its sandbox");
        let all = Snapshot::default().until(&second);
        assert!(all.iter().all(|change| change.pod_uid == "u1" && change.sandbox_id == "s1"), "{all:?}");
    }
}
