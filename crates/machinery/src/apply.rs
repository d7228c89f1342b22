//! Server-side apply: who owns which field of an object, and what follows when another applies a configuration.
//!
//! [`schema`] says how a type is owned; [`Set`] is a set of fields, [`compare`] finds what a change touches, [`merge`] brings a
//! configuration in; [`Tracker`] puts them together for a write. All are pure functions on JSON trees.
//!
//! Public behaviour: "Server-Side Apply" in the Kubernetes documentation, KEP-555, and sigs.k8s.io/structured-merge-diff,
//! whose field sets and error texts clients see.

pub mod compare;
pub mod conflict;
mod fields_v1;
pub mod last_applied;
pub mod managers;
pub mod merge;
pub mod path;
pub mod scale;
pub mod schema;
pub mod set;
pub mod tracker;
pub mod typed;

#[cfg(test)]
mod tests;

pub use conflict::Conflicts;
pub use managers::{Manager, Managers, Operation};
pub use set::Set;
pub use tracker::{Applied, ApplyError, Tracker, Versions, Writer};
