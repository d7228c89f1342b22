//! Endpoints, the older form of endpoint slices.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::tree::{list, list_mut, one_of, set_default, text};
use crate::registry::{Context, Descriptor, Strategy};

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
        for (at, subset) in list(&endpoints["subsets"]).iter().enumerate() {
            let path = format!("subsets[{at}]");
            if list(&subset["addresses"]).is_empty() && list(&subset["notReadyAddresses"]).is_empty() {
                errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for kind in ["addresses", "notReadyAddresses"] {
                for (at, address) in list(&subset[kind]).iter().enumerate() {
                    if text(&address["ip"]).parse::<IpAddr>().is_err() {
                        let path = format!("{path}.{kind}[{at}].ip");
                        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                        errors.push(FieldError::invalid(path, &address["ip"], why));
                    }
                }
            }
            for (at, port) in list(&subset["ports"]).iter().enumerate() {
                one_of(
                    &mut errors,
                    &port["protocol"],
                    &format!("{path}.ports[{at}].protocol"),
                    &["SCTP", "TCP", "UDP"],
                );
            }
        }
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}
