//! A node whose container runtime is installed on the machine: what is put in place for it, and how that is taken away.
//!
//! Such a runtime makes pods' networks through plugins: it finds ours, a link to this program, by a configuration that is
//! written when the node has its range of addresses. What was put in place, and where, is written down first, so that `reset`
//! finds it after a crash at any point.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use base::Stop;
use cri::cni::LOOPBACK;
use cri::{AttachRequest, NetworkError, PodNetwork, Remote, Runtime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::late_network::LateNetwork;
use super::{Base, cni};
use crate::data_dir::{DataDir, write_private};

/// Where what was put in place is written down, in the data directory.
const RECORD: &str = "external-runtime.json";
/// The socket of the node's network, in the data directory.
const SOCKET: &str = "cni.sock";
/// The plugin's name in the runtime's folder of plugins.
const PLUGIN: &str = "timonier";
/// The first in the order of names is what runtimes take.
const CONFIGURATION: &str = "10-timonier.conflist";
/// The label of all that a kubelet makes.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// What was put in place.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    endpoint: String,
    configuration: PathBuf,
    plugin: PathBuf,
}

/// The runtime behind `endpoint`, with our network as its plugin.
pub(super) fn open(base: &Arc<Base>, endpoint: &str, network: &LateNetwork) -> Result<Arc<dyn Runtime>> {
    let runtime = Remote::new(endpoint).context("cannot use --container-runtime-endpoint")?;
    let record = Record {
        endpoint: endpoint.to_owned(),
        configuration: absolute(&base.node.cni_conf_dir)?.join(CONFIGURATION),
        plugin: absolute(&base.node.cni_bin_dir)?.join(PLUGIN),
    };
    write_private(&base.data.path(RECORD), &serde_json::to_vec(&record)?)?;
    put_plugin(&record.plugin)?;
    put_loopback(&record.plugin.with_file_name(LOOPBACK))?;
    let (data, network) = (base.data.clone(), network.watch());
    let served = network.clone();
    let socket = data.path(SOCKET);
    base.tasks.supervise("CNI", base.stop.clone(), move |stop| {
        let (socket, network) = (socket.clone(), served.clone());
        async move { cni::serve(&socket, network, stop).await }
    });
    let stop = base.stop.clone();
    base.tasks.spawn("CNI configuration", async move {
        if let Err(error) = configure(&record.configuration, &data, network, stop).await {
            tracing::error!(
                error = format!("{error:#}"),
                "the container runtime has no network: start again when this is mended"
            );
        }
    });
    Ok(Arc::new(runtime))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))
}

/// Links the plugin's name to this program. What is no link is somebody else's.
fn put_plugin(path: &Path) -> Result<()> {
    let program = std::env::current_exe().context("cannot find our own program file")?;
    let cannot = || format!("cannot put the network plugin {} in place", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).with_context(cannot)?;
    match path.symlink_metadata() {
        Ok(there) if !there.is_symlink() => {
            bail!("{} is there and is not ours: move it, or choose another --cni-bin-dir", path.display())
        }
        Ok(_) if std::fs::read_link(path).is_ok_and(|target| target == program) => return Ok(()),
        Ok(_) => std::fs::remove_file(path).with_context(cannot)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(cannot),
    }
    std::os::unix::fs::symlink(program, path).with_context(cannot)
}

/// Runtimes want a plugin for the loopback too: where there is none, ours does it.
fn put_loopback(path: &Path) -> Result<()> {
    match std::os::unix::fs::symlink(PLUGIN, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot put the network plugin {} in place", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes the runtime's configuration when there is a network: a runtime that finds it says that its network is ready.
async fn configure(path: &Path, data: &DataDir, mut network: cni::Network, stop: Stop) -> Result<()> {
    let there = async { network.wait_for(Option::is_some).await.is_ok() };
    if stop.or_stopped(there).await != Some(true) {
        return Ok(());
    }
    let configuration = cri::cni::configuration(PLUGIN, &data.path(SOCKET).to_string_lossy());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
        .with_context(|| format!("cannot make the folder of {}", path.display()))?;
    write_private(path, serde_json::to_string_pretty(&configuration)?.as_bytes())
}

/// Removes the pods from the runtime, and what was put in place for it; nothing where there is none. The cluster's process must
/// have ended: its place as the runtime's network is taken.
pub(crate) async fn remove(data: &DataDir) -> Result<()> {
    let record = match std::fs::read(data.path(RECORD)) {
        Ok(bytes) => serde_json::from_slice::<Record>(&bytes)
            .with_context(|| format!("cannot read {}", data.path(RECORD).display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("cannot read what was put in place for the container runtime"),
    };
    let stop = Stop::new();
    let (_keep, network) = watch::channel::<Option<Arc<dyn PodNetwork>>>(Some(Arc::new(Leaving)));
    let socket = data.path(SOCKET);
    tokio::select! {
        served = cni::serve(&socket, network, stop.clone()) => served?,
        removed = remove_pods(&record.endpoint) => removed?,
    }
    let loopback = record.plugin.with_file_name(LOOPBACK);
    let ours = std::fs::read_link(&loopback).is_ok_and(|target| target == Path::new(PLUGIN));
    for path in [&record.configuration, &record.plugin].into_iter().chain(ours.then_some(&loopback)) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn remove_pods(endpoint: &str) -> Result<()> {
    let runtime = Remote::new(endpoint)?;
    let asked = || {
        format!(
            "cannot remove the pods from the container runtime at {endpoint}: start it, or remove {RECORD} to leave them"
        )
    };
    let sandboxes = runtime.list_pod_sandboxes(None).await.with_context(asked)?;
    for sandbox in sandboxes.iter().filter(|sandbox| sandbox.labels.contains_key(POD_UID)) {
        runtime.stop_pod_sandbox(&sandbox.id).await.with_context(asked)?;
        runtime.remove_pod_sandbox(&sandbox.id).await.with_context(asked)?;
    }
    Ok(())
}

/// The network of a node that is removed: all of it goes at once, after the pods.
struct Leaving;

#[async_trait]
impl PodNetwork for Leaving {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        let source = "the node is being removed".into();
        Err(NetworkError { action: "attach", sandbox_id: request.sandbox_id.clone(), source })
    }

    async fn detach(&self, _sandbox_id: &str) -> Result<(), NetworkError> {
        Ok(())
    }
}
