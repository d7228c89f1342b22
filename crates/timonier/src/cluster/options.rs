//! What a cluster can be told at its start. The defaults are a working cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use apiserver::audit::{AuditConfig, Policy};
use apiserver::authentication::static_tokens::StaticTokens;
use clap::Args;
use ipnet::Ipv4Net;

use super::node_options::NodeOptions;
use crate::data_dir::DataDir;

/// Flags of `timonier up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The port of the API server.
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub(crate) api_port: u16,
    /// The port of the node server, where the API server fetches logs and runs commands.
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// This node's name [default: the machine's host name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The address that pods and other machines reach this node under [default: the default route's].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// Where pods' addresses come from.
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub(crate) cluster_cidr: Ipv4Net,
    /// Where services' addresses come from.
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    pub(crate) service_cidr: Ipv4Net,
    /// Where addresses of Services of type LoadBalancer come from: `nodes` (their own), a range that is routed to the nodes, or
    /// `none`, where something else gives them.
    #[arg(long, value_name = "CIDR", default_value = "nodes")]
    load_balancer_pool: controllers::service_lb::Addresses,
    /// On which of the node's addresses node ports are, as ranges [default: all].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) nodeport_addresses: Vec<Ipv4Net>,
    /// The domain that services' names end with.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Lets in who shows a bearer token of this file: a line is `token,user,uid,"group,group"`.
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// Which requests `audit.log` in the data directory tells of, as an audit.k8s.io/v1 Policy [default: writes, commands in
    /// pods, reads of secrets].
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Mirrors, certificates and credentials of image registries, as k3s' registries.yaml [default: registries.yaml in the
    /// data directory, where it is there].
    #[arg(long, value_name = "FILE")]
    registries_config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) node: NodeOptions,
}

/// How many of the cluster's addresses each node gets.
pub(super) const NODE_PREFIX: u8 = 24;

impl Options {
    /// The node's name: given, or the machine's host name in lower case.
    pub(super) fn node_name(&self) -> Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().to_lowercase(),
        };
        match machinery::names::dns1123_subdomain(&name).into_iter().next() {
            None => Ok(name),
            Some(why) => anyhow::bail!("the node name {name:?} cannot be used: {why}; choose another with --node-name"),
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

    /// Where images come from: the file, and the proxies that the environment names.
    pub(super) fn registries(&self, data: &DataDir) -> Result<runtime::registry::Config> {
        let default = data.path("registries.yaml");
        let path = self.registries_config.as_ref().unwrap_or(&default);
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.registries_config.is_none() => {
                String::new()
            }
            read => read.with_context(|| format!("cannot read the registries' configuration {}", path.display()))?,
        };
        let unusable = || format!("cannot use the registries' configuration {}", path.display());
        let mut config = match text.trim().is_empty() {
            true => runtime::registry::Config::default(),
            false => serde_saphyr::from_str(&text).with_context(unusable)?,
        };
        config.check().with_context(unusable)?;
        let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok());
        config.proxies = runtime::registry::Proxies {
            http: variable(["http_proxy", "HTTP_PROXY"]),
            https: variable(["https_proxy", "HTTPS_PROXY"]),
            none: variable(["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        };
        Ok(config)
    }

    /// What Services of type LoadBalancer get, and what they may not have.
    pub(super) fn load_balancers(&self) -> controllers::service_lb::LoadBalancers {
        let reserved_ports = [self.api_port, self.kubelet_port].into();
        controllers::service_lb::LoadBalancers { addresses: self.load_balancer_pool, reserved_ports }
    }

    /// The address of the Service `kubernetes`: the first of its range.
    pub(super) fn kubernetes_service_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 1)
    }

    /// The address of the cluster's DNS.
    pub(super) fn dns_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 10)
    }

    /// The gateway of the first node's pods.
    pub(super) fn first_gateway(&self) -> Ipv4Addr {
        nth(self.cluster_cidr, 1)
    }
}

fn nth(net: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() + number)
}
