//! The first process of a pod whose containers share one process namespace: it adopts orphans and collects them, and lives
//! as long as the shim.

use std::os::fd::OwnedFd;

use linux::process::{self, Forked};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, WaitOptions};

use super::launch::{LaunchError, step};

/// Forks the first process; returns its id and the namespace it opened.
pub(super) fn start() -> Result<(Pid, OwnedFd), LaunchError> {
    let fork = || match process::fork()? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            hold();
            process::exit_now(0)
        }
    };
    let pid = process::with_children_in(None, fork).map_err(step("first process of the pod"))?;
    let namespace = process::namespace_of(Some(pid), "pid").map_err(step("process namespace"))?;
    Ok((pid, namespace))
}

/// Collects whoever ends, until the shim does.
fn hold() {
    let _ = process::die_with_parent();
    let _ = rustix::thread::set_name(c"pause");
    let _ = process::close_from(0);
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    // The signal stays blocked, as the shim left it: a child that ends between two waits is not missed.
    while children.wait().is_ok() {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
