//! What all nodes of a cluster must agree on: the server's flags, which it writes into the ConfigMap `timonier-nodes` in
//! `kube-system` for nodes to read.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ipnet::Ipv4Net;
use network::overlay::Mode;
use serde_json::{Value, json};

/// The ConfigMap.
pub(crate) const CONFIG_MAP: (&str, &str) = ("kube-system", "timonier-nodes");

/// How packets get to the pods of other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PodNetwork {
    /// In UDP (port 8472): the network between the nodes needs to know nothing of pods.
    Vxlan,
    /// As they are, by a route to each node: faster, but all nodes must share a link.
    HostRoutes,
    /// As installed network plugins see to it: see --cni-conf-dir and --cni-bin-dir of each node.
    Cni,
}

impl PodNetwork {
    /// None where it is not ours.
    pub(crate) fn mode(self) -> Option<Mode> {
        match self {
            Self::Vxlan => Some(Mode::Vxlan),
            Self::HostRoutes => Some(Mode::HostRoutes),
            Self::Cni => None,
        }
    }
}

/// What nodes agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where pods' addresses come from.
    pub(crate) cluster_cidr: Ipv4Net,
    /// Where services' addresses come from.
    pub(crate) service_cidr: Ipv4Net,
    /// The domain that services' names end with.
    pub(crate) cluster_domain: String,
    /// How packets get to other nodes.
    pub(crate) pod_network: PodNetwork,
}

impl Settings {
    /// As the ConfigMap has them.
    pub(crate) fn to_data(&self) -> Value {
        let network = self.pod_network.to_possible_value().map(|value| value.get_name().to_owned());
        json!({"clusterCIDR": self.cluster_cidr.to_string(), "serviceCIDR": self.service_cidr.to_string(),
            "clusterDomain": self.cluster_domain, "podNetwork": network})
    }

    /// Reads them back.
    pub(crate) fn from_data(data: &Value) -> Result<Self> {
        let text = |field: &str| data[field].as_str().with_context(|| format!("the cluster's {field} is missing"));
        let cidr = |field: &str| text(field)?.parse().with_context(|| format!("the cluster's {field} is no CIDR"));
        let network = text("podNetwork")?;
        let known = PodNetwork::from_str(network, false);
        Ok(Self {
            cluster_cidr: cidr("clusterCIDR")?,
            service_cidr: cidr("serviceCIDR")?,
            cluster_domain: text("clusterDomain")?.to_owned(),
            pod_network: known.ok().with_context(|| {
                format!("the cluster's pod network {network:?} is not known here: use the same version on all nodes")
            })?,
        })
    }

    /// The address of the Service `kubernetes`: the first of its range.
    pub(crate) fn kubernetes_service_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 1)
    }

    /// The address of the cluster's DNS.
    pub(crate) fn dns_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 10)
    }

    /// The gateway of the first node's pods.
    pub(crate) fn first_gateway(&self) -> Ipv4Addr {
        nth(self.cluster_cidr, 1)
    }
}

fn nth(net: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_read_what_the_server_writes() {
        let settings = Settings {
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            pod_network: PodNetwork::HostRoutes,
        };
        assert_eq!(Settings::from_data(&settings.to_data()).unwrap(), settings);
        let mut newer = settings.to_data();
        newer["podNetwork"] = "wormhole".into();
        assert!(Settings::from_data(&newer).unwrap_err().to_string().contains("wormhole"));
    }
}
