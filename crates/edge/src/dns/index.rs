//! What DNS knows of the cluster: services, their endpoints, and whose an address is.
//!
//! Each change costs what it changes: a slice that comes takes out what its former state put in. Lookups walk nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use api::typed::core::v1::Service;
use api::typed::discovery::v1::EndpointSlice;
use api::{Key, Object, Typed};

/// The label that says whose slice it is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What a service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its own addresses.
    ClusterIps(Vec<IpAddr>),
    /// Its endpoints.
    Endpoints {
        /// Also those that are not ready.
        not_ready_too: bool,
    },
    /// Another name.
    External(String),
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// What its name stands for.
    pub target: Target,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name; ports without one have no SRV records.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port.
    pub number: u16,
}

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its host name, or its address with dashes.
    pub hostname: String,
    /// Whether it takes connections.
    pub ready: bool,
}

/// A slice of a service's endpoints, with the ports that they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    pub ports: Vec<Port>,
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    services: HashMap<Key, ServiceEntry>,
    /// How many services each namespace has.
    namespaces: HashMap<Arc<str>, usize>,
    /// The slices of each service, by name.
    slices: HashMap<Key, BTreeMap<Arc<str>, Slice>>,
    /// Which service a slice was last seen with.
    service_of_slice: HashMap<Key, Key>,
    /// The services that have an address as cluster IP.
    service_ips: HashMap<IpAddr, BTreeSet<Key>>,
    /// The services that have an address as endpoint: service, host name, slice.
    endpoint_ips: HashMap<IpAddr, BTreeSet<(Key, String, Arc<str>)>>,
    serial: u32,
    /// Whether all services and all slices that were present at the start are here.
    synced: (bool, bool),
}

impl Index {
    /// A service by namespace and name.
    pub fn service(&self, key: &Key) -> Option<&ServiceEntry> {
        self.services.get(key)
    }

    /// The slices of a service.
    pub fn slices(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// Whether a namespace has services.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The services that have this cluster IP.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = &Key> {
        self.service_ips.get(&ip).into_iter().flatten()
    }

    /// The services and host names that have this endpoint.
    pub fn endpoints_at(&self, ip: IpAddr) -> impl Iterator<Item = (&Key, &str)> {
        self.endpoint_ips.get(&ip).into_iter().flatten().map(|(service, hostname, _)| (service, hostname.as_str()))
    }

    /// Counts changes: the zone's serial number.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether everything that was present at the start is here.
    pub fn is_synced(&self) -> bool {
        self.synced == (true, true)
    }

    /// All services that were present at the start are here.
    pub fn services_synced(&mut self) {
        self.synced.0 = true;
        self.changed();
    }

    /// All slices that were present at the start are here.
    pub fn slices_synced(&mut self) {
        self.synced.1 = true;
        self.changed();
    }

    /// Takes in a service's state.
    pub fn apply_service(&mut self, object: &Object) -> Result<(), serde_json::Error> {
        let entry = read_service(&Service::decode(object.json())?);
        let key = object.key();
        if self.services.get(key) == Some(&entry) {
            return Ok(());
        }
        self.remove_service(key);
        if let Target::ClusterIps(ips) = &entry.target {
            for ip in ips {
                self.service_ips.entry(*ip).or_default().insert(key.clone());
            }
        }
        *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
        self.services.insert(key.clone(), entry);
        self.changed();
        Ok(())
    }

    /// Takes a service out.
    pub fn remove_service(&mut self, key: &Key) {
        let Some(entry) = self.services.remove(key) else { return };
        if let Target::ClusterIps(ips) = &entry.target {
            for ip in ips {
                remove_from(&mut self.service_ips, ip, key);
            }
        }
        if let Some(services) = self.namespaces.get_mut(&key.namespace) {
            *services -= 1;
            if *services == 0 {
                self.namespaces.remove(&key.namespace);
            }
        }
        self.changed();
    }

    /// Takes in a slice's state. A slice of no service is left out.
    pub fn apply_slice(&mut self, object: &Object) -> Result<(), serde_json::Error> {
        let slice = read_slice(&EndpointSlice::decode(object.json())?);
        self.remove_slice(object.key());
        let Some(service) = object.label(SERVICE_NAME_LABEL) else { return Ok(()) };
        let Key { namespace, name } = object.key();
        let service = Key::new(namespace.clone(), service);
        for endpoint in &slice.endpoints {
            let row = (service.clone(), endpoint.hostname.clone(), name.clone());
            self.endpoint_ips.entry(endpoint.ip).or_default().insert(row);
        }
        self.slices.entry(service.clone()).or_default().insert(name.clone(), slice);
        self.service_of_slice.insert(object.key().clone(), service);
        self.changed();
        Ok(())
    }

    /// Takes a slice out.
    pub fn remove_slice(&mut self, key: &Key) {
        let Some(service) = self.service_of_slice.remove(key) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let slice = slices.remove(&key.name).unwrap_or_default();
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        for endpoint in slice.endpoints {
            let row = (service.clone(), endpoint.hostname, key.name.clone());
            remove_from(&mut self.endpoint_ips, &endpoint.ip, &row);
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.serial = self.serial.wrapping_add(1);
    }
}

fn remove_from<T: Ord>(index: &mut HashMap<IpAddr, BTreeSet<T>>, ip: &IpAddr, row: &T) {
    if let Some(rows) = index.get_mut(ip) {
        rows.remove(row);
        if rows.is_empty() {
            index.remove(ip);
        }
    }
}

fn read_service(service: &Service) -> ServiceEntry {
    let spec = service.spec.clone().unwrap_or_default();
    let mut ips = spec.cluster_ips.unwrap_or_default();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip);
    }
    let target = if spec.type_.as_deref() == Some("ExternalName") {
        Target::External(spec.external_name.unwrap_or_default())
    } else if ips.iter().any(|ip| ip == "None") {
        Target::Endpoints { not_ready_too: spec.publish_not_ready_addresses.unwrap_or(false) }
    } else {
        Target::ClusterIps(ips.iter().filter_map(|ip| ip.parse().ok()).collect())
    };
    let ports = spec.ports.unwrap_or_default().into_iter();
    let ports = ports.filter_map(|port| read_port(port.name, port.protocol, Some(port.port)));
    ServiceEntry { target, ports: ports.collect() }
}

fn read_slice(slice: &EndpointSlice) -> Slice {
    let mut endpoints = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        // Not said is ready.
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        for ip in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
            let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty()).map(|name| name.to_lowercase());
            endpoints.push(Endpoint { ip, hostname: hostname.unwrap_or_else(|| dashed(ip)), ready });
        }
    }
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter_map(|port| read_port(port.name.clone(), port.protocol.clone(), port.port));
    Slice { endpoints, ports: ports.collect() }
}

fn read_port(name: Option<String>, protocol: Option<String>, number: Option<i32>) -> Option<Port> {
    let protocol = protocol.unwrap_or_else(|| "TCP".to_owned()).to_lowercase();
    Some(Port { name: name.unwrap_or_default(), protocol, number: u16::try_from(number?).ok()? })
}

/// An address as a label: `10-42-0-7`, `fd00--1`.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}
