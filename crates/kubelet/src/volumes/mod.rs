//! The volumes of a pod: made before its sandbox, kept up to date while it runs, removed after it.
//!
//! `set_up` may be repeated at any time and brings files of configuration up to date; `tear_down` is safe where nothing was
//! set up. Secrets, tokens and projections lie in memory, never on disk.

pub(crate) mod atomic;
pub(crate) mod mounts;
pub(crate) mod payload;

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use api::typed::core::v1::{HostPathVolumeSource, Pod, Volume};

use payload::Sources;

/// A volume cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\"")]
pub(crate) struct VolumeError {
    pub(crate) volume: String,
    /// Whether only an object that the volume names is missing: then its coming is what the pod waits for.
    pub(crate) waits_for_object: bool,
    #[source]
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

/// Where a volume of a pod lies on the node, for mounts into its containers.
pub(crate) fn location(pod_directory: &Path, volume: &Volume) -> PathBuf {
    if let Some(source) = &volume.host_path {
        return PathBuf::from(&source.path);
    }
    let kind = match volume {
        Volume { config_map: Some(_), .. } => "kubernetes.io~configmap",
        Volume { secret: Some(_), .. } => "kubernetes.io~secret",
        Volume { downward_api: Some(_), .. } => "kubernetes.io~downward-api",
        Volume { projected: Some(_), .. } => "kubernetes.io~projected",
        _ => "kubernetes.io~empty-dir",
    };
    pod_directory.join("volumes").join(kind).join(&volume.name)
}

/// Sets up every volume of the pod, or brings its files up to date. `stamp` is unique on the node.
pub(crate) async fn set_up(
    pod: &Pod,
    pod_directory: &Path,
    sources: &Sources<'_>,
    stamp: &str,
) -> Result<(), VolumeError> {
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        // The runtime mounts an image itself, where a container wants it.
        if volume.image.is_some() {
            continue;
        }
        let fails = |waits_for_object, source| VolumeError { volume: volume.name.clone(), waits_for_object, source };
        let payload = match payload::files(pod, volume, sources) {
            Some(Err(error)) => return Err(fails(true, error.into())),
            Some(Ok(payload)) => Some(payload),
            None => None,
        };
        let (volume, path, stamp) = (volume.clone(), location(pod_directory, volume), stamp.to_owned());
        let work = move || set_up_one(&volume, &path, payload.as_ref(), group, &stamp);
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        done.map_err(|error| fails(false, error.into()))?;
    }
    Ok(())
}

fn set_up_one(
    volume: &Volume,
    path: &Path,
    payload: Option<&atomic::Payload>,
    group: Option<u32>,
    stamp: &str,
) -> io::Result<()> {
    if let Some(payload) = payload {
        if volume.config_map.is_some() {
            mounts::directory(path, 0o777)?;
        } else {
            mounts::tmpfs(path, 0o777, None)?;
        }
        if let Some(group) = group {
            mounts::give_to_group(path, group, false)?;
        }
        atomic::write(path, payload, group, stamp)?;
        return Ok(());
    }
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
