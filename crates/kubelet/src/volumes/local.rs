//! The volumes that the cluster's own provisioner puts on this node's disk: made when their first pod comes, removed when the
//! node's own object says so.
//!
//! A directory that was made once is not made again: if it is missing then its disk is, and an empty one in its place would
//! look like lost data. That it was made is written below the kubelet's own directory. What is to be removed stands in an
//! annotation of the node's object, and is answered there, so that a crash at any point ends in the same state; nothing is
//! removed while a pod of this node still has it, and nothing but what lies directly in the directory of volumes. That is
//! open to root alone, so that the volumes in it can be open to every pod's user, as those of `emptyDir` are.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::typed::core::v1::{Node, PersistentVolume};
use api::{Object, Typed};
use base::{Backoff, Stop, chain};
use control::{Change, ClientError, PatchType};
use linux::rooted::Rooted;
use serde_json::json;
use tokio::time::Instant;

use super::{PERSISTENT, mounts};
use crate::host::Host;

/// Who made a volume, and the name of our provisioner.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "timonier.io/local";

/// On the node's object: where this node keeps volumes. The provisioner reads it.
pub(crate) const VOLUMES_DIRECTORY: &str = "timonier.io/volumes-directory";

/// On the node's object: before the name of a volume that the provisioner wants removed, and what stands there then.
const REMOVAL_PREFIX: &str = "removal.timonier.io/";
const REMOVE: &str = "remove";
const REMOVED: &str = "removed";

/// How long a removal that failed waits: a pod of a claim that was deleted by force may still be ending.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Where the volumes of this node are.
#[derive(Debug, Clone)]
pub(crate) struct LocalVolumes {
    /// One directory for each volume.
    pub(crate) directory: PathBuf,
    /// The kubelet's own directory.
    pub(crate) root_dir: PathBuf,
}

impl LocalVolumes {
    /// Remembers that a volume was made.
    fn mark(&self, name: &str) -> PathBuf {
        self.root_dir.join("made-volumes").join(name)
    }

    /// Makes the directory of a volume that our provisioner placed here, unless it was made before.
    pub(crate) fn make_if_ours(&self, volume: &PersistentVolume, path: &Path) -> io::Result<()> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let annotations = volume.metadata.annotations.as_ref();
        let ours = annotations.and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER);
        if !ours || !is_plain(name) || path != self.directory.join(name) || self.mark(name).exists() {
            return Ok(());
        }
        mounts::directory(&self.directory, 0o700)?;
        mounts::directory(path, 0o777)?;
        let mark = self.mark(name);
        fs::create_dir_all(mark.parent().unwrap_or(&mark))?;
        fs::File::create(mark)?.sync_all()
    }

    /// Removes a volume with its data; none is as good as one that was removed.
    fn remove(&self, name: &str) -> io::Result<()> {
        if !is_plain(name) {
            return Err(io::Error::other(format!("{name:?} is no name of a volume")));
        }
        if let Some(user) = self.user_of(name)? {
            return Err(io::Error::other(format!("the pod with uid {user} still has the volume {name}")));
        }
        match Rooted::open(&self.directory).and_then(|root| root.metadata(Path::new(name))) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory => {
                mounts::remove_tree(&self.directory.join(name))?;
            }
            Ok(_) => fs::remove_file(self.directory.join(name))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match fs::remove_file(self.mark(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A pod of this node whose directory leads to the volume.
    fn user_of(&self, name: &str) -> io::Result<Option<String>> {
        let wanted = self.directory.join(name);
        for pod in entries(&self.root_dir.join("pods"))? {
            for link in entries(&pod.join("volumes").join(PERSISTENT))? {
                if fs::read_link(&link).is_ok_and(|target| target == wanted) {
                    return Ok(pod.file_name().map(|uid| uid.to_string_lossy().into_owned()));
                }
            }
        }
        Ok(None)
    }
}

/// What is in a directory; one that is not there holds nothing.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether a name is one that lies directly in a directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// The volumes that the node's object wants removed.
fn wanted(node: &Object) -> BTreeSet<String> {
    if !std::str::from_utf8(node.json()).is_ok_and(|text| text.contains(REMOVAL_PREFIX)) {
        return BTreeSet::new();
    }
    let node = node.to_value();
    let annotations = node["metadata"]["annotations"].as_object().into_iter().flatten();
    let wanted = annotations.filter(|(_, value)| value.as_str() == Some(REMOVE));
    wanted.filter_map(|(name, _)| name.strip_prefix(REMOVAL_PREFIX)).map(str::to_owned).collect()
}

/// Removes what the node's object wants removed, and says so there, until `stop`.
pub(crate) async fn run(host: Arc<Host>, stop: Stop) {
    let mut changes = host.node.changes();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut node: Option<Object> = None;
    let mut retry: Option<Instant> = None;
    while !stop.is_stopped() {
        tokio::select! {
            () = stop.stopped() => return,
            change = changes.next() => match change {
                Change::Applied(object) => node = Some(object),
                Change::Deleted(_) => node = None,
                Change::Synced => continue,
            },
            () = until(retry) => {}
        }
        let Some(node) = &node else { continue };
        retry = None;
        for name in wanted(node) {
            if let Err(error) = remove_one(&host, node, &name).await {
                tracing::warn!(volume = name, error = chain(&*error), "cannot remove a volume; trying again");
                retry = Some(Instant::now() + backoff.next_delay());
            }
        }
        if retry.is_none() {
            backoff.reset();
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn remove_one(
    host: &Arc<Host>,
    node: &Object,
    name: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (volumes, volume) = (host.local_volumes.clone(), name.to_owned());
    tokio::task::spawn_blocking(move || volumes.remove(&volume)).await??;
    tracing::info!(volume = name, "removed a volume");
    let patch = json!({"metadata": {"uid": node.uid(), "annotations": {format!("{REMOVAL_PREFIX}{name}"): REMOVED}}});
    let answered: Result<Object, ClientError> =
        host.client.patch(Node::resource(), node.key(), None, PatchType::Merge, &patch).await;
    answered?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn volumes(dir: &Path) -> LocalVolumes {
        LocalVolumes { directory: dir.join("volumes"), root_dir: dir.join("kubelet") }
    }

    fn volume(name: &str, provisioner: &str) -> PersistentVolume {
        let volume = json!({"metadata": {"name": name, "annotations": {PROVISIONED_BY: provisioner}}});
        PersistentVolume::decode(volume.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_volume_is_made_once_and_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (volumes, path) = (volumes(dir.path()), dir.path().join("volumes/pvc-1"));
        volumes.make_if_ours(&volume("pvc-1", PROVISIONER), &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        assert_eq!(fs::metadata(&volumes.directory).unwrap().permissions().mode() & 0o777, 0o700);
        // Its disk went away: nobody gets an empty one instead.
        fs::remove_dir(&path).unwrap();
        volumes.make_if_ours(&volume("pvc-1", PROVISIONER), &path).unwrap();
        assert!(!path.exists());

        fs::create_dir(&path).unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        volumes.remove("pvc-1").unwrap();
        volumes.remove("pvc-1").unwrap();
        assert!(!path.exists() && outside.join("kept").exists());
        volumes.make_if_ours(&volume("pvc-1", PROVISIONER), &path).unwrap();
        assert!(path.exists(), "a new volume of the name is made");
    }

    #[test]
    fn nothing_else_is_made_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path());
        let other = dir.path().join("other");
        volumes.make_if_ours(&volume("pvc-1", PROVISIONER), &other).unwrap();
        volumes.make_if_ours(&volume("pvc-1", "csi.example.com"), &volumes.directory.join("pvc-1")).unwrap();
        assert!(!other.exists() && !volumes.directory.exists());
        fs::create_dir_all(&other).unwrap();
        fs::create_dir_all(&volumes.directory).unwrap();
        std::os::unix::fs::symlink(&other, volumes.directory.join("link")).unwrap();
        volumes.remove("link").unwrap();
        assert!(other.exists() && fs::symlink_metadata(volumes.directory.join("link")).is_err());
        for bad in ["../other", "", ".", "..", "a/b"] {
            assert!(volumes.remove(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_volume_stays_while_a_pod_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path());
        let path = volumes.directory.join("pvc-1");
        volumes.make_if_ours(&volume("pvc-1", PROVISIONER), &path).unwrap();
        let links = volumes.root_dir.join("pods/uid-1/volumes").join(PERSISTENT);
        fs::create_dir_all(&links).unwrap();
        std::os::unix::fs::symlink(&path, links.join("data")).unwrap();
        assert!(volumes.remove("pvc-1").unwrap_err().to_string().contains("uid-1"));
        fs::remove_file(links.join("data")).unwrap();
        volumes.remove("pvc-1").unwrap();
        assert!(!path.exists());
    }
}
