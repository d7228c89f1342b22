//! State as CRI's messages.

use std::collections::HashMap;

use cri::{RuntimeError, v1};
use linux::cgroup::Cgroups;

use super::failed;
use super::state::{Container, Phase, Sandbox, State};
use crate::images::Image;
use crate::records::Share;

fn sandbox_state(sandbox: &Sandbox) -> i32 {
    let ready = *sandbox.phase.borrow() == Phase::Ready;
    (if ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }) as i32
}

pub(super) fn sandbox(sandbox: &Sandbox) -> v1::PodSandbox {
    v1::PodSandbox {
        id: sandbox.record.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox),
        created_at: sandbox.record.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.record.runtime_handler.clone(),
    }
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let addresses = sandbox.addresses.lock().expect("no holder of the addresses' lock panics").clone();
    let mut addresses = addresses.into_iter().map(|address| address.to_string());
    let network = (sandbox.record.network == Share::Pod).then(|| v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    });
    let security = sandbox.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.clone());
    v1::PodSandboxStatus {
        id: sandbox.record.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox),
        created_at: sandbox.record.created_at,
        network,
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.record.runtime_handler.clone(),
    }
}

fn container_state(state: &State) -> i32 {
    (match state {
        State::Created => v1::ContainerState::ContainerCreated,
        State::Running(_) => v1::ContainerState::ContainerRunning,
        State::Exited(..) => v1::ContainerState::ContainerExited,
    }) as i32
}

pub(super) fn container(container: &Container) -> v1::Container {
    let config = container.config();
    v1::Container {
        id: container.record.id.clone(),
        pod_sandbox_id: container.record.sandbox_id.clone(),
        metadata: config.metadata,
        image: config.image,
        image_ref: container.record.image_ref.clone(),
        state: container_state(&container.state.borrow()),
        created_at: container.record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: container.record.image_id.clone(),
    }
}

pub(super) fn container_status(container: &Container) -> v1::ContainerStatus {
    let config = container.config();
    let state = container.state.borrow().clone();
    let (started_at, exit) = match &state {
        State::Created => (0, None),
        State::Running(started) => (*started, None),
        State::Exited(started, exit) => (*started, Some(exit.clone())),
    };
    let resources = config.linux.and_then(|linux| linux.resources);
    let stop_signal = config.stop_signal;
    let user = container.identity.as_ref().map(|identity| v1::LinuxContainerUser {
        uid: identity.uid.into(),
        gid: identity.gid.into(),
        supplemental_groups: identity.groups.iter().map(|group| i64::from(*group)).collect(),
    });
    v1::ContainerStatus {
        id: container.record.id.clone(),
        metadata: config.metadata,
        state: container_state(&state),
        created_at: container.record.created_at,
        started_at,
        finished_at: exit.as_ref().map_or(0, |exit| exit.finished_at),
        exit_code: exit.as_ref().map_or(0, |exit| exit.exit_code),
        image: config.image,
        image_ref: container.record.image_ref.clone(),
        reason: exit.as_ref().map(|exit| exit.reason.clone()).unwrap_or_default(),
        message: exit.map(|exit| exit.message).unwrap_or_default(),
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: container.record.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: resources
            .map(|linux| v1::ContainerResources { linux: Some(linux), ..v1::ContainerResources::default() }),
        image_id: container.record.image_id.clone(),
        user: user.map(|linux| v1::ContainerUser { linux: Some(linux) }),
        stop_signal,
    }
}

fn labels_match(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// An id in a filter may be cut short.
fn id_matches(id: &str, wanted: &str) -> bool {
    wanted.is_empty() || id.starts_with(wanted)
}

pub(super) fn sandbox_matches(sandbox: &v1::PodSandbox, filter: &v1::PodSandboxFilter) -> bool {
    id_matches(&sandbox.id, &filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == sandbox.state)
        && labels_match(&sandbox.labels, &filter.label_selector)
}

pub(super) fn container_matches(container: &v1::Container, filter: &v1::ContainerFilter) -> bool {
    id_matches(&container.id, &filter.id)
        && id_matches(&container.pod_sandbox_id, &filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
        && labels_match(&container.labels, &filter.label_selector)
}

pub(super) fn image(image: &Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() { Some(0) } else { user.parse::<i64>().ok() };
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.names.iter().cloned().collect(),
        repo_digests: image.digests.iter().cloned().collect(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: None,
        pinned: image.pinned,
    }
}

pub(super) fn container_stats(
    container: &Container,
    cgroups: &Cgroups,
    now: i64,
) -> Result<v1::ContainerStats, RuntimeError> {
    let action = format!("measure container {}", container.record.id);
    let config = container.config();
    let value = |value: u64| Some(v1::UInt64Value { value });
    let mut stats = v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
        }),
        ..v1::ContainerStats::default()
    };
    if container.is_running() {
        let used = match cgroups.stats(&container.record.cgroup) {
            Ok(used) => used,
            // It ended while we looked.
            Err(_) if !container.is_running() => return Ok(stats),
            Err(error) => return Err(failed(action)(error)),
        };
        stats.cpu = Some(v1::CpuUsage {
            timestamp: now,
            usage_core_nano_seconds: value(used.cpu_nanoseconds),
            usage_nano_cores: None,
            psi: None,
        });
        let available = used.memory_limit_bytes.map(|limit| limit.saturating_sub(used.memory_working_set_bytes));
        stats.memory = Some(v1::MemoryUsage {
            timestamp: now,
            working_set_bytes: value(used.memory_working_set_bytes),
            available_bytes: available.and_then(value),
            usage_bytes: value(used.memory_usage_bytes),
            rss_bytes: value(used.memory_rss_bytes),
            page_faults: value(used.page_faults),
            major_page_faults: value(used.major_page_faults),
            psi: None,
        });
        stats.swap = Some(v1::SwapUsage {
            timestamp: now,
            swap_available_bytes: None,
            swap_usage_bytes: value(used.swap_usage_bytes),
        });
    }
    let upper = container.directory.join("upper");
    let (bytes, files) = linux::disk::usage(&upper).map_err(failed(action))?;
    stats.writable_layer = Some(v1::FilesystemUsage {
        timestamp: now,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: upper.display().to_string() }),
        used_bytes: value(bytes),
        inodes_used: value(files),
    });
    Ok(stats)
}
