//! Strategies of the `discovery.k8s.io` group.

use std::collections::BTreeSet;
use std::sync::Arc;

use machinery::names;
use serde_json::Value;

use super::at::{At, Errors};
use super::tree::{is_set, list_mut, set, set_default};
use super::{Context, Descriptor, Strategy, check, ip};
use crate::invalid::FieldError;

/// Endpoint slices.
pub const ENDPOINT_SLICE: Descriptor =
    Descriptor { resource: api::resources::ENDPOINT_SLICES, strategy: |_| Arc::new(EndpointSliceStrategy) };

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_LABELS_MAX: usize = 16;
const HINTS_MAX: usize = 8;

struct EndpointSliceStrategy;

impl Strategy for EndpointSliceStrategy {
    fn default(&self, slice: &mut Value) {
        for port in list_mut(slice, "ports") {
            if !is_set(port, "name") {
                set(port, "name", "");
            }
            set_default(port, "protocol", "TCP");
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, context: &Context<'_>, slice: &Value) -> Vec<FieldError> {
        self.validate_update(context, slice, &Value::Null)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        let kind = root.at("addressType");
        check::required_one_of(&mut errors, &kind, &["FQDN", "IPv4", "IPv6"]);
        validate_ports(&mut errors, &root.at("ports"));
        // Older servers took what would be refused now: what is there may stay.
        if old.is_null() || new["endpoints"] != old["endpoints"] {
            validate_endpoints(&mut errors, &root.at("endpoints"), kind.text());
        }
        if !old.is_null() {
            check::immutable(&mut errors, &kind, &old["addressType"]);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        if root.at("addressType").text() == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
            return warnings;
        }
        for endpoint in root.at("endpoints").items() {
            endpoint.at("addresses").items().for_each(|address| ip::warn_address(&mut warnings, &address));
        }
        warnings
    }
}

fn validate_ports(errors: &mut Errors, at: &At<'_>) {
    if at.count() > PORTS_MAX {
        errors.push(at.too_many(PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for port in at.items() {
        let name = port.text_at("name");
        check::optional_text(errors, &name, names::dns1123_label);
        if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
        if port.at("protocol").is_set() {
            check::one_of(errors, &port.at("protocol"), &["SCTP", "TCP", "UDP"]);
        } else {
            errors.push(port.at("protocol").required(""));
        }
        if port.at("appProtocol").is_set() {
            check::text(errors, &port.at("appProtocol"), names::qualified_name);
        }
    }
}

fn validate_endpoints(errors: &mut Errors, at: &At<'_>, kind: &str) {
    if at.count() > ENDPOINTS_MAX {
        errors.push(at.too_many(ENDPOINTS_MAX));
        return;
    }
    for endpoint in at.items() {
        let addresses = endpoint.at("addresses");
        match addresses.count() {
            0 => errors.push(addresses.required("must contain at least 1 address")),
            1..=ADDRESSES_MAX => {}
            _ => errors.push(addresses.too_many(ADDRESSES_MAX)),
        }
        addresses.items().for_each(|address| validate_address(errors, &addresses, &address, kind));
        if endpoint.at("nodeName").is_set() {
            check::text(errors, &endpoint.at("nodeName"), names::dns1123_subdomain);
        }
        let topology = endpoint.at("deprecatedTopology");
        if topology.count() > TOPOLOGY_LABELS_MAX {
            errors.push(topology.too_many(TOPOLOGY_LABELS_MAX));
        }
        check::labels(errors, &topology);
        if endpoint.at("hostname").is_set() {
            check::text(errors, &endpoint.at("hostname"), names::dns1123_label);
        }
        validate_hints(errors, &endpoint.at("hints"));
    }
}

fn validate_address(errors: &mut Errors, list: &At<'_>, at: &At<'_>, kind: &str) {
    let before = errors.len();
    match kind {
        "IPv4" => ip::address(errors, at),
        "IPv6" => ip::canonical_address(errors, at),
        "FQDN" => return host_name(errors, at),
        _ => return,
    }
    if errors.len() > before {
        return;
    }
    if at.text().contains(':') != (kind == "IPv6") {
        errors.push(list.invalid_as(at.text(), &format!("must be an {kind} address")));
    }
    ip::endpoint_address(errors, at);
}

/// A name of at least two labels, which may end in a dot.
fn host_name(errors: &mut Errors, at: &At<'_>) {
    if !at.has_text() {
        errors.push(at.required(""));
        return;
    }
    let name = at.text().strip_suffix('.').unwrap_or(at.text());
    let complaints = names::dns1123_subdomain(name);
    if !complaints.is_empty() {
        errors.push(at.invalid_as(name, &complaints.join(",")));
        return;
    }
    if name.split('.').count() < 2 {
        errors.push(at.invalid_as(name, "should be a domain with at least two segments separated by dots"));
        return;
    }
    for label in name.split('.') {
        errors.extend(names::dns1123_label(label).iter().map(|why| at.invalid_as(label, why)));
    }
}

fn validate_hints(errors: &mut Errors, at: &At<'_>) {
    for (field, check_name) in
        [("forZones", names::label_value as super::at::TextCheck), ("forNodes", names::dns1123_subdomain)]
    {
        let hints = at.at(field);
        if hints.count() > HINTS_MAX {
            errors.push(hints.too_many(HINTS_MAX));
            return;
        }
        let mut seen = BTreeSet::new();
        for hint in hints.items() {
            let name = hint.text_at("name");
            if !seen.insert(name.text().to_owned()) {
                errors.push(name.duplicate());
            }
            check::text(errors, &name, check_name);
        }
    }
}
