//! Certificate signing requests: who approves, signs and clears them away.

pub mod approving;
pub mod authority;
pub mod cleaner;
mod request;
pub mod serving;
pub mod signing;

/// Upstream has one service account for all that writes certificate signing requests.
pub const IDENTITY: &str = "certificate-controller";
