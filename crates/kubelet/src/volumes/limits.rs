//! Ends a pod that writes more into an empty directory than its `sizeLimit`.
//!
//! The kernel tells of no such thing, so the directories of pods that have a limit are measured once in a while: others cost
//! nothing. A limit of a directory in memory is its filesystem's size and needs no measuring. Interval, reason and message are
//! upstream's.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::typed::core::v1::Pod;
use base::{Stop, chain};

use crate::inbox::Inbox;
use crate::plan::Verdict;

/// How often: upstream's monitoring interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// A directory with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limited {
    volume: String,
    path: PathBuf,
    limit: String,
    limit_bytes: u64,
}

/// The directories of a pod that have a limit and lie on disk.
pub(crate) fn limited(pod: &Pod, pod_directory: &Path) -> Vec<Limited> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let limited = volumes.filter_map(|volume| {
        let source =
            volume.empty_dir.as_ref().filter(|source| source.medium.as_deref().unwrap_or_default().is_empty())?;
        let limit = source.size_limit.as_ref()?.0.clone();
        let bytes = machinery::quantity::Quantity::parse(&limit).ok()?.value();
        let limit_bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
        let path = super::place(pod_directory, volume);
        Some(Limited { volume: volume.name.clone(), path, limit, limit_bytes })
    });
    limited.collect()
}

/// Measures until one is over its limit, and says so, or until `stop`.
pub(crate) async fn watch(directories: Vec<Limited>, inbox: Arc<Inbox>, stop: Stop) {
    loop {
        if stop.or_stopped(tokio::time::sleep(INTERVAL)).await.is_none() {
            return;
        }
        let measured = directories.clone();
        let Ok(over) = tokio::task::spawn_blocking(move || over(&measured)).await else { return };
        if let Some(verdict) = over {
            inbox.put(|mail| mail.verdict = Some(verdict));
            return;
        }
    }
}

fn over(directories: &[Limited]) -> Option<Verdict> {
    directories.iter().find_map(|directory| {
        let used = usage(&directory.path).unwrap_or_else(|error| {
            tracing::warn!(path = %directory.path.display(), error = chain(&error), "cannot measure a volume");
            0
        });
        (used > directory.limit_bytes).then(|| Verdict {
            reason: "Evicted".to_owned(),
            message: format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                directory.volume, directory.limit
            ),
        })
    })
}

/// The bytes that a directory takes on its disk. What is mounted inside is not its own; a file with two names counts once.
fn usage(directory: &Path) -> io::Result<u64> {
    let device = match std::fs::symlink_metadata(directory) {
        Ok(metadata) => metadata.dev(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut bytes, mut linked, mut waiting) = (0, BTreeSet::new(), vec![directory.to_owned()]);
    while let Some(directory) = waiting.pop() {
        let entries = match std::fs::read_dir(&directory) {
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device
                || (metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()))
            {
                continue;
            }
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn what_is_over_its_limit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod(r#"{"metadata":{"name":"p"},"spec":{"containers":[],"volumes":[
                {"name":"free","emptyDir":{}},
                {"name":"memory","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},
                {"name":"small","emptyDir":{"sizeLimit":"1Mi"}}]}}"#);
        let limited = limited(&pod, dir.path());
        assert_eq!(limited.len(), 1);
        let path = &limited[0].path;
        assert_eq!(over(&limited), None, "it is not even there");
        std::fs::create_dir_all(path.join("deep")).unwrap();
        std::fs::write(path.join("deep/file"), vec![1; 700 << 10]).unwrap();
        std::fs::hard_link(path.join("deep/file"), path.join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", path.join("link")).unwrap();
        assert_eq!(over(&limited), None);
        std::fs::write(path.join("more"), vec![1; 700 << 10]).unwrap();
        let verdict = over(&limited).unwrap();
        assert_eq!(verdict.reason, "Evicted");
        assert_eq!(verdict.message, "Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". ");
    }
}
