//! The built-in pod network: every pod of this node hangs on one bridge.
//!
//! A pod's `eth0` has its address as a /32 and reaches everything, its neighbours too, through the gateway, which is the
//! node. So every packet between two pods is routed by the node, where connection tracking sees both directions: a service
//! works between pods of one node whether or not bridged frames are shown to netfilter (`br_netfilter`). Hairpin mode on the
//! pod's port is for the machines that do show them.
//!
//! The bridge also bears the cluster's DNS address, so that pods reach the node's own DNS server, and a route for the
//! service range, so that the node itself reaches services where it has no default route.
//!
//! What a pod sends out of the cluster gets the node's address. An address is closed or under its policies before the pod's
//! link is there ([`crate::policy`]), and the pod's ports of the node lead to it after ([`crate::host_ports`]). Not here: ways
//! to other nodes' pods ([`crate::overlay`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use base::Stop;
use cri::{AttachRequest, NetworkError, PodNetwork};
use ipnet::Ipv4Net;
use linux::net::nft::{self, Change, Hook};
use linux::net::{Bridge, Net, NetError, Route, Veth};
use sha2::{Digest, Sha256};

use crate::addresses::{AddressError, Addresses, gateway};
use crate::policy::{Gate, GateError};
use crate::sandboxes::{Records, Sandbox};
use crate::{BRIDGE, LINK_PREFIX, TABLE, hardware_address, host_ports};

/// What Ethernet carries, where no default route says otherwise.
const MTU_DEFAULT: u32 = 1500;

/// The directory, below the one of the addresses, of what is attached.
const SANDBOXES: &str = "sandboxes";

const POSTROUTING: &str = "pods-postrouting";
const PREROUTING: &str = "pods-prerouting";
const OUTPUT: &str = "pods-output";

/// What [`PodNetworkBuiltIn::start`] is given.
#[derive(Clone)]
pub struct PodNetworkConfig {
    /// The network namespace that the node lives in.
    pub net: Arc<dyn Net>,
    /// Where held addresses are written: one directory of its own.
    pub state_dir: PathBuf,
    /// This node's part of the cluster's range (`Node.spec.podCIDR`); its first address becomes the gateway.
    pub pod_cidr: Ipv4Net,
    /// All pods' addresses, on every node.
    pub cluster_cidr: Ipv4Net,
    /// All services' addresses.
    pub service_cidr: Ipv4Net,
    /// The address that the node's own DNS server answers on for pods.
    pub cluster_dns: Option<Ipv4Addr>,
    /// The pods' largest packet, in bytes; none: that of the default route's link.
    pub mtu: Option<u32>,
    /// Who puts a pod's address under its policies before it is used; none: nobody does.
    pub policies: Option<Gate>,
}

/// The pod network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused.
    #[error("cannot set up the pod network")]
    Net(#[from] NetError),
    /// The held addresses could not be read.
    #[error("cannot read which addresses are held")]
    Addresses(#[from] AddressError),
    /// The node's range has no room.
    #[error("pod CIDR {0} has no room for pods: give the node a /29 or larger")]
    TooSmall(Ipv4Net),
}

/// The built-in pod network.
pub struct PodNetworkBuiltIn {
    net: Arc<dyn Net>,
    rules: Vec<Change>,
    addresses: Arc<Addresses>,
    mtu: u32,
    policies: Option<Gate>,
    records: Records,
    attached: Mutex<BTreeMap<String, Sandbox>>,
    /// What the kernel has of host ports; `None`: unknown. One change after the other, hence held across the call.
    programmed: tokio::sync::Mutex<Option<BTreeMap<String, Sandbox>>>,
}

impl PodNetworkBuiltIn {
    /// Makes the bridge, its addresses, routes and rules, or repairs what is there, and reads which addresses are held.
    /// Pods that are attached stay so.
    pub async fn start(config: PodNetworkConfig) -> Result<Self, StartError> {
        if config.pod_cidr.prefix_len() > 29 {
            return Err(StartError::TooSmall(config.pod_cidr));
        }
        let net = config.net.clone();
        let (directory, range) = (config.state_dir.clone(), config.pod_cidr);
        let opened =
            blocking(move || Ok((Addresses::open(&directory, range)?, Records::open(&directory.join(SANDBOXES))?)));
        let (addresses, (records, mut attached)) = opened.await?;
        // Whose address was taken back, or is from another range, is no longer attached.
        attached.retain(|id, sandbox| addresses.of(id) == Some(sandbox.address));
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => uplink_mtu(net.as_ref()).await?,
        };
        crate::ensure_loopback_up(net.as_ref()).await?;
        make_bridge(&config, mtu).await?;
        for (name, value) in sysctls() {
            net.set_sysctl(&name, value).await?;
        }
        let rules = rules(&config);
        net.commit(TABLE, &rules).await?;
        let pods = Self {
            net,
            rules,
            addresses: Arc::new(addresses),
            mtu,
            policies: config.policies,
            records,
            attached: Mutex::new(attached),
            programmed: tokio::sync::Mutex::default(),
        };
        pods.program_host_ports().await?;
        Ok(pods)
    }

    /// What is attached.
    pub fn attached(&self) -> Vec<Sandbox> {
        self.lock().values().cloned().collect()
    }

    /// Puts the rules back whenever someone else removes them, until `stop`. Ends with an error where that fails: to be
    /// started again with back-off.
    pub async fn keep(&self, stop: Stop) -> Result<(), NetError> {
        tokio::try_join!(self.keep_own(&stop), self.keep_host_ports(&stop)).map(drop)
    }

    async fn keep_own(&self, stop: &Stop) -> Result<(), NetError> {
        while let Some(gone) = stop.or_stopped(self.net.chain_gone(TABLE, POSTROUTING)).await {
            gone?;
            tracing::warn!("someone removed the pods' rules; putting them back");
            self.net.commit(TABLE, &self.rules).await?;
        }
        Ok(())
    }

    async fn keep_host_ports(&self, stop: &Stop) -> Result<(), NetError> {
        while let Some(gone) = stop.or_stopped(self.net.chain_gone(host_ports::TABLE, host_ports::WATCHED)).await {
            gone?;
            tracing::warn!("someone removed the host ports' rules; putting them back");
            *self.programmed.lock().await = None;
            self.program_host_ports().await?;
        }
        Ok(())
    }

    /// The gateway's address: where pods reach the node.
    pub fn gateway(&self) -> Ipv4Addr {
        self.addresses.gateway()
    }

    /// The sandboxes that hold addresses: the runtime detaches those that are gone.
    pub fn sandboxes(&self) -> Vec<String> {
        self.addresses.sandboxes()
    }

    async fn try_attach(&self, request: &AttachRequest) -> Result<Ipv4Addr, AttachError> {
        let (addresses, sandbox) = (self.addresses.clone(), request.sandbox_id.clone());
        let address = blocking(move || addresses.hold(&sandbox)).await?;
        let sandbox = self.record(request, address).await?;
        if let Some(policies) = &self.policies {
            policies.attach(sandbox).await?;
        }
        let pod = self.net.enter(&request.namespace_path).await?;
        let name = link_name(&request.sandbox_id);
        self.connect(pod.as_ref(), &name, &request.namespace_path, address).await?;
        self.configure(pod.as_ref(), address).await?;
        self.program_host_ports().await?;
        Ok(address)
    }

    /// Writes down what is about to be attached.
    async fn record(&self, request: &AttachRequest, address: Ipv4Addr) -> Result<Sandbox, AttachError> {
        let (sandbox, known) = {
            let attached = self.lock();
            let former = attached.get(&request.sandbox_id);
            let last = || attached.values().map(|sandbox| sandbox.order).max().unwrap_or(0);
            let sandbox = Sandbox {
                id: request.sandbox_id.clone(),
                pod_namespace: request.pod_namespace.clone(),
                pod_name: request.pod_name.clone(),
                pod_uid: request.pod_uid.clone(),
                address,
                order: former.map_or_else(|| last() + 1, |former| former.order),
                ports: request.port_mappings.clone(),
            };
            let known = former == Some(&sandbox);
            (sandbox, known)
        };
        if !known {
            let (records, written) = (self.records.clone(), sandbox.clone());
            blocking(move || records.write(&written)).await?;
            self.lock().insert(sandbox.id.clone(), sandbox.clone());
        }
        Ok(sandbox)
    }

    /// Brings the host ports' elements to what is attached.
    async fn program_host_ports(&self) -> Result<(), NetError> {
        let mut programmed = self.programmed.lock().await;
        let mut wanted = self.lock().clone();
        wanted.retain(|_, sandbox| !sandbox.ports.is_empty());
        // Not known again before the kernel has taken the change.
        let (changes, stale) = match programmed.take() {
            Some(before) => host_ports::change(&before, &wanted),
            None => (host_ports::from_nothing(&wanted), Vec::new()),
        };
        self.net.commit(host_ports::TABLE, &changes).await?;
        *programmed = Some(wanted);
        if !stale.is_empty() {
            self.net.forget_connections(&stale).await?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sandbox>> {
        self.attached.lock().expect("no holder of the attached sandboxes' lock panics")
    }

    /// Makes the pair of links, unless it is there. Half of one, from a crash or from the sandbox's former namespace, goes.
    async fn connect(&self, pod: &dyn Net, name: &str, namespace: &Path, address: Ipv4Addr) -> Result<(), NetError> {
        let (here, there) = (self.net.link(name).await?, pod.link("eth0").await?);
        if here.is_none() || there.is_none() {
            self.net.remove_link(name).await?;
            pod.remove_link("eth0").await?;
            let peer_mac = hardware_address(address);
            let veth = Veth { name, peer_name: "eth0", peer_mac, peer_namespace: namespace, mtu: self.mtu };
            self.net.add_veth(&veth).await?;
        }
        self.net.add_port(BRIDGE, name).await?;
        self.net.set_up(name).await
    }

    async fn configure(&self, pod: &dyn Net, address: Ipv4Addr) -> Result<(), NetError> {
        pod.set_up("lo").await?;
        pod.add_address("eth0", Ipv4Net::new_assert(address, 32)).await?;
        pod.set_up("eth0").await?;
        let link = "eth0".to_owned();
        let to_gateway = Ipv4Net::new_assert(self.gateway(), 32);
        pod.set_route(&Route { destination: to_gateway, gateway: None, link: link.clone(), source: None }).await?;
        let everything = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        pod.set_route(&Route { destination: everything, gateway: Some(self.gateway()), link, source: None }).await
    }

    async fn try_detach(&self, sandbox: &str) -> Result<(), AttachError> {
        // The link goes first: an address is free only when nothing answers to it any more.
        self.net.remove_link(&link_name(sandbox)).await?;
        if self.lock().remove(sandbox).is_some_and(|sandbox| !sandbox.ports.is_empty()) {
            self.program_host_ports().await?;
        }
        if let Some(policies) = &self.policies {
            policies.detach(sandbox).await;
        }
        let (addresses, records, sandbox) = (self.addresses.clone(), self.records.clone(), sandbox.to_owned());
        let free = move || records.remove(&sandbox).and_then(|()| addresses.free(&sandbox));
        Ok(blocking(free).await?)
    }
}

#[async_trait]
impl PodNetwork for PodNetworkBuiltIn {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        match self.try_attach(request).await {
            Ok(address) => Ok(vec![IpAddr::V4(address)]),
            Err(error) => Err(failed("attach", &request.sandbox_id, error)),
        }
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        self.try_detach(sandbox_id).await.map_err(|error| failed("detach", sandbox_id, error))
    }

    async fn attached(&self) -> Result<Vec<String>, NetworkError> {
        Ok(self.sandboxes())
    }
}

#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Addresses(#[from] AddressError),
    #[error(transparent)]
    Policies(#[from] GateError),
}

fn failed(action: &'static str, sandbox: &str, error: AttachError) -> NetworkError {
    NetworkError { action, sandbox_id: sandbox.to_owned(), source: Box::new(error) }
}

/// Runs what blocks on the disk off the shared workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AddressError> + Send + 'static,
) -> Result<T, AddressError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let source = std::io::Error::other(error);
        Err(AddressError::Io { action: "finish the work on", path: "the held addresses".to_owned(), source })
    })
}

/// The name of a sandbox's link on the node: 14 bytes, of the 15 that the kernel allows.
pub(crate) fn link_name(sandbox: &str) -> String {
    let digest = Sha256::digest(sandbox.as_bytes());
    digest[..6].iter().fold(LINK_PREFIX.to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

pub(crate) async fn uplink_mtu(net: &dyn Net) -> Result<u32, NetError> {
    let Some(route) = net.default_route().await? else { return Ok(MTU_DEFAULT) };
    Ok(net.link(&route.link).await?.map_or(MTU_DEFAULT, |link| link.mtu))
}

async fn make_bridge(config: &PodNetworkConfig, mtu: u32) -> Result<(), NetError> {
    let (net, gateway) = (&config.net, gateway(config.pod_cidr));
    net.add_bridge(&Bridge { name: BRIDGE.to_owned(), mac: hardware_address(gateway), mtu }).await?;
    net.add_address(BRIDGE, Ipv4Net::new_assert(gateway, config.pod_cidr.prefix_len())).await?;
    if let Some(dns) = config.cluster_dns {
        net.add_address(BRIDGE, Ipv4Net::new_assert(dns, 32)).await?;
    }
    net.set_up(BRIDGE).await?;
    // Services' addresses are on no link. Without a route to them a node that has no default route fails to send before
    // the rules that would translate the address are asked.
    let (destination, link) = (config.service_cidr.trunc(), BRIDGE.to_owned());
    net.set_route(&Route { destination, gateway: None, link, source: Some(gateway) }).await
}

fn sysctls() -> Vec<(String, &'static str)> {
    let of_bridge = |name: &str| format!("ipv4/conf/{BRIDGE}/{name}");
    vec![
        ("ipv4/ip_forward".to_owned(), "1"),
        // A node port on 127.0.0.1 is sent on to a pod from a loopback source address.
        (of_bridge("route_localnet"), "1"),
        // Loose: answers may come in another way than requests went out.
        (of_bridge("rp_filter"), "2"),
        // Every packet between two pods leaves where it came in. A redirect for each would not only be wrong (see `rules`)
        // but use up the pod's share of the kernel's limit on ICMP errors. The kernel sends them where either switch is on;
        // other links have their own on, so the common one changes nothing for them.
        ("ipv4/conf/all/send_redirects".to_owned(), "0"),
        (of_bridge("send_redirects"), "0"),
    ]
}

/// The pods' own rules. They replace what an earlier start left, as a whole.
fn rules(config: &PodNetworkConfig) -> Vec<Change> {
    let multicast = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    const REDIRECT: u8 = 5;
    let leaves_cluster: Vec<nft::Expression> = [nft::source_address(0)]
        .into_iter()
        .chain(nft::in_net(0, config.pod_cidr, true))
        .chain([nft::destination_address(0)])
        .chain(nft::in_net(0, config.cluster_cidr, false))
        .chain([nft::destination_address(0)])
        .chain(nft::in_net(0, multicast, false))
        .chain([nft::masquerade()])
        .collect();
    // Pods must not reach what listens on the node's loopback, which `route_localnet` would let them.
    let loopback_from_outside: Vec<nft::Expression> = nft::interface(true, "lo", false)
        .into_iter()
        .chain([nft::destination_address(0)])
        .chain(nft::in_net(0, loopback, true))
        .chain([nft::drop()])
        .collect();
    // Pods are one hop from each other, through the gateway; telling them of a shorter way would take them past the rules.
    // For the machines where the sysctl cannot be set.
    let redirects: Vec<nft::Expression> = nft::interface(false, BRIDGE, true)
        .into_iter()
        .chain(nft::is_protocol(1))
        .chain([nft::icmp_type(0), nft::equals(0, [REDIRECT]), nft::drop()])
        .collect();
    let mut changes = vec![Change::AddTable];
    for (name, hook, rule) in [
        (POSTROUTING, Hook::NatPostrouting, leaves_cluster),
        (PREROUTING, Hook::RawPrerouting, loopback_from_outside),
        (OUTPUT, Hook::FilterOutput, redirects),
    ] {
        let chain = name.to_owned();
        changes.push(Change::AddChain { name: chain.clone(), hook: Some(hook) });
        changes.push(Change::FlushChain(chain.clone()));
        changes.push(Change::AddRule { chain, rule });
    }
    changes
}
