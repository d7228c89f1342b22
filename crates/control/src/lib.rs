//! How a component works with the API: a client over HTTP or in process, shared informer caches, work queue and reconcile
//! driver, leases, events, and the harness that tests controllers.
//!
//! Every component sees the world through this crate, also in the API server's own process: same path, same authorization.

pub mod client;
pub mod informer;
pub mod transport;

pub use client::{Client, ClientError, DeleteOptions, List, PatchType, Propagation};

pub use transport::{Body, Transport, TransportError};
