//! `timonier up`: starts a cluster: a server with its node, as `timonier server` does, and perhaps behind the caller's back.

use anyhow::Result;
use clap::Args;

use super::process::{Process, start_detached};
use super::{DataDirArg, server};
use crate::cluster::Options;

/// Prints how to use the cluster when its node is ready. Ctrl-C ends it; pods go on.
#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    data: DataDirArg,
}

impl Up {
    pub(super) fn run(self) -> Result<()> {
        let data = self.data.open()?;
        if self.process.detaches() {
            return start_detached(&data, std::env::args_os().skip(1).filter(|arg| arg != "--detach"), None);
        }
        server::run_here(self.process, "up", &data, &self.options)
    }
}
