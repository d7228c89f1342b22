//! A service's pods and the ports by which they serve it: what both kinds of endpoints are made from.

use std::net::IpAddr;

use api::{Key, Object, resources};
use control::{CustomIndex, Informers};
use machinery::labels::Selector;
use serde_json::{Value, json};

use crate::Ctx;
use crate::conditions;

/// The label of endpoints whose service has no address of its own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Finds services by one pair of their selector, so that a pod's labels lead to the services that may select it.
const BY_SELECTOR: CustomIndex = CustomIndex { name: "spec.selector", values: selector_pair };

fn selector_pair(service: &Object) -> Vec<String> {
    let value = service.to_value();
    let selector = value["spec"]["selector"].as_object().into_iter().flatten();
    selector.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).min().into_iter().collect()
}

/// The services that select a pod.
pub(crate) fn services_of_pod(informers: &Informers, pod: &Object) -> Vec<Key> {
    let services = informers.all(resources::SERVICES);
    let pairs = pod.index().labels.iter().map(|(key, value)| format!("{key}={value}"));
    let found = pairs.flat_map(|pair| services.by_index(&BY_SELECTOR, &pair));
    let found = found.filter(|service| {
        service.key().namespace == pod.key().namespace
            && selector(&service.to_value()).is_some_and(|selector| selector.matches_pairs(&pod.index().labels))
    });
    found.map(|service| service.key().clone()).collect()
}

fn selector(service: &Value) -> Option<Selector> {
    let pairs = service["spec"]["selector"].as_object().filter(|pairs| !pairs.is_empty())?;
    Selector::from_pairs(pairs.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))).ok()
}

/// Whether the service selects pods.
pub(crate) fn has_selector(service: &Value) -> bool {
    selector(service).is_some()
}

/// Whether the service's endpoints are ours to keep: without a selector they are somebody else's.
pub(crate) fn selects(service: &Value) -> bool {
    selector(service).is_some() && service["spec"]["type"] != "ExternalName"
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The name in `ipFamilies` and `addressType`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, address: &str) -> bool {
        match address.parse() {
            Ok(IpAddr::V4(_)) => self == Self::V4,
            Ok(IpAddr::V6(_)) => self == Self::V6,
            Err(_) => false,
        }
    }
}

/// The versions of IP in which the service is served.
pub(crate) fn families(service: &Value) -> Vec<Family> {
    let names: Vec<&str> =
        service["spec"]["ipFamilies"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let families: Vec<Family> =
        [Family::V4, Family::V6].into_iter().filter(|family| names.contains(&family.name())).collect();
    if families.is_empty() {
        return vec![Family::V4];
    }
    // In the service's own order.
    names.iter().filter_map(|name| families.iter().copied().find(|family| family.name() == *name)).collect()
}

/// One pod behind a service.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) address: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<String>,
    /// Reference to the pod.
    pub(crate) target: Value,
}

/// A port of a service as one pod serves it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) port: i64,
    pub(crate) protocol: String,
    pub(crate) app_protocol: Option<String>,
}

impl Port {
    /// A port of an Endpoints object or an EndpointSlice.
    pub(crate) fn of(port: &Value) -> Self {
        let text = |field: &str| port[field].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            port: port["port"].as_i64().unwrap_or(0),
            protocol: text("protocol"),
            app_protocol: port["appProtocol"].as_str().map(str::to_owned),
        }
    }

    /// In an Endpoints object: the empty name of an only port is left out.
    pub(crate) fn to_endpoint_port(&self) -> Value {
        let mut port = json!({"port": self.port, "protocol": self.protocol});
        if !self.name.is_empty() {
            port["name"] = self.name.as_str().into();
        }
        if let Some(protocol) = &self.app_protocol {
            port["appProtocol"] = protocol.as_str().into();
        }
        port
    }

    /// In an EndpointSlice, where the empty name is written.
    pub(crate) fn to_slice_port(&self) -> Value {
        let mut port = self.to_endpoint_port();
        port["name"] = self.name.as_str().into();
        port
    }
}

/// The pods behind a service, in the order of their names.
pub(crate) fn backends(ctx: &Ctx, object: &Object, service: &Value, family: Family) -> Vec<Backend> {
    let Some(selector) = selector(service) else { return vec![] };
    let pods = ctx.cache(resources::PODS);
    let candidates = match selector.exact() {
        Some((key, value)) => pods.with_label(key, value),
        None => pods.in_namespace(&object.key().namespace),
    };
    let matching = candidates
        .into_iter()
        .filter(|pod| pod.key().namespace == object.key().namespace && selector.matches_pairs(&pod.index().labels));
    matching.filter_map(|pod| backend(service, &pod, family)).collect()
}

fn backend(service: &Value, object: &Object, family: Family) -> Option<Backend> {
    let pod = object.to_value();
    let (spec, status) = (&pod["spec"], &pod["status"]);
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let listed = status["podIPs"].as_array().into_iter().flatten().filter_map(|entry| entry["ip"].as_str());
    let address = listed.chain(status["podIP"].as_str()).find(|address| family.has(address))?.to_owned();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let named = spec["subdomain"] == service["metadata"]["name"];
    Some(Backend {
        address,
        ports: ports(service, spec),
        serving: conditions::is_true(status, "Ready"),
        terminating: object.is_deleting(),
        hostname: text(&spec["hostname"]).filter(|_| named),
        node: text(&spec["nodeName"]),
        target: json!({"kind": "Pod", "namespace": &*object.key().namespace, "name": &*object.key().name,
            "uid": object.uid()}),
    })
}

/// The service's ports, with target ports by name looked up in the pod. A name that the pod does not have is left out.
fn ports(service: &Value, pod_spec: &Value) -> Vec<Port> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut ports: Vec<Port> = ports
        .filter_map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let target = &port["targetPort"];
            let number = match target.as_str() {
                Some(name) => container_port(pod_spec, name, protocol)?,
                None => target.as_i64().filter(|number| *number > 0).or(port["port"].as_i64())?,
            };
            Some(Port {
                name: port["name"].as_str().unwrap_or_default().to_owned(),
                port: number,
                protocol: protocol.to_owned(),
                app_protocol: port["appProtocol"].as_str().map(str::to_owned),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn container_port(pod_spec: &Value, name: &str, protocol: &str) -> Option<i64> {
    let sidecars = pod_spec["initContainers"].as_array().into_iter().flatten();
    let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
    let containers = pod_spec["containers"].as_array().into_iter().flatten().chain(sidecars);
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let found = ports.find(|port| port["name"] == name && port["protocol"].as_str().unwrap_or("TCP") == protocol);
    found.and_then(|port| port["containerPort"].as_i64())
}

#[cfg(test)]
pub(crate) mod fixtures {
    use serde_json::{Value, json};

    pub(crate) fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "n", "labels": {"team": "t"}},
            "spec": {"clusterIP": "10.43.0.7", "selector": {"app": "web"}, "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}})
    }

    pub(crate) fn pod(name: &str, number: u32, ready: bool) -> Value {
        let ready = if ready { "True" } else { "False" };
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c",
                "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", number / 250, number % 250),
                "conditions": [{"type": "Ready", "status": ready}]}})
    }
}
