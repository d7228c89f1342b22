//! `timonier down`: ends the cluster's process in order. Pods go on.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, pidfd_send_signal};

use super::{DataDirArg, say};
use crate::data_dir::DataDir;
use crate::preflight;

/// A process that takes longer to drain than this is named instead of waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Containers go on while the process is away, so that it can be replaced by a newer one.
#[derive(Debug, Args)]
pub(super) struct Down {
    #[command(flatten)]
    data: DataDirArg,
}

impl Down {
    pub(super) fn run(self) -> Result<()> {
        preflight::check_root("down")?;
        let data = self.data.open()?;
        match stop_process(&data)? {
            Some(pid) => say(format_args!("stopped (process {pid})")),
            None => say(format_args!("no cluster is running in {}", data.root().display())),
        }
        Ok(())
    }
}

/// Asks the owner of the data directory to end, and waits until it has. `None` where there is no owner.
pub(super) fn stop_process(data: &DataDir) -> Result<Option<i32>> {
    let Some(pid) = data.owner() else { return Ok(None) };
    // The descriptor is taken before the signal: the number cannot come to mean another process in between.
    let pid = Pid::from_raw(pid).context("the lock file names no process")?;
    let process = linux::process::pidfd(pid).with_context(|| format!("cannot watch process {pid}"))?;
    pidfd_send_signal(&process, Signal::TERM).with_context(|| format!("cannot stop process {pid}"))?;
    if !linux::process::wait_ended(&process, STOP_TIMEOUT)? {
        bail!(
            "process {pid} did not end within {} s: see its log, or end it with `kill -9 {pid}`",
            STOP_TIMEOUT.as_secs()
        );
    }
    Ok(Some(pid.as_raw_nonzero().get()))
}
