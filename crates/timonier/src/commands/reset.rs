//! `timonier reset --yes`: ends everything and removes all that Timonier made on the machine.

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{DataDirArg, down, say};
use crate::data_dir::DataDir;
use crate::preflight;

/// Pods, networks, images and data: nothing is left, and nothing can be brought back.
#[derive(Debug, Args)]
pub(super) struct Reset {
    /// Really do it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    data: DataDirArg,
}

impl Reset {
    pub(super) fn run(self) -> Result<()> {
        preflight::check_root("reset")?;
        let data = self.data.open()?;
        if !self.yes {
            bail!(
                "this removes the cluster in {} with all its data, images and pods: say `timonier reset --yes` if you mean it",
                data.root().display()
            );
        }
        if !data.root().exists() {
            say(format_args!("nothing to remove in {}", data.root().display()));
            return Ok(());
        }
        let member = crate::agent::State::read(&data).ok().flatten();
        down::stop_process(&data)?;
        // Held to the end, so that nothing starts in what is being removed.
        let lock = data.lock()?;
        remove_from_external_runtime(&data)?;
        runtime::remove_all(&data.path("runtime"), &data.cgroup()).context("cannot remove the pods")?;
        kubelet::remove_all(&data.path("kubelet")).context("cannot remove the pods' volumes")?;
        remove_network(&data).context("cannot remove the pod network")?;
        for name in crate::data_dir::CONTENT {
            remove(&data.path(name))?;
        }
        drop(lock);
        remove(&data.path("lock"))?;
        // Files that we did not make stay, and so does a folder that holds some.
        let _ = std::fs::remove_dir(data.path("manifests"));
        let _ = std::fs::remove_dir(data.root());
        say(format_args!("removed everything in {}", data.root().display()));
        if let Some(member) = member {
            say(format_args!("The cluster still lists the node: `kubectl delete node {}`", member.node_name));
        }
        Ok(())
    }
}

fn remove_from_external_runtime(data: &DataDir) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::cluster::external_runtime::remove(data))
}

fn remove_network(data: &DataDir) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let net = linux::net::Kernel::new()?;
        Ok(network::remove_all(&net, &data.path("network")).await?)
    })
}

fn remove(path: &std::path::Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
