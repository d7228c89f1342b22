//! What the runtime holds in memory of each sandbox and container: copies of the records on disk, and the state that shims
//! tell. The states are `watch` channels, so that whoever waits for an end is woken by it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cri::v1;
use tokio::sync::watch;

use crate::records::{ContainerRecord, Exit, SandboxRecord};
use crate::user::Identity;

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its shim is being started, or its network made.
    Starting,
    /// Containers can be started in it.
    Ready,
    /// Its shim has gone, and what it held is being ended.
    Ending,
    /// Its shim has gone, and nothing of it runs or is written any more.
    Gone,
}

/// A sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) record: SandboxRecord,
    pub(super) config: v1::PodSandboxConfig,
    pub(super) directory: PathBuf,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) addresses: Mutex<Vec<IpAddr>>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not started.
    Created,
    /// It runs since then (nanoseconds since 1970).
    Running(i64),
    /// It ended; the first number is when it was started, 0 where it never was.
    Exited(i64, Exit),
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) record: ContainerRecord,
    pub(super) config: Mutex<v1::ContainerConfig>,
    pub(super) identity: Option<Identity>,
    pub(super) directory: PathBuf,
    pub(super) state: watch::Sender<State>,
}

impl Container {
    pub(super) fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), State::Running(_))
    }

    pub(super) fn config(&self) -> v1::ContainerConfig {
        self.config.lock().expect("no holder of a configuration's lock panics").clone()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) sandboxes: BTreeMap<String, Arc<Sandbox>>,
    pub(super) containers: BTreeMap<String, Arc<Container>>,
}
