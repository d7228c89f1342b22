//! `timonier status`: whether the cluster runs, and what runs in it. Exit code 0 only when it is ready.

use anyhow::{Context, Result, bail};
use api::resources::{NODES, PODS};
use api::{Key, Object};
use clap::Args;
use control::{Client, WatchScope};

use super::{DataDirArg, say};
use crate::agent;

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
        if let Some(state) = agent::State::read(&data)? {
            let client = agent::client(&data, &state)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(report_agent(&client, &state, pid));
        }
        let client = crate::kubeconfig::client(&data)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(report(&client, pid)).with_context(|| format!("process {pid} does not answer"))
    }
}

/// What an agent may ask: its own node and the pods on it.
async fn report_agent(client: &Client, state: &agent::State, pid: i32) -> Result<()> {
    say(format_args!("running   process {pid}"));
    say("role      agent");
    let servers = state.servers.join(", ");
    let node = client.get(NODES, &Key::new("", state.node_name.as_str())).await;
    let node = node.with_context(|| format!("the server at {servers} does not answer; pods go on"))?;
    let pods = client.list(PODS, &WatchScope::field("spec.nodeName", &state.node_name)).await?.items;
    say(format_args!("server    {servers}"));
    say(node_line(&node, &pods));
    let running = pods.iter().filter(|pod| pod.field(PODS, "status.phase") == Some("Running")).count();
    say(format_args!("pods      {running} running, {} in all", pods.len()));
    Ok(())
}

fn node_line(node: &Object, pods: &[Object]) -> String {
    let value = node.to_value();
    let conditions = value["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let here = pods.iter().filter(|pod| pod.field(PODS, "spec.nodeName") == Some(&*node.key().name)).count();
    format!("node      {} {} ({here} pods)", node.key().name, if ready { "ready" } else { "not ready" })
}

async fn report(client: &Client, pid: i32) -> Result<()> {
    client
        .request(http::Method::GET, "/readyz", None, bytes::Bytes::new())
        .await
        .context("the API server is not ready")?;
    let nodes = client.list(NODES, &WatchScope::default()).await?.items;
    let pods = client.list(PODS, &WatchScope::default()).await?.items;
    say(format_args!("running   process {pid}"));
    say("role      server");
    say("api       ready");
    nodes.iter().for_each(|node| say(node_line(node, &pods)));
    let running = pods.iter().filter(|pod| pod.field(PODS, "status.phase") == Some("Running")).count();
    say(format_args!("pods      {running} running, {} in all", pods.len()));
    Ok(())
}
