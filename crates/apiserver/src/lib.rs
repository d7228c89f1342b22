//! The API server: authentication, authorization, admission, watch cache, registry, discovery.
//!
//! One request path, [`request`], serves the listener and the components in this process alike. What is read comes from
//! the [`watch_cache`]; what is written goes through the [`registry`]'s strategies into the store.

pub mod access;
pub mod admission;
pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod config;
pub mod conversion;
pub mod custom;
pub mod fields;
pub mod invalid;
pub mod limits;
pub mod metrics;
pub mod registry;
pub mod request;
mod resource_metrics;
pub mod table;
pub mod tokens;
pub mod watch_cache;

mod backup;
mod bootstrap;
mod discovery;
mod encryption;
mod expiry;
mod flow;
mod health;
mod kubelet_proxy;
mod listener;
mod openapi;
mod server;
mod stall;
mod transport;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use config::{Config, StartError, Version};
pub use encryption::{EncryptionKeys, KeysError};
pub use limits::Limits;
pub use server::{Served, Server};
