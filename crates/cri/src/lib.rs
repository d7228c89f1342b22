//! The contracts between the parts of a node, which never import each other: the kubelet calls a [`Runtime`], an embedded
//! runtime or one behind a socket; a runtime calls a [`PodNetwork`], the built-in one or CNI plugins.
//!
//! Messages are those of the container runtime interface, `runtime.v1`. Public behaviour is defined by its proto file's
//! service descriptions: every call is idempotent where CRI says so (stopping what is stopped, removing what is gone).

#[expect(missing_docs, clippy::all, reason = "generated messages; the CRI defines their meaning")]
pub mod v1;

pub mod cni;
mod network;
mod reference;
mod remote;
mod runtime;
mod serve;

pub use network::{AttachRequest, NetworkError, PodNetwork, PortMapping};
pub use reference::{Reference, ReferenceError, is_digest};
pub use remote::{EndpointError, Remote};
pub use runtime::{ContainerChange, ExecStart, Runtime, RuntimeError};
pub use serve::{ServeError, listen_privately, serve};
pub use streams::{BoxDuplex, ExecSession, Input, Output, TerminalSize};

/// Paths that containers see nothing of, unless they are privileged or ask for all of `/proc`: what the kubelet says, and
/// what a runtime does where nobody says anything.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that containers cannot write to, likewise.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
