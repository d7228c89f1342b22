//! The calls: one line each, from the method's name to the runtime's own.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use streams::exec::Options;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::streaming::{Session, Sessions};
use crate::remote::MESSAGE_BYTES_MAX;
use crate::runtime::{ContainerChange, ExecStart, Runtime, RuntimeError};
use crate::v1;

type Answer = Response<Body>;

/// A call's answer, whatever comes.
pub(super) fn answer(
    request: Request<Incoming>,
    runtime: Arc<dyn Runtime>,
    sessions: Arc<Sessions>,
) -> BoxFuture<'static, Answer> {
    let path = request.uri().path();
    let named = path.strip_prefix("/runtime.v1.").and_then(|method| method.split_once('/'));
    let (service, method) = named.map(|(service, method)| (service.to_owned(), method.to_owned())).unwrap_or_default();
    match (service.as_str(), method.as_str()) {
        ("RuntimeService", "Exec" | "Attach" | "PortForward") => session(method, request, runtime, sessions).boxed(),
        ("RuntimeService", "GetContainerEvents") => events(request, runtime).boxed(),
        ("RuntimeService", sandbox) if sandbox.contains("Sandbox") => sandboxes(method, request, runtime).boxed(),
        ("RuntimeService", _) => containers(method, request, runtime).boxed(),
        ("ImageService", _) => images(method, request, runtime).boxed(),
        _ => std::future::ready(unimplemented(&method)).boxed(),
    }
}

fn unimplemented(method: &str) -> Answer {
    Status::unimplemented(format!("{method} is not served")).into_http()
}

async fn sandboxes(method: String, request: Request<Incoming>, runtime: Arc<dyn Runtime>) -> Answer {
    match method.as_str() {
        "RunPodSandbox" => {
            unary(request, move |asked: v1::RunPodSandboxRequest| async move {
                let config = asked.config.ok_or_else(|| missing("config"))?;
                let pod_sandbox_id = runtime.run_pod_sandbox(config, &asked.runtime_handler).await.map_err(status)?;
                Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
            })
            .await
        }
        "StopPodSandbox" => {
            unary(request, move |asked: v1::StopPodSandboxRequest| async move {
                runtime.stop_pod_sandbox(&asked.pod_sandbox_id).await.map_err(status)?;
                Ok(v1::StopPodSandboxResponse {})
            })
            .await
        }
        "RemovePodSandbox" => {
            unary(request, move |asked: v1::RemovePodSandboxRequest| async move {
                runtime.remove_pod_sandbox(&asked.pod_sandbox_id).await.map_err(status)?;
                Ok(v1::RemovePodSandboxResponse {})
            })
            .await
        }
        "PodSandboxStatus" => {
            unary(request, move |asked: v1::PodSandboxStatusRequest| async move {
                let found = runtime.pod_sandbox_status(&asked.pod_sandbox_id).await.map_err(status)?;
                Ok(v1::PodSandboxStatusResponse { status: Some(found), ..v1::PodSandboxStatusResponse::default() })
            })
            .await
        }
        "ListPodSandbox" => {
            unary(request, move |asked: v1::ListPodSandboxRequest| async move {
                let items = runtime.list_pod_sandboxes(asked.filter).await.map_err(status)?;
                Ok(v1::ListPodSandboxResponse { items })
            })
            .await
        }
        _ => unimplemented(&method),
    }
}

async fn containers(method: String, request: Request<Incoming>, runtime: Arc<dyn Runtime>) -> Answer {
    match method.as_str() {
        "CreateContainer" => {
            unary(request, move |asked: v1::CreateContainerRequest| async move {
                let config = asked.config.ok_or_else(|| missing("config"))?;
                let sandbox = asked.sandbox_config.ok_or_else(|| missing("sandbox_config"))?;
                let container_id =
                    runtime.create_container(&asked.pod_sandbox_id, config, sandbox).await.map_err(status)?;
                Ok(v1::CreateContainerResponse { container_id })
            })
            .await
        }
        "StartContainer" => {
            unary(request, move |asked: v1::StartContainerRequest| async move {
                runtime.start_container(&asked.container_id).await.map_err(status)?;
                Ok(v1::StartContainerResponse {})
            })
            .await
        }
        "StopContainer" => {
            unary(request, move |asked: v1::StopContainerRequest| async move {
                runtime.stop_container(&asked.container_id, asked.timeout).await.map_err(status)?;
                Ok(v1::StopContainerResponse {})
            })
            .await
        }
        "RemoveContainer" => {
            unary(request, move |asked: v1::RemoveContainerRequest| async move {
                runtime.remove_container(&asked.container_id).await.map_err(status)?;
                Ok(v1::RemoveContainerResponse {})
            })
            .await
        }
        "ListContainers" => {
            unary(request, move |asked: v1::ListContainersRequest| async move {
                let containers = runtime.list_containers(asked.filter).await.map_err(status)?;
                Ok(v1::ListContainersResponse { containers })
            })
            .await
        }
        "ContainerStatus" => {
            unary(request, move |asked: v1::ContainerStatusRequest| async move {
                let found = runtime.container_status(&asked.container_id).await.map_err(status)?;
                Ok(v1::ContainerStatusResponse { status: Some(found), ..v1::ContainerStatusResponse::default() })
            })
            .await
        }
        "UpdateContainerResources" => {
            unary(request, move |asked: v1::UpdateContainerResourcesRequest| async move {
                let resources = asked.linux.ok_or_else(|| missing("linux"))?;
                runtime.update_container_resources(&asked.container_id, resources).await.map_err(status)?;
                Ok(v1::UpdateContainerResourcesResponse {})
            })
            .await
        }
        "ReopenContainerLog" => {
            unary(request, move |asked: v1::ReopenContainerLogRequest| async move {
                runtime.reopen_container_log(&asked.container_id).await.map_err(status)?;
                Ok(v1::ReopenContainerLogResponse {})
            })
            .await
        }
        "ExecSync" => {
            unary(request, move |asked: v1::ExecSyncRequest| async move {
                if asked.cmd.is_empty() {
                    return Err(missing("cmd"));
                }
                runtime.exec_sync(&asked.container_id, asked.cmd, asked.timeout).await.map_err(status)
            })
            .await
        }
        "ContainerStats" => {
            unary(request, move |asked: v1::ContainerStatsRequest| async move {
                let stats = runtime.container_stats(&asked.container_id).await.map_err(status)?;
                Ok(v1::ContainerStatsResponse { stats: Some(stats) })
            })
            .await
        }
        "ListContainerStats" => {
            unary(request, move |asked: v1::ListContainerStatsRequest| async move {
                let stats = all_stats(&*runtime, asked.filter.unwrap_or_default()).await.map_err(status)?;
                Ok(v1::ListContainerStatsResponse { stats })
            })
            .await
        }
        "Version" => {
            unary(request, move |asked: v1::VersionRequest| async move {
                let _ = asked;
                runtime.version().await.map_err(status)
            })
            .await
        }
        "Status" => {
            unary(request, move |asked: v1::StatusRequest| async move {
                let _ = asked;
                let found = runtime.status().await.map_err(status)?;
                Ok(v1::StatusResponse { status: Some(found), ..v1::StatusResponse::default() })
            })
            .await
        }
        _ => unimplemented(&method),
    }
}

async fn images(method: String, request: Request<Incoming>, runtime: Arc<dyn Runtime>) -> Answer {
    match method.as_str() {
        "ListImages" => {
            unary(request, move |asked: v1::ListImagesRequest| async move {
                let wanted = asked.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
                let images = match wanted.is_empty() {
                    true => runtime.list_images().await,
                    false => runtime.image_status(&wanted).await.map(|image| image.into_iter().collect()),
                };
                Ok(v1::ListImagesResponse { images: images.map_err(status)? })
            })
            .await
        }
        "ImageStatus" => {
            unary(request, move |asked: v1::ImageStatusRequest| async move {
                let image = runtime.image_status(&name(asked.image)?).await.map_err(status)?;
                Ok(v1::ImageStatusResponse { image, ..v1::ImageStatusResponse::default() })
            })
            .await
        }
        "PullImage" => {
            unary(request, move |asked: v1::PullImageRequest| async move {
                let image_ref = runtime.pull_image(&name(asked.image)?, asked.auth).await.map_err(status)?;
                Ok(v1::PullImageResponse { image_ref })
            })
            .await
        }
        "RemoveImage" => {
            unary(request, move |asked: v1::RemoveImageRequest| async move {
                runtime.remove_image(&name(asked.image)?).await.map_err(status)?;
                Ok(v1::RemoveImageResponse {})
            })
            .await
        }
        "ImageFsInfo" => {
            unary(request, move |asked: v1::ImageFsInfoRequest| async move {
                let v1::ImageFsInfoRequest {} = asked;
                let image_filesystems = runtime.image_fs_info().await.map_err(status)?;
                Ok(v1::ImageFsInfoResponse { container_filesystems: image_filesystems.clone(), image_filesystems })
            })
            .await
        }
        _ => unimplemented(&method),
    }
}

fn name(image: Option<v1::ImageSpec>) -> Result<String, Status> {
    image.map(|image| image.image).filter(|name| !name.is_empty()).ok_or_else(|| missing("image"))
}

async fn all_stats(
    runtime: &dyn Runtime,
    filter: v1::ContainerStatsFilter,
) -> Result<Vec<v1::ContainerStats>, RuntimeError> {
    let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter;
    let filter = v1::ContainerFilter { id, pod_sandbox_id, label_selector, state: None };
    let mut all = Vec::new();
    for container in runtime.list_containers(Some(filter)).await? {
        match runtime.container_stats(&container.id).await {
            Ok(stats) => all.push(stats),
            // It went between the two calls.
            Err(RuntimeError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The calls that are answered with an address.
async fn session(
    method: String,
    request: Request<Incoming>,
    runtime: Arc<dyn Runtime>,
    sessions: Arc<Sessions>,
) -> Answer {
    match method.as_str() {
        "Exec" => {
            unary(request, move |asked: v1::ExecRequest| async move {
                if asked.cmd.is_empty() {
                    return Err(missing("cmd"));
                }
                runtime.container_status(&asked.container_id).await.map_err(status)?;
                let v1::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr } = asked;
                let options = options(stdin, stdout, stderr, tty, false)?;
                let start = ExecStart { container_id, command, tty, stdin };
                Ok(v1::ExecResponse { url: sessions.address(Session::Process(start, options))? })
            })
            .await
        }
        "Attach" => {
            unary(request, move |asked: v1::AttachRequest| async move {
                runtime.container_status(&asked.container_id).await.map_err(status)?;
                let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = asked;
                let options = options(stdin, stdout, stderr, tty, true)?;
                let start = ExecStart { container_id, command: Vec::new(), tty, stdin };
                Ok(v1::AttachResponse { url: sessions.address(Session::Process(start, options))? })
            })
            .await
        }
        _ => {
            unary(request, move |asked: v1::PortForwardRequest| async move {
                runtime.pod_sandbox_status(&asked.pod_sandbox_id).await.map_err(status)?;
                Ok(v1::PortForwardResponse { url: sessions.address(Session::Ports(asked.pod_sandbox_id))? })
            })
            .await
        }
    }
}

fn options(stdin: bool, stdout: bool, stderr: bool, tty: bool, attached: bool) -> Result<Options, Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true: a terminal has one output"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Status::invalid_argument("one of stdin, stdout and stderr must be set"));
    }
    Ok(Options { stdin, stdout, stderr, tty, attached })
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is required"))
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn status(error: RuntimeError) -> Status {
    let code = match &error {
        RuntimeError::NotFound { .. } => Code::NotFound,
        RuntimeError::Invalid(_) => Code::InvalidArgument,
        RuntimeError::DeadlineExceeded(_) => Code::DeadlineExceeded,
        RuntimeError::Failed { .. } => Code::Unknown,
    };
    Status::new(code, base::chain(&error))
}

/// One call, by the function that answers it.
struct Once<F>(Option<F>);

impl<Q, A, F, Fut> UnaryService<Q> for Once<F>
where
    F: FnOnce(Q) -> Fut,
    Fut: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = A;
    type Future = BoxFuture<'static, Result<tonic::Response<A>, Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let answered = self.0.take().map(|answer| answer(request.into_inner()));
        Box::pin(async move {
            let answered = answered.expect("a request is one call");
            answered.await.map(tonic::Response::new)
        })
    }
}

/// Boxed here: the callers' futures hold many of them.
fn unary<Q, A, Fut>(
    request: Request<Incoming>,
    call: impl FnOnce(Q) -> Fut + Send + 'static,
) -> BoxFuture<'static, Answer>
where
    Q: Message + Default + 'static,
    A: Message + 'static,
    Fut: Future<Output = Result<A, Status>> + Send + 'static,
{
    Box::pin(async move {
        let codec = ProstCodec::<A, Q>::default();
        Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX).unary(Once(Some(call)), request).await
    })
}

struct Events(Arc<dyn Runtime>);

type EventStream = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

impl ServerStreamingService<v1::GetEventsRequest> for Events {
    type Response = v1::ContainerEventResponse;
    type ResponseStream = EventStream;
    type Future = BoxFuture<'static, Result<tonic::Response<EventStream>, Status>>;

    fn call(&mut self, _request: tonic::Request<v1::GetEventsRequest>) -> Self::Future {
        let runtime = self.0.clone();
        Box::pin(async move {
            let changes = runtime.events().await.map_err(status)?;
            let events = changes.then(move |change| {
                let runtime = runtime.clone();
                async move { Ok(event(&*runtime, change).await) }
            });
            Ok(tonic::Response::new(events.boxed()))
        })
    }
}

async fn events(request: Request<Incoming>, runtime: Arc<dyn Runtime>) -> Answer {
    let codec = ProstCodec::<v1::ContainerEventResponse, v1::GetEventsRequest>::default();
    Grpc::new(codec).server_streaming(Events(runtime), request).await
}

/// An event, with the sandbox as it is now, where it is still there.
async fn event(runtime: &dyn Runtime, change: ContainerChange) -> v1::ContainerEventResponse {
    let sandbox = runtime.pod_sandbox_status(&change.sandbox_id).await.ok();
    let gone = || v1::PodSandboxStatus {
        id: change.sandbox_id.clone(),
        metadata: Some(v1::PodSandboxMetadata { uid: change.pod_uid.clone(), ..v1::PodSandboxMetadata::default() }),
        state: v1::PodSandboxState::SandboxNotready as i32,
        ..v1::PodSandboxStatus::default()
    };
    v1::ContainerEventResponse {
        container_event_type: change.event as i32,
        pod_sandbox_status: Some(sandbox.unwrap_or_else(gone)),
        container_id: change.container_id,
        ..v1::ContainerEventResponse::default()
    }
}
