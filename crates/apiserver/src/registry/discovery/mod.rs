//! Strategies of the `discovery.k8s.io` group.

use std::sync::Arc;

use serde_json::Value;

use super::tree::{immutable, is_set, list, list_mut, one_of, set, set_default, text};
use super::{Context, Descriptor, Strategy};
use crate::invalid::FieldError;

/// Endpoint slices.
pub const ENDPOINT_SLICE: Descriptor =
    Descriptor { resource: api::resources::ENDPOINT_SLICES, strategy: |_| Arc::new(EndpointSliceStrategy) };

const ENDPOINTS_MAX: usize = 1000;

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

    fn validate(&self, _: &Context<'_>, slice: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if text(&slice["addressType"]).is_empty() {
            errors.push(FieldError::required("addressType", ""));
        }
        one_of(&mut errors, &slice["addressType"], "addressType", &["FQDN", "IPv4", "IPv6"]);
        let endpoints = list(&slice["endpoints"]);
        if endpoints.len() > ENDPOINTS_MAX {
            errors.push(FieldError::too_many("endpoints", endpoints.len(), ENDPOINTS_MAX));
        }
        for (at, endpoint) in endpoints.iter().enumerate() {
            let addresses = list(&endpoint["addresses"]);
            let path = format!("endpoints[{at}].addresses");
            if addresses.is_empty() {
                errors.push(FieldError::required(&path, "must contain at least 1 address"));
            }
            for (at, address) in addresses.iter().enumerate() {
                let valid = match text(&slice["addressType"]) {
                    "IPv4" => text(address).parse::<std::net::Ipv4Addr>().is_ok(),
                    "IPv6" => text(address).parse::<std::net::Ipv6Addr>().is_ok(),
                    _ => machinery::names::dns1123_subdomain(text(address)).is_empty(),
                };
                if !valid {
                    let why = format!("must be a valid {} address", text(&slice["addressType"]));
                    errors.push(FieldError::invalid(format!("{path}[{at}]"), address, &why));
                }
            }
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        immutable(&mut errors, &new["addressType"], &old["addressType"], "addressType");
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
