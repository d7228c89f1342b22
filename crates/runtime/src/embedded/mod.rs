//! CRI's calls over sandboxes, containers and images.
//!
//! The files beside this one: `sandbox` and `container` do what their names say, `state` is what is held in memory,
//! `client` talks to shims, `convert` turns state into CRI's messages, `reset` removes everything. Calls for the same object may overlap: each step is safe
//! to repeat, and shims, which have one thread, decide races.

mod client;
mod container;
mod convert;
mod reset;
mod sandbox;
mod state;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base::{SharedClock, Stop, Tasks};
use cri::{BoxDuplex, ContainerChange, ExecSession, ExecStart, Output, PodNetwork, Runtime, RuntimeError, v1};
use futures::stream::{BoxStream, StreamExt};
use linux::cgroup::{CgroupError, Cgroups};
use tokio::sync::broadcast;

pub use reset::{ResetError, remove_all};

use crate::handlers::Handlers;
use crate::images::{self, Store, StoreError};
use crate::records::RecordError;
use crate::registry::{self, Registries};
use crate::shim::protocol::Request;
use state::{Container, Known, Sandbox};

/// A reader of events that falls further behind than this begins anew.
const EVENTS_MAX: usize = 4096;

/// Output of a command that is run to its end; more is cut off, as CRI clients expect.
const EXEC_SYNC_BYTES_MAX: usize = 16 << 20;

/// The name that container ids carry in the API: `timonier://ID`.
const RUNTIME_NAME: &str = "timonier";

/// What the runtime needs to know.
#[derive(Clone)]
pub struct Config {
    /// Images, layers and state; persistent, on a filesystem that overlayfs takes as an upper one.
    pub root: PathBuf,
    /// The program that becomes a shim when it is called with `shim run DIRECTORY`: this one.
    pub shim: PathBuf,
    /// What gives pods their addresses.
    pub network: Arc<dyn PodNetwork>,
    /// The control group that pods without a parent of their own, and all shims, are below: `timonier`.
    pub cgroup_root: String,
    /// What runs pods whose class names a handler.
    pub handlers: Handlers,
    /// Where images come from.
    pub registries: registry::Config,
    /// Time stamps.
    pub clock: SharedClock,
    /// Ends the runtime's own tasks; pods go on.
    pub stop: Stop,
}

/// The runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its images.
    #[error("cannot open the image store")]
    Images(#[source] StoreError),
    /// The machine's control groups.
    #[error("cannot find the control groups")]
    Cgroups(#[source] CgroupError),
    /// Its state.
    #[error("cannot {action} {}", path.display())]
    State {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Two runtimes on one root would fight over its pods.
    #[error("{} is used by another process", .0.display())]
    InUse(PathBuf),
}

/// The embedded runtime.
pub struct Embedded {
    config: Config,
    images: Arc<Store>,
    registries: Registries,
    cgroups: Cgroups,
    known: Mutex<Known>,
    events: broadcast::Sender<ContainerChange>,
    tasks: Tasks,
    /// For tasks that outlive the call that starts them.
    this: std::sync::Weak<Self>,
    /// Held while this runs.
    _lock: std::fs::File,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Embedded").field("root", &self.config.root).finish_non_exhaustive()
    }
}

/// Wraps an error with what was tried.
fn failed<E>(action: impl Into<String>) -> impl FnOnce(E) -> RuntimeError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let action = action.into();
    move |error| RuntimeError::Failed { action, source: Box::new(error) }
}

impl Embedded {
    /// Opens the runtime and finds the pods that an earlier process left running.
    pub async fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        use std::os::unix::fs::DirBuilderExt;
        let sandboxes = config.root.join("sandboxes");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&sandboxes);
        made.map_err(|source| OpenError::State { action: "make", path: sandboxes.clone(), source })?;
        let lock = lock(&config.root)?;
        let store = config.root.clone();
        let images = blocking(move || Store::open(&store)).await.map_err(OpenError::Images)?;
        let cgroups = Cgroups::detect().map_err(OpenError::Cgroups)?;
        let runtime = Arc::new_cyclic(|this| Self {
            images: Arc::new(images),
            registries: Registries::new(config.registries.clone()),
            cgroups,
            this: this.clone(),
            known: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
            tasks: Tasks::new("runtime"),
            config,
            _lock: lock,
        });
        runtime.find_sandboxes(&sandboxes).await?;
        Ok(runtime)
    }

    /// Waits until the runtime's own tasks have ended, after the stop signal. Pods go on.
    pub async fn join(&self) {
        self.tasks.join().await;
    }

    /// The image store, for imports and pulls.
    pub fn images(&self) -> Arc<Store> {
        self.images.clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of the state's lock panics")
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, RuntimeError> {
        let found = self.known().sandboxes.get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        let found = self.known().containers.get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { kind: "container", id: id.to_owned() })
    }

    fn now(&self) -> i64 {
        i64::try_from(self.config.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }
}

/// Runs what waits for the disk or the kernel away from the tasks.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("blocking work is only cancelled when the whole program ends"),
        },
    }
}

fn lock(root: &std::path::Path) -> Result<std::fs::File, OpenError> {
    let path = root.join("runtime.lock");
    let failed = |source| OpenError::State { action: "lock", path: path.clone(), source };
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN) => Err(OpenError::InUse(root.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

#[async_trait]
impl Runtime for Embedded {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, RuntimeError> {
        let ready = |kind: &str| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..v1::RuntimeCondition::default()
        };
        let mut network = ready("NetworkReady");
        if let Err(error) = self.config.network.status().await {
            network.status = false;
            network.reason = "NetworkPluginNotReady".to_owned();
            network.message = format!("Network plugin returns error: {}", base::chain(&*error.source));
        }
        Ok(v1::RuntimeStatus { conditions: vec![ready("RuntimeReady"), network] })
    }

    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, RuntimeError> {
        self.run_sandbox(config, runtime_handler).await
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        match self.sandbox(sandbox_id) {
            Ok(sandbox) => self.stop_sandbox(&sandbox).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        match self.sandbox(sandbox_id) {
            Ok(sandbox) => self.remove_sandbox(&sandbox).await,
            Err(_) => Ok(()),
        }
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        Ok(convert::sandbox_status(&*self.sandbox(sandbox_id)?))
    }

    async fn list_pod_sandboxes(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let all: Vec<_> = self.known().sandboxes.values().cloned().collect();
        let filter = filter.unwrap_or_default();
        Ok(all
            .iter()
            .map(|sandbox| convert::sandbox(sandbox))
            .filter(|sandbox| convert::sandbox_matches(sandbox, &filter))
            .collect())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        self.make_container(&*self.sandbox(sandbox_id)?, config, sandbox).await
    }

    async fn start_container(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.start(&*self.container(container_id)?).await
    }

    async fn stop_container(&self, container_id: &str, grace_seconds: i64) -> Result<(), RuntimeError> {
        match self.container(container_id) {
            Ok(container) => self.stop(&container, Duration::from_secs(grace_seconds.max(0).unsigned_abs())).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), RuntimeError> {
        match self.container(container_id) {
            Ok(container) => self.remove(&container).await,
            Err(_) => Ok(()),
        }
    }

    async fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Result<Vec<v1::Container>, RuntimeError> {
        let all: Vec<_> = self.known().containers.values().cloned().collect();
        let filter = filter.unwrap_or_default();
        Ok(all
            .iter()
            .map(|found| convert::container(found))
            .filter(|found| convert::container_matches(found, &filter))
            .collect())
    }

    async fn container_status(&self, container_id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        Ok(convert::container_status(&*self.container(container_id)?))
    }

    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        self.update_resources(self.container(container_id)?, resources).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<(), RuntimeError> {
        let container = self.container(container_id)?;
        let request = Request::ReopenLog { container: container_id.to_owned() };
        self.ask_shim(&container, &request).await.map(drop)
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> Result<v1::ExecSyncResponse, RuntimeError> {
        let what = format!("exec {command:?} in container {container_id}");
        let start = ExecStart { container_id: container_id.to_owned(), command, tty: false, stdin: false };
        let session = self.exec(start).await?;
        let run = collect(session, &what);
        match u64::try_from(timeout_seconds) {
            Ok(seconds) if seconds > 0 => tokio::time::timeout(Duration::from_secs(seconds), run)
                .await
                .unwrap_or(Err(RuntimeError::DeadlineExceeded(what.clone()))),
            _ => run.await,
        }
    }

    async fn exec(&self, start: ExecStart) -> Result<ExecSession, RuntimeError> {
        let container = self.container(&start.container_id)?;
        let request = match start.command.is_empty() {
            true => Request::Attach { container: start.container_id, stdin: start.stdin },
            false => Request::Exec {
                container: start.container_id,
                command: start.command,
                tty: start.tty,
                stdin: start.stdin,
            },
        };
        let directory = container.directory.parent().unwrap_or(&container.directory);
        let action = format!("exec in container {}", container.record.id);
        client::session(directory, &request, &self.tasks).await.map_err(failed(action))
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<BoxDuplex, RuntimeError> {
        let sandbox = self.sandbox(sandbox_id)?;
        let action = format!("connect to port {port} of sandbox {sandbox_id}");
        let stream = client::connect_to_port(&sandbox.directory, port).await.map_err(failed(action))?;
        Ok(BoxDuplex::new(stream))
    }

    async fn events(&self) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.events.subscribe());
        // An error means that the reader lagged: the stream ends, and it lists again.
        Ok(events
            .take_while(|event| std::future::ready(event.is_ok()))
            .filter_map(|event| async { event.ok() })
            .boxed())
    }

    async fn container_stats(&self, container_id: &str) -> Result<v1::ContainerStats, RuntimeError> {
        let container = self.container(container_id)?;
        let (cgroups, now) = (self.cgroups.clone(), self.now());
        blocking(move || convert::container_stats(&container, &cgroups, now)).await
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        let store = self.images.clone();
        let images = blocking(move || store.list()).await.map_err(failed("list images"))?;
        Ok(images.iter().map(convert::image).collect())
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, RuntimeError> {
        Ok(self.find_image(image).await?.as_ref().map(convert::image))
    }

    async fn pull_image(&self, image: &str, auth: Option<v1::AuthConfig>) -> Result<String, RuntimeError> {
        // What an administrator brought is what is meant, also where the registry has something else or cannot be reached.
        if let Some(brought) = self.find_image(image).await?.filter(|image| image.pinned) {
            return Ok(brought.id);
        }
        let pulled = self.registries.pull(&self.images, image, auth.as_ref()).await;
        Ok(pulled.map_err(failed(format!("pull image {image:?}")))?.id)
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        let (store, name) = (self.images.clone(), image.to_owned());
        blocking(move || store.remove(&name)).await.map(drop).map_err(failed(format!("remove image {image}")))
    }

    async fn image_fs_info(&self) -> Result<Vec<v1::FilesystemUsage>, RuntimeError> {
        let store = self.images.clone();
        let used = blocking(move || store.used_bytes()).await.map_err(failed("measure the images"))?;
        Ok(vec![v1::FilesystemUsage {
            timestamp: self.now(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: self.config.root.display().to_string() }),
            used_bytes: Some(v1::UInt64Value { value: used }),
            inodes_used: None,
        }])
    }
}

impl Embedded {
    async fn find_image(&self, reference: &str) -> Result<Option<images::Image>, RuntimeError> {
        let (store, name) = (self.images.clone(), reference.to_owned());
        blocking(move || store.find(&name)).await.map_err(failed(format!("find image {reference}")))
    }
}

/// Runs a session to its end.
async fn collect(mut session: ExecSession, what: &str) -> Result<v1::ExecSyncResponse, RuntimeError> {
    let mut response = v1::ExecSyncResponse::default();
    while let Some(output) = session.output.recv().await {
        let (into, bytes) = match output {
            Output::Stdout(bytes) => (&mut response.stdout, bytes),
            Output::Stderr(bytes) => (&mut response.stderr, bytes),
            Output::Exited(exit_code) => {
                response.exit_code = exit_code;
                return Ok(response);
            }
            Output::Failed(why) => return Err(RuntimeError::Failed { action: what.to_owned(), source: why.into() }),
        };
        let room = EXEC_SYNC_BYTES_MAX.saturating_sub(into.len()).min(bytes.len());
        into.extend(&bytes[..room]);
    }
    Err(RuntimeError::Failed { action: what.to_owned(), source: "the container ended meanwhile".into() })
}

/// The errors of records, where a call only passes them on.
fn record_failed(action: String) -> impl FnOnce(RecordError) -> RuntimeError {
    failed(action)
}
