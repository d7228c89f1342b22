//! `timonier status`: whether the cluster runs, and what runs in it. Exit code 0 only when it is ready.

use anyhow::{Context, Result, bail};
use api::resources::{NODES, PODS};
use clap::Args;
use control::{Client, WatchScope};

use super::{DataDirArg, say};

/// Asks the running process through its API, as any client would.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    data: DataDirArg,
}

impl Status {
    pub(super) fn run(self) -> Result<()> {
        let data = self.data.open()?;
        let Some(pid) = data.owner() else {
            bail!("no cluster is running in {0}: start one with `timonier up --data-dir {0}`", data.root().display());
        };
        let client = crate::kubeconfig::client(&data)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(report(&client, pid)).with_context(|| format!("process {pid} does not answer"))
    }
}

async fn report(client: &Client, pid: i32) -> Result<()> {
    client
        .request(http::Method::GET, "/readyz", None, bytes::Bytes::new())
        .await
        .context("the API server is not ready")?;
    let nodes = client.list(NODES, &WatchScope::default()).await?.items;
    let pods = client.list(PODS, &WatchScope::default()).await?.items;
    say(format_args!("running   process {pid}"));
    say("api       ready");
    for node in &nodes {
        let value = node.to_value();
        let conditions = value["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let here = pods.iter().filter(|pod| pod.field(PODS, "spec.nodeName") == Some(&*node.key().name)).count();
        say(format_args!("node      {} {} ({here} pods)", node.key().name, if ready { "ready" } else { "not ready" }));
    }
    let running = pods.iter().filter(|pod| pod.field(PODS, "status.phase") == Some("Running")).count();
    say(format_args!("pods      {running} running, {} in all", pods.len()));
    Ok(())
}
