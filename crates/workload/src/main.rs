//! `workload image|api|pods`: what `cargo xtask bench` runs beside the cluster that it measures.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use control::Client;
use workload::{image, load};

/// Connections that the load is spread over.
const CONNECTIONS: usize = 4;

#[derive(Parser)]
#[command(name = "workload", about = "Work to give a cluster")]
struct Cli {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Write the image's archive into a folder.
    Image { folder: PathBuf },
    /// Load the API with ConfigMaps.
    Api {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long, default_value_t = 3000)]
        count: usize,
        #[arg(long, default_value_t = CONNECTIONS)]
        connections: usize,
    },
    /// Fill the API with pods that no node runs.
    PodsAtRest {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long, default_value_t = 20_000)]
        count: usize,
    },
    /// Make custom resource definitions.
    Definitions {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long, default_value_t = 200)]
        count: usize,
    },
    /// Run a Deployment.
    Pods {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long, default_value_t = 60)]
        count: usize,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().work) {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: Work) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Runtime::new()?;
    // A namespace of its own for every run.
    let namespace = format!("workload-{}", std::process::id());
    match work {
        Work::Image { folder } => Ok(vec![image::archive(&folder)?.display().to_string()]),
        Work::Api { kubeconfig, count, connections } => {
            let _entered = runtime.enter();
            let clients = clients(&kubeconfig, connections)?;
            runtime.block_on(load::api(&clients, &namespace, count))
        }
        Work::PodsAtRest { kubeconfig, count } => {
            let _entered = runtime.enter();
            let clients = clients(&kubeconfig, CONNECTIONS)?;
            runtime.block_on(load::pods_at_rest(&clients, &namespace, count))
        }
        Work::Definitions { kubeconfig, count } => {
            let _entered = runtime.enter();
            let clients = clients(&kubeconfig, CONNECTIONS)?;
            runtime.block_on(load::definitions(&clients, count))
        }
        Work::Pods { kubeconfig, count } => {
            let _entered = runtime.enter();
            let client = client(&kubeconfig)?;
            runtime.block_on(load::pods(&client, &namespace, image::NAME, count))
        }
    }
}

fn clients(kubeconfig: &Path, connections: usize) -> Result<Vec<Client>> {
    (0..connections).map(|_| client(kubeconfig)).collect()
}

/// A client with a connection of its own.
fn client(path: &Path) -> Result<Client> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    control::kubeconfig::client(&text, "timonier/workload").with_context(|| format!("cannot use {}", path.display()))
}
