//! How a runtime asks for a pod's network, in the terms of CNI's ADD and DEL.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;

/// A pod sandbox that wants an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The sandbox's id, unique on the node: addresses are held under it.
    pub sandbox_id: String,
    /// The pod's network namespace, as a file such as `/proc/PID/ns/net` or a bind mount.
    pub namespace_path: PathBuf,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Ports of the node that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The node's address; every one, where none.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// A pod's network could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the network of sandbox {sandbox_id}")]
pub struct NetworkError {
    /// `attach` or `detach`.
    pub action: &'static str,
    /// The sandbox.
    pub sandbox_id: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Gives pods their addresses. Both calls may be repeated after a crash at any point.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Makes `eth0` and the loopback in the sandbox's network namespace; returns its addresses, the primary one first. A
    /// sandbox that is attached already gets the addresses that it has.
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError>;
    /// Removes what `attach` made and frees the addresses; nothing happens where nothing is.
    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError>;
    /// Whether pods could be attached now; the error says what is missing.
    async fn status(&self) -> Result<(), NetworkError> {
        Ok(())
    }
    /// The sandboxes that are attached, where the network keeps a list of them.
    async fn attached(&self) -> Result<Vec<String>, NetworkError> {
        Ok(Vec::new())
    }
}
