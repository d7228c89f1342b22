//! What the runtime says of one pod, read when an event says that it changed. Everything that [`plan`](crate::plan) and
//! [`status`](crate::status) decide, they decide from this, the pod, and the worker's memory.

use std::net::IpAddr;
use std::path::Path;

use cri::{Runtime, RuntimeError, v1};
use jiff::Timestamp;

use crate::identity::{self, Identity};
use crate::log_file;
use crate::resize::Target;

/// Bytes of a container's last words that reach the API; upstream's limits.
const MESSAGE_BYTES_MAX: usize = 4096;
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: usize = 80;

/// The pod's sandboxes and containers, the newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) ips: Vec<IpAddr>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Made and never started: a start was interrupted.
    Created,
    Running,
    Exited,
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) name: String,
    /// How often the container was restarted before this run.
    pub(crate) attempt: u32,
    pub(crate) state: State,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) hash: String,
    pub(crate) user: Option<v1::LinuxContainerUser>,
    /// CPU and memory that it has, where the runtime tells.
    pub(crate) resources: Option<Target>,
}

impl Observed {
    /// The newest run of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The run before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// The sandbox that works, if one does.
    pub(crate) fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|sandbox| sandbox.ready)
    }

    /// The runs that have not ended.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.state == State::Running)
    }
}

/// Reads a pod's sandboxes and containers from the runtime, and the last words of those that ended.
pub(crate) async fn observe(
    runtime: &dyn Runtime,
    pod: &Identity,
    root: &Path,
    logs: &Path,
) -> Result<Observed, RuntimeError> {
    let selector = pod.selector();
    let filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let mut sandboxes = Vec::new();
    for sandbox in runtime.list_pod_sandboxes(Some(filter)).await? {
        match runtime.pod_sandbox_status(&sandbox.id).await {
            Ok(status) => sandboxes.push(sandbox_of(status)),
            // It went between the two calls.
            Err(RuntimeError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
    let mut containers = Vec::new();
    for container in runtime.list_containers(Some(filter)).await? {
        let status = match runtime.container_status(&container.id).await {
            Ok(status) => status,
            Err(RuntimeError::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        let annotations = status.annotations.clone();
        let log = logs.join(&status.log_path);
        let mut container = container_of(status, container.pod_sandbox_id);
        if container.state == State::Exited && container.message.is_empty() {
            let file = pod.termination_message(root, &container.name, container.attempt);
            let fallback =
                annotations.get(identity::MESSAGE_POLICY).is_some_and(|policy| policy == "FallbackToLogsOnError");
            container.message = last_words(&file, (fallback && container.exit_code != 0).then_some(&log)).await;
        }
        containers.push(container);
    }
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.attempt));
    containers.sort_by_key(|container| std::cmp::Reverse(container.attempt));
    Ok(Observed { sandboxes, containers })
}

/// The addresses of a sandbox, the primary one first.
pub(crate) fn addresses(network: &v1::PodSandboxNetworkStatus) -> Vec<IpAddr> {
    let additional = network.additional_ips.iter().map(|ip| &ip.ip);
    std::iter::once(&network.ip).chain(additional).filter_map(|ip| ip.parse().ok()).collect()
}

fn sandbox_of(status: v1::PodSandboxStatus) -> Sandbox {
    let network = status.network.unwrap_or_default();
    Sandbox {
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        attempt: status.metadata.map_or(0, |metadata| metadata.attempt),
        ips: addresses(&network),
        id: status.id,
    }
}

fn container_of(status: v1::ContainerStatus, sandbox_id: String) -> Container {
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    Container {
        sandbox_id,
        attempt: annotation(identity::RESTART_COUNT).parse().unwrap_or(metadata.attempt),
        hash: annotation(identity::HASH),
        name: status.labels.get(identity::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        state: match status.state() {
            v1::ContainerState::ContainerCreated => State::Created,
            v1::ContainerState::ContainerRunning => State::Running,
            // A container whose state nobody knows does not run for us: it is replaced.
            v1::ContainerState::ContainerExited | v1::ContainerState::ContainerUnknown => State::Exited,
        },
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        image: status
            .image
            .map(|image| if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image })
            .unwrap_or_default(),
        image_id: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
        user: status.user.and_then(|user| user.linux),
        resources: status.resources.and_then(|resources| resources.linux).map(|linux| Target::of(&linux)),
        id: status.id,
        reason: status.reason,
        message: status.message,
    }
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}

/// The start of the termination message file; where it is empty and `log` is given, the end of the log.
async fn last_words(file: &Path, log: Option<&std::path::PathBuf>) -> String {
    let written = match read_start(file, MESSAGE_BYTES_MAX).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        // The container's own doing (it may have made a directory of it), or the pod's directory is gone.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("Error on reading termination log {}: {error}", file.display()),
    };
    match log {
        Some(log) if written.is_empty() => {
            log_file::last_lines(log, LOG_MESSAGE_LINES_MAX, LOG_MESSAGE_BYTES_MAX).await.unwrap_or_default()
        }
        _ => written,
    }
}

async fn read_start(file: &Path, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    let mut content = Vec::new();
    let file = tokio::fs::File::open(file).await?;
    file.take(bytes_max as u64).read_to_end(&mut content).await?;
    Ok(content)
}
