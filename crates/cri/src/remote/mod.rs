//! A container runtime behind a socket: CRI's gRPC calls as a [`Runtime`].
//!
//! The connection is made when it is needed and made again after the runtime was away, so that a call fails while there is
//! nobody and succeeds when there is. Every call but an image's pull has a deadline: a runtime that hangs would hold a pod's
//! worker for ever. Streams of exec, attach and port-forward come over the address that the runtime names for each.
//!
//! Public behaviour: the services of `runtime.v1`.

mod events;
mod relist;
mod streaming;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::Tasks;
use futures::stream::BoxStream;
use http::uri::PathAndQuery;
use prost::Message;
use streams::{BoxDuplex, ExecSession};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::runtime::{ContainerChange, ExecStart, Runtime, RuntimeError};
use crate::v1;

/// Upstream's `runtimeRequestTimeout`.
const CALL: Duration = Duration::from_secs(120);
/// What upstream gives a sandbox, whose network may be slow.
const SANDBOX: Duration = Duration::from_secs(240);
/// As upstream's kubelet takes: without a bound a runtime could fill our memory.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The address of a runtime cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address of a container runtime: give a socket, such as unix:///run/containerd/containerd.sock")]
pub struct EndpointError(String);

/// A runtime behind a socket.
#[derive(Clone, Debug)]
pub struct Remote {
    channel: Channel,
    tasks: Arc<Tasks>,
}

/// What the runtime answered.
#[derive(Debug, thiserror::Error)]
#[error("the container runtime says {code:?}: {message}")]
struct Answered {
    code: Code,
    message: String,
}

/// What a call is about, for its errors.
#[derive(Clone, Copy)]
struct Subject<'a> {
    verb: &'static str,
    kind: &'static str,
    id: &'a str,
}

const fn of<'a>(verb: &'static str, kind: &'static str, id: &'a str) -> Subject<'a> {
    Subject { verb, kind, id }
}

impl Subject<'_> {
    fn action(&self) -> String {
        format!("{} {} {}", self.verb, self.kind, self.id).trim_end().to_owned()
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RuntimeError {
        RuntimeError::Failed { action: self.action(), source: source.into() }
    }

    fn error(&self, status: &Status) -> RuntimeError {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound if matches!(self.kind, "sandbox" | "container") => {
                RuntimeError::NotFound { kind: self.kind, id: self.id.to_owned() }
            }
            Code::InvalidArgument => RuntimeError::Invalid(message),
            Code::DeadlineExceeded => RuntimeError::DeadlineExceeded(self.action()),
            code => self.failed(Answered { code, message }),
        }
    }
}

/// Whether what should go has gone already, which CRI counts as done.
fn gone_is_done<T: Default>(result: Result<T, RuntimeError>) -> Result<T, RuntimeError> {
    match result {
        Err(RuntimeError::NotFound { .. }) => Ok(T::default()),
        other => other,
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/runtime.v1.{method}").parse().expect("names of methods are parts of paths")
}

impl Remote {
    /// The runtime at `unix:///path` or `/path`. Whether it is there shows with the first call.
    pub fn new(endpoint: &str) -> Result<Self, EndpointError> {
        let unusable = || EndpointError(endpoint.to_owned());
        let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !socket.starts_with('/') || socket.ends_with('/') {
            return Err(unusable());
        }
        let endpoint = Endpoint::from_shared(format!("unix://{socket}")).map_err(|_| unusable())?;
        let channel = endpoint.connect_timeout(CONNECT).connect_lazy();
        Ok(Self { channel, tasks: Arc::new(Tasks::new("container runtime")) })
    }

    fn grpc(&self) -> tonic::client::Grpc<Channel> {
        tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn unary<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Status::unavailable(base::chain(&error)))?;
        let answer = grpc.unary(Request::new(request), path(method), ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    async fn call_within<Q, A>(
        &self,
        deadline: Option<Duration>,
        method: &str,
        request: Q,
        subject: Subject<'_>,
    ) -> Result<A, RuntimeError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        // Large messages make large futures, which would be part of every caller's.
        let answered = Box::pin(self.unary(method, request));
        let answer = match deadline {
            None => answered.await,
            Some(deadline) => match tokio::time::timeout(deadline, answered).await {
                Ok(answer) => answer,
                Err(_) => return Err(RuntimeError::DeadlineExceeded(subject.action())),
            },
        };
        answer.map_err(|status| subject.error(&status))
    }

    async fn call<Q, A>(&self, method: &str, request: Q, subject: Subject<'_>) -> Result<A, RuntimeError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.call_within(Some(CALL), method, request, subject).await
    }
}

/// An answer without what it is for.
fn missing(subject: Subject<'_>) -> impl FnOnce() -> RuntimeError {
    move || subject.failed("the container runtime's answer is empty")
}

fn image(name: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: name.to_owned(), ..v1::ImageSpec::default() })
}

#[async_trait]
impl Runtime for Remote {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        let request = v1::VersionRequest { version: "0.1.0".to_owned() };
        self.call("RuntimeService/Version", request, of("ask", "the version", "")).await
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, RuntimeError> {
        let subject = of("ask", "the runtime's status", "");
        let answer: v1::StatusResponse =
            self.call("RuntimeService/Status", v1::StatusRequest { verbose: false }, subject).await?;
        answer.status.ok_or_else(missing(subject))
    }

    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, RuntimeError> {
        let name = config.metadata.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
        let runtime_handler = runtime_handler.to_owned();
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let subject = of("run", "the sandbox of pod", &name);
        let answer: v1::RunPodSandboxResponse =
            self.call_within(Some(SANDBOX), "RuntimeService/RunPodSandbox", request, subject).await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox_id.to_owned() };
        let subject = of("stop", "sandbox", sandbox_id);
        let stopped: Result<v1::StopPodSandboxResponse, _> =
            self.call_within(Some(SANDBOX), "RuntimeService/StopPodSandbox", request, subject).await;
        gone_is_done(stopped).map(drop)
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox_id.to_owned() };
        let subject = of("remove", "sandbox", sandbox_id);
        let removed: Result<v1::RemovePodSandboxResponse, _> =
            self.call("RuntimeService/RemovePodSandbox", request, subject).await;
        gone_is_done(removed).map(drop)
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox_id.to_owned(), verbose: false };
        let subject = of("look at", "sandbox", sandbox_id);
        let answer: v1::PodSandboxStatusResponse =
            self.call("RuntimeService/PodSandboxStatus", request, subject).await?;
        answer.status.ok_or_else(missing(subject))
    }

    async fn list_pod_sandboxes(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let request = v1::ListPodSandboxRequest { filter };
        let answer: v1::ListPodSandboxResponse =
            self.call("RuntimeService/ListPodSandbox", request, of("list", "sandboxes", "")).await?;
        Ok(answer.items)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let name = config.metadata.as_ref().map(|container| container.name.clone()).unwrap_or_default();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        // What is not found may be its image: no word about the sandbox.
        let subject = of("create", "the container", &name);
        let answer: v1::CreateContainerResponse = self.call("RuntimeService/CreateContainer", request, subject).await?;
        Ok(answer.container_id)
    }

    async fn start_container(&self, container_id: &str) -> Result<(), RuntimeError> {
        let request = v1::StartContainerRequest { container_id: container_id.to_owned() };
        let subject = of("start", "container", container_id);
        self.call("RuntimeService/StartContainer", request, subject).await.map(|_: v1::StartContainerResponse| ())
    }

    async fn stop_container(&self, container_id: &str, grace_seconds: i64) -> Result<(), RuntimeError> {
        let request = v1::StopContainerRequest { container_id: container_id.to_owned(), timeout: grace_seconds };
        let deadline = CALL.saturating_add(Duration::from_secs(grace_seconds.max(0).unsigned_abs()));
        let subject = of("stop", "container", container_id);
        let stopped: Result<v1::StopContainerResponse, _> =
            self.call_within(Some(deadline), "RuntimeService/StopContainer", request, subject).await;
        gone_is_done(stopped).map(drop)
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveContainerRequest { container_id: container_id.to_owned() };
        let subject = of("remove", "container", container_id);
        let removed: Result<v1::RemoveContainerResponse, _> =
            self.call("RuntimeService/RemoveContainer", request, subject).await;
        gone_is_done(removed).map(drop)
    }

    async fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Result<Vec<v1::Container>, RuntimeError> {
        let request = v1::ListContainersRequest { filter };
        let answer: v1::ListContainersResponse =
            self.call("RuntimeService/ListContainers", request, of("list", "containers", "")).await?;
        Ok(answer.containers)
    }

    async fn container_status(&self, container_id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        let request = v1::ContainerStatusRequest { container_id: container_id.to_owned(), verbose: false };
        let subject = of("look at", "container", container_id);
        let answer: v1::ContainerStatusResponse = self.call("RuntimeService/ContainerStatus", request, subject).await?;
        answer.status.ok_or_else(missing(subject))
    }

    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container_id.to_owned(),
            linux: Some(resources),
            ..v1::UpdateContainerResourcesRequest::default()
        };
        let subject = of("change the resources of", "container", container_id);
        self.call("RuntimeService/UpdateContainerResources", request, subject)
            .await
            .map(|_: v1::UpdateContainerResourcesResponse| ())
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<(), RuntimeError> {
        let request = v1::ReopenContainerLogRequest { container_id: container_id.to_owned() };
        let subject = of("reopen the log of", "container", container_id);
        self.call("RuntimeService/ReopenContainerLog", request, subject)
            .await
            .map(|_: v1::ReopenContainerLogResponse| ())
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> Result<v1::ExecSyncResponse, RuntimeError> {
        let request =
            v1::ExecSyncRequest { container_id: container_id.to_owned(), cmd: command, timeout: timeout_seconds };
        // The runtime keeps the command's own deadline; this one is for a runtime that does not.
        let seconds = u64::try_from(timeout_seconds).ok().filter(|seconds| *seconds > 0);
        let deadline = seconds.map(|seconds| CALL.saturating_add(Duration::from_secs(seconds)));
        let subject = of("exec in", "container", container_id);
        self.call_within(deadline, "RuntimeService/ExecSync", request, subject).await
    }

    async fn exec(&self, start: ExecStart) -> Result<ExecSession, RuntimeError> {
        self.open_session(start).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<BoxDuplex, RuntimeError> {
        self.open_port(sandbox_id, port).await
    }

    async fn events(&self) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
        events::follow(self.clone()).await
    }

    async fn container_stats(&self, container_id: &str) -> Result<v1::ContainerStats, RuntimeError> {
        let request = v1::ContainerStatsRequest { container_id: container_id.to_owned() };
        let subject = of("measure", "container", container_id);
        let answer: v1::ContainerStatsResponse = self.call("RuntimeService/ContainerStats", request, subject).await?;
        answer.stats.ok_or_else(missing(subject))
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        let request = v1::ListImagesRequest { filter: None };
        let answer: v1::ListImagesResponse =
            self.call("ImageService/ListImages", request, of("list", "images", "")).await?;
        Ok(answer.images)
    }

    async fn image_status(&self, name: &str) -> Result<Option<v1::Image>, RuntimeError> {
        let request = v1::ImageStatusRequest { image: image(name), verbose: false };
        let answer: v1::ImageStatusResponse =
            self.call("ImageService/ImageStatus", request, of("look at", "image", name)).await?;
        Ok(answer.image)
    }

    async fn pull_image(&self, name: &str, auth: Option<v1::AuthConfig>) -> Result<String, RuntimeError> {
        let request = v1::PullImageRequest { image: image(name), auth, sandbox_config: None };
        // The runtime gives up where nothing comes any more; a large image on a slow line takes its time.
        let answer: v1::PullImageResponse =
            self.call_within(None, "ImageService/PullImage", request, of("pull", "image", name)).await?;
        Ok(answer.image_ref)
    }

    async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveImageRequest { image: image(name) };
        self.call("ImageService/RemoveImage", request, of("remove", "image", name))
            .await
            .map(|_: v1::RemoveImageResponse| ())
    }

    async fn image_fs_info(&self) -> Result<Vec<v1::FilesystemUsage>, RuntimeError> {
        let answer: v1::ImageFsInfoResponse =
            self.call("ImageService/ImageFsInfo", v1::ImageFsInfoRequest {}, of("measure", "the images", "")).await?;
        Ok(answer.image_filesystems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_wanted() {
        for good in ["unix:///run/containerd/containerd.sock", "/run/crio/crio.sock"] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _in = runtime.enter();
            assert!(Remote::new(good).is_ok(), "{good}");
        }
        for bad in ["", "tcp://127.0.0.1:1", "run/x.sock", "unix://x", "unix:///"] {
            let error = Remote::new(bad).unwrap_err().to_string();
            assert!(error.contains("give a socket"), "{bad}: {error}");
        }
    }

    #[test]
    fn statuses_become_errors() {
        let subject = of("stop", "container", "c1");
        let not_found = subject.error(&Status::not_found("x"));
        assert!(matches!(not_found, RuntimeError::NotFound { kind: "container", .. }));
        assert!(matches!(subject.error(&Status::invalid_argument("x")), RuntimeError::Invalid(_)));
        assert!(matches!(subject.error(&Status::deadline_exceeded("x")), RuntimeError::DeadlineExceeded(_)));
        let text = base::chain(&of("pull", "image", "a:1").error(&Status::not_found("no such repository")));
        assert_eq!(text, "cannot pull image a:1: the container runtime says NotFound: no such repository");
    }
}
