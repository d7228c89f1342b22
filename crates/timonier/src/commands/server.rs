//! `timonier server`: a cluster's server with its node, in the foreground, as a service manager wants it.

use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::DataDirArg;
use super::process::{Log, Process};
use crate::cluster::{self, Options};
use crate::data_dir::DataDir;

/// Other machines join with `timonier agent`; `timonier token create` prints how.
#[derive(Debug, Args)]
pub(super) struct Server {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    data: DataDirArg,
}

impl Server {
    pub(super) fn run(self) -> Result<()> {
        run_here(self.log.in_foreground(), "server", &self.data.open()?, &self.options)
    }
}

/// Runs the server in this process.
pub(super) fn run_here(process: Process, command: &str, data: &DataDir, options: &Options) -> Result<()> {
    let (started, kubeconfig) = (Instant::now(), data.path("kubeconfig"));
    process.run_here(command, |on_ready| {
        cluster::run(data, options, move |node| {
            on_ready(&format!(
                "Timonier is ready: node {node} after {:.2} s.\n\n  export KUBECONFIG={}\n  kubectl get nodes",
                started.elapsed().as_secs_f64(),
                kubeconfig.display()
            ))
        })
    })
}
