//! Behind which addresses a Service's port is, from Services and endpoint slices. A change costs the Service that it is of;
//! an address keeps its connections as long as any slice has it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::typed::core::v1::Service;
use api::typed::discovery::v1::EndpointSlice;
use api::{Key, Object, Typed};

use super::routes::{Backend, Port};
use super::upstream::{Endpoint, Protocol};

/// The label that says whose slice it is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The addresses behind one port of a Service.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Those that take requests.
    pub(super) endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ServicePort {
    name: Box<str>,
    number: u16,
    protocol: Protocol,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Slice {
    /// Addresses, with whether each is ready and, if not, whether it serves still.
    addresses: Vec<(IpAddr, bool, bool)>,
    ports: Vec<(Box<str>, u16)>,
}

impl Slice {
    /// Of all its ports.
    fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().flat_map(|(ip, ..)| self.ports.iter().map(|(_, port)| SocketAddr::new(*ip, *port)))
    }
}

/// All Services and their slices.
#[derive(Debug, Default)]
pub(super) struct Backends {
    services: HashMap<Key, Vec<ServicePort>>,
    slices: HashMap<Key, BTreeMap<Arc<str>, Slice>>,
    service_of_slice: HashMap<Key, Key>,
    /// What was asked for, until its Service changes.
    pools: HashMap<Key, HashMap<Port, Arc<Pool>>>,
    /// Endpoints of each Service by address and protocol, kept over changes.
    endpoints: HashMap<Key, HashMap<(SocketAddr, Protocol), Arc<Endpoint>>>,
}

impl Backends {
    /// Takes in a Service.
    pub(super) fn apply_service(&mut self, object: &Object) -> Result<(), serde_json::Error> {
        let spec = Service::decode(object.json())?.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default().into_iter();
        let ports = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP").filter_map(|port| {
            let protocol = Protocol::named(port.app_protocol.as_deref().unwrap_or_default());
            let number = u16::try_from(port.port).ok()?;
            Some(ServicePort { name: port.name.unwrap_or_default().into(), number, protocol })
        });
        let ports: Vec<_> = ports.collect();
        if self.services.get(object.key()) != Some(&ports) {
            self.services.insert(object.key().clone(), ports);
            self.pools.remove(object.key());
        }
        Ok(())
    }

    /// Takes a Service out.
    pub(super) fn remove_service(&mut self, key: &Key) {
        self.services.remove(key);
        self.pools.remove(key);
        self.endpoints.remove(key);
    }

    /// Takes in a slice.
    pub(super) fn apply_slice(&mut self, object: &Object) -> Result<(), serde_json::Error> {
        let slice = read_slice(&EndpointSlice::decode(object.json())?);
        self.remove_slice(object.key());
        let Some(service) = object.label(SERVICE_NAME_LABEL) else { return Ok(()) };
        let Key { namespace, name } = object.key();
        let service = Key::new(namespace.clone(), service);
        self.slices.entry(service.clone()).or_default().insert(name.clone(), slice);
        self.service_of_slice.insert(object.key().clone(), service);
        Ok(())
    }

    /// Takes a slice out.
    pub(super) fn remove_slice(&mut self, key: &Key) {
        let Some(service) = self.service_of_slice.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&key.name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.pools.remove(&service);
    }

    /// The addresses of a backend, if they were asked for since its Service changed.
    pub(super) fn known(&self, backend: &Backend) -> Option<Arc<Pool>> {
        self.pools.get(&backend.service)?.get(&backend.port).cloned()
    }

    /// The addresses of a backend.
    pub(super) fn pool(&mut self, backend: &Backend) -> Arc<Pool> {
        if let Some(known) = self.known(backend) {
            return known;
        }
        let pool = Arc::new(Pool { endpoints: self.endpoints(backend) });
        // One that no Service has would stay for ever.
        if self.services.contains_key(&backend.service) {
            let pools = self.pools.entry(backend.service.clone()).or_default();
            pools.insert(backend.port.clone(), pool.clone());
        }
        pool
    }

    fn endpoints(&mut self, backend: &Backend) -> Vec<Arc<Endpoint>> {
        let Some(ports) = self.services.get(&backend.service) else { return Vec::new() };
        let port = ports.iter().find(|port| match &backend.port {
            Port::Number(number) => port.number == *number,
            Port::Name(name) => port.name == *name,
        });
        let Some(port) = port else { return Vec::new() };
        let slices = || self.slices.get(&backend.service).into_iter().flat_map(BTreeMap::values);
        let addresses = |takes: fn(bool, bool) -> bool| {
            let mut all: Vec<SocketAddr> = Vec::new();
            for slice in slices() {
                let Some((_, number)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
                let taking = slice.addresses.iter().filter(|(_, ready, serves)| takes(*ready, *serves));
                all.extend(taking.map(|(ip, ..)| SocketAddr::new(*ip, *number)));
            }
            all.sort_unstable();
            all.dedup();
            all
        };
        let mut taking = addresses(|ready, _| ready);
        if taking.is_empty() {
            // All are on their way out: those that serve still are better than nobody.
            taking = addresses(|_, serves| serves);
        }
        let present: HashSet<SocketAddr> = slices().flat_map(Slice::sockets).collect();
        let known = self.endpoints.entry(backend.service.clone()).or_default();
        known.retain(|(address, _), _| present.contains(address));
        let get = |address| {
            let make = || Arc::new(Endpoint::new(address, port.protocol));
            known.entry((address, port.protocol)).or_insert_with(make).clone()
        };
        taking.into_iter().map(get).collect()
    }
}

fn read_slice(slice: &EndpointSlice) -> Slice {
    let mut addresses = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Not said is ready.
        let ready = conditions.ready.unwrap_or(true);
        let serves = conditions.serving.unwrap_or(ready);
        addresses.extend(endpoint.addresses.iter().filter_map(|ip| Some((ip.parse().ok()?, ready, serves))));
    }
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port?).ok()?;
        Some((port.name.clone().unwrap_or_default().into(), number))
    });
    Slice { addresses, ports: ports.collect() }
}

#[cfg(test)]
mod tests {
    use api::resources::{ENDPOINT_SLICES, SERVICES};
    use serde_json::{Value, json};

    use super::*;

    fn service(ports: &Value) -> Object {
        let object = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"ports": ports}});
        Object::parse(SERVICES, object.to_string().into()).unwrap()
    }

    fn slice(name: &str, endpoints: &Value) -> Object {
        let object = json!({"metadata": {"name": name, "namespace": "ns", "labels": {SERVICE_NAME_LABEL: "s"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "web", "port": 8080}, {"name": "rpc", "port": 9000}]});
        Object::parse(ENDPOINT_SLICES, object.to_string().into()).unwrap()
    }

    fn addresses(backends: &mut Backends, port: Port) -> Vec<String> {
        let pool = backends.pool(&Backend { service: Key::new("ns", "s"), port });
        pool.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn a_port_leads_to_ready_addresses_and_in_need_to_those_that_serve_still() {
        let mut backends = Backends::default();
        let web = || Port::Number(80);
        assert!(addresses(&mut backends, web()).is_empty());
        let ports = json!([{"name": "web", "port": 80}, {"name": "rpc", "port": 81, "appProtocol": "grpc"}]);
        backends.apply_service(&service(&ports)).unwrap();
        let going =
            json!({"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let gone = json!({"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false}});
        backends.apply_slice(&slice("a", &json!([{"addresses": ["10.0.0.1"]}, going, gone]))).unwrap();
        backends.apply_slice(&slice("b", &json!([{"addresses": ["10.0.0.2", "10.0.0.1"]}]))).unwrap();
        assert_eq!(addresses(&mut backends, web()), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!(addresses(&mut backends, Port::Name("rpc".into())), ["10.0.0.1:9000", "10.0.0.2:9000"]);
        let rpc = backends.pool(&Backend { service: Key::new("ns", "s"), port: Port::Number(81) });
        assert_eq!(rpc.endpoints[0].protocol, Protocol::Http2);
        let backend = Backend { service: Key::new("ns", "s"), port: web() };
        let before = backends.pool(&backend).endpoints[0].clone();
        backends.remove_slice(&Key::new("ns", "b"));
        assert_eq!(addresses(&mut backends, web()), ["10.0.0.1:8080"]);
        assert!(Arc::ptr_eq(&before, &backends.pool(&backend).endpoints[0]), "its connections go on");
        backends.apply_slice(&slice("a", &json!([going, gone]))).unwrap();
        assert_eq!(addresses(&mut backends, web()), ["10.0.0.3:8080"]);
        backends.remove_service(&Key::new("ns", "s"));
        assert!(addresses(&mut backends, web()).is_empty());
    }

    /// Endpoints were dropped that another port of the Service had, if it speaks the same protocol: each time the slices
    /// changed, one of two ports lost its connections.
    #[test]
    fn ports_of_a_service_keep_their_connections_beside_each_other() {
        let mut backends = Backends::default();
        let ports = json!([{"name": "web", "port": 80}, {"name": "rpc", "port": 81}]);
        backends.apply_service(&service(&ports)).unwrap();
        backends.apply_slice(&slice("a", &json!([{"addresses": ["10.0.0.1"]}]))).unwrap();
        let mut endpoint = |number| {
            let backend = Backend { service: Key::new("ns", "s"), port: Port::Number(number) };
            backends.pools.clear();
            backends.pool(&backend).endpoints[0].clone()
        };
        let (web, rpc) = (endpoint(80), endpoint(81));
        assert!(Arc::ptr_eq(&web, &endpoint(80)) && Arc::ptr_eq(&rpc, &endpoint(81)));
    }
}
