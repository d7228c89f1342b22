//! The project's own commands: `cargo xtask up|test|tidy|gen|bench|fuzz`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a tool for people, outside the product"
)]

mod bench;
mod fuzz;
mod r#gen;
mod packages;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is needed, build the release binary, start a cluster, say how to use it.
    Up {
        /// Passed on to `timonier up`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that must hold before a change lands: packages, formatting, clippy, tidy, unit and end-to-end tests.
    Test,
    /// Measure a cluster on this machine: the figures of docs/benchmarks.md.
    Bench {
        /// A folder with `timonier` and `workload`, built before; without it both are built for release.
        #[arg(long)]
        binaries: Option<PathBuf>,
    },
    /// Throw changed bytes at the parsers that strangers reach, and keep what breaks one.
    Fuzz {
        /// One target; without it all, one after the other.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Check the rules of the house.
    Tidy,
    /// Write the schema table of the built-in types anew.
    Gen,
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
    let done = match Cli::parse().command {
        Task::Up { args } => up(&root, &args),
        Task::Test => test(&root),
        Task::Bench { binaries } => bench::run(&root, binaries),
        Task::Fuzz { target, seconds } => fuzz::run(&root, target.as_deref(), seconds),
        Task::Tidy => tidy::run(&root),
        Task::Gen => r#gen::run(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(root: &Path, args: &[String]) -> Result<()> {
    packages::install_for_build()?;
    let binary = build_release(root)?;
    let status = Command::new(&binary).args(["up", "--detach"]).args(args).status();
    if !status.with_context(|| format!("cannot run {}", binary.display()))?.success() {
        bail!("the cluster did not start");
    }
    println!("\n  {} --help", binary.display());
    Ok(())
}

/// Builds the release binary; returns its path.
fn build_release(root: &Path) -> Result<PathBuf> {
    cargo(root, &["build", "--release", "--package", "timonier", "--locked"])?;
    Ok(release_folder(root)?.join("timonier"))
}

/// Where release builds go.
pub(crate) fn release_folder(root: &Path) -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    Ok(metadata.target_directory.join("release").into())
}

fn test(root: &Path) -> Result<()> {
    packages::install_for_tests()?;
    step("formatting", || cargo(root, &["fmt", "--all", "--check"]))?;
    step("clippy", || cargo(root, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    step("tidy", || tidy::run(root))?;
    step("tests", || {
        let nextest =
            Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
        if nextest {
            cargo(root, &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
        } else {
            cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast"])
        }
    })
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let started = std::time::Instant::now();
    run().with_context(|| format!("{name} failed"))?;
    println!("== {name}: ok after {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

pub(crate) fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    let status = Command::new("cargo").args(args).current_dir(root).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed ({status})", args.join(" "));
    }
    Ok(())
}
