//! The server: what all requests share.

use std::sync::Arc;

use crate::Config;
use crate::watch_cache::Caches;

/// A running API server.
pub struct Server {
    config: Arc<Config>,
    caches: Arc<Caches>,
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
}
