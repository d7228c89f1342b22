//! SPDY/3.1, as far as Kubernetes' sessions use it: streams over one upgraded connection.
//!
//! [`frame`] is pure; [`connection`] moves its frames.

pub mod connection;
mod dictionary;
pub mod frame;

pub use connection::{Config, Connection, Reader, Role, Stream, Writer, start};
pub use frame::Headers;

/// What the `Upgrade` header says.
pub const TOKEN: &str = "SPDY/3.1";
