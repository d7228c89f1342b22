//! The Debian packages that building and testing need. On other systems the missing programs are named.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program, and the packages that bring it, tried in order.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    why: &'static str,
}

const BUILD: &[Need] = &[Need { program: "cc", packages: &["build-essential"], why: "some libraries hold C" }];

const TEST: &[Need] = &[
    Need { program: "ip", packages: &["iproute2"], why: "tests make network namespaces" },
    Need { program: "nsenter", packages: &["util-linux"], why: "tests enter network namespaces" },
    Need { program: "/bin/busybox", packages: &["busybox-static"], why: "test images are made from it" },
    Need { program: "nft", packages: &["nftables"], why: "tests read the kernel's rules" },
    Need { program: "runc", packages: &["runc"], why: "a test runs pods with an installed OCI runtime" },
    Need { program: "crun", packages: &["crun"], why: "a test runs pods with an installed OCI runtime" },
    Need {
        program: "/usr/lib/cni/bridge",
        packages: &["containernetworking-plugins"],
        why: "a test gives pods their network by plugins of others",
    },
    Need {
        program: "/usr/lib/python3/dist-packages/kubernetes",
        packages: &["python3-kubernetes"],
        why: "tests drive the API with the Python client",
    },
];

/// What building needs.
pub(crate) fn install_for_build() -> Result<()> {
    install(BUILD)
}

/// What building and testing need.
pub(crate) fn install_for_tests() -> Result<()> {
    install(BUILD)?;
    install(TEST)?;
    if kubectl_minor().is_none_or(|minor| minor < 30) {
        install_kubectl()?;
    }
    Ok(())
}

/// The minor version of the `kubectl` on the path.
pub(crate) fn kubectl_minor() -> Option<u32> {
    let output = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let minor = version["clientVersion"]["minor"].as_str()?;
    minor.trim_end_matches(|letter: char| !letter.is_ascii_digit()).parse().ok()
}

fn install_kubectl() -> Result<()> {
    println!("kubectl 1.30 or newer is missing: trying the package sources");
    for package in ["kubectl", "kubernetes-client"] {
        if apt(&["install", "-y", "-qq", package]).is_ok() && kubectl_minor().is_some_and(|minor| minor >= 30) {
            return Ok(());
        }
    }
    bail!("no kubectl 1.30 or newer here, and the package sources offer none: install one and put it on the path")
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !present(need.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages).copied().collect();
    println!("installing {}", packages.join(" "));
    let installed =
        apt(&["update", "-qq"]).and_then(|()| apt(&[&["install", "-y", "-qq"], packages.as_slice()].concat()));
    installed.with_context(|| {
        let list: Vec<_> = missing.iter().map(|need| format!("{} ({})", need.program, need.why)).collect();
        format!("please install by hand: {}", list.join(", "))
    })
}

fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn apt(args: &[&str]) -> Result<()> {
    let status =
        Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()).status();
    let status = status.context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", args.join(" "));
    }
    Ok(())
}
