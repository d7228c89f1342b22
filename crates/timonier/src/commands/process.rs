//! How a process that stays is started: in the foreground, or (`--detach`) behind the caller's back.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::say;
use crate::data_dir::DataDir;
use crate::{logging, preflight};

/// Flags of commands whose process stays.
#[derive(Debug, Args)]
pub(super) struct Process {
    /// Return when all is ready and leave it running; it logs to `timonier.log` in the data directory.
    #[arg(long)]
    detach: bool,
    /// Set on the process that `--detach` starts: it leaves the caller's session and reports on its standard output.
    #[arg(long, hide = true)]
    detached: bool,
    #[command(flatten)]
    log: Log,
}

/// What is logged.
#[derive(Debug, Args)]
pub(super) struct Log {
    /// What to log, such as `info` or `warn,kubelet=debug`.
    #[arg(long = "log", value_name = "FILTER", default_value = "warn,timonier=info")]
    filter: String,
}

impl Log {
    /// A process in the foreground.
    pub(super) fn in_foreground(self) -> Process {
        Process { detach: false, detached: false, log: self }
    }
}

/// Prints what is to be said when all is ready.
pub(super) type OnReady = Box<dyn FnOnce(&str) -> Result<()> + Send>;

impl Process {
    /// Whether another process is to do the work.
    pub(super) fn detaches(&self) -> bool {
        self.detach
    }

    /// Does the work in this process.
    pub(super) fn run_here(self, command: &str, work: impl FnOnce(OnReady) -> Result<()>) -> Result<()> {
        let detached = self.detached;
        let result = self.try_run(command, work);
        if let (true, Err(error)) = (detached, &result) {
            // The caller reads this from the pipe that our standard output is until all is ready.
            say(format_args!("{error:#}"));
        }
        result
    }

    fn try_run(self, command: &str, work: impl FnOnce(OnReady) -> Result<()>) -> Result<()> {
        preflight::check_root(command)?;
        logging::start(&self.log.filter)?;
        if self.detached {
            nix::unistd::setsid().context("cannot leave the caller's session")?;
        }
        work(Box::new(move |text| {
            say(text);
            if self.detached {
                say(READY);
                close_output()
            } else {
                Ok(())
            }
        }))
    }
}

/// The line that ends a detached process's report when all is well.
const READY: &str = "-- ready --";

/// Starts this program again without the terminal, with these arguments and this input, and passes on what it reports.
pub(super) fn start_detached(
    data: &DataDir,
    args: impl IntoIterator<Item = OsString>,
    input: Option<&str>,
) -> Result<()> {
    data.create()?;
    let log_path = data.path("timonier.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new(std::env::current_exe().context("cannot find our own program file")?)
        .args(args)
        .arg("--detached")
        .current_dir("/")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the process")?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // A process that ended at once says itself why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let mut report = String::new();
    let mut output = child.stdout.take().context("the process has no output")?;
    output.read_to_string(&mut report).context("cannot read the report of the process")?;
    let report = report.trim_end();
    if let Some(text) = report.strip_suffix(READY) {
        say(text.trim_end());
        say(format_args!("\n  timonier down --data-dir {}   # stops it", data.root().display()));
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the process")?;
    if report.is_empty() {
        bail!("the process ended ({status}): see {}", log_path.display());
    }
    Err(anyhow!("{report}"))
}

/// Ends the report: the caller waits for the end of our standard output.
fn close_output() -> Result<()> {
    std::io::stdout().flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null).context("cannot close the report")?;
    Ok(())
}
