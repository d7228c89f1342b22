//! `cargo xtask fuzz [TARGET] --seconds N`: runs the fuzz targets under `fuzz/`, each with its committed seeds.
//!
//! What a run finds on its way lies in the build's folder and is used again; what breaks a target lies in `fuzz/artifacts`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Memory and time that one input may take. More is a finding.
const MEGABYTES_MAX: u32 = 2048;
const INPUT_SECONDS_MAX: u32 = 10;

/// Runs one target or all; the error names those that found something.
pub(crate) fn run(root: &Path, only: Option<&str>, seconds: u32) -> Result<()> {
    let installed = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        bail!(
            "cargo-fuzz is missing: `cargo install cargo-fuzz`, and a nightly compiler with `rustup toolchain install nightly`"
        );
    }
    let targets = targets(root)?;
    if let Some(only) = only
        && !targets.iter().any(|target| target == only)
    {
        bail!("there is no fuzz target {only:?}; there are {}", targets.join(", "));
    }
    let wanted = targets.into_iter().filter(|target| only.is_none_or(|only| only == target));
    let mut broken = Vec::new();
    for target in wanted {
        println!("== {target}");
        if !run_one(root, &target, seconds)? {
            broken.push(target);
        }
    }
    if broken.is_empty() { Ok(()) } else { bail!("broken: {}; see fuzz/artifacts", broken.join(", ")) }
}

fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn run_one(root: &Path, target: &str, seconds: u32) -> Result<bool> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    let found = metadata.target_directory.join("fuzz-corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {found}"))?;
    let seeds = root.join("fuzz/seeds").join(target);
    let status = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", target])
        .arg(&found)
        .arg(&seeds)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEGABYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .current_dir(root)
        .status();
    Ok(status.context("cannot run cargo fuzz")?.success())
}
