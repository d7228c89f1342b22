//! Services of type LoadBalancer get addresses, on which the nodes' proxies answer.
//!
//! Without a pool those are the nodes' own: the external ones where nodes have such, else the internal ones. As with host
//! ports, one port of the nodes can be only one Service's: the older has it, the younger waits and is told. With
//! `externalTrafficPolicy: Local` only nodes count that have ready endpoints. With a pool each Service gets one address of
//! it, `spec.loadBalancerIP` if that is free; the network around has to route the pool to the nodes.
//!
//! A Service with a `loadBalancerClass` is somebody else's, unless the class is [`CLASS`]. Public behaviour: the Service API
//! reference; upstream leaves all of this to cloud providers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use api::{Key, Object, resources};
use control::{CustomIndex, EventType, Informers, Next, ObjectReference, PatchType, ReconcileError, Trigger};
use futures::FutureExt;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::{Ctx, Descriptor};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "service-controller",
    reconciles: resources::SERVICES,
    owns: &[],
    watches: &[
        // What one gives up, another waits for.
        Trigger { resource: resources::SERVICES, keys: |informers, _| all(informers) },
        Trigger { resource: resources::NODES, keys: |informers, _| all(informers) },
        Trigger { resource: resources::ENDPOINT_SLICES, keys: of_slice },
    ],
    reads: &[],
    // One: it waits until its last assignment shows before it makes the next, so no address is given twice.
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

/// The class by which a Service can ask for this controller by name.
const CLASS: &str = "timonier.io/nodes";

/// Nodes with this label get no traffic from outside.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Where load balancers' addresses come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Addresses {
    /// They are the nodes' own.
    #[default]
    Nodes,
    /// From a range of their own.
    Pool(Ipv4Net),
    /// Somebody else gives them.
    Nobody,
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nodes" => Ok(Self::Nodes),
            "none" => Ok(Self::Nobody),
            range => range.parse().map(Self::Pool).map_err(|_| "not `nodes`, `none` or an IPv4 range".to_owned()),
        }
    }
}

/// What the binary sets for this controller.
#[derive(Debug, Clone, Default)]
pub struct LoadBalancers {
    /// Where addresses come from.
    pub addresses: Addresses,
    /// TCP ports of the nodes that no Service may have: the cluster itself is there.
    pub reserved_ports: BTreeSet<u16>,
}

/// The Services that this controller looks after.
const OURS: CustomIndex = CustomIndex {
    name: "load-balanced",
    values: |service| if is_ours(&service.to_value()) { vec!["yes".to_owned()] } else { Vec::new() },
};

fn is_ours(service: &Value) -> bool {
    let spec = &service["spec"];
    let class = &spec["loadBalancerClass"];
    spec["type"] == "LoadBalancer"
        && (class.is_null() || class == CLASS)
        && service["metadata"]["deletionTimestamp"].is_null()
}

fn all(informers: &Informers) -> Vec<Key> {
    let services = informers.all(resources::SERVICES).by_index(&OURS, "yes");
    services.iter().map(|service| service.key().clone()).collect()
}

fn of_slice(_: &Informers, slice: &Object) -> Vec<Key> {
    let service = slice.label("kubernetes.io/service-name");
    service.map(|name| Key::new(slice.key().namespace.clone(), name)).into_iter().collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let balancers = &ctx.settings.load_balancers;
    let services = ctx.cache(resources::SERVICES);
    let Some(object) = services.get(key).filter(|_| balancers.addresses != Addresses::Nobody) else {
        return Ok(Next::OnChange);
    };
    let service = object.to_value();
    if !is_ours(&service) {
        return Ok(Next::OnChange);
    }
    let others = services.by_index(&OURS, "yes");
    let others: Vec<Value> = others.iter().filter(|other| other.key() != key).map(Object::to_value).collect();
    let planned = match balancers.addresses {
        Addresses::Pool(pool) => from_pool(&service, &others, pool),
        _ => conflict(&service, &others, &balancers.reserved_ports).map_or_else(
            || {
                let nodes: Vec<Value> = ctx.cache(resources::NODES).all().iter().map(Object::to_value).collect();
                let slices = ctx.cache(resources::ENDPOINT_SLICES).with_label("kubernetes.io/service-name", &key.name);
                let slices = slices.iter().filter(|slice| slice.key().namespace == key.namespace);
                Ok(of_nodes(&service, &nodes, &slices.map(Object::to_value).collect::<Vec<_>>()))
            },
            Err,
        ),
    };
    let addresses = planned.unwrap_or_else(|why| {
        let about = ObjectReference::from((resources::SERVICES, &object));
        ctx.recorder.event(&about, EventType::Warning, "SyncLoadBalancerFailed", &why);
        BTreeSet::new()
    });
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
    let said = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    if said != ingress {
        let patch = json!({"metadata": {"resourceVersion": object.revision().to_string()},
            "status": {"loadBalancer": {"ingress": if ingress.is_empty() { Value::Null } else { ingress.into() }}}});
        match ctx.client.patch(resources::SERVICES, key, Some("status"), PatchType::Merge, &patch).await {
            Err(error) if error.is_not_found() => {}
            patched => drop(patched?),
        }
    }
    Ok(Next::OnChange)
}

/// The older of two comes first.
fn age(service: &Value) -> (&str, &str, &str) {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
    (text("creationTimestamp"), text("namespace"), text("name"))
}

fn ports(service: &Value) -> BTreeSet<(&str, u64)> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.map(|port| (port["protocol"].as_str().unwrap_or("TCP"), port["port"].as_u64().unwrap_or(0))).collect()
}

/// Why a Service cannot have its ports on the nodes.
fn conflict(service: &Value, others: &[Value], reserved: &BTreeSet<u16>) -> Option<String> {
    let wanted = ports(service);
    if let Some(port) = reserved.iter().find(|port| wanted.contains(&("TCP", u64::from(**port)))) {
        return Some(format!("port {port}/TCP of the nodes is the cluster's own"));
    }
    let older = others.iter().filter(|other| age(other) < age(service));
    older.flat_map(|other| ports(other).into_iter().map(move |port| (port, other))).find_map(|(port, other)| {
        let (_, namespace, name) = age(other);
        wanted
            .contains(&port)
            .then(|| format!("port {}/{} of the nodes is Service {namespace}/{name}'s", port.1, port.0))
    })
}

/// The addresses of the nodes that take traffic from outside.
fn of_nodes(service: &Value, nodes: &[Value], slices: &[Value]) -> BTreeSet<Ipv4Addr> {
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let with_endpoints: BTreeSet<&str> = ready.filter_map(|endpoint| endpoint["nodeName"].as_str()).collect();
    let local = service["spec"]["externalTrafficPolicy"] == "Local";
    let takes = |node: &&Value| {
        let metadata = &node["metadata"];
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
        ready.any(|condition| condition["status"] == "True")
            && metadata["labels"][EXCLUDE_LABEL].is_null()
            && metadata["deletionTimestamp"].is_null()
            && (!local || with_endpoints.contains(metadata["name"].as_str().unwrap_or_default()))
    };
    let of_kind = |kind: &str| -> BTreeSet<Ipv4Addr> {
        let addresses = nodes.iter().filter(takes).flat_map(|node| node["status"]["addresses"].as_array()).flatten();
        addresses.filter(|one| one["type"] == kind).filter_map(|one| one["address"].as_str()?.parse().ok()).collect()
    };
    let external = of_kind("ExternalIP");
    if external.is_empty() { of_kind("InternalIP") } else { external }
}

/// One address of the pool: the one that it has, the one that it asks for, or the lowest free one.
fn from_pool(service: &Value, others: &[Value], pool: Ipv4Net) -> Result<BTreeSet<Ipv4Addr>, String> {
    let has = |service: &Value| -> Vec<Ipv4Addr> {
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
        ingress.filter_map(|point| point["ip"].as_str()?.parse().ok()).collect()
    };
    let taken: BTreeSet<Ipv4Addr> = others.iter().flat_map(has).collect();
    let is_free = |address: &Ipv4Addr| pool.contains(address) && !taken.contains(address);
    if let Some(asked) = service["spec"]["loadBalancerIP"].as_str().filter(|asked| !asked.is_empty()) {
        let address = asked.parse().ok().filter(is_free);
        return address
            .map(|address| BTreeSet::from([address]))
            .ok_or_else(|| format!("{asked} is not free in {pool}"));
    }
    let kept = has(service).into_iter().find(is_free);
    let address = kept.or_else(|| pool.hosts().find(is_free));
    address.map(|address| BTreeSet::from([address])).ok_or_else(|| format!("all addresses of {pool} are in use"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use control::harness::{Step, check_converges};

    use super::*;
    use crate::Settings;
    use crate::fixtures::settings;

    fn with(addresses: Addresses) -> Arc<Settings> {
        let mut settings = Arc::try_unwrap(settings()).expect("nobody else has it");
        settings.load_balancers = LoadBalancers { addresses, reserved_ports: [6443].into() };
        Arc::new(settings)
    }

    fn service(name: &str, at: u8, port: u16, more: &Value) -> Value {
        let mut service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{at:02}Z")},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port, "protocol": "TCP"}]}});
        for (field, value) in more.as_object().expect("fields") {
            service["spec"][field] = value.clone();
        }
        service
    }

    fn node(name: &str, ready: &str, addresses: &[(&str, &str)]) -> Value {
        let addresses: Vec<Value> =
            addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}], "addresses": addresses}})
    }

    fn ingress(service: &Value) -> Vec<String> {
        let points = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        points.iter().map(|point| point["ip"].as_str().expect("an address").to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_nodes_addresses_go_to_the_older_service_of_a_port() {
        let none = json!({});
        let start = [
            node("a", "True", &[("InternalIP", "192.0.2.1"), ("Hostname", "a")]),
            node("b", "True", &[("InternalIP", "192.0.2.2")]),
            node("c", "False", &[("InternalIP", "192.0.2.3")]),
            service("old", 1, 80, &none),
            service("young", 2, 80, &none),
            service("heir", 3, 81, &none),
            service("api", 4, 6443, &none),
            service("other", 5, 82, &json!({"loadBalancerClass": "example.com/other"})),
            service("local", 6, 83, &json!({"externalTrafficPolicy": "Local"})),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "local-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "local"}},
                "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "b", "conditions": {"ready": true}}]}),
        ];
        let gone = [Step::Do(&|api| api.delete(resources::SERVICES, "ns", "old"))];
        let end = check_converges(&CONTROLLER, with(Addresses::Nodes), &start, &gone).await;
        let of = |name: &str| ingress(&end.get(resources::SERVICES, "ns", name).expect("the service"));
        for (name, expected) in [
            ("young", &["192.0.2.1", "192.0.2.2"][..]),
            ("heir", &["192.0.2.1", "192.0.2.2"]),
            ("api", &[]),
            ("other", &[]),
            ("local", &["192.0.2.2"]),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
        let old = service("old", 1, 80, &none);
        let why = conflict(&service("young", 2, 80, &none), &[old], &BTreeSet::new());
        assert_eq!(why.as_deref(), Some("port 80/TCP of the nodes is Service ns/old's"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_gives_each_service_an_address_of_its_own() {
        let pool = Addresses::from_str("198.51.100.0/30").expect("a range");
        let start = [service("a", 1, 80, &json!({"loadBalancerIP": "198.51.100.2"}))];
        let steps = [
            Step::Do(&|api| drop(api.put(service("b", 2, 80, &json!({}))))),
            Step::Do(&|api| drop(api.put(service("c", 3, 80, &json!({}))))),
        ];
        let end = check_converges(&CONTROLLER, with(pool), &start, &steps).await;
        let of = |name: &str| ingress(&end.get(resources::SERVICES, "ns", name).expect("the service"));
        assert_eq!([of("a"), of("b"), of("c")], [vec!["198.51.100.2"], vec!["198.51.100.1"], vec![]]);
    }

    #[test]
    fn external_addresses_come_first_and_nodes_may_be_left_out() {
        let mut nodes = vec![
            node("a", "True", &[("InternalIP", "10.0.0.1"), ("ExternalIP", "192.0.2.1")]),
            node("b", "True", &[("InternalIP", "10.0.0.2")]),
        ];
        let of = |nodes: &[Value]| {
            of_nodes(&service("s", 1, 80, &json!({})), nodes, &[]).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&nodes), ["192.0.2.1"]);
        nodes[0]["metadata"]["labels"][EXCLUDE_LABEL] = "".into();
        assert_eq!(of(&nodes), ["10.0.0.2"]);
    }
}
