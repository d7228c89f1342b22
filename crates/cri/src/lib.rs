//! The contracts between the parts of a node, which never import each other: the kubelet calls a [`Runtime`], an embedded
//! runtime or one behind a socket; a runtime calls a [`PodNetwork`], the built-in one or CNI plugins.
//!
//! Messages are those of the container runtime interface, `runtime.v1`. Public behaviour is defined by its proto file's
//! service descriptions: every call is idempotent where CRI says so (stopping what is stopped, removing what is gone).

#[expect(missing_docs, clippy::all, reason = "generated messages; the CRI defines their meaning")]
pub mod v1;

mod network;
mod runtime;

pub use network::{AttachRequest, NetworkError, PodNetwork};
pub use runtime::{ContainerChange, ExecSession, ExecStart, Input, Output, Runtime, RuntimeError, TerminalSize};
