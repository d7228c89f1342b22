//! Work to give a cluster: a small image, and load on its API and its nodes. It sees only the public API.

pub mod image;
pub mod load;
