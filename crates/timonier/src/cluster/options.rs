//! What a cluster can be told at its start. The defaults are a working cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use apiserver::audit::{AuditConfig, Policy};
use apiserver::authentication::static_tokens::StaticTokens;
use clap::Args;
use ipnet::Ipv4Net;

use super::node_options::NodeOptions;
use super::settings::{PodNetwork, Settings};
use crate::data_dir::DataDir;

/// Flags of `timonier up` and `timonier server`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The port of the API server.
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub(crate) api_port: u16,
    /// Another name or address that the API server is reached under; may be given several times.
    #[arg(long = "tls-san", value_name = "NAME")]
    pub(crate) tls_sans: Vec<String>,
    /// Where pods' addresses come from.
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    cluster_cidr: Ipv4Net,
    /// Where services' addresses come from.
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    service_cidr: Ipv4Net,
    /// Where addresses of Services of type LoadBalancer come from: `nodes` (their own), a range that is routed to the nodes, or
    /// `none`, where something else gives them.
    #[arg(long, value_name = "CIDR", default_value = "nodes")]
    load_balancer_pool: controllers::service_lb::Addresses,
    /// Where requests to Ingresses come; 0 serves none.
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub(super) ingress_http_port: u16,
    /// Where requests to Ingresses come over TLS; 0 serves none.
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub(super) ingress_https_port: u16,
    /// The domain that services' names end with.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// How packets get to the pods of other nodes.
    #[arg(long, value_enum, default_value_t = PodNetwork::Vxlan)]
    pod_network: PodNetwork,
    /// How long a node may be without a life sign until its state is unknown.
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = duration)]
    pub(crate) node_monitor_grace_period: Duration,
    /// How long the certificates last that nodes and others ask for.
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    pub(crate) cluster_signing_duration: Duration,
    /// Lets in who shows a bearer token of this file: a line is `token,user,uid,"group,group"`.
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// Which requests `audit.log` in the data directory tells of, as an audit.k8s.io/v1 Policy [default: writes, commands in
    /// pods, reads of secrets].
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

/// How many of the cluster's addresses each node gets.
pub(super) const NODE_PREFIX: u8 = 24;

impl Options {
    /// What all nodes must know.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            cluster_domain: self.cluster_domain.clone(),
            pod_network: self.pod_network,
        }
    }

    /// Where the audit log is written, and what is logged.
    pub(super) fn audit(&self, data: &DataDir) -> Result<AuditConfig> {
        let policy = match &self.audit_policy_file {
            None => Policy::standard(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.with_context(|| format!("cannot read the audit policy {}", path.display()))?;
                Policy::parse(&text).with_context(|| format!("cannot use the audit policy {}", path.display()))?
            }
        };
        Ok(AuditConfig { policy, path: data.path("audit.log") })
    }

    /// The tokens of `--token-auth-file`.
    pub(super) fn static_tokens(&self) -> Result<StaticTokens> {
        let Some(path) = &self.token_auth_file else { return Ok(StaticTokens::default()) };
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read the token file {}", path.display()))?;
        StaticTokens::parse(&text).with_context(|| format!("cannot use the token file {}", path.display()))
    }

    /// What Services of type LoadBalancer get, and what they may not have.
    pub(super) fn load_balancers(&self) -> controllers::service_lb::LoadBalancers {
        let reserved_ports = [self.api_port, self.node.kubelet_port].into();
        controllers::service_lb::LoadBalancers { addresses: self.load_balancer_pool, reserved_ports }
    }
}

/// Such as `50s`, `5m` or `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a duration such as 50s, 5m or 1h30m".to_owned())?;
    Duration::try_from(parsed)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "must be more than nothing".to_owned())
}
