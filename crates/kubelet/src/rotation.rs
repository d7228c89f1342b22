//! Keeps container logs from filling the disk: a log over 10 MiB is renamed and begun anew, and of the renamed ones the
//! newest four stay. Upstream's figures. Sizes are looked at every ten seconds: an event for every line would cost more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Stop, chain};
use cri::v1;

use crate::host::Host;
use crate::identity::Identity;

const LOG_BYTES_MAX: u64 = 10 << 20;
const OLD_LOGS_MAX: usize = 4;
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
        Ok(metadata) if metadata.len() > LOG_BYTES_MAX => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    for old in rotated(&log).await?.into_iter().rev().skip(OLD_LOGS_MAX - 1) {
        tokio::fs::remove_file(old).await?;
    }
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
