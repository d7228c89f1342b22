//! Keeps container logs from filling the disk: a log over [`Settings::log_bytes_max`](crate::Settings) is renamed and begun
//! anew, and of the renamed ones the newest stay. Sizes are looked at every ten seconds: an event for every line would cost
//! more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Stop, chain};
use cri::v1;

use crate::host::Host;
use crate::identity::Identity;

const INTERVAL: Duration = Duration::from_secs(10);

/// Rotates the logs of running containers until `stop`.
pub(crate) async fn run(host: Arc<Host>, stop: Stop) {
    while stop.or_stopped(tokio::time::sleep(INTERVAL)).await.is_some() {
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
        let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
        let running = match host.runtime.list_containers(Some(filter)).await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot list containers to rotate their logs");
                continue;
            }
        };
        for container in running {
            if let Err(error) = rotate(&host, &container).await {
                tracing::warn!(container = container.id, error = chain(&*error), "cannot rotate a container's log");
            }
        }
    }
}

async fn rotate(host: &Host, container: &v1::Container) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (Some(pod), Some(metadata)) = (Identity::from_labels(&container.labels), &container.metadata) else {
        return Ok(());
    };
    let log = pod.log_directory(&host.log_dir).join(&metadata.name).join(format!("{}.log", metadata.attempt));
    match tokio::fs::metadata(&log).await {
        Ok(metadata) if metadata.len() > host.settings.log_bytes_max => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    make_room(&log, host.settings.log_files_max).await?;
    let stamp = host.clock.now().strftime("%Y%m%d-%H%M%S%.3f").to_string();
    let mut renamed = log.clone().into_os_string();
    renamed.push(format!(".{stamp}"));
    tokio::fs::rename(&log, &renamed).await?;
    if let Err(error) = host.runtime.reopen_container_log(&container.id).await {
        // The runtime still writes to the old file: give it its name back, or its lines would be lost to readers.
        tokio::fs::rename(&renamed, &log).await?;
        return Err(error.into());
    }
    Ok(())
}

/// Removes the oldest parts of a log, so that there are no more files than this when one more is renamed and one begun.
async fn make_room(log: &Path, files_max: usize) -> io::Result<()> {
    for old in rotated(log).await?.into_iter().rev().skip(files_max.saturating_sub(2)) {
        tokio::fs::remove_file(old).await?;
    }
    Ok(())
}

/// The renamed parts of a log, the oldest first.
pub(crate) async fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    let mut entries = match tokio::fs::read_dir(directory).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    while let Some(entry) = entries.next_entry().await? {
        let file = entry.file_name();
        if file.to_str().and_then(|file| file.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.')) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a log with its renamed parts.
pub(crate) async fn remove(log: &Path) {
    let old = rotated(log).await.unwrap_or_default();
    for file in old.into_iter().chain([log.to_owned()]) {
        match tokio::fs::remove_file(&file).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), error = chain(&error), "cannot remove a container's log");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags for the number and size of log files were read and had no effect.
    #[tokio::test]
    async fn as_many_files_stay_as_the_node_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4", "1.log.1"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        for (files_max, left) in [(9, 4), (5, 3), (3, 1), (2, 0)] {
            make_room(&log, files_max).await.unwrap();
            let parts = rotated(&log).await.unwrap();
            assert_eq!(parts.len(), left);
            assert!(parts.last().is_none_or(|newest| newest.ends_with("0.log.4")));
        }
        assert!(folder.path().join("1.log.1").exists());
    }
}
