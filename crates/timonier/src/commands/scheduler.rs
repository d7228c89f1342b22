//! `timonier scheduler explain pod NAME`: what the scheduler thinks of each node for a pod, and why.

use anyhow::{Context, Result, bail};
use api::Key;
use api::resources::PODS;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use control::{Client, WatchScope};
use scheduler::explain::{Cluster, Explanation, Verdict, resources};

use super::{DataDirArg, say};

/// Asks the cluster's API, as any client would, and places the pod here, by the same rules.
#[derive(Debug, Args)]
pub(super) struct Scheduler {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say of every node whether a pod fits there, why not, and how well it would be there.
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Explain {
    /// What to explain.
    kind: Kind,
    /// The pod's name.
    name: String,
    /// The pod's namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    data: DataDirArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    #[value(alias = "pods", alias = "po")]
    Pod,
}

impl Scheduler {
    pub(super) fn run(self) -> Result<()> {
        let Command::Explain(Explain { kind: Kind::Pod, name, namespace, data }) = self.command;
        let client = crate::kubeconfig::client(&data.open()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let explanation = runtime.block_on(explain(&client, &Key::new(&*namespace, &*name)))?;
        print(&name, &explanation);
        Ok(())
    }
}

async fn explain(client: &Client, key: &Key) -> Result<Explanation> {
    let pod = match client.get(PODS, key).await {
        Err(error) if error.is_not_found() => {
            bail!("there is no pod {0} in namespace {1}: `kubectl get pods -n {1}` lists them", key.name, key.namespace)
        }
        found => found?,
    };
    let mut cluster = Cluster::default();
    for resource in resources() {
        for object in client.list(resource, &WatchScope::default()).await?.items {
            if let Err(error) = cluster.add(resource, &object) {
                say(format_args!("passed over {} {}: {}", resource.singular, object.key(), base::chain(&*error)));
            }
        }
    }
    cluster.explain(&pod).context("cannot read the pod")
}

fn print(name: &str, explanation: &Explanation) {
    if !explanation.gates.is_empty() {
        say(format_args!("pod {name} waits for its scheduling gates: {}", explanation.gates.join(", ")));
    }
    if explanation.scheduler != "default-scheduler" {
        say(format_args!("pod {name} asks for scheduler {}, not for this one", explanation.scheduler));
    }
    if let Some(node) = &explanation.node {
        say(format_args!("pod {name} is on {node}; below, as if it had no node yet"));
    }
    say(table(&explanation.verdicts));
    match &explanation.preemption {
        Some(Ok((node, victims))) => {
            say(format_args!("preemption: would remove {} from {node}", victims.join(", ")));
        }
        Some(Err(why)) => say(format_args!("preemption: {why}")),
        None => {}
    }
}

fn table(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NODE", "FITS", "SCORE", "WHY"]);
    for verdict in verdicts {
        let fits = verdict.refusals.is_empty();
        let why: Vec<_> = if fits {
            verdict.scores.iter().map(|(plugin, score)| format!("{plugin} {score}")).collect()
        } else {
            verdict.refusals.iter().map(|(plugin, reasons)| format!("{plugin}: {}", reasons.join("; "))).collect()
        };
        let score = if fits { verdict.total().to_string() } else { "-".to_owned() };
        table.add_row([&*verdict.node, if fits { "yes" } else { "no" }, &*score, &*why.join(", ")]);
    }
    table
}
