//! `timonier kubeconfig`: prints the administrator's kubeconfig.

use anyhow::Result;
use clap::Args;

use super::{DataDirArg, say};

/// `timonier kubeconfig > ~/.kube/config`
#[derive(Debug, Args)]
pub(super) struct Kubeconfig {
    #[command(flatten)]
    data: DataDirArg,
}

impl Kubeconfig {
    pub(super) fn run(self) -> Result<()> {
        say(crate::kubeconfig::read(&self.data.open()?)?.trim_end());
        Ok(())
    }
}
