//! Strategies of the `apps` group.

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod stateful_set;

pub(in crate::registry) mod workload;

#[cfg(test)]
mod tests;
