//! How a component works with the API: a client over HTTP or in process, shared informer caches, work queue and reconcile
//! driver, leases, events, and the harness that tests controllers.
//!
//! Every component sees the world through this crate, also in the API server's own process: same path, same authorization.

pub mod cache;
pub mod changes;
pub mod client;
pub mod driver;
pub mod events;
pub mod harness;
pub mod http_transport;
pub mod informer;
pub mod kubeconfig;
pub mod lease;
pub mod metrics;
pub mod queue;
pub mod served;
pub mod transport;
mod unverified;
pub mod watch;

pub use cache::{Cache, CustomIndex};
pub use changes::{Change, Changes};
pub use client::{Client, ClientError, DeleteOptions, List, PatchType, Propagation, WatchScope, Written};
pub use driver::{Component, Controller, Ctx, Descriptor, Next, ReconcileError, Trigger, Writes};
pub use events::{EventType, ObjectReference, Recorder};
pub use http_transport::{HttpTransport, HttpTransportError};
pub use informer::Informers;
pub use lease::{LeaderElector, Timing};
pub use queue::Queue;
pub use served::{Served, ServedResources};
pub use transport::{Body, Transport, TransportError};
pub use unverified::unverified_tls;
