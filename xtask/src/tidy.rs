//! `cargo xtask tidy`: the rules of the house that neither the compiler nor clippy checks. Also a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// The floor of every crate. A crate depends only on lower floors; siblings meet in API objects.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["base", "machinery"]),
    (1, &["api", "store", "linux", "streams"]),
    (2, &["control", "cri"]),
    (3, &["apiserver", "controllers", "scheduler", "kubelet", "runtime", "network", "edge", "workload"]),
    (4, &["timonier"]),
    (5, &["xtask"]),
];

/// Crates outside that only the named crates of ours may name, with the reason.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("k8s-openapi", &["api"], "its codecs cost seconds of compile time in each crate that instantiates them"),
    ("redb", &["store"], "the store hides which engine is under it"),
    ("store", &["apiserver", "timonier"], "only the API server opens the store"),
    ("nlink", &["linux"], "system calls live in linux"),
    ("anyhow", &["timonier", "xtask", "workload"], "libraries have typed errors"),
];

/// What the tests of a crate, and nothing else in it, may name all the same: programs of strangers are tested as they are.
const IN_TESTS: &[(&str, &str)] = &[("timonier", "k8s-openapi")];

/// Crates that may hold `unsafe` code.
const UNSAFE_IN: &[&str] = &["linux"];

/// Checks the whole workspace; the error lists every finding.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut findings = Vec::new();
    check_edges(root, &mut findings)?;
    let mut files = Vec::new();
    for folder in ["crates", "xtask"] {
        rust_files(&root.join(folder), &mut files)?;
    }
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        check_file(file.strip_prefix(root).unwrap_or(&file), &text, &mut findings);
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings:\n{}", findings.len(), findings.join("\n"))
}

fn check_edges(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let metadata = MetadataCommand::new().current_dir(root).other_options(["--locked".to_owned()]).no_deps().exec()?;
    let floors: BTreeMap<&str, u8> =
        FLOORS.iter().flat_map(|(floor, names)| names.iter().map(move |name| (*name, *floor))).collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some(floor) = floors.get(name) else {
            findings.push(format!("crate {name}: has no floor; give it one in xtask/src/tidy.rs and ARCHITECTURE.md"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let lower_only = floors.get(to).is_some_and(|below| below >= floor);
            // `machinery` may stand on `base`, and nothing else inside a floor.
            if lower_only && (name, to) != ("machinery", "base") {
                findings.push(format!("crate {name}: depends on {to}, which is not on a lower floor"));
            }
            if let Some((_, allowed, why)) = ONLY_IN.iter().find(|row| row.0 == to)
                && !allowed.contains(&name)
                && *floor < 5
                && !(dependency.kind == DependencyKind::Development && IN_TESTS.contains(&(name, to)))
            {
                findings.push(format!("crate {name}: depends on {to}, which only {allowed:?} may: {why}"));
            }
        }
    }
    Ok(())
}

fn check_file(path: &Path, text: &str, findings: &mut Vec<String>) {
    let shown = path.display();
    if !text.starts_with("//!") && !text.starts_with("// @generated") {
        findings.push(format!("{shown}: does not begin with //! that says what it makes true"));
    }
    let krate =
        path.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    // Where time is paused a sleep is no guess: it moves the clock.
    let in_tests = path.components().any(|part| part.as_os_str() == "tests") && !text.contains("start_paused = true");
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let mut finding = |what: &str| findings.push(format!("{shown}:{}: {what}", number + 1));
        if code.contains("unsafe {") && !UNSAFE_IN.contains(&krate.as_str()) && !path.starts_with("xtask") {
            finding("unsafe code outside the crate linux");
        }
        if code.starts_with("#[ignore") {
            finding("an ignored test");
        }
        if code.contains("tokio::time::sleep(") && in_tests {
            finding("a sleep in a test: wait for the event under a deadline");
        }
    }
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        run(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")).unwrap();
    }

    #[test]
    fn findings_are_found() {
        let mut findings = Vec::new();
        check_file(Path::new("crates/edge/src/x.rs"), "fn x() {\n    unsafe { y() }\n}\n", &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}
