//! Carries out what a worker's plan asks for, one action at a time, and decides nothing.
//!
//! A job may be dropped at any await: every step can be repeated from its beginning, and what it made is found again in the
//! runtime by its labels. Setting a pod up is an ordered slice of steps, each with an undo that is safe without its do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::Typed;
use api::typed::core::v1::{Container, LifecycleHandler, Pod, PodSpec};
use base::{Stop, chain};
use control::{ClientError, DeleteOptions, EventType, PatchType};
use cri::{RuntimeError, v1};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;

use crate::action::{self, Outcome, Target};
use crate::config;
use crate::dns;
use crate::environment::{self, Facts};
use crate::host::Host;
use crate::identity::{self, Identity};
use crate::images::{ImageError, Policy, Progress, Wanted};
use crate::metrics;
use crate::observed;
use crate::plan::Waiting;
use crate::references::Snapshot;
use crate::resize;
use crate::tokens::Tokens;
use crate::volumes::{self, mounts, payload::Sources};

/// A container gets this long to end, even when its hook took all of its grace.
const GRACE_SECONDS_MIN: i64 = 2;

/// Something that a job tried failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Why, for the container's status or an event.
    pub(crate) waiting: Waiting,
    /// When to try again; `None`: after the usual back-off.
    pub(crate) retry_in: Option<Duration>,
}

/// One pod's context for one action.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) host: Arc<Host>,
    pub(crate) identity: Identity,
    pub(crate) pod: Arc<Pod>,
    pub(crate) objects: Snapshot,
    /// The addresses of the pod's sandbox.
    pub(crate) pod_ips: Vec<std::net::IpAddr>,
    /// Given when the pod must end: what waits or pulls gives up.
    pub(crate) cancel: Stop,
}

/// What the steps of a setup hand on.
struct Setup {
    attempt: u32,
    tokens: Tokens,
    pod_ips: Vec<std::net::IpAddr>,
}

struct Step {
    name: &'static str,
    run: for<'a> fn(&'a Job, &'a mut Setup) -> BoxFuture<'a, Result<(), Failure>>,
    undo: for<'a> fn(&'a Job) -> BoxFuture<'a, Result<(), TearDownError>>,
}

/// What a pod needs before its first container, in order; undone in reverse.
const STEPS: &[Step] = &[
    Step {
        name: "directories",
        run: |job, _| job.make_directories().boxed(),
        undo: |job| job.remove_directories().boxed(),
    },
    Step {
        name: "volumes",
        run: |job, setup| job.make_volumes(&mut setup.tokens).boxed(),
        undo: |job| job.remove_volumes().boxed(),
    },
    Step {
        name: "sandbox",
        run: |job, setup| job.make_sandbox(setup).boxed(),
        undo: |job| job.remove_sandboxes().boxed(),
    },
    Step {
        name: "hosts file",
        run: |job, setup| job.write_hosts(&setup.pod_ips).boxed(),
        undo: |_| async { Ok(()) }.boxed(),
    },
];

/// Something of a pod could not be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TearDownError {
    #[error("cannot remove the pod's directory")]
    Directory(#[source] std::io::Error),
    #[error("cannot remove the pod's sandbox")]
    Runtime(#[from] RuntimeError),
}

/// A container's resources could not be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResizeError {
    #[error("attempting to set pod memory limit ({limit}) below current usage ({used})")]
    InUse { limit: i64, used: i64 },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Job {
    fn directory(&self) -> PathBuf {
        self.identity.directory(&self.host.root_dir)
    }

    fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    pub(crate) fn event(&self, kind: EventType, reason: &str, message: &str) {
        self.host.event(&self.identity, String::new(), kind, reason, message);
    }

    fn container_event(&self, name: &str, kind: EventType, reason: &str, message: &str) {
        self.host.event(&self.identity, identity::field_path(&self.pod, name), kind, reason, message);
    }

    /// Makes volumes and sandbox.
    pub(crate) async fn set_up(&self, attempt: u32, tokens: Tokens) -> (Tokens, Result<(), Failure>) {
        let mut setup = Setup { attempt, tokens, pod_ips: Vec::new() };
        for step in STEPS {
            if let Err(failure) = (step.run)(self, &mut setup).await {
                tracing::debug!(pod = self.identity.display(), step = step.name, "a start step failed");
                return (setup.tokens, Err(failure));
            }
        }
        (setup.tokens, Ok(()))
    }

    /// Removes everything that the pod has on this node.
    pub(crate) async fn tear_down(&self) -> Result<(), TearDownError> {
        for step in STEPS.iter().rev() {
            (step.undo)(self).await?;
        }
        Ok(())
    }

    /// Unmounts what a finished pod no longer needs; its containers and logs stay.
    pub(crate) async fn unmount(&self) -> Result<(), TearDownError> {
        self.remove_volumes().await
    }

    async fn make_directories(&self) -> Result<(), Failure> {
        let (directory, logs) = (self.directory(), self.identity.log_directory(&self.host.log_dir));
        let work = move || {
            mounts::directory(&directory, 0o750)?;
            mounts::directory(&logs, 0o755)
        };
        blocking(work).await.map_err(|error| self.setup_failure("FailedCreatePodContainer", chain(&error)))
    }

    fn setup_failure(&self, event: &str, message: String) -> Failure {
        self.event(EventType::Warning, event, &message);
        Failure { waiting: Waiting { reason: event.to_owned(), message }, retry_in: None }
    }

    async fn remove_directories(&self) -> Result<(), TearDownError> {
        volumes::tear_down(self.directory()).await.map_err(TearDownError::Directory)?;
        let logs = self.identity.log_directory(&self.host.log_dir);
        blocking(move || match std::fs::remove_dir_all(&logs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
        .await
        .map_err(TearDownError::Directory)
    }

    /// Sets the volumes up, or brings their files up to date.
    pub(crate) async fn make_volumes(&self, tokens: &mut Tokens) -> Result<(), Failure> {
        let Host { client, clock, .. } = &*self.host;
        tokens.refresh(&self.pod, &self.identity, client, clock).await.map_err(|error| {
            let message = format!("MountVolume.SetUp failed for a service account token: {}", chain(&error));
            self.setup_failure("FailedMount", message)
        })?;
        let texts = tokens.texts();
        let sources = Sources {
            lookup: &self.objects,
            tokens: &texts,
            pod_ips: &self.pod_ips,
            host_ips: &self.host.node_ips,
            capacity: self.host.capacity,
        };
        let ground = volumes::Ground {
            client,
            node: self.host.node.get(&api::Key::new("", self.host.node_name.as_str())),
            local: &self.host.local_volumes,
        };
        let done = volumes::set_up(&self.pod, &self.directory(), &sources, &ground, &self.host.stamp()).await;
        done.map_err(|error| {
            let failure = self.setup_failure("FailedMount", chain(&error));
            // Its coming is an event; until then a retry would fail the same way, so it is rare.
            let retry_in = error.waits_for_object.then(|| Duration::from_secs(120));
            Failure { retry_in, ..failure }
        })
    }

    async fn remove_volumes(&self) -> Result<(), TearDownError> {
        let volumes = self.directory();
        for part in ["volumes", "volume-subpaths"] {
            volumes::tear_down(volumes.join(part)).await.map_err(TearDownError::Directory)?;
        }
        Ok(())
    }

    async fn make_sandbox(&self, setup: &mut Setup) -> Result<(), Failure> {
        let config = self.sandbox_config(setup.attempt).await;
        let handler = self.runtime_handler().await?;
        let failed = |error: RuntimeError| {
            self.setup_failure("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {}", chain(&error)))
        };
        let id = self.host.runtime.run_pod_sandbox(config, &handler).await.map_err(failed)?;
        metrics::STARTED_PODS.with([]).inc();
        let status = self.host.runtime.pod_sandbox_status(&id).await.map_err(failed)?;
        let network = status.network.unwrap_or_default();
        setup.pod_ips = observed::addresses(&network);
        Ok(())
    }

    /// The handler that the pod's runtime class names.
    async fn runtime_handler(&self) -> Result<String, Failure> {
        let Some(name) = self.spec().runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(String::new());
        };
        let key = api::Key::new("", name);
        let class = self.host.client.get(api::typed::node::v1::RuntimeClass::resource(), &key).await;
        let class = class.map_err(|error| {
            let message = format!("Failed to create pod sandbox: RuntimeClass \"{name}\": {}", chain(&error));
            self.setup_failure("FailedCreatePodSandBox", message)
        })?;
        Ok(class.to_value()["handler"].as_str().unwrap_or_default().to_owned())
    }

    async fn sandbox_config(&self, attempt: u32) -> v1::PodSandboxConfig {
        let Host { node_name, cluster_dns, cluster_domain, log_dir, .. } = &*self.host;
        let resolv_conf = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
        let (host_name, _) = dns::host_name(&self.pod, node_name, cluster_domain);
        let dns = dns::config(&self.pod, cluster_dns, cluster_domain, &resolv_conf);
        config::sandbox(&self.pod, &self.identity, attempt, &host_name, dns, log_dir)
    }

    async fn remove_sandboxes(&self) -> Result<(), TearDownError> {
        let runtime = &self.host.runtime;
        let selector = self.identity.selector();
        let filter = v1::ContainerFilter { label_selector: selector.clone(), ..Default::default() };
        for container in runtime.list_containers(Some(filter)).await? {
            gone_is_fine(runtime.remove_container(&container.id).await)?;
        }
        let filter = v1::PodSandboxFilter { label_selector: selector, ..Default::default() };
        for sandbox in runtime.list_pod_sandboxes(Some(filter)).await? {
            gone_is_fine(runtime.stop_pod_sandbox(&sandbox.id).await)?;
            gone_is_fine(runtime.remove_pod_sandbox(&sandbox.id).await)?;
        }
        Ok(())
    }

    async fn write_hosts(&self, pod_ips: &[std::net::IpAddr]) -> Result<(), Failure> {
        let host = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
        let (name, full) = dns::host_name(&self.pod, &self.host.node_name, &self.host.cluster_domain);
        let text = dns::hosts_file(self.spec(), pod_ips, &name, full.as_deref(), &host);
        let written = tokio::fs::write(self.directory().join("etc-hosts"), text).await;
        written.map_err(|error| {
            self.setup_failure("FailedCreatePodContainer", format!("cannot write the pod's hosts file: {error}"))
        })
    }

    /// Makes and starts a container, and runs its `postStart` hook.
    pub(crate) async fn start(
        &self,
        name: &str,
        attempt: u32,
        known: impl Future<Output = ()> + Send,
    ) -> Result<(), Failure> {
        let Some((kind, spec)) = identity::containers(&self.pod).find(|(_, container)| container.name == name) else {
            return Ok(());
        };
        let prepare = async {
            known.await;
            let progress = ContainerEvents { job: self, name };
            let image = self.image(Wanted::of(spec), &progress).await?;
            Ok::<_, ImageError>((image, self.volume_images(spec, &progress).await?))
        };
        let Some(image) = self.cancel.or_stopped(prepare).await else {
            return Ok(());
        };
        let (image, volume_images) = image.map_err(|error| {
            self.container_event(name, EventType::Warning, "Failed", &format!("Error: {}", error.reason));
            Failure {
                waiting: Waiting { reason: error.reason.to_owned(), message: error.message },
                retry_in: Some(error.retry_in),
            }
        })?;
        let failed = |reason: &str, message: String| {
            self.container_event(name, EventType::Warning, "Failed", &format!("Error: {message}"));
            Failure { waiting: Waiting { reason: reason.to_owned(), message }, retry_in: None }
        };
        let config = self.container_config(spec, attempt, &image, &volume_images).await;
        let (sandbox, config) = config.map_err(|message| failed("CreateContainerConfigError", message))?;
        let runtime = &self.host.runtime;
        let sandbox_config = self.sandbox_config(0).await;
        let created = runtime.create_container(&sandbox, config, sandbox_config).await;
        let id = created.map_err(|error| failed("CreateContainerError", chain(&error)))?;
        self.container_event(name, EventType::Normal, "Created", "Container created");
        runtime.start_container(&id).await.map_err(|error| failed("RunContainerError", chain(&error)))?;
        self.container_event(name, EventType::Normal, "Started", "Container started");
        metrics::STARTED_CONTAINERS.with([kind.metric()]).inc();
        self.post_start(spec, id).await
    }

    async fn image(&self, wanted: Wanted<'_>, progress: &dyn Progress) -> Result<v1::Image, ImageError> {
        self.host.images.ensure(&*self.host.runtime, &self.pod, wanted, &self.objects, progress).await
    }

    /// The images that a container mounts, by their volumes' names.
    async fn volume_images(
        &self,
        spec: &Container,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<String, v1::ImageSpec>, ImageError> {
        let mut found = BTreeMap::new();
        for volume in self.spec().volumes.iter().flatten() {
            let used = spec.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
            let Some(source) = volume.image.as_ref().filter(|_| used) else { continue };
            let image = source.reference.as_deref().unwrap_or_default();
            let policy = Policy::of(source.pull_policy.as_deref(), image);
            let present = self.image(Wanted { image, policy }, progress).await?;
            let user_specified_image = image.to_owned();
            let image = v1::ImageSpec { image: present.id, user_specified_image, ..Default::default() };
            found.insert(volume.name.clone(), image);
        }
        Ok(found)
    }

    async fn post_start(&self, spec: &Container, id: String) -> Result<(), Failure> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let ran = self.cancel.or_stopped(self.hook(hook, spec, id.clone(), None)).await;
        if let Some(Outcome::Failure(message)) = ran {
            self.container_event(&spec.name, EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
            let grace = self.spec().termination_grace_period_seconds.unwrap_or(30);
            self.kill(&id, &spec.name, grace, "FailedPostStartHook", false).await.map_err(|error| Failure {
                waiting: Waiting { reason: "PostStartHookError".into(), message: chain(&error) },
                retry_in: None,
            })?;
            tracing::info!(pod = self.identity.display(), container = spec.name, message, "a postStart hook failed");
        }
        Ok(())
    }

    async fn hook(&self, hook: &LifecycleHandler, spec: &Container, id: String, deadline: Option<Duration>) -> Outcome {
        // A hook without a deadline may take as long as the container lives: its end ends the hook.
        let timeout = deadline.unwrap_or(Duration::from_secs(24 * 3600));
        let target = Target { container_id: id, pod_ip: self.pod_ips.first().copied() };
        if let Some(exec) = &hook.exec {
            return action::exec(&*self.host.runtime, &target, exec, deadline.unwrap_or(Duration::ZERO)).await;
        }
        if let Some(http) = &hook.http_get {
            return action::http_get(http, spec, &target, timeout).await;
        }
        if let Some(sleep) = &hook.sleep {
            let asked = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            tokio::time::sleep(asked.min(timeout)).await;
        }
        Outcome::Success
    }

    async fn container_config(
        &self,
        spec: &Container,
        attempt: u32,
        image: &v1::Image,
        volume_images: &BTreeMap<String, v1::ImageSpec>,
    ) -> Result<(String, v1::ContainerConfig), String> {
        let selector = self.identity.selector();
        let ready = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 };
        let filter = v1::PodSandboxFilter { label_selector: selector, state: Some(ready), ..Default::default() };
        let sandboxes = self.host.runtime.list_pod_sandboxes(Some(filter)).await.map_err(|error| chain(&error))?;
        let sandbox = sandboxes.into_iter().next().ok_or("the pod's sandbox is gone")?;
        let services = self.host.services.in_namespace("default").into_iter().chain(
            Some(&self.identity.namespace)
                .filter(|namespace| *namespace != "default")
                .into_iter()
                .flat_map(|namespace| self.host.services.in_namespace(namespace)),
        );
        let services: Vec<_> = services.collect();
        let facts = Facts {
            lookup: &self.objects,
            services: environment::service_variables(&self.pod, services.iter()),
            pod_ips: if self.spec().host_network == Some(true) { &self.host.node_ips } else { &self.pod_ips },
            host_ips: &self.host.node_ips,
            capacity: self.host.capacity,
        };
        let variables = environment::variables(&self.pod, spec, &facts).map_err(|error| error.to_string())?;
        let mounts = self.mounts(spec, attempt, &variables, volume_images).await?;
        let devices = self.devices(spec)?;
        let target = self.target_of(&spec.name).await?;
        let parts = config::Parts { attempt, image, variables, mounts, devices, capacity: self.host.capacity, target };
        let config = config::container(&self.pod, &self.identity, spec, parts).map_err(|error| error.to_string())?;
        Ok((sandbox.id, config))
    }

    /// The container whose processes an ephemeral container wants to see.
    async fn target_of(&self, name: &str) -> Result<Option<String>, String> {
        let wanted =
            identity::ephemeral(&self.pod, name).and_then(|container| container.target_container_name.as_deref());
        let Some(wanted) = wanted.filter(|name| !name.is_empty()) else { return Ok(None) };
        let mut selector = self.identity.selector();
        selector.insert(identity::CONTAINER_NAME.to_owned(), wanted.to_owned());
        let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
        let filter = v1::ContainerFilter { label_selector: selector, state: Some(running), ..Default::default() };
        let found = self.host.runtime.list_containers(Some(filter)).await.map_err(|error| chain(&error))?;
        let target = found.into_iter().next().ok_or_else(|| format!("unable to find target container {wanted}"))?;
        Ok(Some(target.id))
    }

    async fn mounts(
        &self,
        spec: &Container,
        attempt: u32,
        variables: &[(String, String)],
        volume_images: &BTreeMap<String, v1::ImageSpec>,
    ) -> Result<Vec<v1::Mount>, String> {
        let directory = self.directory();
        let mut list = Vec::new();
        for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
            let volume = self.spec().volumes.iter().flatten().find(|volume| volume.name == mount.name);
            let volume = volume.ok_or_else(|| format!("volume {:?} of a volumeMount is not in the pod", mount.name))?;
            let location = volumes::location(&directory, &self.pod, volume)
                .map_err(|error| format!("volume {:?} is not set up: {error}", mount.name))?;
            let lookup = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            let expanded = mount
                .sub_path_expr
                .as_deref()
                .filter(|path| !path.is_empty())
                .map(|path| environment::expand(path, lookup));
            let sub_path = mount.sub_path.clone().filter(|path| !path.is_empty()).or(expanded);
            if let Some(image) = volume_images.get(&mount.name) {
                let sub_path = sub_path.unwrap_or_default();
                let image = Some(image.clone());
                list.push(v1::Mount { image, image_sub_path: sub_path, ..config::mount(mount, Path::new(""), true) });
                continue;
            }
            let source = match sub_path {
                None => location,
                Some(sub_path) => {
                    let target =
                        directory.join("volume-subpaths").join(&volume.name).join(&spec.name).join(index.to_string());
                    let bound = target.clone();
                    let work = move || mounts::bind_sub_path(&location, &sub_path, &bound);
                    blocking(work).await.map_err(|error| {
                        format!(
                            "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                            mount.name, spec.name
                        )
                    })?;
                    target
                }
            };
            list.push(config::mount(mount, &source, volumes::is_read_only(volume)));
        }
        self.own_files(spec, attempt, &mut list)
            .await
            .map_err(|error| format!("cannot make the container's own files: {error}"))?;
        Ok(list)
    }

    /// The block devices that a container gets of the pod's volumes.
    fn devices(&self, spec: &Container) -> Result<Vec<v1::Device>, String> {
        let device = |wanted: &api::typed::core::v1::VolumeDevice| {
            let volume = self.spec().volumes.iter().flatten().find(|volume| volume.name == wanted.name);
            let volume =
                volume.ok_or_else(|| format!("volume {:?} of a volumeDevice is not in the pod", wanted.name))?;
            let location = volumes::location(&self.directory(), &self.pod, volume)
                .map_err(|error| format!("volume {:?} is not set up: {error}", wanted.name))?;
            let permissions = if volumes::is_read_only(volume) { "r" } else { "mrw" };
            Ok(v1::Device {
                container_path: wanted.device_path.clone(),
                host_path: location.to_string_lossy().into_owned(),
                permissions: permissions.to_owned(),
            })
        };
        spec.volume_devices.iter().flatten().map(device).collect()
    }

    /// The hosts file, and the file for the container's last words.
    async fn own_files(&self, spec: &Container, attempt: u32, list: &mut Vec<v1::Mount>) -> std::io::Result<()> {
        let mount = |container_path: &str, host_path: &Path| v1::Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.to_string_lossy().into_owned(),
            ..Default::default()
        };
        let taken = |list: &[v1::Mount], path: &str| list.iter().any(|mount| mount.container_path == path);
        let hosts = self.directory().join("etc-hosts");
        if !taken(list, "/etc/hosts") && tokio::fs::try_exists(&hosts).await? {
            list.push(mount("/etc/hosts", &hosts));
        }
        let message_path = config::message_path(spec);
        if !taken(list, message_path) {
            let file = self.identity.termination_message(&self.host.root_dir, &spec.name, attempt);
            let made = file.clone();
            blocking(move || {
                use std::os::unix::fs::PermissionsExt;
                std::fs::create_dir_all(made.parent().unwrap_or(&made))?;
                let file = std::fs::File::create(&made)?;
                // The container's user, whoever it is, writes it.
                file.set_permissions(std::fs::Permissions::from_mode(0o666))
            })
            .await?;
            list.push(mount(message_path, &file));
        }
        Ok(())
    }

    /// Ends a container: its `preStop` hook first, within the same grace.
    pub(crate) async fn kill(
        &self,
        id: &str,
        name: &str,
        grace_seconds: i64,
        message: &str,
        with_hook: bool,
    ) -> Result<(), RuntimeError> {
        self.container_event(name, EventType::Normal, "Killing", message);
        let started = Instant::now();
        let spec = identity::containers(&self.pod)
            .find(|(_, container)| container.name == name)
            .map(|(_, container)| container);
        let hook = spec.and_then(|spec| spec.lifecycle.as_ref()).and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let (Some(hook), Some(spec), true) = (hook, spec, with_hook && grace_seconds > 0) {
            let grace = Duration::from_secs(grace_seconds.unsigned_abs());
            let outcome = tokio::time::timeout(grace, self.hook(hook, spec, id.to_owned(), Some(grace))).await;
            if let Ok(Outcome::Failure(why)) = outcome {
                self.container_event(name, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
                tracing::info!(pod = self.identity.display(), container = name, why, "a preStop hook failed");
            }
        }
        let used = i64::try_from(started.elapsed().as_secs()).unwrap_or(i64::MAX);
        let left = if used > 0 { (grace_seconds - used).max(GRACE_SECONDS_MIN) } else { grace_seconds };
        gone_is_fine(self.host.runtime.stop_container(id, left).await)
    }

    /// Changes what a running container may use. Memory is never taken below what is in use: the kernel would kill for it.
    pub(crate) async fn resize(&self, id: &str, name: &str, target: resize::Target) -> Result<(), ResizeError> {
        let Some((_, spec)) = identity::containers(&self.pod).find(|(_, container)| container.name == name) else {
            return Ok(());
        };
        let runtime = &self.host.runtime;
        if target.memory_bytes > 0 {
            let used = runtime.container_stats(id).await?.memory.and_then(|memory| memory.usage_bytes);
            let used = used.map_or(0, |used| i64::try_from(used.value).unwrap_or(i64::MAX));
            if used > target.memory_bytes {
                return Err(ResizeError::InUse { limit: target.memory_bytes, used });
            }
        }
        let linux = crate::resources::linux(&self.pod, spec, self.host.capacity);
        Ok(runtime.update_container_resources(id, linux).await?)
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let runtime = &self.host.runtime;
        let log = match runtime.container_status(id).await {
            Ok(status) => Some(status.log_path).filter(|path| !path.is_empty()),
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        gone_is_fine(runtime.remove_container(id).await)?;
        if let Some(path) = log {
            crate::rotation::remove(&self.identity.log_directory(&self.host.log_dir).join(path)).await;
        }
        Ok(())
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        gone_is_fine(self.host.runtime.stop_pod_sandbox(id).await)
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        gone_is_fine(self.host.runtime.remove_pod_sandbox(id).await)
    }

    /// Writes the changes of the pod's status.
    pub(crate) async fn write_status(&self, patch: &Value) -> Result<api::Object, ClientError> {
        let client = &self.host.client;
        client.patch(Pod::resource(), &self.identity.key(), Some("status"), PatchType::StrategicMerge, patch).await
    }

    /// Removes the pod from the API, now that nothing of it is left here.
    pub(crate) async fn delete(&self) -> Result<(), ClientError> {
        let options =
            DeleteOptions { uid: Some(self.identity.uid.clone()), grace_seconds: Some(0), ..Default::default() };
        match self.host.client.delete(Pod::resource(), &self.identity.key(), &options).await {
            // It went, or another pod has its name already.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => other,
        }
    }
}

struct ContainerEvents<'a> {
    job: &'a Job,
    name: &'a str,
}

impl Progress for ContainerEvents<'_> {
    fn normal(&self, reason: &str, message: &str) {
        self.job.container_event(self.name, EventType::Normal, reason, message);
    }

    fn warning(&self, reason: &str, message: &str) {
        self.job.container_event(self.name, EventType::Warning, reason, message);
    }
}

fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(RuntimeError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> std::io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
}
