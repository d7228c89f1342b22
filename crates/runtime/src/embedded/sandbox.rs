//! Sandboxes: made, found again, stopped, removed; and what happens when a shim dies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cri::{AttachRequest, ContainerChange, PortMapping, RuntimeError, v1};
use linux::cgroup::Limits;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::state::{Container, Phase, Sandbox, State};
use super::{Embedded, OpenError, blocking, client, failed, new_id, record_failed};
use crate::handlers::Launcher;
use crate::records::{self, ContainerRecord, Durability, Exit, NetworkRecord, SandboxRecord, Share, Started};
use crate::shim::protocol::{Change, Request};

/// A shim that says more than this before it is ready is none.
const READY_BYTES_MAX: u64 = 4096;

/// How long a shim may take to end all that it holds; longer, and a process of it hangs in the kernel.
const END_WAIT: Duration = Duration::from_secs(30);

impl Embedded {
    pub(super) async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, RuntimeError> {
        let launcher = self.config.handlers.find(handler);
        let launcher =
            launcher.ok_or_else(|| RuntimeError::Invalid(format!("no runtime for {handler:?} is configured")))?;
        let record = self.sandbox_record(&config, handler, launcher)?;
        let (id, action) = (record.id.clone(), format!("run a sandbox for pod {}", record.pod_uid));
        let directory = self.config.root.join("sandboxes").join(&id);
        let (at, wanted, given) = (directory.clone(), record.clone(), config.clone());
        blocking(move || write_sandbox(&at, &wanted, &given)).await.map_err(failed(action.clone()))?;
        let sandbox = Arc::new(Sandbox {
            record,
            config,
            directory,
            phase: watch::Sender::new(Phase::Starting),
            addresses: Mutex::default(),
        });
        self.known().sandboxes.insert(id.clone(), sandbox.clone());
        match self.bring_up(&sandbox).await {
            Ok(()) => Ok(id),
            Err(error) => {
                // Nobody knows this sandbox: what is left of it goes, or is found at the next start.
                if let Err(error) = self.remove_sandbox(&sandbox).await {
                    tracing::warn!(sandbox = %id, error = base::chain(&error), "cannot remove a sandbox that failed");
                }
                Err(error)
            }
        }
    }

    fn sandbox_record(
        &self,
        config: &v1::PodSandboxConfig,
        handler: &str,
        launcher: Launcher,
    ) -> Result<SandboxRecord, RuntimeError> {
        let metadata =
            config.metadata.clone().ok_or_else(|| RuntimeError::Invalid("the sandbox has no metadata".to_owned()))?;
        let linux = config.linux.clone().unwrap_or_default();
        let namespaces = linux.security_context.and_then(|security| security.namespace_options).unwrap_or_default();
        if namespaces.userns_options.as_ref().is_some_and(|users| users.mode == v1::NamespaceMode::Pod as i32) {
            return Err(RuntimeError::Invalid("user namespaces are not supported by this runtime".to_owned()));
        }
        let share = |mode: i32| if mode == v1::NamespaceMode::Node as i32 { Share::Host } else { Share::Pod };
        let network = share(namespaces.network);
        let hostname = if network == Share::Host {
            String::new()
        } else if config.hostname.is_empty() {
            metadata.name
        } else {
            config.hostname.clone()
        };
        let root = &self.config.cgroup_root;
        let parent = linux.cgroup_parent;
        if parent.split('/').any(|part| part == "..") {
            return Err(RuntimeError::Invalid(format!("cgroup parent {parent:?} climbs")));
        }
        Ok(SandboxRecord {
            id: new_id(),
            cgroup: if parent.is_empty() { format!("/{root}/pod{}", plain(&metadata.uid)) } else { parent },
            pod_uid: metadata.uid,
            created_at: self.now(),
            runtime_handler: handler.to_owned(),
            oci_runtime: match launcher {
                Launcher::Own => None,
                Launcher::Oci(program) => Some(program),
            },
            network,
            ipc: share(namespaces.ipc),
            shared_processes: namespaces.pid == v1::NamespaceMode::Pod as i32,
            hostname,
            sysctls: linux.sysctls.into_iter().collect::<BTreeMap<_, _>>(),
            shim_cgroup: format!("/{root}/shims"),
        })
    }

    async fn bring_up(&self, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
        if let Some(limits) = limits_of_pod(&sandbox.config) {
            let (cgroups, group) = (self.cgroups.clone(), sandbox.record.cgroup.clone());
            let made = blocking(move || cgroups.create(&group, &limits).map_err(std::io::Error::other)).await;
            made.map_err(failed("limit what the pod uses as a whole"))?;
        }
        let shim = self.start_shim(sandbox).await?;
        self.follow(sandbox).await.map_err(failed("watch the pod's shim"))?;
        let addresses = match sandbox.record.network {
            Share::Host => Vec::new(),
            Share::Pod => self.attach(sandbox, shim).await?,
        };
        let record = NetworkRecord { addresses: addresses.clone() };
        let written = records::write(&sandbox.directory, records::NETWORK, &record, Durability::Process);
        written.map_err(record_failed("record the network".to_owned()))?;
        *sandbox.addresses.lock().expect("no holder of the addresses' lock panics") = addresses;
        let started = sandbox.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Starting;
            *phase = if first { Phase::Ready } else { *phase };
            first
        });
        if started { Ok(()) } else { Err(gone(sandbox)) }
    }

    async fn attach(&self, sandbox: &Sandbox, shim: u32) -> Result<Vec<std::net::IpAddr>, RuntimeError> {
        let metadata = sandbox.config.metadata.clone().unwrap_or_default();
        let request = AttachRequest {
            sandbox_id: sandbox.record.id.clone(),
            namespace_path: PathBuf::from(format!("/proc/{shim}/ns/net")),
            pod_namespace: metadata.namespace,
            pod_name: metadata.name,
            pod_uid: metadata.uid,
            port_mappings: sandbox.config.port_mappings.iter().filter_map(port_mapping).collect(),
        };
        self.config.network.attach(&request).await.map_err(failed("make the pod's network"))
    }

    /// Starts the shim and waits until it is ready; returns its process id.
    async fn start_shim(&self, sandbox: &Sandbox) -> Result<u32, RuntimeError> {
        let action = || format!("start the shim of sandbox {}", sandbox.record.id);
        let mut child = tokio::process::Command::new(&self.config.shim)
            .args(["shim", "run"])
            .arg(&sandbox.directory)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed(action()))?;
        let pid = child.id();
        let mut said = String::new();
        if let Some(output) = child.stdout.take() {
            output.take(READY_BYTES_MAX).read_to_string(&mut said).await.map_err(failed(action()))?;
        }
        // It is this process' child until one of them ends.
        let stop = self.config.stop.clone();
        self.tasks.spawn(format!("shim {}", sandbox.record.id), async move {
            if let Some(Err(error)) = stop.or_stopped(child.wait()).await {
                tracing::warn!(%error, "cannot wait for a shim");
            }
        });
        match (pid, said.as_str()) {
            (Some(pid), "ready\n") => Ok(pid),
            _ => {
                let why = if said.is_empty() { "it ended without a word; see shim.log".to_owned() } else { said };
                Err(RuntimeError::Failed { action: action(), source: why.trim().into() })
            }
        }
    }

    /// Listens to a shim: returns once all its states are known, and goes on in a task until it has gone.
    async fn follow(&self, sandbox: &Arc<Sandbox>) -> Result<(), client::ClientError> {
        let mut changes = client::Changes::open(&sandbox.directory).await?;
        let mut told = BTreeSet::new();
        loop {
            let change = changes.next().await?;
            match &change {
                Change::Current => break,
                Change::Running { container, .. } | Change::Exited { container, .. } => told.insert(container.clone()),
            };
            self.apply(change);
        }
        // The shim was about to start it when something failed that left no record.
        for container in self.containers_of(&sandbox.record.id) {
            if container.is_running() && !told.contains(&container.record.id) {
                self.conclude(&container);
            }
        }
        let Some(runtime) = self.this.upgrade() else { return Ok(()) };
        let (sandbox, stop) = (sandbox.clone(), self.config.stop.clone());
        self.tasks.spawn(format!("changes of {}", sandbox.record.id), async move {
            while let Some(change) = stop.or_stopped(changes.next()).await {
                match change {
                    Ok(change) => runtime.apply(change),
                    Err(_) => return runtime.bury(&sandbox).await,
                }
            }
        });
        Ok(())
    }

    /// Takes over what a shim told; each change counts once, however often it is told.
    pub(super) fn apply(&self, change: Change) {
        let (id, state) = match change {
            Change::Running { container, started_at } => (container, State::Running(started_at)),
            Change::Exited { container, exit } => (container, State::Exited(0, exit)),
            Change::Current => return,
        };
        let Some(container) = self.known().containers.get(&id).cloned() else { return };
        self.set_state(&container, &state);
    }

    /// Moves a container's state forward, never back, and tells those who listen.
    pub(super) fn set_state(&self, container: &Container, new: &State) {
        use v1::ContainerEventType::{ContainerStartedEvent, ContainerStoppedEvent};
        let changed = container.state.send_if_modified(|state| {
            let next = match (&*state, new) {
                (State::Created, State::Running(_)) => new.clone(),
                (State::Created, State::Exited(..)) => new.clone(),
                (State::Running(started), State::Exited(_, exit)) => State::Exited(*started, exit.clone()),
                _ => return false,
            };
            *state = next;
            true
        });
        if changed {
            let running = matches!(new, State::Running(_));
            self.tell(container, if running { ContainerStartedEvent } else { ContainerStoppedEvent });
        }
    }

    pub(super) fn tell(&self, container: &Container, event: v1::ContainerEventType) {
        let pod_uid =
            self.known().sandboxes.get(&container.record.sandbox_id).map(|sandbox| sandbox.record.pod_uid.clone());
        // Nobody may be listening.
        let _ = self.events.send(ContainerChange {
            container_id: container.record.id.clone(),
            sandbox_id: container.record.sandbox_id.clone(),
            pod_uid: pod_uid.unwrap_or_default(),
            event,
        });
    }

    /// A shim has gone: whatever it held ends, and how it ended is recorded for those containers where it did not. Returns
    /// when that is done, whoever began it; what was begun goes on when the caller has gone.
    async fn bury(&self, sandbox: &Arc<Sandbox>) {
        let mut phase = sandbox.phase.subscribe();
        let first = sandbox.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Ending | Phase::Gone);
            *phase = if first { Phase::Ending } else { *phase };
            first
        });
        if let (true, Some(runtime)) = (first, self.this.upgrade()) {
            let sandbox = sandbox.clone();
            self.tasks.spawn(format!("end of sandbox {}", sandbox.record.id), async move {
                runtime.end_processes(&sandbox).await;
                sandbox.phase.send_replace(Phase::Gone);
            });
        }
        // The sender lives as long as the sandbox does.
        let _ = phase.wait_for(|phase| *phase == Phase::Gone).await;
    }

    async fn end_processes(&self, sandbox: &Sandbox) {
        let (cgroups, directory) = (self.cgroups.clone(), sandbox.directory.clone());
        let containers = self.containers_of(&sandbox.record.id);
        let groups: Vec<_> = containers.iter().map(|container| container.record.cgroup.clone()).collect();
        let cleaned = blocking(move || {
            unmount_shm(&directory)?;
            groups.iter().try_for_each(|group| {
                cgroups.kill(group).and_then(|()| cgroups.remove(group)).map_err(std::io::Error::other)
            })
        })
        .await;
        if let Err(error) = cleaned {
            tracing::warn!(sandbox = %sandbox.record.id, error = base::chain(&error), "cannot clean up after a shim; removal tries again");
        }
        for container in containers {
            self.conclude(&container);
        }
    }

    /// Gives a container that nobody holds any more the end that is on record, or one that nobody saw.
    fn conclude(&self, container: &Container) {
        match last_words(&container.directory, self.now()) {
            Ok(Some(state)) => self.set_state(container, &state),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(container = %container.record.id, error = base::chain(&error), "cannot record an exit");
            }
        }
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.known().containers.values().filter(|container| container.record.sandbox_id == sandbox).cloned().collect()
    }

    pub(super) async fn stop_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
        let phase = *sandbox.phase.borrow();
        if matches!(phase, Phase::Starting | Phase::Ready) {
            let action = format!("stop sandbox {}", sandbox.record.id);
            let asked = client::ask(&sandbox.directory, &Request::Shutdown);
            match tokio::time::timeout(END_WAIT, asked).await.map_err(failed(action.clone()))? {
                // It ends after its answer; its last words are on the disk.
                Ok(_) | Err(client::ClientError::Connection(_)) => {}
                Err(error) => return Err(failed(action)(error)),
            }
        }
        self.bury(sandbox).await;
        if sandbox.record.network == Share::Pod {
            self.config.network.detach(&sandbox.record.id).await.map_err(failed("remove the pod's network"))?;
        }
        sandbox.addresses.lock().expect("no holder of the addresses' lock panics").clear();
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
        self.stop_sandbox(sandbox).await?;
        for container in self.containers_of(&sandbox.record.id) {
            self.remove(&container).await?;
        }
        let action = format!("remove sandbox {}", sandbox.record.id);
        // Another attempt of the same pod may have its containers in the same group by now.
        let shared = self
            .known()
            .sandboxes
            .values()
            .any(|other| other.record.cgroup == sandbox.record.cgroup && other.record.id != sandbox.record.id);
        // A parent that the kubelet made is the kubelet's to remove.
        let own = !shared && sandbox.record.cgroup.starts_with(&format!("/{}/pod", self.config.cgroup_root));
        let (cgroups, group, directory) =
            (self.cgroups.clone(), sandbox.record.cgroup.clone(), sandbox.directory.clone());
        blocking(move || {
            if own {
                cgroups.kill(&group).and_then(|()| cgroups.remove(&group)).map_err(std::io::Error::other)?;
            }
            unmount_shm(&directory)?;
            remove_tree(&directory)
        })
        .await
        .map_err(failed(action))?;
        self.known().sandboxes.remove(&sandbox.record.id);
        Ok(())
    }

    /// Finds what an earlier process left: reads the records, reaches the shims, buries the dead.
    pub(super) async fn find_sandboxes(&self, sandboxes: &Path) -> Result<(), OpenError> {
        let state = |source| OpenError::State { action: "read", path: sandboxes.to_owned(), source };
        for entry in std::fs::read_dir(sandboxes).map_err(state)? {
            let directory = entry.map_err(state)?.path();
            match read_sandbox(&directory) {
                Ok(Some((sandbox, containers))) => self.find_sandbox(Arc::new(sandbox), containers).await,
                // Killed before anything but the directory was made, or while it was removed.
                Ok(None) => remove_tree(&directory).map_err(state)?,
                Err(error) => {
                    tracing::error!(path = %directory.display(), error = base::chain(&error), "a sandbox's state is damaged: ending it");
                    self.discard(&directory).await.map_err(state)?;
                }
            }
        }
        Ok(())
    }

    /// Ends what a damaged record may have described, as far as the directory itself tells.
    async fn discard(&self, directory: &Path) -> std::io::Result<()> {
        if let Some(id) = directory.file_name().and_then(|name| name.to_str()) {
            self.config.network.detach(id).await.map_err(std::io::Error::other)?;
        }
        let (cgroups, directory) = (self.cgroups.clone(), directory.to_owned());
        blocking(move || {
            super::reset::end_sandbox(&directory, &cgroups).map_err(std::io::Error::other)?;
            remove_tree(&directory)
        })
        .await
    }

    async fn find_sandbox(&self, sandbox: Arc<Sandbox>, containers: Vec<Container>) {
        let id = sandbox.record.id.clone();
        {
            let mut known = self.known();
            known.sandboxes.insert(id.clone(), sandbox.clone());
            known.containers.extend(containers.into_iter().map(|found| (found.record.id.clone(), Arc::new(found))));
        }
        match (self.follow(&sandbox).await, records::read::<NetworkRecord>(&sandbox.directory, records::NETWORK)) {
            (Ok(()), Ok(Some(network))) => {
                *sandbox.addresses.lock().expect("no holder of the addresses' lock panics") = network.addresses;
                sandbox.phase.send_replace(Phase::Ready);
            }
            // Killed before its network was made: not ready, so the kubelet stops it and makes another.
            (Ok(()), _) => {}
            (Err(error), _) => {
                tracing::info!(sandbox = %id, error = base::chain(&error), "a sandbox's shim has gone");
                self.bury(&sandbox).await;
            }
        }
    }
}

pub(super) fn gone(sandbox: &Sandbox) -> RuntimeError {
    RuntimeError::Failed { action: format!("use sandbox {}", sandbox.record.id), source: "its shim has gone".into() }
}

/// A port of the node that leads to the pod; `None` where the mapping names none.
fn port_mapping(mapping: &v1::PortMapping) -> Option<PortMapping> {
    let port = |number: i32| u16::try_from(number).ok().filter(|port| *port != 0);
    let address = mapping.host_ip.parse::<std::net::IpAddr>().ok();
    Some(PortMapping {
        protocol: match mapping.protocol() {
            v1::Protocol::Tcp => 6,
            v1::Protocol::Udp => 17,
            v1::Protocol::Sctp => 132,
        },
        host_ip: address.filter(|address| !address.is_unspecified()),
        host_port: port(mapping.host_port)?,
        container_port: port(mapping.container_port)?,
    })
}

/// A name that stays one path component.
fn plain(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' || letter == '_' { letter } else { '_' })
        .collect()
}

fn write_sandbox(
    directory: &Path,
    record: &SandboxRecord,
    config: &v1::PodSandboxConfig,
) -> Result<(), records::RecordError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed = |source| records::RecordError { action: "make", path: directory.to_owned(), source };
    std::fs::DirBuilder::new().mode(0o700).create(directory).map_err(failed)?;
    let hostname = if record.hostname.is_empty() {
        read_host("/etc/hostname")
    } else {
        format!("{}\n", record.hostname).into_bytes()
    };
    let resolv = match &config.dns_config {
        Some(dns) if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) => {
            resolv_conf(dns).into_bytes()
        }
        _ => read_host("/etc/resolv.conf"),
    };
    for (name, bytes) in [("hostname", hostname), ("hosts", read_host("/etc/hosts")), ("resolv.conf", resolv)] {
        let path = directory.join(name);
        std::fs::write(&path, bytes).map_err(failed)?;
        // Every user of a container reads it, whatever this process' umask is.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    records::write_bytes(directory, records::CONFIG, &config.encode_to_vec(), Durability::Process)?;
    records::write(directory, records::SANDBOX, record, Durability::Process)
}

/// A file of the machine's, empty where it has none.
fn read_host(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

fn resolv_conf(dns: &v1::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    dns.servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// How a container stands whose shim has gone: what the shim recorded, else an end that nobody saw. `None`: never started.
fn last_words(directory: &Path, now: i64) -> Result<Option<State>, records::RecordError> {
    let Some(started) = records::read::<Started>(directory, records::STARTED)? else { return Ok(None) };
    if let Some(exit) = records::read::<Exit>(directory, records::EXIT)? {
        return Ok(Some(State::Exited(started.started_at, exit)));
    }
    let exit = Exit {
        exit_code: 255,
        finished_at: now,
        reason: "Unknown".to_owned(),
        message: "the process that held the container has gone".to_owned(),
    };
    records::write(directory, records::EXIT, &exit, Durability::Disk)?;
    Ok(Some(State::Exited(started.started_at, exit)))
}

fn read_sandbox(directory: &Path) -> Result<Option<(Sandbox, Vec<Container>)>, records::RecordError> {
    let Some(record) = records::read::<SandboxRecord>(directory, records::SANDBOX)? else { return Ok(None) };
    let config: v1::PodSandboxConfig = read_config(directory)?;
    let sandbox = Sandbox {
        record,
        config,
        directory: directory.to_owned(),
        phase: watch::Sender::new(Phase::Starting),
        addresses: Mutex::default(),
    };
    let failed = |source| records::RecordError { action: "read", path: directory.to_owned(), source };
    let mut containers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && !path.ends_with(records::SHM) && !path.ends_with(crate::shim::STATE) {
            match read_container(&path)? {
                Some(container) => containers.push(container),
                // Killed before it counted as created, or while it was removed.
                None => remove_tree(&path).map_err(failed)?,
            }
        }
    }
    Ok(Some((sandbox, containers)))
}

fn read_container(directory: &Path) -> Result<Option<Container>, records::RecordError> {
    let Some(record) = records::read::<ContainerRecord>(directory, records::CONTAINER)? else { return Ok(None) };
    let config: v1::ContainerConfig = read_config(directory)?;
    let spec = records::read::<oci_spec::runtime::Spec>(directory, records::SPEC)?;
    let user = spec.and_then(|spec| spec.process().as_ref().map(|process| process.user().clone()));
    let identity = user.map(|user| crate::user::Identity {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        home: String::new(),
    });
    let started = records::read::<Started>(directory, records::STARTED)?;
    let state = match (started, records::read::<Exit>(directory, records::EXIT)?) {
        (None, _) => State::Created,
        (Some(started), Some(exit)) => State::Exited(started.started_at, exit),
        (Some(started), None) => State::Running(started.started_at),
    };
    let directory = directory.to_owned();
    Ok(Some(Container { record, config: Mutex::new(config), identity, directory, state: watch::Sender::new(state) }))
}

fn read_config<T: Message + Default>(directory: &Path) -> Result<T, records::RecordError> {
    let failed = |source| records::RecordError { action: "understand", path: directory.join(records::CONFIG), source };
    let bytes =
        records::read_bytes(directory, records::CONFIG)?.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    T::decode(bytes.as_slice()).map_err(|error| failed(std::io::Error::other(error)))
}

/// The pod's shared memory, where it is still mounted.
pub(super) fn unmount_shm(directory: &Path) -> std::io::Result<()> {
    match linux::mount::unmount(directory.join(records::SHM), linux::mount::UnmountFlags::DETACH) {
        // Not there, or not mounted.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn remove_tree(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What the pod's own control group is limited to, where it is.
fn limits_of_pod(config: &v1::PodSandboxConfig) -> Option<Limits> {
    let wanted = config.linux.as_ref()?.resources.as_ref()?;
    Some(Limits {
        cpu_shares: u64::try_from(wanted.cpu_shares).ok().filter(|shares| *shares > 0),
        cpu_quota: Some(wanted.cpu_quota).filter(|quota| *quota > 0),
        cpu_period: u64::try_from(wanted.cpu_period).ok().filter(|period| *period > 0),
        memory_bytes: Some(wanted.memory_limit_in_bytes).filter(|bytes| *bytes > 0),
        ..Limits::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_nobody_saw_is_told_once_and_the_same() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_words(directory.path(), 7).unwrap(), None, "never started");
        records::write(directory.path(), records::STARTED, &Started { started_at: 3 }, Durability::Process).unwrap();
        let first = last_words(directory.path(), 7).unwrap();
        assert!(matches!(&first, Some(State::Exited(3, exit)) if exit.exit_code == 255 && exit.finished_at == 7));
        assert_eq!(last_words(directory.path(), 9).unwrap(), first);
    }

    #[test]
    fn names_stay_in_their_place() {
        assert_eq!(plain("../a b/c"), "___a_b_c");
        let dns = v1::DnsConfig {
            servers: vec!["10.43.0.10".to_owned()],
            searches: vec!["default.svc.cluster.local".to_owned(), "cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let expected = "search default.svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
    }
}
