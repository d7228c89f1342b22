//! What pods use of the node's disk, and the limits that they have: of a container's writable layer and logs, of a pod together,
//! and of an `emptyDir`. Messages are upstream's.

use std::sync::Arc;

use api::typed::core::v1::Pod;
use cri::v1;

use super::{GRACE_SECONDS, active, evict, measured};
use crate::host::Host;
use crate::identity::{self, Identity};
use crate::resources;
use crate::volumes;

/// Ends pods that use more of the disk than they may.
pub(super) async fn check(host: &Arc<Host>) {
    for object in host.pods.all() {
        let Some(pod) = active(&object).filter(has_limits) else { continue };
        let identity = Identity::of(&object);
        if let Some(message) = exceeded(host, &identity, &pod).await {
            evict(host, &identity.uid, message, GRACE_SECONDS);
        }
    }
}

/// Volumes on the disk with a limit of their own, and that limit as it is written.
fn limited_volumes(pod: &Pod) -> impl Iterator<Item = (&str, &str, i64)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref().unwrap_or("").is_empty())?;
        let limit = source.size_limit.as_ref()?;
        let bytes = resources::bytes(limit).filter(|bytes| *bytes > 0)?;
        Some((volume.name.as_str(), limit.0.as_str(), bytes))
    })
}

fn has_limits(pod: &Pod) -> bool {
    limited_volumes(pod).next().is_some()
        || identity::containers(pod).any(|(_, spec)| resources::limited(spec, "ephemeral-storage").is_some())
}

async fn exceeded(host: &Host, identity: &Identity, pod: &Pod) -> Option<String> {
    let volumes = volume_bytes(host, identity, pod).await;
    for (name, shown, limit) in limited_volumes(pod) {
        if volumes.iter().any(|(volume, bytes)| volume == name && *bytes > limit) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{shown}\". "));
        }
    }
    let limits: Vec<_> = identity::containers(pod)
        .filter_map(|(_, spec)| Some((spec.name.clone(), resources::limited(spec, "ephemeral-storage")?)))
        .collect();
    if limits.is_empty() {
        return None;
    }
    let mut total = volumes.iter().map(|(_, bytes)| *bytes).fold(0, i64::saturating_add);
    for (name, id) in running(host, identity).await {
        let layer = host.runtime.container_stats(&id).await.ok().and_then(|stats| stats.writable_layer?.used_bytes);
        let layer = layer.map_or(0, |used| i64::try_from(used.value).unwrap_or(i64::MAX));
        let used = layer.saturating_add(log_bytes(host, identity, &name).await);
        total = total.saturating_add(used);
        if let Some((_, (shown, limit))) = limits.iter().find(|(limited, _)| *limited == name)
            && used > *limit
        {
            return Some(format!("Container {name} exceeded its local ephemeral storage limit \"{shown}\". "));
        }
    }
    // Only where each container has a limit does the pod have one.
    let mains = identity::containers(pod).filter(|(role, _)| *role == identity::Role::Main).count();
    let sum = limits.iter().map(|(_, (_, bytes))| *bytes).fold(0, i64::saturating_add);
    (limits.len() >= mains && total > sum).then(|| {
        format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            super::plan::binary(sum)
        )
    })
}

/// Name and id of each running container of a pod.
pub(super) async fn running(host: &Host, identity: &Identity) -> Vec<(String, String)> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
    let filter = v1::ContainerFilter { state: Some(state), label_selector: identity.selector(), ..Default::default() };
    let list = host.runtime.list_containers(Some(filter)).await.unwrap_or_default();
    let named = list.into_iter().filter_map(|one| Some((one.labels.get(identity::CONTAINER_NAME)?.clone(), one.id)));
    named.collect()
}

pub(super) async fn log_bytes(host: &Host, identity: &Identity, container: &str) -> i64 {
    measure(identity.log_directory(&host.log_dir).join(container)).await
}

/// Bytes of each volume of the pod that lies on the node's disk as the pod's own.
pub(super) async fn volume_bytes(host: &Host, identity: &Identity, pod: &Pod) -> Vec<(String, i64)> {
    let directory = identity.directory(&host.root_dir);
    let mut found = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let source = volume.empty_dir.as_ref();
        if source.is_some_and(|source| source.medium.as_deref().unwrap_or("").is_empty()) {
            found.push((volume.name.clone(), measure(volumes::place(&directory, volume)).await));
        }
    }
    found
}

async fn measure(path: std::path::PathBuf) -> i64 {
    let work = move || measured(&path, linux::disk::usage(&path));
    tokio::task::spawn_blocking(work).await.unwrap_or(0)
}
