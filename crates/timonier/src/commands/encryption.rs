//! `timonier encryption rotate`: a new key for the secrets in the datastore.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{DataDirArg, say};
use crate::cluster::encryption;

/// What secrets in the datastore are encrypted with.
#[derive(Debug, Args)]
pub(super) struct Encryption {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    data: DataDirArg,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new key. From the next start on it writes; what older keys wrote is encrypted anew then.
    Rotate,
}

impl Encryption {
    pub(super) fn run(self) -> Result<()> {
        let data = self.data.open()?;
        match self.action {
            Action::Rotate => {
                let name = encryption::rotate(&data)?;
                say(format_args!("Key {name} encrypts secrets from the next start on; older keys still read."));
                if let Some(process) = data.owner() {
                    say(format_args!(
                        "The cluster runs (process {process}): `timonier down`, then `timonier up`. Pods go on meanwhile."
                    ));
                }
                Ok(())
            }
        }
    }
}
