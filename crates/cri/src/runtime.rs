//! What the kubelet asks of a container runtime: CRI's `RuntimeService` and `ImageService` in one trait.

use async_trait::async_trait;
use futures::stream::BoxStream;
use streams::{BoxDuplex, ExecSession};

use crate::v1;

/// Why a call failed, in the terms of gRPC's status codes.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{kind} {id} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        kind: &'static str,
        /// Its id or reference.
        id: String,
    },
    /// The request cannot be met as it stands.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The call's own deadline passed (`ExecSync`).
    #[error("{0}: deadline exceeded")]
    DeadlineExceeded(String),
    /// Anything else.
    #[error("cannot {action}")]
    Failed {
        /// What was tried, such as `create container web`.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A container came to be, started, ended or went.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerChange {
    /// The container.
    pub container_id: String,
    /// The pod sandbox it belongs to.
    pub sandbox_id: String,
    /// The pod's uid, from the sandbox's metadata.
    pub pod_uid: String,
    /// What happened.
    pub event: v1::ContainerEventType,
}

/// A process to start in a running container, or (`command` empty) a container's main process to attach to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecStart {
    /// The container.
    pub container_id: String,
    /// Program and arguments; empty to attach.
    pub command: Vec<String>,
    /// Whether the process gets a terminal. Its error stream is then part of its output.
    pub tty: bool,
    /// Whether its input is connected.
    pub stdin: bool,
}

/// A container runtime.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version.
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError>;
    /// Conditions `RuntimeReady` and `NetworkReady`.
    async fn status(&self) -> Result<v1::RuntimeStatus, RuntimeError>;
    /// Makes a sandbox and starts it; returns its id.
    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, RuntimeError>;
    /// Stops everything in it and gives its network back.
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError>;
    /// Removes it with its containers.
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError>;
    /// State, addresses and creation time.
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<v1::PodSandboxStatus, RuntimeError>;
    /// All that match the filter.
    async fn list_pod_sandboxes(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, RuntimeError>;
    /// Makes a container in a sandbox, from an image that is present; returns its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError>;
    /// Starts it.
    async fn start_container(&self, container_id: &str) -> Result<(), RuntimeError>;
    /// Sends its stop signal, and after `grace_seconds` kills it. Returns when it has ended.
    async fn stop_container(&self, container_id: &str, grace_seconds: i64) -> Result<(), RuntimeError>;
    /// Removes it (its log file stays), ending it first where it still runs.
    async fn remove_container(&self, container_id: &str) -> Result<(), RuntimeError>;
    /// All that match the filter.
    async fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Result<Vec<v1::Container>, RuntimeError>;
    /// State, exit code, times, reason, log path.
    async fn container_status(&self, container_id: &str) -> Result<v1::ContainerStatus, RuntimeError>;
    /// Changes resource limits of a running container.
    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError>;
    /// Opens the container's log file anew, after it was rotated.
    async fn reopen_container_log(&self, container_id: &str) -> Result<(), RuntimeError>;
    /// Runs a command to its end; output bounded at 16 MiB. `timeout_seconds` 0 means no deadline.
    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> Result<v1::ExecSyncResponse, RuntimeError>;
    /// Runs a command, or attaches, with streams.
    async fn exec(&self, start: ExecStart) -> Result<ExecSession, RuntimeError>;
    /// Connects to a port on the loopback of a sandbox's network.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<BoxDuplex, RuntimeError>;
    /// Changes from now on. Ends when the reader falls too far behind: list again, then subscribe again.
    async fn events(&self) -> Result<BoxStream<'static, ContainerChange>, RuntimeError>;
    /// CPU and memory of one container.
    async fn container_stats(&self, container_id: &str) -> Result<v1::ContainerStats, RuntimeError>;

    /// All images.
    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError>;
    /// The image that a reference or id names.
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, RuntimeError>;
    /// Brings an image from its registry; returns its id.
    async fn pull_image(&self, image: &str, auth: Option<v1::AuthConfig>) -> Result<String, RuntimeError>;
    /// Removes an image that no container uses.
    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError>;
    /// Disk use of the image store.
    async fn image_fs_info(&self) -> Result<Vec<v1::FilesystemUsage>, RuntimeError>;
}
