//! Endpoints, the older form of endpoint slices.

use std::sync::Arc;

use machinery::names;
use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{list_mut, set_default};
use crate::registry::{Context, Descriptor, Strategy, check, ip};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::ENDPOINTS, strategy: |_| Arc::new(EndpointsStrategy) };

struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    fn default(&self, endpoints: &mut Value) {
        for subset in list_mut(endpoints, "subsets") {
            for port in list_mut(subset, "ports") {
                set_default(port, "protocol", "TCP");
            }
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, endpoints: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(endpoints, "");
        root.at("subsets").items().for_each(|subset| validate_subset(&mut errors, &subset));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        // Older servers took what would be refused now: what is there may stay.
        if new["subsets"] == old["subsets"] { Vec::new() } else { self.validate(context, new) }
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        for subset in root.at("subsets").items() {
            for kind in ["addresses", "notReadyAddresses"] {
                for address in subset.at(kind).items() {
                    ip::warn_address(&mut warnings, &address.at("ip"));
                }
            }
        }
        warnings
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

fn validate_subset(errors: &mut Errors, subset: &At<'_>) {
    if subset.at("addresses").count() == 0 && subset.at("notReadyAddresses").count() == 0 {
        errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
    }
    for kind in ["addresses", "notReadyAddresses"] {
        for address in subset.at(kind).items() {
            ip::address(errors, &address.text_at("ip"));
            check::optional_text(errors, &address.at("hostname"), names::dns1123_label);
            if address.at("nodeName").is_set() {
                check::text(errors, &address.at("nodeName"), names::dns1123_subdomain);
            }
            ip::endpoint_address(errors, &address.text_at("ip"));
        }
    }
    let ports = subset.at("ports");
    for port in ports.items() {
        let name = port.at("name");
        if ports.count() > 1 {
            check::required_text(errors, &name, names::dns1123_label);
        } else {
            check::optional_text(errors, &name, names::dns1123_label);
        }
        check::port_number(errors, &port.at("port"));
        check::required_one_of(errors, &port.at("protocol"), &["SCTP", "TCP", "UDP"]);
        if port.at("appProtocol").is_set() {
            check::text(errors, &port.at("appProtocol"), names::qualified_name);
        }
    }
}
