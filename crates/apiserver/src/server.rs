//! The server: what all requests share.

use std::sync::Arc;

use crate::watch_cache::Caches;
use crate::{Access, Config};

/// A running API server.
pub struct Server {
    config: Arc<Config>,
    caches: Arc<Caches>,
    access: Arc<Access>,
}

impl Server {
    /// How the server was started.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The objects of all resources.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// Who may come in and what they may do there.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }
}
