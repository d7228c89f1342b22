//! A pod network whose range comes from the API: calls wait until the node has one.
//!
//! The kubelet registers the node through a runtime that needs a network, and the network needs the range that the node is
//! given after it is registered. Host-network pods need none of this and do not wait.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use cri::{AttachRequest, NetworkError, PodNetwork};
use tokio::sync::watch;

/// Waits for the network that its other half brings.
#[derive(Clone)]
pub(super) struct LateNetwork(watch::Receiver<Option<Arc<dyn PodNetwork>>>);

/// Brings the network, once.
pub(super) type Bring = watch::Sender<Option<Arc<dyn PodNetwork>>>;

/// A network that is not there yet, and what brings it.
pub(super) fn late_network() -> (Bring, LateNetwork) {
    let (bring, there) = watch::channel(None);
    (bring, LateNetwork(there))
}

impl LateNetwork {
    /// For who does not wait.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<dyn PodNetwork>>> {
        self.0.clone()
    }

    async fn there(&self, action: &'static str, sandbox_id: &str) -> Result<Arc<dyn PodNetwork>, NetworkError> {
        let mut there = self.0.clone();
        let network = there.wait_for(Option::is_some).await.ok().and_then(|network| network.clone());
        network.ok_or_else(|| {
            let source = "the node stops before it was given a pod CIDR".into();
            NetworkError { action, sandbox_id: sandbox_id.to_owned(), source }
        })
    }
}

#[async_trait]
impl PodNetwork for LateNetwork {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        self.there("attach", &request.sandbox_id).await?.attach(request).await
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        self.there("detach", sandbox_id).await?.detach(sandbox_id).await
    }

    /// One that is not there yet is no reason to keep pods away: they wait.
    async fn status(&self) -> Result<(), NetworkError> {
        let network = self.0.borrow().clone();
        match network {
            Some(network) => network.status().await,
            None => Ok(()),
        }
    }

    async fn attached(&self) -> Result<Vec<String>, NetworkError> {
        self.there("look at", "").await?.attached().await
    }
}
