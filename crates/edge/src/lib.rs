//! What a cluster shows at its edge: cluster DNS.

pub mod dns;
pub mod ingress;
