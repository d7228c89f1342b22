//! The API server: authentication, authorization, admission, watch cache, registry, discovery.

pub mod authentication;
