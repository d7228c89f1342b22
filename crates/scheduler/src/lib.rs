//! The scheduler: gives each pod that has no node the best one.
//!
//! [`image`] is the cluster as placement needs it, changed by events and never rebuilt. [`cycle`] places one pod, a pure
//! function of image and pod, by [`plugins`]; where that fails [`preemption`] finds pods of lower priority that may go; [`explain`]
//! says all of it to a person. [`queue`] holds the pods that wait. [`run`] joins them to the API: one task owns
//! image and queue, so nothing is locked; writes (bindings, conditions) are pipelined beside it.
//!
//! Only pods of the scheduler `default-scheduler` are placed; all are counted. A pod is counted on its node from the moment
//! it is placed, before it is bound, so that no node is given twice.
//!
//! A pod whose claims have no volumes yet reserves them where it was placed, and is bound when they are.
//!
//! Not here: dynamic resources, profiles and extenders.
//!
//! Public behaviour: "Scheduling, Preemption and Eviction" in the Kubernetes documentation.

pub mod budgets;
pub mod companions;
pub mod cycle;
mod driver;
pub mod explain;
pub mod facts;
pub mod image;
pub mod intern;
pub mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod volumes;
mod waiting;
mod wire;
mod writes;

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod preference_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;

pub use driver::{Config, run};
