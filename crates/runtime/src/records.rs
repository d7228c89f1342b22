//! What the runtime and its shims write down, so that either can be killed at any moment and the other finds the truth.
//!
//! Every record is written before the thing that it describes is made, and replaced whole. Layout below the root:
//!
//! ```text
//! sandboxes/SANDBOX/            0700
//!   sandbox.json  config.pb     before the shim is started; config.pb is CRI's PodSandboxConfig
//!   network.json                the addresses, once the network is attached
//!   shim.sock  shim.log  shm/   the shim's own
//!   oci/                        the state of an installed OCI runtime, where one starts the pod's containers
//!   CONTAINER/
//!     config.json  config.pb  container.json    before the container counts as created (container.json last)
//!     upper/  work/  rootfs/    its snapshot; rootfs is mounted in the container's own mount namespace only
//!     bundle/                   what an installed OCI runtime reads, and image volumes for it
//!     started.json              by the shim, before the first process is made
//!     exit.json                 by the shim, durable before anybody is told; by the runtime for a shim that died
//! ```
//!
//! Only `exit.json` is synced to the disk: all other records describe processes, which a power loss ends as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A sandbox's record.
pub(crate) const SANDBOX: &str = "sandbox.json";
/// A sandbox's addresses.
pub(crate) const NETWORK: &str = "network.json";
/// CRI's configuration as it was given, encoded.
pub(crate) const CONFIG: &str = "config.pb";
/// A container's record.
pub(crate) const CONTAINER: &str = "container.json";
/// A container's OCI runtime specification.
pub(crate) const SPEC: &str = "config.json";
/// When a container was started.
pub(crate) const STARTED: &str = "started.json";
/// How a container ended.
pub(crate) const EXIT: &str = "exit.json";
/// Where a shim listens.
pub(crate) const SOCKET: &str = "shim.sock";
/// What a shim has to say.
pub(crate) const SHIM_LOG: &str = "shim.log";
/// The pod's shared memory filesystem.
pub(crate) const SHM: &str = "shm";

/// Records larger than this are damaged, not large.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// Whose namespace of a kind a sandbox's processes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Share {
    /// The sandbox's own.
    Pod,
    /// The machine's.
    Host,
}

/// A sandbox as its shim needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    /// Its id.
    pub(crate) id: String,
    /// The pod's uid.
    pub(crate) pod_uid: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The handler it was asked to run with.
    pub(crate) runtime_handler: String,
    /// The installed OCI runtime that the handler stands for; `None` for our own launcher.
    #[serde(default)]
    pub(crate) oci_runtime: Option<PathBuf>,
    /// Network namespace.
    pub(crate) network: Share,
    /// IPC namespace.
    pub(crate) ipc: Share,
    /// Whether its containers share one process namespace of the pod's.
    pub(crate) shared_processes: bool,
    /// Host name, in a UTS namespace of its own; empty with the machine's network, where the machine's name stays.
    pub(crate) hostname: String,
    /// Kernel parameters of its namespaces.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// The pod's control group.
    pub(crate) cgroup: String,
    /// The group that shims are in.
    pub(crate) shim_cgroup: String,
}

/// Which processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProcessNamespace {
    /// Its own.
    Private,
    /// All of the pod.
    Pod,
    /// All of the machine.
    Host,
    /// Another container's, by id.
    Target(String),
}

/// A container as its shim needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its id.
    pub(crate) id: String,
    /// Its sandbox.
    pub(crate) sandbox_id: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The image's id.
    pub(crate) image_id: String,
    /// The image as status reports it: a digest reference where one is known, else the id.
    pub(crate) image_ref: String,
    /// Layer directories below `layers/`, lowest first.
    pub(crate) layers: Vec<String>,
    /// The images that are mounted into it, by id, with their layers.
    #[serde(default)]
    pub(crate) volume_images: BTreeMap<String, Vec<String>>,
    /// Its control group.
    pub(crate) cgroup: String,
    /// Which processes it sees.
    pub(crate) processes: ProcessNamespace,
    /// Whether its input stays open.
    pub(crate) stdin: bool,
    /// Whether its input ends when the first that attached leaves.
    pub(crate) stdin_once: bool,
    /// Where its output goes, if anywhere.
    pub(crate) log_path: Option<PathBuf>,
    /// The signal that asks it to stop.
    pub(crate) stop_signal: i32,
    /// Whether it may use devices and everything else of the machine.
    pub(crate) privileged: bool,
}

/// A container was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Nanoseconds since 1970.
    pub(crate) started_at: i64,
}

/// A container ended, or could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// 128 + signal where a signal ended it.
    pub(crate) exit_code: i32,
    /// Nanoseconds since 1970.
    pub(crate) finished_at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `Unknown`.
    pub(crate) reason: String,
    /// More about it.
    pub(crate) message: String,
}

/// The addresses of a sandbox, the primary one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Empty with the machine's network.
    pub(crate) addresses: Vec<std::net::IpAddr>,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct RecordError {
    /// `read`, `write` or `understand`.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Whether a record must outlive a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It describes processes, which would not.
    Process,
    /// It is synced before its name appears, and its name before this returns.
    Disk,
}

/// Writes a record, whole or not at all.
pub(crate) fn write<T: Serialize>(
    directory: &Path,
    name: &str,
    value: &T,
    durability: Durability,
) -> Result<(), RecordError> {
    let bytes = serde_json::to_vec(value).expect("records are plain data");
    write_bytes(directory, name, &bytes, durability)
}

/// Writes a file, whole or not at all.
pub(crate) fn write_bytes(
    directory: &Path,
    name: &str,
    bytes: &[u8],
    durability: Durability,
) -> Result<(), RecordError> {
    let path = directory.join(name);
    let failed = |source| RecordError { action: "write", path: path.clone(), source };
    let unfinished = directory.join(format!(".{name}.tmp"));
    let mut file = File::create(&unfinished).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    if durability == Durability::Disk {
        file.sync_all().map_err(failed)?;
    }
    std::fs::rename(&unfinished, &path).map_err(failed)?;
    if durability == Durability::Disk {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Reads a record; `None` where there is none.
pub(crate) fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>, RecordError> {
    let path = directory.join(name);
    let failed = |action, source| RecordError { action, path: path.clone(), source };
    let Some(bytes) = read_bytes(directory, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed("understand", error.into()))
}

/// Reads a file; `None` where there is none.
pub(crate) fn read_bytes(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, RecordError> {
    use std::io::Read;
    let path = directory.join(name);
    let failed = |source| RecordError { action: "read", path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "larger than any record")));
    }
    Ok(Some(bytes))
}
