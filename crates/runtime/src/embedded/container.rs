//! Containers: made, started, stopped, removed, changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cri::{RuntimeError, v1};
use prost::Message;
use tokio::sync::watch;

use super::sandbox::{gone, remove_tree};
use super::state::{Container, Phase, Sandbox, State};
use super::{Embedded, blocking, client, failed, new_id, record_failed};
use crate::images::Image;
use crate::records::{self, ContainerRecord, Durability, ProcessNamespace, RecordError};
use crate::shim::protocol::{Answer, Request};
use crate::spec;
use crate::user::{Accounts, Identity, Wanted};

/// How long a killed container may take to end before stopping it fails: it hangs in the kernel then.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// SIGTERM, where neither pod nor image names another.
const DEFAULT_STOP_SIGNAL: i32 = 15;

impl Embedded {
    pub(super) async fn make_container(
        &self,
        sandbox: &Sandbox,
        config: v1::ContainerConfig,
        pod: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        if *sandbox.phase.borrow() != Phase::Ready {
            return Err(gone(sandbox));
        }
        let wanted = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.find_image(&wanted).await?;
        let image = image.ok_or_else(|| RuntimeError::NotFound { kind: "image", id: wanted.clone() })?;
        let identity = self.identity(&image, &config).await?;
        let id = new_id();
        let mut record = self.container_record(&id, sandbox, &config, &pod, &image)?;
        let mut config = config;
        record.volume_images = self.volume_images(&mut config).await?;
        let parts = spec::Parts {
            config: &config,
            sandbox: &sandbox.record,
            directory: &sandbox.directory,
            image: &image.config,
            identity: &identity,
            cgroup: &record.cgroup,
            processes: &record.processes,
            volume_images: &record.volume_images,
        };
        let spec = spec::build(&parts).map_err(|error| match error {
            spec::SpecError::Invalid(text) => RuntimeError::Invalid(text),
            other => failed(format!("create container {name}"))(other),
        })?;
        let directory = sandbox.directory.join(&id);
        let (at, written, given) = (directory.clone(), record.clone(), config.clone());
        let made = blocking(move || write_container(&at, &written, &spec, &given)).await;
        made.map_err(record_failed(format!("create container {name}")))?;
        let state = watch::Sender::new(State::Created);
        let container =
            Arc::new(Container { record, config: Mutex::new(config), identity: Some(identity), directory, state });
        // An image that was removed meanwhile may have lost its layers; one that is removed from now on sees this container.
        for image in container.record.volume_images.keys().chain([&image.id]) {
            if self.find_image(image).await?.is_none() {
                self.remove(&container).await?;
                return Err(RuntimeError::NotFound { kind: "image", id: image.clone() });
            }
        }
        self.known().containers.insert(id.clone(), container.clone());
        self.tell(&container, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    /// The images that a container mounts, with their layers; the mounts name them by id from here on.
    async fn volume_images(
        &self,
        config: &mut v1::ContainerConfig,
    ) -> Result<BTreeMap<String, Vec<String>>, RuntimeError> {
        let mut found = BTreeMap::new();
        for spec in config.mounts.iter_mut().filter_map(|mount| mount.image.as_mut()) {
            if spec.image.is_empty() {
                continue;
            }
            let image = self.find_image(&spec.image).await?;
            let image = image.ok_or_else(|| RuntimeError::NotFound { kind: "image", id: spec.image.clone() })?;
            // An overlay without an upper layer has at least two lower ones.
            let store = self.images.clone();
            let empty = blocking(move || store.empty_layer()).await.map_err(failed("prepare an image volume"))?;
            let mut layers = image.layers;
            if !layers.contains(&empty) || layers.len() == 1 {
                layers.insert(0, empty);
            }
            spec.image.clone_from(&image.id);
            found.insert(image.id, layers);
        }
        Ok(found)
    }

    async fn identity(&self, image: &Image, config: &v1::ContainerConfig) -> Result<Identity, RuntimeError> {
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        let number = |value: i64| {
            u32::try_from(value).map_err(|_| RuntimeError::Invalid(format!("{value} is no user or group id")))
        };
        let user = match &security.run_as_user {
            Some(user) => number(user.value)?.to_string(),
            None if security.run_as_username.is_empty() => image.config.user.clone(),
            None => security.run_as_username.clone(),
        };
        let gid = security.run_as_group.as_ref().map(|group| number(group.value)).transpose()?;
        let supplemental =
            security.supplemental_groups.iter().map(|group| number(*group)).collect::<Result<Vec<_>, _>>()?;
        let strict = security.supplemental_groups_policy == v1::SupplementalGroupsPolicy::Strict as i32;
        let layers: Vec<PathBuf> =
            image.layers.iter().map(|layer| self.images.layers_directory().join(layer)).collect();
        let accounts = blocking(move || Accounts::read(&layers)).await.map_err(failed("read the image's accounts"))?;
        let wanted = Wanted { user: &user, gid, supplemental: &supplemental, strict };
        accounts.resolve(&wanted).map_err(|error| RuntimeError::Invalid(error.to_string()))
    }

    fn container_record(
        &self,
        id: &str,
        sandbox: &Sandbox,
        config: &v1::ContainerConfig,
        pod: &v1::PodSandboxConfig,
        image: &Image,
    ) -> Result<ContainerRecord, RuntimeError> {
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        let namespaces = security.namespace_options.clone().unwrap_or_default();
        let processes = match v1::NamespaceMode::try_from(namespaces.pid) {
            Ok(v1::NamespaceMode::Pod) if sandbox.record.shared_processes => ProcessNamespace::Pod,
            Ok(v1::NamespaceMode::Node) => ProcessNamespace::Host,
            Ok(v1::NamespaceMode::Target) => ProcessNamespace::Target(namespaces.target_id),
            _ => ProcessNamespace::Private,
        };
        let folder = if pod.log_directory.is_empty() { &sandbox.config.log_directory } else { &pod.log_directory };
        let logged = !config.log_path.is_empty() && !folder.is_empty();
        let wanted = v1::Signal::try_from(config.stop_signal).unwrap_or(v1::Signal::RuntimeDefault);
        let named = (wanted != v1::Signal::RuntimeDefault)
            .then(|| wanted.as_str_name().replace("PLUS", "+").replace("MINUS", "-"));
        let signal = named.as_ref().unwrap_or(&image.config.stop_signal);
        let stop_signal = match linux::process::signal_number(signal) {
            Some(number) => number,
            None if signal.is_empty() => DEFAULT_STOP_SIGNAL,
            None => return Err(RuntimeError::Invalid(format!("the stop signal {signal:?} is no signal"))),
        };
        Ok(ContainerRecord {
            id: id.to_owned(),
            sandbox_id: sandbox.record.id.clone(),
            created_at: self.now(),
            image_id: image.id.clone(),
            image_ref: image.reference(),
            layers: image.layers.clone(),
            volume_images: BTreeMap::new(),
            cgroup: format!("{}/{id}", sandbox.record.cgroup.trim_end_matches('/')),
            processes,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            log_path: logged.then(|| Path::new(folder).join(&config.log_path)),
            stop_signal,
            privileged: security.privileged,
        })
    }

    /// Asks the shim of a container.
    pub(super) async fn ask_shim(&self, container: &Container, request: &Request) -> Result<Answer, RuntimeError> {
        let directory = container.directory.parent().unwrap_or(&container.directory);
        let action = match request {
            Request::Start { .. } => "start",
            Request::ReopenLog { .. } => "reopen the log of",
            _ => "reach",
        };
        let action = format!("{action} container {}", container.record.id);
        client::ask(directory, request).await.map_err(failed(action))
    }

    pub(super) async fn start(&self, container: &Container) -> Result<(), RuntimeError> {
        let answer = self.ask_shim(container, &Request::Start { container: container.record.id.clone() }).await;
        match answer {
            Ok(Answer::Started { started_at }) => {
                self.set_state(container, &State::Running(started_at));
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                // The shim recorded why; its change may still be on the way here.
                let exit = records::read(&container.directory, records::EXIT)
                    .map_err(record_failed("read an exit".to_owned()))?;
                if let Some(exit) = exit {
                    self.set_state(container, &State::Exited(0, exit));
                }
                Err(error)
            }
        }
    }

    pub(super) async fn stop(&self, container: &Container, grace: Duration) -> Result<(), RuntimeError> {
        let id = &container.record.id;
        let mut state = container.state.subscribe();
        if !container.is_running() {
            return Ok(());
        }
        let mut ended = async |limit| {
            let wait = state.wait_for(|state| !matches!(state, State::Running(_)));
            tokio::time::timeout(limit, wait).await.is_ok()
        };
        if !grace.is_zero() {
            let signal = Request::Signal { container: id.clone(), signal: container.record.stop_signal };
            self.ask_about_end(container, &signal).await?;
            if ended(grace).await {
                return Ok(());
            }
        }
        self.ask_about_end(container, &Request::Kill { container: id.clone() }).await?;
        if ended(KILL_WAIT).await {
            return Ok(());
        }
        let why = format!("it was killed and did not end within {} s", KILL_WAIT.as_secs());
        Err(RuntimeError::Failed { action: format!("stop container {id}"), source: why.into() })
    }

    /// A container or a shim that has ended meanwhile is what stopping wants: the change is on its way.
    async fn ask_about_end(&self, container: &Container, request: &Request) -> Result<(), RuntimeError> {
        let directory = container.directory.parent().unwrap_or(&container.directory);
        match client::ask(directory, request).await {
            Ok(_) | Err(client::ClientError::NotRunning | client::ClientError::Connection(_)) => Ok(()),
            Err(error) => Err(failed(format!("stop container {}", container.record.id))(error)),
        }
    }

    pub(super) async fn remove(&self, container: &Container) -> Result<(), RuntimeError> {
        self.stop(container, Duration::ZERO).await?;
        let id = container.record.id.clone();
        let action = format!("remove container {id}");
        let parent = container.directory.parent().unwrap_or(&container.directory);
        match client::ask(parent, &Request::Forget { container: id.clone() }).await {
            // Without a shim there is nobody to forget it.
            Ok(_) | Err(client::ClientError::Connection(_)) => {}
            Err(error) => return Err(failed(action)(error)),
        }
        let (cgroups, group, directory) =
            (self.cgroups.clone(), container.record.cgroup.clone(), container.directory.clone());
        blocking(move || {
            cgroups.kill(&group).and_then(|()| cgroups.remove(&group)).map_err(std::io::Error::other)?;
            remove_tree(&directory)
        })
        .await
        .map_err(failed(action))?;
        if self.known().containers.remove(&id).is_some() {
            self.tell(container, v1::ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    pub(super) async fn update_resources(
        &self,
        container: Arc<Container>,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let action = format!("change the resources of container {}", container.record.id);
        let mut config = container.config();
        let linux = config.linux.get_or_insert_default();
        let mut merged = linux.resources.clone().unwrap_or_default();
        merge(&mut merged, &resources);
        linux.resources = Some(merged);
        let limits: oci_spec::runtime::LinuxResources =
            serde_json::from_value(spec::resources_json(&resources)).map_err(failed(action.clone()))?;
        let (cgroups, changed, new) = (self.cgroups.clone(), container.clone(), config.clone());
        blocking(move || {
            if changed.is_running() {
                cgroups
                    .apply(&changed.record.cgroup, &crate::shim::limits_of(&limits))
                    .map_err(std::io::Error::other)?;
            }
            let bytes = new.encode_to_vec();
            records::write_bytes(&changed.directory, records::CONFIG, &bytes, Durability::Process)
                .map_err(std::io::Error::other)
        })
        .await
        .map_err(failed(action))?;
        *container.config.lock().expect("no holder of a configuration's lock panics") = config;
        Ok(())
    }
}

/// Takes over each limit that is set.
fn merge(into: &mut v1::LinuxContainerResources, new: &v1::LinuxContainerResources) {
    for (old, new) in [
        (&mut into.cpu_period, new.cpu_period),
        (&mut into.cpu_quota, new.cpu_quota),
        (&mut into.cpu_shares, new.cpu_shares),
        (&mut into.memory_limit_in_bytes, new.memory_limit_in_bytes),
        (&mut into.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
        (&mut into.oom_score_adj, new.oom_score_adj),
    ] {
        if new != 0 {
            *old = new;
        }
    }
    for (old, new) in [(&mut into.cpuset_cpus, &new.cpuset_cpus), (&mut into.cpuset_mems, &new.cpuset_mems)] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    into.unified.extend(new.unified.clone());
}

/// Makes all of a container but its processes. `container.json` comes last: with it the container counts as created.
fn write_container(
    directory: &Path,
    record: &ContainerRecord,
    spec: &serde_json::Value,
    config: &v1::ContainerConfig,
) -> Result<(), RecordError> {
    let make = |path: &Path| {
        let failed = |source| RecordError { action: "make", path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)
    };
    for name in ["upper", "work", "rootfs"] {
        make(&directory.join(name))?;
    }
    own_root(directory, record).map_err(|source| RecordError {
        action: "make",
        path: directory.join("upper"),
        source,
    })?;
    if let Some(folder) = record.log_path.as_deref().and_then(Path::parent) {
        make(folder)?;
    }
    for mount in &config.mounts {
        let source = Path::new(&mount.host_path);
        // A volume that is not there is made as an empty directory, as other runtimes do.
        if !source.as_os_str().is_empty() && !source.exists() {
            make(source)?;
        }
    }
    records::write_bytes(directory, records::CONFIG, &config.encode_to_vec(), Durability::Process)?;
    records::write(directory, records::SPEC, spec, Durability::Process)?;
    records::write(directory, records::CONTAINER, record, Durability::Process)
}

/// A container's root directory has the mode and owner that its image gives it: those of the upper layer, which start as the
/// highest lower one's.
fn own_root(directory: &Path, record: &ContainerRecord) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let layers = directory.ancestors().nth(3).map(|root| root.join("layers"));
    let (Some(layers), Some(highest)) = (layers, record.layers.last()) else { return Ok(()) };
    let lower = std::fs::metadata(layers.join(highest))?;
    let upper = directory.join("upper");
    chown(&upper, Some(lower.uid()), Some(lower.gid()))?;
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(lower.mode() & 0o7777))
}
