//! The file: appended by one task, made anew when it is large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::metrics::Counters;
use base::{Stop, Tasks};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::event::{Event, Stage};
use super::policy::Verdict;

/// Events that wait to be written. Without an end a slow disk would fill the memory.
const QUEUE: usize = 8192;
/// Events that are written together.
const BATCH: usize = 256;
/// How long the first of a batch waits for others. Writing each alone takes a tenth of a processor from a server that answers a
/// thousand writes a second, one after another.
const GATHER: Duration = Duration::from_millis(10);
/// A file that is larger is set aside. Without it the log fills the disk.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files that were set aside and are kept: `audit.log.1` is the newest.
const KEPT: usize = 4;

pub(crate) static EVENTS: Counters<0> = Counters::counters(
    "apiserver_audit_event_total",
    "Counter of audit events generated and sent to the audit backend.",
    [],
);
pub(crate) static LOST: Counters<0> = Counters::counters(
    "apiserver_audit_error_total",
    "Counter of audit events that failed to be audited properly.",
    [],
);

/// Where events go.
pub(super) struct Log {
    queue: Sender<Event>,
}

impl Log {
    /// Starts the task that writes. What waits when `stop` comes is written before it ends.
    pub(super) fn start(path: PathBuf, tasks: &Tasks, stop: Stop) -> Self {
        let (queue, events) = channel(QUEUE);
        tasks.spawn("audit log", write_all(LogFile::new(path), events, stop));
        Self { queue }
    }

    /// Hands an event over, where the policy wants this stage.
    pub(super) fn send(&self, verdict: &Verdict, stage: Stage, event: impl FnOnce() -> Event) {
        if !verdict.logs(stage) {
            return;
        }
        match self.queue.try_send(event()) {
            Ok(()) => EVENTS.with([]).inc(),
            Err(TrySendError::Full(_)) => {
                LOST.with([]).inc();
                tracing::error!(waiting = QUEUE, "an audit event is lost: the disk does not keep up");
            }
            // After the stop nobody writes any more.
            Err(TrySendError::Closed(_)) => LOST.with([]).inc(),
        }
    }
}

async fn write_all(mut file: LogFile, mut events: Receiver<Event>, stop: Stop) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let last = tokio::select! {
            biased;
            count = events.recv_many(&mut batch, BATCH) => count == 0,
            () = stop.stopped() => {
                events.close();
                events.recv_many(&mut batch, QUEUE).await == 0
            }
        };
        if last {
            return;
        }
        if batch.len() < BATCH && !events.is_closed() {
            let _ = stop.or_stopped(tokio::time::sleep(GATHER)).await;
            while let Some(event) = (batch.len() < BATCH).then(|| events.try_recv().ok()).flatten() {
                batch.push(event);
            }
        }
        let taken = std::mem::take(&mut batch);
        let written = tokio::task::spawn_blocking(move || {
            let result = file.append(taken);
            (file, result)
        });
        match written.await {
            Ok((back, result)) => {
                file = back;
                if let Err(error) = result {
                    LOST.with([]).inc();
                    tracing::error!(path = %file.path.display(), %error, "cannot write the audit log");
                }
            }
            Err(error) => return tracing::error!(%error, "the audit log's writer failed"),
        }
    }
}

struct LogFile {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl LogFile {
    fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    fn append(&mut self, events: Vec<Event>) -> io::Result<()> {
        let mut lines = Vec::with_capacity(events.len() * 1024);
        for event in events {
            event.encode(&mut lines);
            lines.push(b'\n');
        }
        self.write(&lines)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let (mut file, bytes) = match self.open.take() {
            Some((file, bytes)) if bytes < FILE_BYTES_MAX => (file, bytes),
            Some(_) => {
                set_aside(&self.path)?;
                open(&self.path)?
            }
            None => open(&self.path)?,
        };
        file.write_all(lines)?;
        self.open = Some((file, bytes + lines.len() as u64));
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// `audit.log` becomes `audit.log.1`, that one `audit.log.2`, and the oldest goes.
fn set_aside(path: &Path) -> io::Result<()> {
    let numbered = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_large_file_is_set_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = LogFile::new(path.clone());
        for number in 0..7 {
            log.write(format!("{number}\n").as_bytes()).unwrap();
            log.open.as_mut().unwrap().1 = FILE_BYTES_MAX;
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3", "audit.log.4"]);
        assert_eq!(fs::read_to_string(folder.path().join("audit.log.4")).unwrap(), "2\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        log.open = None;
        log.write(b"more\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "6\nmore\n", "a restart appends");
    }
}
