//! The layout of the data directory, and the lock that makes one process its owner.
//!
//! | path | what |
//! |---|---|
//! | `lock` | held by the running process, with its process id inside |
//! | `datastore.redb` | every API object |
//! | `audit.log`, `audit.log.1` to `.4` | who did what, the newest first |
//! | `encryption.keys` | what secrets in the datastore are encrypted with: without it they are lost |
//! | `pki/` | the CA, keys and certificates |
//! | `kubeconfig` | the administrator's |
//! | `agent/` | of a node whose server is elsewhere: the cluster's CA and addresses, the node's certificates and keys |
//! | `runtime/` | images, sandboxes and containers |
//! | `kubelet/`, `logs/` | pods' volumes; pods' logs |
//! | `volumes/` | persistent volumes of the class `local` |
//! | `network/` | addresses given to pods |
//! | `external-runtime.json`, `cni.sock` | what was put in place for an installed container runtime, and where its network plugin asks |
//! | `cri.sock` | where the embedded runtime answers clients of the container runtime interface |
//! | `timonier.log` | the log of a detached process |
//!
//! The folder is 0700 and every secret file in it 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// The datastore's file.
pub(crate) const DATASTORE: &str = "datastore.redb";

/// Everything that the cluster makes in its data directory, but for the lock.
pub(crate) const CONTENT: &[&str] = &[
    "datastore.redb",
    "encryption.keys",
    "audit.log",
    "audit.log.1",
    "audit.log.2",
    "audit.log.3",
    "audit.log.4",
    "pki",
    "kubeconfig",
    "agent",
    "runtime",
    "kubelet",
    "logs",
    "volumes",
    "network",
    "cni.sock",
    "cri.sock",
    "external-runtime.json",
    "timonier.log",
];

/// The data directory of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// The right to change the data directory, held until it is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl DataDir {
    /// Names it; makes nothing.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root =
            std::path::absolute(root).with_context(|| format!("cannot resolve --data-dir {}", root.display()))?;
        Ok(Self { root })
    }

    /// Makes the folder where there is none.
    pub(crate) fn create(&self) -> Result<()> {
        create_private(&self.root)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The control group of this cluster's pods and shims: one of its own for every data directory.
    pub(crate) fn cgroup(&self) -> String {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        digest[..4].iter().fold("timonier-".to_owned(), |name, byte| name + &format!("{byte:02x}"))
    }

    /// Becomes the owner, or says who is.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.path("lock");
        let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Lock { _file: file })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "a cluster is already running in {}{}: use it, or stop it with `timonier down --data-dir {0}`",
                self.root.display(),
                self.owner().map_or(String::new(), |pid| format!(" (process {pid})")),
            ),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// The process that owns the directory now. A number that a dead process left is not one.
    pub(crate) fn owner(&self) -> Option<i32> {
        let mut file = File::open(self.path("lock")).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_free) => None,
            Err(_) => text.trim().parse().ok(),
        }
    }
}

/// Makes a folder (with its parents) that only root can enter.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// A new file that only root can read.
pub(crate) fn open_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

/// Writes a file that only root can read, whole or not at all, and on disk when this returns.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_owner_is_told_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::new(folder.path()).unwrap();
        assert_eq!(dir.owner(), None);
        let lock = dir.lock().unwrap();
        assert_eq!(dir.owner(), Some(std::process::id().cast_signed()));
        let refused = dir.lock().unwrap_err().to_string();
        assert!(refused.contains("already running") && refused.contains("timonier down"), "{refused}");
        drop(lock);
        assert_eq!(dir.owner(), None);
        dir.lock().unwrap();
    }

    #[test]
    fn private_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"secret");
    }
}
