//! `timonier up`: starts a cluster, in the foreground or (`--detach`) behind the caller's back.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::{DataDirArg, say};
use crate::cluster::{self, Options};
use crate::data_dir::DataDir;
use crate::{logging, preflight};

/// Prints how to use the cluster when its node is ready. Ctrl-C ends it; pods go on.
#[derive(Debug, Args)]
pub(super) struct Up {
    /// Return when the cluster is ready and leave it running; it logs to `timonier.log` in the data directory.
    #[arg(long)]
    detach: bool,
    /// What to log, such as `info` or `warn,kubelet=debug`.
    #[arg(long, value_name = "FILTER", default_value = "warn,timonier=info")]
    log: String,
    /// Set on the process that `--detach` starts: it leaves the caller's session and reports on its standard output.
    #[arg(long, hide = true)]
    detached: bool,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    data: DataDirArg,
}

impl Up {
    pub(super) fn run(self) -> Result<()> {
        let data = self.data.open()?;
        if self.detach {
            return start_detached(&data);
        }
        let detached = self.detached;
        let result = self.run_here(&data);
        if let (true, Err(error)) = (detached, &result) {
            // The caller reads this from the pipe that our standard output is until the cluster is ready.
            say(format_args!("{error:#}"));
        }
        result
    }

    fn run_here(self, data: &DataDir) -> Result<()> {
        preflight::check_root("up")?;
        logging::start(&self.log)?;
        if self.detached {
            nix::unistd::setsid().context("cannot leave the caller's session")?;
        }
        let started = Instant::now();
        let kubeconfig = data.path("kubeconfig");
        let detached = self.detached;
        cluster::run(data, &self.options, move |node| {
            say(format_args!(
                "Timonier is ready: node {node} after {:.2} s.\n\n  export KUBECONFIG={}\n  kubectl get nodes",
                started.elapsed().as_secs_f64(),
                kubeconfig.display()
            ));
            if detached {
                say(READY);
                close_output()
            } else {
                Ok(())
            }
        })
    }
}

/// The line that ends a detached process's report when all is well.
const READY: &str = "-- ready --";

/// Starts this program again without the terminal, and passes on what it reports.
fn start_detached(data: &DataDir) -> Result<()> {
    data.create()?;
    let log_path = data.path("timonier.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new(std::env::current_exe().context("cannot find our own program file")?)
        .args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"))
        .arg("--detached")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the cluster's process")?;
    let mut report = String::new();
    let mut output = child.stdout.take().context("the cluster's process has no output")?;
    output.read_to_string(&mut report).context("cannot read the report of the cluster's process")?;
    let report = report.trim_end();
    if let Some(text) = report.strip_suffix(READY) {
        say(text.trim_end());
        say(format_args!("\n  timonier down --data-dir {}   # stops it", data.root().display()));
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the cluster's process")?;
    if report.is_empty() {
        bail!("the cluster's process ended ({status}): see {}", log_path.display());
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
