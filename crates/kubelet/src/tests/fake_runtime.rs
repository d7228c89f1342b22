//! A container runtime in memory. What a container does is in its command: `exit N` ends at once, `stubborn` uses up its grace,
//! anything else runs until it is stopped. Every container writes one line to its log. Calls that change something can be
//! made to fail, before or after they did their work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base::Clock;
use control::harness::HarnessClock;
use cri::v1::{self, ContainerEventType as Event};
use cri::{BoxDuplex, ContainerChange, ExecSession, ExecStart, Input, Output, Runtime, RuntimeError};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};

/// The runtime. Cloning shares it.
#[derive(Clone)]
pub(super) struct FakeRuntime(Arc<Inner>);

struct Inner {
    clock: HarnessClock,
    state: Mutex<State>,
    changes: broadcast::Sender<ContainerChange>,
}

#[derive(Default)]
struct State {
    next_id: u32,
    sandboxes: BTreeMap<String, (v1::PodSandboxConfig, v1::PodSandboxStatus)>,
    containers: BTreeMap<String, (String, v1::ContainerConfig, v1::ContainerStatus)>,
    /// Images that were pulled, with the user that the registry saw.
    pulled: Vec<(String, String)>,
    /// Memory that every container uses.
    memory_bytes: u64,
    /// How many seconds each container was given that was stopped.
    graces: Vec<i64>,
    /// So many calls that change something fail: the odd ones before they are done, the even ones after.
    trouble: u32,
    /// Containers whose probes fail.
    sick: BTreeSet<String>,
    /// What happened to containers.
    history: Vec<Happened>,
}

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) pod_uid: String,
    pub(super) container: String,
    pub(super) sandbox: String,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// It was started, with so many other runs of the same container of the pod running.
    Started { beside: usize },
    /// Its end was asked for, with that grace.
    Stopping { grace_seconds: i64 },
    /// It ended with that code.
    Ended(i32),
}

impl State {
    fn happened(&mut self, id: &str, what: What) {
        let Some((sandbox, _, status)) = self.containers.get(id) else { return };
        let label = |name: &str| status.labels.get(name).cloned().unwrap_or_default();
        let (pod_uid, container) = (label(crate::identity::POD_UID), label(crate::identity::CONTAINER_NAME));
        self.history.push(Happened { pod_uid, container, sandbox: sandbox.clone(), what });
    }

    /// How many runs of the same container of the same pod run beside this one.
    fn beside(&self, id: &str) -> usize {
        let whose = |status: &v1::ContainerStatus| {
            [crate::identity::POD_UID, crate::identity::CONTAINER_NAME].map(|label| status.labels.get(label).cloned())
        };
        let own = self.containers.get(id).map(|(.., status)| whose(status));
        let others = self.containers.values().filter(|(.., status)| status.id != id && Some(whose(status)) == own);
        others.filter(|(.., status)| status.state() == v1::ContainerState::ContainerRunning).count()
    }
}

impl FakeRuntime {
    pub(super) fn new(clock: HarnessClock) -> Self {
        Self(Arc::new(Inner { clock, state: Mutex::default(), changes: broadcast::Sender::new(64) }))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.0.clock.now().as_nanosecond()).unwrap()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// How many sandboxes and containers there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.sandboxes.len(), state.containers.len())
    }

    /// The configurations of all containers, in the order of their making.
    pub(super) fn configs(&self) -> Vec<v1::ContainerConfig> {
        self.state().containers.values().map(|(_, config, _)| config.clone()).collect()
    }

    /// Images that were pulled, with the user that the registry saw.
    pub(super) fn pulled(&self) -> Vec<(String, String)> {
        self.state().pulled.clone()
    }

    /// Sets the memory that every container uses.
    pub(super) fn use_memory(&self, bytes: u64) {
        self.state().memory_bytes = bytes;
    }

    /// How many seconds each container was given that was stopped, in that order.
    pub(super) fn graces(&self) -> Vec<i64> {
        self.state().graces.clone()
    }

    /// The ids of the running containers.
    pub(super) fn running(&self) -> Vec<String> {
        let state = self.state();
        let running =
            state.containers.values().filter(|(.., status)| status.state() == v1::ContainerState::ContainerRunning);
        running.map(|(.., status)| status.id.clone()).collect()
    }

    /// So many calls that change something fail from now on.
    pub(super) fn trouble(&self, calls: u32) {
        self.state().trouble = calls;
    }

    /// The probes of a container fail from now on.
    pub(super) fn sicken(&self, id: &str) {
        self.state().sick.insert(id.to_owned());
    }

    /// What happened to containers since the beginning.
    pub(super) fn history(&self) -> Vec<Happened> {
        self.state().history.clone()
    }

    /// The containers that there are, each with its sandbox.
    pub(super) fn containers(&self) -> Vec<(v1::ContainerStatus, String)> {
        self.state().containers.values().map(|(sandbox, _, status)| (status.clone(), sandbox.clone())).collect()
    }

    /// Ids and uids of the pods of the sandboxes that work.
    pub(super) fn ready_sandboxes(&self) -> Vec<(String, String)> {
        let state = self.state();
        let ready = state.sandboxes.values().filter(|(_, status)| status.state() == v1::PodSandboxState::SandboxReady);
        ready.map(|(_, status)| (status.id.clone(), status.labels[crate::identity::POD_UID].clone())).collect()
    }

    /// A sandbox dies with all that is in it.
    pub(super) fn lose_sandbox(&self, id: &str, pod_uid: &str) {
        self.stop(id);
        self.tell(id, (id.to_owned(), pod_uid.to_owned()), Event::ContainerStoppedEvent);
    }

    /// Does something that may have to fail first or afterwards.
    fn troubled<T>(&self, work: impl FnOnce() -> Result<T, RuntimeError>) -> Result<T, RuntimeError> {
        let left = {
            let mut state = self.state();
            let left = state.trouble;
            state.trouble = left.saturating_sub(1);
            left
        };
        let failed = || RuntimeError::Invalid("the runtime is in trouble".to_owned());
        match left {
            0 => work(),
            left if left % 2 == 1 => Err(failed()),
            _ => work().and_then(|_| Err(failed())),
        }
    }

    fn make_sandbox(&self, config: v1::PodSandboxConfig) -> String {
        let mut state = self.state();
        state.next_id += 1;
        let id = format!("sandbox-{:03}", state.next_id);
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            network: Some(v1::PodSandboxNetworkStatus { ip: "127.0.0.1".into(), additional_ips: vec![] }),
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), (config, status));
        id
    }

    fn make_container(&self, sandbox: &str, config: v1::ContainerConfig) -> String {
        let mut state = self.state();
        state.next_id += 1;
        let id = format!("container-{:03}", state.next_id);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            image: config.image.clone(),
            image_ref: config.image.clone().unwrap_or_default().image,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: config.log_path.clone(),
            resources: config
                .linux
                .as_ref()
                .map(|linux| v1::ContainerResources { linux: linux.resources.clone(), ..Default::default() }),
            ..Default::default()
        };
        state.containers.insert(id.clone(), (sandbox.to_owned(), config, status));
        id
    }

    fn begin(&self, id: &str) -> Result<(), RuntimeError> {
        let (change, exit_code) = {
            let mut state = self.state();
            let now = self.now();
            let (sandbox, config, status) = state.containers.get_mut(id).ok_or_else(|| not_found("container", id))?;
            status.set_state(v1::ContainerState::ContainerRunning);
            status.started_at = now;
            let change = (sandbox.clone(), status.labels[crate::identity::POD_UID].clone());
            let exit_code =
                config.command.first().filter(|word| *word == "exit").map(|_| config.command[1].parse().unwrap());
            let (sandbox, log) = (sandbox.clone(), config.log_path.clone());
            let log = std::path::Path::new(&state.sandboxes[&sandbox].0.log_directory).join(log);
            std::fs::create_dir_all(log.parent().unwrap()).unwrap();
            std::fs::write(log, format!("2030-01-01T00:00:00Z stdout F hello from {id}\n")).unwrap();
            let beside = state.beside(id);
            state.happened(id, What::Started { beside });
            (change, exit_code)
        };
        self.tell(id, change, Event::ContainerStartedEvent);
        if let Some(code) = exit_code {
            self.end(id, code);
        }
        Ok(())
    }

    fn stop(&self, id: &str) {
        let containers: Vec<_> = {
            let mut state = self.state();
            let Some((_, status)) = state.sandboxes.get_mut(id) else { return };
            status.set_state(v1::PodSandboxState::SandboxNotready);
            status.network = None;
            state.containers.iter().filter(|(_, (sandbox, ..))| sandbox == id).map(|(id, _)| id.clone()).collect()
        };
        containers.iter().for_each(|container| self.end(container, 137));
    }

    /// A container ends by itself.
    pub(super) fn end(&self, id: &str, exit_code: i32) {
        let change = {
            let mut state = self.state();
            let now = self.now();
            let Some((sandbox, _, status)) = state.containers.get_mut(id) else { return };
            if status.state() == v1::ContainerState::ContainerExited {
                return;
            }
            status.set_state(v1::ContainerState::ContainerExited);
            (status.exit_code, status.finished_at) = (exit_code, now);
            let whose = (sandbox.clone(), status.labels.get(crate::identity::POD_UID).cloned().unwrap_or_default());
            state.happened(id, What::Ended(exit_code));
            whose
        };
        self.tell(id, change, Event::ContainerStoppedEvent);
    }

    fn tell(&self, id: &str, (sandbox_id, pod_uid): (String, String), event: Event) {
        let _ = self.0.changes.send(ContainerChange { container_id: id.to_owned(), sandbox_id, pod_uid, event });
    }
}

fn not_found(kind: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { kind, id: id.to_owned() }
}

fn image(name: &str) -> v1::Image {
    v1::Image { id: format!("sha256:{name}"), repo_tags: vec![name.to_owned()], size: 7, ..Default::default() }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        Ok(v1::VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() })
    }
    async fn status(&self) -> Result<v1::RuntimeStatus, RuntimeError> {
        let condition = |name: &str| v1::RuntimeCondition { r#type: name.into(), status: true, ..Default::default() };
        Ok(v1::RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")] })
    }
    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, _: &str) -> Result<String, RuntimeError> {
        self.troubled(|| Ok(self.make_sandbox(config)))
    }
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.troubled(|| {
            self.stop(id);
            Ok(())
        })
    }
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.troubled(|| {
            let mut state = self.state();
            state.sandboxes.remove(id);
            state.containers.retain(|_, (sandbox, ..)| sandbox != id);
            Ok(())
        })
    }
    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        self.state().sandboxes.get(id).map(|(_, status)| status.clone()).ok_or_else(|| not_found("sandbox", id))
    }
    async fn list_pod_sandboxes(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let filter = filter.unwrap_or_default();
        let state = self.state();
        let matching = state.sandboxes.values().map(|(_, status)| status).filter(|status| {
            filter.label_selector.iter().all(|(label, value)| status.labels.get(label) == Some(value))
                && filter.state.is_none_or(|wanted| wanted.state == status.state)
        });
        Ok(matching
            .map(|status| v1::PodSandbox {
                id: status.id.clone(),
                metadata: status.metadata.clone(),
                state: status.state,
                labels: status.labels.clone(),
                ..Default::default()
            })
            .collect())
    }
    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        _: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        self.troubled(|| Ok(self.make_container(sandbox, config)))
    }
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.troubled(|| self.begin(id))
    }
    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), RuntimeError> {
        let stubborn = {
            let mut state = self.state();
            state.graces.push(grace_seconds);
            state.happened(id, What::Stopping { grace_seconds });
            state.containers.get(id).is_some_and(|(_, config, _)| config.command == ["stubborn"])
        };
        if stubborn {
            // It hears nothing until its time is over.
            let grace = std::time::Duration::from_secs(grace_seconds.unsigned_abs());
            let _ = tokio::time::timeout(grace, futures::future::pending::<()>()).await;
        }
        self.troubled(|| {
            self.end(id, 137);
            Ok(())
        })
    }
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.troubled(|| {
            self.state().containers.remove(id);
            Ok(())
        })
    }
    async fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Result<Vec<v1::Container>, RuntimeError> {
        let filter = filter.unwrap_or_default();
        let state = self.state();
        let matching = state.containers.values().filter(|(.., status)| {
            filter.label_selector.iter().all(|(label, value)| status.labels.get(label) == Some(value))
                && filter.state.is_none_or(|wanted| wanted.state == status.state)
        });
        Ok(matching
            .map(|(sandbox, _, status)| v1::Container {
                id: status.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: status.metadata.clone(),
                state: status.state,
                labels: status.labels.clone(),
                annotations: status.annotations.clone(),
                ..Default::default()
            })
            .collect())
    }
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        self.state().containers.get(id).map(|(.., status)| status.clone()).ok_or_else(|| not_found("container", id))
    }
    async fn update_container_resources(&self, id: &str, new: v1::LinuxContainerResources) -> Result<(), RuntimeError> {
        let mut state = self.state();
        let (.., status) = state.containers.get_mut(id).ok_or_else(|| not_found("container", id))?;
        status.resources = Some(v1::ContainerResources { linux: Some(new), ..Default::default() });
        Ok(())
    }
    async fn reopen_container_log(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn exec_sync(&self, id: &str, command: Vec<String>, _: i64) -> Result<v1::ExecSyncResponse, RuntimeError> {
        let fails = command != ["true"] || self.state().sick.contains(id);
        Ok(v1::ExecSyncResponse { exit_code: i32::from(fails), ..Default::default() })
    }
    /// Echoes its input, says goodbye on its error output, and ends with 3.
    async fn exec(&self, _: ExecStart) -> Result<ExecSession, RuntimeError> {
        let (input, mut from_client) = mpsc::channel(4);
        let (to_client, output) = mpsc::channel(4);
        base::Tasks::new("fake").spawn("exec", async move {
            while let Some(next) = from_client.recv().await {
                match next {
                    Input::Stdin(data) => to_client.send(Output::Stdout(data)).await.unwrap(),
                    Input::Resize(_) => {}
                    Input::StdinClosed => break,
                }
            }
            let _ = to_client.send(Output::Stderr("bye".into())).await;
            let _ = to_client.send(Output::Exited(3)).await;
        });
        Ok(ExecSession { input, output })
    }
    /// Port 7 gives back what it hears when it has heard all; the others are refused.
    async fn port_forward(&self, _: &str, port: u16) -> Result<BoxDuplex, RuntimeError> {
        if port != 7 {
            return Err(RuntimeError::Invalid("connection refused".to_owned()));
        }
        let (ours, mut theirs) = tokio::io::duplex(1024);
        base::Tasks::new("fake").spawn("echo", async move {
            let mut heard = Vec::new();
            theirs.read_to_end(&mut heard).await.unwrap();
            theirs.write_all(&heard).await.unwrap();
        });
        Ok(BoxDuplex::new(ours))
    }
    async fn events(&self) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
        let changes = tokio_stream::wrappers::BroadcastStream::new(self.0.changes.subscribe());
        Ok(changes
            .take_while(|change| futures::future::ready(change.is_ok()))
            .filter_map(|change| futures::future::ready(change.ok()))
            .boxed())
    }
    async fn container_stats(&self, _: &str) -> Result<v1::ContainerStats, RuntimeError> {
        let value = |value| Some(v1::UInt64Value { value });
        let memory_bytes = self.state().memory_bytes;
        let memory = v1::MemoryUsage {
            working_set_bytes: value(memory_bytes),
            usage_bytes: value(memory_bytes),
            ..Default::default()
        };
        Ok(v1::ContainerStats { memory: Some(memory), ..Default::default() })
    }
    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        let pulled = self.state().pulled.clone();
        Ok(pulled.iter().map(|(name, _)| image(name)).chain([image("busybox:1")]).collect())
    }
    async fn image_status(&self, name: &str) -> Result<Option<v1::Image>, RuntimeError> {
        Ok((!name.starts_with("missing")).then(|| image(name)))
    }
    async fn pull_image(&self, name: &str, auth: Option<v1::AuthConfig>) -> Result<String, RuntimeError> {
        let user = auth.unwrap_or_default().username;
        self.state().pulled.push((name.to_owned(), user.clone()));
        match name.strip_prefix("private.example/").is_some_and(|_| user != "right") || name.starts_with("missing") {
            true => Err(not_found("image", name)),
            false => Ok(name.to_owned()),
        }
    }
    async fn remove_image(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn image_fs_info(&self) -> Result<Vec<v1::FilesystemUsage>, RuntimeError> {
        Ok(vec![])
    }
}
