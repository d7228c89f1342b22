//! Columns of the kinds that are about the network.

use std::collections::BTreeSet;

use serde_json::Value;

use super::About::{Field, Text};
use super::cells::{joined, labels, list, name_or_default, or, or_none, plain, selector, string, texts, three_or};
use super::{AGE, Column, NAME, text, wide};

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", Field("api.core.v1.ServiceSpec.type"), |service, _| plain(service, "/spec/type")),
    text("Cluster-IP", Field("api.core.v1.ServiceSpec.clusterIP"), |service, _| or_none(service, "/spec/clusterIPs/0")),
    text("External-IP", Field("api.core.v1.ServiceSpec.externalIPs"), |service, _| external_ip(service).into()),
    text("Port(s)", Field("api.core.v1.ServiceSpec.ports"), |service, _| service_ports(service)),
    AGE,
    wide("Selector", Field("api.core.v1.ServiceSpec.selector"), |service, _| labels(service, "/spec/selector")),
];

pub(super) const ENDPOINTS: &[Column] = &[
    NAME,
    text("Endpoints", Field("api.core.v1.Endpoints.subsets"), |endpoints, _| endpoint_addresses(endpoints)),
    AGE,
];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", Field("api.discovery.v1.EndpointSlice.addressType"), |slice, _| plain(slice, "/addressType")),
    text("Ports", Field("api.discovery.v1.EndpointSlice.ports"), |slice, _| {
        let port = |port: &Value| match port["port"].as_u64() {
            Some(number) => number.to_string(),
            None => port["name"].as_str().unwrap_or("*").to_owned(),
        };
        three_or(list(slice, "/ports").iter().map(port).collect(), "<unset>")
    }),
    text("Endpoints", Field("api.discovery.v1.EndpointSlice.endpoints"), |slice, _| {
        let addresses = list(slice, "/endpoints").iter().flat_map(|endpoint| texts(endpoint, "/addresses"));
        three_or(addresses.map(str::to_owned).collect(), "<unset>")
    }),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    text(
        "Class",
        Text("The name of the IngressClass resource that should be used for additional configuration"),
        |ingress, _| or_none(ingress, "/spec/ingressClassName"),
    ),
    text("Hosts", Text("Hosts that incoming requests are matched against before the ingress rule"), |ingress, _| {
        let hosts = list(ingress, "/spec/rules").iter().map(|rule| string(rule, "/host"));
        three_or(hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect(), "*")
    }),
    text("Address", Text("Address is a list containing ingress points for the load-balancer"), |ingress, _| {
        balanced(ingress).into()
    }),
    text("Ports", Text("Ports of TLS configurations that open"), |ingress, _| {
        if list(ingress, "/spec/tls").is_empty() { "80".into() } else { "80, 443".into() }
    }),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    Column { cell: |class, _| name_or_default(class, &["ingressclass.kubernetes.io/is-default-class"]), ..NAME },
    text("Controller", Text("Controller that is responsible for handling this class"), |class, _| {
        plain(class, "/spec/controller")
    }),
    text("Parameters", Text("A reference to a resource with additional parameters"), |class, _| {
        let parameters = &class["spec"]["parameters"];
        if !parameters.is_object() {
            return "<none>".into();
        }
        let group = parameters["apiGroup"].as_str().map_or_else(String::new, |group| format!(".{group}"));
        format!("{}{group}/{}", string(parameters, "/kind"), string(parameters, "/name")).into()
    }),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] = &[
    NAME,
    text("Pod-Selector", Field("api.networking.v1.NetworkPolicySpec.podSelector"), |policy, _| {
        selector(policy, "/spec/podSelector")
    }),
    AGE,
];

pub(super) const IP_ADDRESS: &[Column] = &[
    NAME,
    text("ParentRef", Field("api.networking.v1.IPAddressSpec.parentRef"), |address, _| {
        let parent = &address["spec"]["parentRef"];
        if !parent.is_object() {
            return "<none>".into();
        }
        let dotted = |group: &str| if group.is_empty() { String::new() } else { format!(".{group}") };
        let resource = format!("{}{}", string(parent, "/resource"), dotted(string(parent, "/group"))).to_lowercase();
        let place = [&*resource, string(parent, "/namespace"), string(parent, "/name")];
        place.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/").into()
    }),
];

pub(super) const SERVICE_CIDR: &[Column] = &[
    NAME,
    text("CIDRs", Field("api.networking.v1.ServiceCIDRSpec.cidrs"), |range, _| {
        joined(texts(range, "/spec/cidrs")).into()
    }),
    AGE,
];

/// The addresses or host names of a load balancer.
fn balanced(object: &Value) -> String {
    let points = list(object, "/status/loadBalancer/ingress").iter();
    let addresses: BTreeSet<String> = points
        .filter_map(|point| or(point, "/ip", string(point, "/hostname")).as_str().map(str::to_owned))
        .filter(|address| !address.is_empty())
        .collect();
    joined(addresses.iter().map(String::as_str))
}

fn external_ip(service: &Value) -> String {
    let own = joined(texts(service, "/spec/externalIPs"));
    let own = Some(own).filter(|own| !own.is_empty());
    match string(service, "/spec/type") {
        "ClusterIP" | "NodePort" => own.unwrap_or_else(|| "<none>".to_owned()),
        "LoadBalancer" => match (balanced(service), own) {
            (balanced, Some(own)) if balanced.is_empty() => own,
            (balanced, Some(own)) => format!("{balanced},{own}"),
            (balanced, None) if balanced.is_empty() => "<pending>".to_owned(),
            (balanced, None) => balanced,
        },
        "ExternalName" => string(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn service_ports(service: &Value) -> Value {
    let text = |port: &Value| {
        let protocol = string(port, "/protocol");
        match port["nodePort"].as_u64().filter(|node_port| *node_port > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
            None => format!("{}/{protocol}", port["port"]),
        }
    };
    let ports: Vec<String> = list(service, "/spec/ports").iter().map(text).collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}

fn endpoint_addresses(endpoints: &Value) -> Value {
    let mut found = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let addresses = list(subset, "/addresses").iter().map(|address| string(address, "/ip"));
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            found.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            found.extend(addresses.clone().map(|ip| format!("{}:{}", host(ip), port["port"])));
        }
    }
    three_or(found, "<none>")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn external_addresses_are_upstreams() {
        let ingress = json!([{"ip": "192.0.2.2"}, {"hostname": "a.example.com"}]);
        let table = [
            (json!({"spec": {"type": "ClusterIP"}}), "<none>"),
            (json!({"spec": {"type": "NodePort", "externalIPs": ["192.0.2.1"]}}), "192.0.2.1"),
            (json!({"spec": {"type": "LoadBalancer"}}), "<pending>"),
            (
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": ingress}}}),
                "192.0.2.2,a.example.com",
            ),
            (
                json!({"spec": {"type": "LoadBalancer", "externalIPs": ["192.0.2.1"]}, "status": {"loadBalancer": {"ingress": ingress}}}),
                "192.0.2.2,a.example.com,192.0.2.1",
            ),
            (json!({"spec": {"type": "ExternalName", "externalName": "x.example.com"}}), "x.example.com"),
        ];
        for (service, expected) in table {
            assert_eq!(external_ip(&service), expected);
        }
        let ports = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(service_ports(&ports), "80:30000/TCP,53/UDP");
    }
}
