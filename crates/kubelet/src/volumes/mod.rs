//! The volumes of a pod: made before its sandbox, kept up to date while it runs, removed after it.
//!
//! `set_up` may be repeated at any time and brings files of configuration up to date; `tear_down` is safe where nothing was
//! set up. Secrets, tokens and projections lie in memory, never on disk.

pub(crate) mod atomic;
pub(crate) mod local;
pub(crate) mod mounts;
mod ownership;
pub(crate) mod payload;
mod persistent;

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use api::Object;
use api::typed::core::v1::{HostPathVolumeSource, Pod, PodSecurityContext, Volume};
use control::Client;

use local::LocalVolumes;
use payload::Sources;

/// A volume cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{stage} for volume \"{volume}\"")]
pub(crate) struct VolumeError {
    /// What was tried, in upstream's words.
    pub(crate) stage: &'static str,
    pub(crate) volume: String,
    /// Whether only an object that the volume names is missing: then its coming is what the pod waits for.
    pub(crate) waits_for_object: bool,
    #[source]
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

/// The directory of a pod's volumes that it has through claims.
pub(crate) const PERSISTENT: &str = "kubernetes.io~local-volume";

/// Where a volume of a pod lies on the node, for mounts into its containers. One that a claim led to must have been set up.
pub(crate) fn location(pod_directory: &Path, pod: &Pod, volume: &Volume) -> io::Result<PathBuf> {
    let place = place(pod_directory, volume);
    if persistent::claim_of(pod, volume).is_some() { std::fs::read_link(place) } else { Ok(place) }
}

/// Where a volume is set up.
pub(crate) fn place(pod_directory: &Path, volume: &Volume) -> PathBuf {
    if let Some(source) = &volume.host_path {
        return PathBuf::from(&source.path);
    }
    let kind = match volume {
        Volume { config_map: Some(_), .. } => "kubernetes.io~configmap",
        Volume { secret: Some(_), .. } => "kubernetes.io~secret",
        Volume { downward_api: Some(_), .. } => "kubernetes.io~downward-api",
        Volume { projected: Some(_), .. } => "kubernetes.io~projected",
        Volume { persistent_volume_claim: Some(_), .. } | Volume { ephemeral: Some(_), .. } => PERSISTENT,
        _ => "kubernetes.io~empty-dir",
    };
    pod_directory.join("volumes").join(kind).join(&volume.name)
}

/// Whether the pod says that the volume is not to be written.
pub(crate) fn is_read_only(volume: &Volume) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|source| source.read_only == Some(true))
}

/// What volumes are set up with, beside their sources.
pub(crate) struct Ground<'a> {
    /// Asks where claims lead.
    pub(crate) client: &'a Client,
    /// This node's object, if it is known.
    pub(crate) node: Option<Object>,
    /// The volumes on this node's disk.
    pub(crate) local: &'a LocalVolumes,
}

/// What a volume is made of.
enum Made {
    Files(atomic::Payload),
    Persistent(Box<persistent::Found>),
    Other,
}

/// Sets up every volume of the pod, or brings its files up to date. `stamp` is unique on the node.
pub(crate) async fn set_up(
    pod: &Pod,
    pod_directory: &Path,
    sources: &Sources<'_>,
    ground: &Ground<'_>,
    stamp: &str,
) -> Result<(), VolumeError> {
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(group);
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        // The runtime mounts an image itself, where a container wants it.
        if volume.image.is_some() {
            continue;
        }
        let fails = |waits_for_object, source| VolumeError {
            stage: "MountVolume.SetUp failed",
            volume: volume.name.clone(),
            waits_for_object,
            source,
        };
        let path = place(pod_directory, volume);
        let made = match (payload::files(pod, volume, sources), persistent::claim_of(pod, volume)) {
            (Some(Err(error)), _) => return Err(fails(true, error.into())),
            (Some(Ok(payload)), _) => Made::Files(payload),
            // Where a claim led once it leads as long as the pod lives.
            (None, Some(_)) if std::fs::symlink_metadata(&path).is_ok() => continue,
            (None, Some(claim)) => {
                let found = persistent::find(ground.client, ground.node.as_ref(), pod, volume, &claim).await?;
                Made::Persistent(Box::new(found))
            }
            (None, None) => Made::Other,
        };
        let (volume, local, stamp) = (volume.clone(), ground.local.clone(), stamp.to_owned());
        let work = move || match made {
            Made::Files(payload) => set_up_files(&volume, &path, &payload, group.map(|(group, _)| group), &stamp),
            Made::Persistent(found) => persistent::set_up(&found, &volume, &path, &local, group),
            Made::Other => set_up_one(&volume, &path, group.map(|(group, _)| group)),
        };
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        done.map_err(|error| fails(false, error.into()))?;
    }
    Ok(())
}

/// The group that owns the pod's volumes, and whether a volume whose root is right is taken to be so throughout.
fn group(context: &PodSecurityContext) -> Option<(u32, bool)> {
    let group = u32::try_from(context.fs_group?).ok()?;
    Some((group, context.fs_group_change_policy.as_deref() == Some("OnRootMismatch")))
}

fn set_up_files(
    volume: &Volume,
    path: &Path,
    payload: &atomic::Payload,
    group: Option<u32>,
    stamp: &str,
) -> io::Result<()> {
    if volume.config_map.is_some() {
        mounts::directory(path, 0o777)?;
    } else {
        mounts::tmpfs(path, 0o777, None)?;
    }
    if let Some(group) = group {
        mounts::give_to_group(path, group, false)?;
    }
    atomic::write(path, payload, group, stamp)?;
    Ok(())
}

fn set_up_one(volume: &Volume, path: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(source) = &volume.host_path {
        return host_path(source);
    }
    let Some(source) = &volume.empty_dir else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kind of volume is not supported"));
    };
    // A volume that the pod has filled keeps what the pod made of it.
    let fresh = !path.exists();
    match source.medium.as_deref().unwrap_or_default() {
        "" => {
            if fresh {
                mounts::directory(path, 0o777)?;
            }
        }
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|size| machinery::quantity::Quantity::parse(&size.0).ok());
            mounts::tmpfs(path, 0o777, limit.map(|limit| limit.value()))?;
        }
        other => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("storage medium {other:?} is not supported"),
            ));
        }
    }
    match group.filter(|_| fresh) {
        Some(group) => mounts::give_to_group(path, group, true),
        None => Ok(()),
    }
}

fn host_path(source: &HostPathVolumeSource) -> io::Result<()> {
    let path = Path::new(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "" => return Ok(()),
        "DirectoryOrCreate" if !path.exists() => return mounts::directory(path, 0o755),
        "FileOrCreate" if !path.exists() => {
            use std::os::unix::fs::OpenOptionsExt;
            return std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(drop);
        }
        _ => {}
    }
    let refuse =
        |what: &str| Err(io::Error::other(format!("hostPath type check failed: {} is not {what}", source.path)));
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(_) => return refuse(described(wanted)),
    };
    let fits = match wanted {
        "DirectoryOrCreate" | "Directory" => kind.is_dir(),
        "FileOrCreate" | "File" => kind.is_file(),
        "Socket" => kind.is_socket(),
        "CharDevice" => kind.is_char_device(),
        "BlockDevice" => kind.is_block_device(),
        other => return Err(io::Error::other(format!("{other} is an invalid volume type"))),
    };
    if fits { Ok(()) } else { refuse(described(wanted)) }
}

fn described(kind: &str) -> &'static str {
    match kind {
        "DirectoryOrCreate" | "Directory" => "a directory",
        "FileOrCreate" | "File" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        _ => "a block device",
    }
}

/// Unmounts and removes everything of a pod below its directory.
pub(crate) async fn tear_down(directory: PathBuf) -> io::Result<()> {
    let work = move || mounts::remove_tree(&directory);
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}
