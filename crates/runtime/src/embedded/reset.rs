//! Removes everything that a runtime made: for `timonier reset`, and for a sandbox whose record is damaged. Works from the
//! directories and control groups alone, whether or not a shim still answers; may be run again after any failure.

use std::path::{Path, PathBuf};

use linux::cgroup::{CgroupError, Cgroups};

use super::sandbox::{remove_tree, unmount_shm};
use crate::records::{self, SandboxRecord};

/// Something of the runtime's could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// Processes or their groups.
    #[error("cannot end the pods' processes")]
    Cgroup(#[from] CgroupError),
    /// Files or mounts.
    #[error("cannot remove {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A process uses the root: stop it first.
    #[error("{} is used by a running process; stop it first", .0.display())]
    InUse(PathBuf),
}

/// Ends every container and shim below `cgroup_root`, and removes the groups, mounts and files below `root`. Networks are
/// the network's own to remove.
pub fn remove_all(root: &Path, cgroup_root: &str) -> Result<(), ResetError> {
    let cgroups = Cgroups::detect()?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| ResetError::File { path, source }
    };
    let sandboxes = root.join("sandboxes");
    if root.exists() {
        let _lock = super::lock(root).map_err(|_| ResetError::InUse(root.to_owned()))?;
        for directory in directories(&sandboxes).map_err(file(&sandboxes))? {
            end_sandbox(&directory, &cgroups)?;
        }
    }
    let group = format!("/{cgroup_root}");
    cgroups.kill(&group)?;
    cgroups.remove(&group)?;
    remove_tree(root).map_err(file(root))
}

/// Ends what one sandbox's directory tells of: its shim first, as that would report ends to nobody.
pub(super) fn end_sandbox(directory: &Path, cgroups: &Cgroups) -> Result<(), ResetError> {
    let file = |source| ResetError::File { path: directory.to_owned(), source };
    for pid in shims_of(directory).map_err(file)? {
        let handle = linux::process::pidfd(pid);
        linux::process::signal(pid, 9).map_err(file)?;
        if let Ok(handle) = handle {
            linux::process::wait_ended(&handle, std::time::Duration::from_secs(2)).map_err(file)?;
        }
    }
    if let Ok(Some(record)) = records::read::<SandboxRecord>(directory, records::SANDBOX) {
        let containers = directories(directory).map_err(file)?;
        for container in containers.iter().filter_map(|path| path.file_name()?.to_str()) {
            let group = format!("{}/{container}", record.cgroup.trim_end_matches('/'));
            cgroups.kill(&group)?;
            cgroups.remove(&group)?;
        }
    }
    unmount_shm(directory).map_err(file)
}

/// The shims that were started for a directory, by their command lines: one may not have reached its control group yet.
fn shims_of(directory: &Path) -> std::io::Result<Vec<rustix::process::Pid>> {
    use std::os::unix::ffi::OsStrExt;
    let ours = [b"shim".as_slice(), b"run", directory.as_os_str().as_bytes()];
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may go while we look.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<_> = line.split(|byte| *byte == 0).skip(1).take(3).collect();
        if arguments == ours {
            found.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    Ok(found)
}

fn directories(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
