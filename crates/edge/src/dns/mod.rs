//! Cluster DNS: names of services, endpoints and pods, answered from an index that informers keep up to date; all other names
//! go to the machine's own name servers.
//!
//! [`index`] holds what is known, [`answer`] answers from it (a pure function), [`forward`] asks others, [`server`] speaks
//! the protocol over UDP and TCP. Until the informers have seen everything, cluster names get SERVFAIL and not a wrong "no
//! such name", which clients would remember.
//!
//! Public behaviour: "Kubernetes DNS-Based Service Discovery", version 1.1.0.

pub mod answer;
pub mod forward;
pub mod index;
mod server;

#[cfg(test)]
mod tests;

pub use server::{Config, DnsError, run};
