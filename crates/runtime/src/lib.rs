//! The embedded container runtime behind CRI: images and their layers, sandboxes, containers, and the shim that holds them.
//!
//! [`Embedded`] lives in the node agent's process and keeps what it knows on disk; each pod's processes belong to a shim
//! ([`shim::main`]), a small process of the same binary that outlives it. Nothing of a pod depends on this process: after a
//! restart [`Embedded::open`] finds the shims again. Whatever was killed wherever, stopping and removing clean up all of it.
//!
//! CRI's proto file defines what the calls mean, the OCI image and runtime specifications what images and containers are.

pub mod embedded;
mod handlers;
pub mod images;
mod records;
pub mod registry;
mod seccomp;
pub mod shim;
mod spec;
mod user;

pub use embedded::{Config, Embedded, OpenError, ResetError, remove_all};
pub use handlers::Handlers;
pub use records::RecordError;
