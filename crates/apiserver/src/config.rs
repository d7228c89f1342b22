//! What the binary hands to the API server, and why a start can fail.

use std::net::SocketAddr;
use std::sync::Arc;

use base::metrics::Family;
use base::{Random, SharedClock};
use bytes::Bytes;
use ipnet::IpNet;

use crate::audit::AuditConfig;
use crate::authentication::static_tokens::StaticTokens;
use crate::encryption::EncryptionKeys;

use crate::limits::Limits;
use crate::registry::core::component_status::Component;

/// Everything that the server is started with. Flags and files are read by the binary.
#[derive(Clone)]
pub struct Config {
    /// Where objects are kept. Nobody else opens it.
    pub store: Arc<dyn store::Store>,
    /// Time stamps of objects, and the age of tokens.
    pub clock: SharedClock,
    /// Generated names.
    pub random: Random,
    /// The listener's certificate and key. Client certificates are optional and, where given, verified against the client
    /// CA by this configuration. ALPN is set by the server.
    pub tls: Arc<rustls::ServerConfig>,
    /// The CA that clients, pods too, verify the server by.
    pub ca_pem: Bytes,
    /// The key that signs service account tokens: ECDSA P-256, PKCS 8, PEM.
    pub service_account_key_pem: Bytes,
    /// The issuer of service account tokens, such as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Where cluster addresses of services come from. The first address is the `kubernetes` service's.
    pub service_cidr: IpNet,
    /// Where their second addresses come from, of the other family; `None` in a cluster of one family.
    pub service_cidr_second: Option<IpNet>,
    /// The first and last node port.
    pub node_port_range: (u16, u16),
    /// Where other machines and pods reach this server.
    pub advertise: SocketAddr,
    /// How the server calls kubelets: trusts their CA and shows a client certificate.
    pub kubelet_client: Arc<rustls::ClientConfig>,
    /// What `/version` says.
    pub version: Version,
    /// Bearer tokens from a file.
    pub static_tokens: StaticTokens,
    /// The audit log; `None` for none.
    pub audit: Option<AuditConfig>,
    /// What secrets are sealed with in the store.
    pub encryption: Arc<EncryptionKeys>,
    /// How much clients may ask.
    pub limits: Limits,
    /// What `/metrics` shows besides the server's own: the other components of the process.
    pub metrics: Vec<&'static dyn Family>,
    /// The other components of the process, for `kubectl get componentstatuses`.
    pub components: Vec<Component>,
}

/// What `/version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Such as `v1.36.2+timonier0.1.0`.
    pub git_version: String,
    /// The commit that was built; empty when unknown.
    pub git_commit: String,
    /// RFC 3339; empty when unknown.
    pub build_date: String,
    /// Such as `linux/amd64`.
    pub platform: String,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not answer.
    #[error("cannot read the datastore")]
    Store(#[from] store::StoreError),
    /// An object that every cluster has could not be written.
    #[error("cannot write bootstrap object {path}")]
    Bootstrap {
        /// The object's URL path.
        path: String,
        /// Why.
        #[source]
        source: api::ApiError,
    },
    /// The service account key cannot be used.
    #[error("cannot use the service account signing key: {0}")]
    SigningKey(String),
    /// The service CIDR cannot be used.
    #[error("service CIDR {0} is too small or too large: give a prefix of 12 to 28 bits for IPv4")]
    ServiceCidr(IpNet),
}
