//! The API server: authentication, authorization, admission, watch cache, registry, discovery.
//!
//! One request path, [`request`], serves the listener and the components in this process alike. What is read comes from
//! the [`watch_cache`]; what is written goes through the [`registry`]'s strategies into the store.

pub mod access;
pub mod admission;
pub mod authentication;
pub mod authorization;
pub mod config;
pub mod invalid;
pub mod registry;
pub mod tokens;
pub mod watch_cache;

mod server;

pub use access::Access;
pub use config::{Config, StartError, Version};
pub use server::Server;
