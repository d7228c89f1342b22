//! Cluster DNS: names of services, endpoints and pods, answered from an index that informers keep up to date; all other names
//! go to the machine's own name servers.
//!
//! [`index`] holds what is known, [`answer`] answers from it (a pure function), [`respond`] turns a question's bytes into an
//! answer's by [`wire`], [`forward`] asks others and remembers what they say. Until the informers have seen everything,
//! cluster names get SERVFAIL and not a wrong "no such name", which clients would remember; other names are answered.
//!
//! Public behaviour: "Kubernetes DNS-Based Service Discovery", version 1.1.0.

pub mod answer;
mod cache;
mod exchange;
pub mod forward;
pub mod index;
pub mod metrics;
pub mod respond;
mod server;
mod tcp;
mod udp;
pub mod wire;

#[cfg(test)]
mod tests;

pub use server::{Config, DnsError, run};
