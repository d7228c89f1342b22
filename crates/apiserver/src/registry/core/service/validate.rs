//! What a service must be, new and changed.

use std::collections::BTreeSet;

use machinery::names;
use serde_json::{Value, json};

use super::{HEADLESS, types};
use crate::registry::at::{At, Errors};
use crate::registry::tree::{list, text};
use crate::registry::{check, ip};

const AFFINITY_SECONDS_MAX: i64 = 86_400;
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const FIXED: &str = "may not change once set";

/// All that is wrong with a service. What an old one had of addresses may stay, whatever its form.
pub(super) fn validate(service: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let null = Value::Null;
    let before = old.map_or(&null, |old| &old["spec"]);
    let root = At::new(service, "");
    let (metadata, spec) = (root.at("metadata"), root.at("spec"));
    let kind = spec.at("type").text();
    topology(&mut errors, &metadata.at("annotations"));
    of_type(&mut errors, &spec, kind);
    ports(&mut errors, &spec.at("ports"));
    check::labels(&mut errors, &spec.at("selector"));
    affinity(&mut errors, &spec);
    addresses(&mut errors, &spec, before);
    let kept: Vec<&str> = list(&before["externalIPs"]).iter().map(text).collect();
    for address in spec.at("externalIPs").items() {
        let found = errors.len();
        ip::address_or_kept(&mut errors, &address, &kept);
        if errors.len() == found {
            ip::endpoint_address(&mut errors, &address);
        }
    }
    check::required_one_of(&mut errors, &spec.at("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    unique_ports(&mut errors, &spec.at("ports"), kind);
    source_ranges(&mut errors, &spec, &metadata.at("annotations"), old);
    let allocate = spec.at("allocateLoadBalancerNodePorts");
    if allocate.is_set() && kind != "LoadBalancer" {
        errors.push(allocate.forbidden(BALANCER_ONLY));
    }
    balancer_class(&mut errors, &spec);
    traffic(&mut errors, &spec);
    errors
}

/// All that is wrong with a changed service.
pub(super) fn update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let root = At::new(new, "");
    let (spec, before) = (root.at("spec"), &old["spec"]);
    if spec.at("type").text() != "ExternalName" && before["type"] != "ExternalName" {
        address_change(&mut errors, &spec, before);
        family_change(&mut errors, &spec, before);
    }
    let class = spec.at("loadBalancerClass");
    let both = spec.at("type").text() == "LoadBalancer" && before["type"] == "LoadBalancer";
    if both && *class.value() != *before.get("loadBalancerClass").unwrap_or(&Value::Null) {
        errors.push(class.invalid_as(class.value().clone(), FIXED));
    }
    let (port, was) = (spec.number_at("healthCheckNodePort"), before["healthCheckNodePort"].as_i64().unwrap_or(0));
    let checked = types::needs_health_check(spec.value()) && types::needs_health_check(before);
    if checked && port.number().unwrap_or(0) != was {
        errors.push(port.forbidden("field is immutable"));
    }
    errors.extend(validate(new, Some(old)));
    errors
}

fn topology(errors: &mut Errors, annotations: &At<'_>) {
    let (mode, hints) = (annotations.key(TOPOLOGY_MODE), annotations.at(TOPOLOGY_HINTS));
    if mode.is_set() && hints.is_set() && mode.value() != hints.value() {
        errors.push(mode.invalid(&format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified")));
    }
}

fn is_headless(spec: &Value) -> bool {
    matches!(list(&spec["clusterIPs"]), [one] if one == HEADLESS)
}

fn of_type(errors: &mut Errors, spec: &At<'_>, kind: &str) {
    let headless = is_headless(spec.value());
    if spec.at("ports").count() == 0 && !headless && kind != "ExternalName" {
        errors.push(spec.at("ports").required(""));
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(spec.at("clusterIPs").index(0).invalid(&why));
    }
    if kind != "ExternalName" {
        return;
    }
    for (field, there) in [
        ("clusterIPs", spec.at("clusterIPs").count() > 0),
        ("ipFamilies", spec.at("ipFamilies").count() > 0),
        ("ipFamilyPolicy", spec.at("ipFamilyPolicy").is_set()),
    ] {
        if there {
            errors.push(spec.at(field).forbidden("may not be set for ExternalName services"));
        }
    }
    let name = spec.at("externalName");
    let host = name.text().strip_suffix('.').unwrap_or(name.text());
    if host.is_empty() {
        errors.push(name.required(""));
    }
    let complaints = if host.is_empty() { Vec::new() } else { names::dns1123_subdomain(host) };
    errors.extend(complaints.iter().map(|why| name.invalid_as(host, why)));
}

fn ports(errors: &mut Errors, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for port in at.items() {
        let name = port.at("name");
        if name.has_text() {
            check::text(errors, &name, names::dns1123_label);
            if !seen.insert(name.text().to_owned()) {
                errors.push(name.duplicate());
            }
        } else if at.count() > 1 {
            errors.push(name.required(""));
        }
        check::port_number(errors, &port.at("port"));
        check::required_one_of(errors, &port.at("protocol"), &["SCTP", "TCP", "UDP"]);
        check::port(errors, &port.number_at("targetPort"));
        if port.at("appProtocol").is_set() {
            check::text(errors, &port.at("appProtocol"), names::qualified_name);
        }
    }
}

fn unique_ports(errors: &mut Errors, at: &At<'_>, kind: &str) {
    let (mut on_nodes, mut own) = (BTreeSet::new(), BTreeSet::new());
    for port in at.items() {
        let (node, protocol) = (port.at("nodePort"), port.at("protocol").text().to_owned());
        let number = node.number().unwrap_or(0);
        if number != 0 && kind == "ClusterIP" {
            errors.push(node.forbidden("may not be used when `type` is 'ClusterIP'"));
        }
        if number != 0 && !on_nodes.insert((protocol.clone(), number)) {
            errors.push(node.duplicate());
        }
        let number = port.at("port").number().unwrap_or(0);
        if !own.insert((protocol.clone(), number)) {
            let shown = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number, "TargetPort": 0,
                "NodePort": 0});
            errors.push(port.duplicate_as(shown));
        }
    }
}

fn affinity(errors: &mut Errors, spec: &At<'_>) {
    const WHEN: &str = "when session affinity type is ClientIP";
    let (kind, config) = (spec.at("sessionAffinity"), spec.at("sessionAffinityConfig"));
    check::required_one_of(errors, &kind, &["ClientIP", "None"]);
    if kind.text() == "None" && config.is_set() {
        errors.push(config.forbidden("must not be set when session affinity is None"));
    }
    if kind.text() != "ClientIP" {
        return;
    }
    let client = config.at("clientIP");
    let seconds = client.at("timeoutSeconds");
    if let Some(missing) = [&config, &client, &seconds].iter().find(|place| !place.is_set()) {
        errors.push(missing.required(WHEN));
    } else if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds.number().unwrap_or(0)) {
        errors.push(seconds.invalid(&format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}")));
    }
}

/// All that is wrong with the addresses of a service and their families, before any is given.
pub(super) fn addresses_of(service: &Value, old: Option<&Value>, cluster: &types::Ranges) -> Errors {
    let mut errors = Vec::new();
    let null = Value::Null;
    let root = At::new(service, "");
    let spec = root.at("spec");
    addresses(&mut errors, &spec, old.map_or(&null, |old| &old["spec"]));
    if errors.is_empty() && spec.at("type").text() != "ExternalName" {
        unconfigured(&mut errors, &spec, cluster);
    }
    errors
}

/// What the cluster has no addresses for.
fn unconfigured(errors: &mut Errors, spec: &At<'_>, cluster: &types::Ranges) {
    let (policy, all, families) = (spec.at("ipFamilyPolicy"), spec.at("clusterIPs"), spec.at("ipFamilies"));
    let is_configured = |family: &str| cluster.of(family == "IPv4").is_some();
    for (list, what) in [(&all, "cluster IPs"), (&families, "IP families")] {
        if policy.text() == "SingleStack" && list.count() == 2 {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(policy.invalid(&why));
        }
    }
    for address in all.items().filter(|address| address.text() != HEADLESS) {
        let family = types::family(!address.text().contains(':'));
        if !is_configured(family) {
            errors
                .push(address.invalid_as(all.value().clone(), &format!("{family} is not configured on this cluster")));
        }
    }
    // Who names the endpoints himself may name them of any family.
    let own_endpoints = is_headless(spec.value()) && spec.at("selector").count() == 0;
    if !errors.is_empty() || own_endpoints {
        return;
    }
    if policy.text() == "RequireDualStack" && !cluster.is_dual() {
        errors.push(policy.invalid("this cluster is not configured for dual-stack services"));
    }
    for family in families.items().filter(|family| !is_configured(family.text())) {
        errors.push(family.invalid("not configured on this cluster"));
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies`, `ipFamilyPolicy`.
fn addresses(errors: &mut Errors, spec: &At<'_>, before: &Value) {
    if spec.at("type").text() == "ExternalName" {
        return;
    }
    let (single, all) = (spec.at("clusterIP"), spec.at("clusterIPs"));
    let wrong = match (single.has_text(), list(all.value()).first().map(text)) {
        (true, None) => Some(all.required("")),
        (true, Some(first)) if first != single.text() => Some(all.invalid("first value must match `clusterIP`")),
        (false, Some(_)) => Some(all.invalid("must be empty when `clusterIP` is not specified")),
        _ => None,
    };
    errors.extend(wrong);
    let mut families = BTreeSet::new();
    for family in spec.at("ipFamilies").items() {
        check::one_of(errors, &family, &["IPv4", "IPv6"]);
        if !families.insert(family.text().to_owned()) {
            errors.push(family.duplicate());
        }
    }
    check::one_of(errors, &spec.at("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let kept: Vec<&str> = list(&before["clusterIPs"]).iter().map(text).collect();
    let found = errors.len();
    for (index, address) in all.items().enumerate() {
        if index == 0 && address.text() == HEADLESS {
            if all.count() > 1 {
                errors.push(all.invalid("'None' must be the first and only value"));
            }
        } else {
            ip::address_or_kept(errors, &address, &kept);
        }
    }
    let sound = errors.len() == found;
    if all.count() > 2 {
        errors.push(all.invalid("may only hold up to 2 values"));
    }
    if sound && !is_headless(spec.value()) {
        families_of(errors, spec, &all);
    }
}

fn families_of(errors: &mut Errors, spec: &At<'_>, all: &At<'_>) {
    let is_v6 = |text: &str| text.contains(':');
    let v6 = all.items().filter(|address| is_v6(address.text())).count();
    if all.count() > 1 && (v6 == 0 || v6 == all.count()) {
        errors.push(all.invalid("may specify no more than one IP for each IP family"));
    }
    let families = spec.at("ipFamilies");
    for (index, (address, family)) in all.items().zip(families.items()).enumerate() {
        let expected = family.text();
        if (expected == "IPv4" && is_v6(address.text())) || (expected == "IPv6" && !is_v6(address.text())) {
            let why = format!("expected an {expected} value as indicated by `ipFamilies[{index}]`");
            errors.push(address.invalid(&why));
        }
    }
}

/// An address, once given, stays; the second one may come and go.
fn address_change(errors: &mut Errors, spec: &At<'_>, before: &Value) {
    if is_headless(spec.value()) && is_headless(before) {
        return;
    }
    let at = spec.at("clusterIPs");
    let (now, was) = (list(at.value()), list(&before["clusterIPs"]));
    let first = at.index(0);
    let shown = || Value::from(now.to_vec());
    if now.len() == was.len() {
        for (index, _) in now.iter().zip(was).enumerate().filter(|(_, (now, was))| now != was) {
            errors.push(at.index(index).invalid_as(shown(), FIXED));
        }
    } else if now.is_empty() {
        errors.push(first.invalid_as(Value::Null, "primary clusterIP can not be unset"));
    } else if !was.is_empty() && now[0] != was[0] {
        errors.push(first.invalid_as(shown(), FIXED));
    }
    released(errors, spec, now.len(), was.len(), "clusterIP");
}

fn released(errors: &mut Errors, spec: &At<'_>, now: usize, was: usize, what: &str) {
    let policy = spec.at("ipFamilyPolicy");
    if now == 1 && was > 1 && policy.text() != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        errors.push(policy.invalid_as(policy.value().clone(), &why));
    }
}

fn family_change(errors: &mut Errors, spec: &At<'_>, before: &Value) {
    if is_headless(spec.value()) || is_headless(before) {
        return;
    }
    let at = spec.at("ipFamilies");
    let (now, was) = (list(at.value()), list(&before["ipFamilies"]));
    let first = at.index(0);
    if now.len() == was.len() {
        let changed = now.iter().zip(was).filter(|(now, was)| now != was);
        errors.extend(changed.map(|_| first.invalid_as(now.to_vec(), FIXED)));
    } else if !now.is_empty() && !was.is_empty() && now[0] != was[0] {
        errors.push(first.invalid_as(spec.at("clusterIPs").value().clone(), FIXED));
    }
    released(errors, spec, now.len(), was.len(), "ipFamily");
}

fn source_ranges(errors: &mut Errors, spec: &At<'_>, annotations: &At<'_>, old: Option<&Value>) {
    let balancer = spec.at("type").text() == "LoadBalancer";
    let ranges = spec.at("loadBalancerSourceRanges");
    // Upstream's path begins with a capital.
    let shown = spec.at("LoadBalancerSourceRanges").with(ranges.value());
    if ranges.count() > 0 {
        if !balancer {
            errors.push(shown.forbidden(BALANCER_ONLY));
        }
        let was = old.map_or(&[][..], |old| list(&old["spec"]["loadBalancerSourceRanges"]));
        let kept: Vec<&str> = was.iter().map(|range| text(range).trim()).collect();
        for range in shown.items() {
            ip::network_or_kept(errors, &range.with(&range.text().trim().into()), &kept);
        }
        return;
    }
    let annotation = annotations.key(SOURCE_RANGES);
    if !annotation.is_set() {
        return;
    }
    if !balancer {
        errors.push(annotation.forbidden(BALANCER_ONLY));
    }
    let same = old.is_some_and(|old| old["metadata"]["annotations"][SOURCE_RANGES] == *annotation.value());
    if !same && !annotation.text().trim().is_empty() {
        for range in annotation.text().split(',') {
            ip::network(errors, &annotation.with(&range.trim().into()));
        }
    }
}

fn balancer_class(errors: &mut Errors, spec: &At<'_>) {
    let class = spec.at("loadBalancerClass");
    if !class.is_set() {
        return;
    }
    if spec.at("type").text() == "LoadBalancer" {
        check::text(errors, &class, names::qualified_name);
    } else {
        errors.push(class.forbidden(BALANCER_ONLY));
    }
}

fn traffic(errors: &mut Errors, spec: &At<'_>) {
    let (external, port) = (spec.at("externalTrafficPolicy"), spec.at("healthCheckNodePort"));
    if types::is_reached_from_outside(spec.value()) {
        check::required_one_of(errors, &external, &["Cluster", "Local"]);
    } else if external.has_text() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let number = port.number().unwrap_or(0);
    match (types::needs_health_check(spec.value()), number) {
        (true, 0) => errors.push(port.required("")),
        (true, _) => check::port_number(errors, &port),
        (false, 0) => {}
        (false, _) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(port.invalid(why));
        }
    }
    let internal = spec.at("internalTrafficPolicy");
    let inside = matches!(spec.at("type").text(), "ClusterIP" | "NodePort" | "LoadBalancer");
    if !internal.is_set() && inside {
        errors.push(internal.required(""));
    }
    check::one_of(errors, &internal, &["Cluster", "Local"]);
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    check::one_of(errors, &spec.at("trafficDistribution"), &distributions);
}

/// What a load balancer may say that it does for a service.
pub(super) fn load_balancer(status: &Value, old: &Value, spec: &Value) -> Errors {
    let mut errors = Vec::new();
    let root = At::new(status, "status.loadBalancer");
    let at = root.at("ingress");
    if spec["type"] != "LoadBalancer" {
        if at.count() > 0 {
            errors.push(at.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        }
        return errors;
    }
    let kept: Vec<&str> = list(&old["ingress"]).iter().map(|ingress| text(&ingress["ip"])).collect();
    for ingress in at.items() {
        let (address, mode, host) = (ingress.at("ip"), ingress.at("ipMode"), ingress.at("hostname"));
        if address.has_text() {
            ip::address_or_kept(&mut errors, &address, &kept);
        }
        match (address.has_text(), mode.is_set()) {
            (true, false) => errors.push(mode.required("must be specified when `ip` is set")),
            (false, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
            _ => check::one_of(&mut errors, &mode, &["Proxy", "VIP"]),
        }
        if host.has_text() {
            check::text(&mut errors, &host, names::dns1123_subdomain);
            if ip::parse_sloppily(host.text()).is_some() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

/// What the writer of a service should know although it is accepted.
pub(super) fn warnings(service: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let root = At::new(service, "");
    let (spec, metadata) = (root.at("spec"), root.at("metadata"));
    let (external, headless) = (spec.at("type").text() == "ExternalName", spec.at("clusterIP").text() == HEADLESS);
    let headless = headless && spec.at("type").text() == "ClusterIP";
    let external_addresses = spec.at("externalIPs").count() > 0;
    if metadata.at("annotations").at(TOPOLOGY_HINTS).is_set() {
        found.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    if spec.at("clusterIP").has_text() && !headless {
        spec.at("clusterIPs").items().for_each(|address| ip::warn_address(&mut found, &address));
    }
    let mut warn = |when: bool, message: &str| {
        if when {
            found.push(message.to_owned());
        }
    };
    let affine = spec.at("sessionAffinity").text() != "None";
    warn(headless && spec.at("loadBalancerIP").has_text(), "spec.loadBalancerIP is ignored for headless services");
    warn(headless && external_addresses, "spec.externalIPs is ignored for headless services");
    warn(headless && affine, "spec.SessionAffinity is ignored for headless services");
    let deprecated = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
    warn(external_addresses && !headless && !external, deprecated);
    let ignored = "spec.externalIPs is ignored when spec.type is \"ExternalName\"";
    warn(external && external_addresses, ignored);
    let ignored = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
    warn(!external && spec.at("externalName").has_text(), ignored);
    let close = spec.at("trafficDistribution").text() == "PreferClose";
    warn(close, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    spec.at("externalIPs").items().for_each(|address| ip::warn_address(&mut found, &address));
    if spec.at("loadBalancerIP").has_text() {
        ip::warn_address(&mut found, &spec.at("loadBalancerIP"));
    }
    spec.at("loadBalancerSourceRanges").items().for_each(|range| ip::warn_network(&mut found, &range));
    found
}
