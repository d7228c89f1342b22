//! What must be so before a cluster starts, each with a sentence that says what to do.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Lets this process open as many files as it may: each connection is one, and the usual soft limit is 1,024.
pub(crate) fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// Enough for a start and some work; with less, the first image import would fail half-way.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Pods need namespaces, mounts and cgroups.
pub(crate) fn check_root(command: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "`timonier {command}` must run as root, since pods need namespaces, mounts and cgroups: try `sudo timonier {command}`"
        );
    }
    Ok(())
}

/// A full disk is found before anything is written.
pub(crate) fn check_disk(path: &Path) -> Result<()> {
    let stat =
        nix::sys::statvfs::statvfs(path).with_context(|| format!("cannot look at the disk of {}", path.display()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    if free < FREE_BYTES_MIN {
        bail!(
            "the disk of {} is full ({} MiB free, at least {} needed): free some space, or choose another --data-dir",
            path.display(),
            free >> 20,
            FREE_BYTES_MIN >> 20
        );
    }
    Ok(())
}

/// Opens a port, or says that it is taken.
pub(crate) fn listen(port: u16, flag: &str) -> Result<std::net::TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = std::net::TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {port} is in use by another program: stop it (`ss -ltnp sport = {port}` shows it), or choose another port with {flag}"
        ),
        _ => anyhow::Error::from(error).context(format!("cannot listen on {address}")),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = listen(0, "--api-port").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(port, "--api-port").unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--api-port"), "{error}");
    }
}
