//! Which cluster addresses there are, and whose each is: `ServiceCIDR` and `IPAddress`.

use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::At;
use crate::registry::tree::{list, set};
use crate::registry::{ALL_BUT_STATUS, Context, Descriptor, Strategy, check, ip};

/// Addresses.
pub const IP_ADDRESS: Descriptor =
    Descriptor { resource: api::resources::IP_ADDRESSES, strategy: |_| Arc::new(AddressStrategy) };
/// Ranges of addresses.
pub const SERVICE_CIDR: Descriptor =
    Descriptor { resource: api::resources::SERVICE_CIDRS, strategy: |_| Arc::new(RangeStrategy) };

struct AddressStrategy;

impl Strategy for AddressStrategy {
    fn name_errors(&self, name: &str) -> Vec<String> {
        let (value, mut errors) = (Value::from(name), Vec::new());
        ip::canonical_address(&mut errors, &At::new(&value, ""));
        let shown = format!("{value}: ");
        errors.into_iter().map(|error| error.detail.strip_prefix(&shown).unwrap_or(&error.detail).to_owned()).collect()
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, address: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(address, "");
        let spec = root.at("spec");
        let parent = spec.at("parentRef");
        if !parent.is_set() {
            errors.push(parent.required(""));
            return errors;
        }
        check::optional_text(&mut errors, &parent.at("group"), names::dns1123_subdomain);
        check::required_text(&mut errors, &parent.at("resource"), names::path_segment);
        check::required_text(&mut errors, &parent.at("name"), names::path_segment);
        check::optional_text(&mut errors, &parent.at("namespace"), names::path_segment);
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        let spec = root.at("spec");
        check::immutable(&mut errors, &spec.at("parentRef"), &old["spec"]["parentRef"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allows_create_on_update(&self) -> bool {
        false
    }
}

struct RangeStrategy;

impl Strategy for RangeStrategy {
    /// Metadata is written with the object itself only.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        if subresource.is_empty() { &[&["status"]] } else { ALL_BUT_STATUS }
    }

    fn prepare_for_create(&self, _: &Context<'_>, range: &mut Value) {
        set(range, "status", json!({}));
    }

    fn validate(&self, _: &Context<'_>, range: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(range, "");
        let spec = root.at("spec");
        let ranges = spec.at("cidrs");
        if ranges.count() == 0 {
            errors.push(ranges.required("at least one CIDR required"));
            return errors;
        }
        if ranges.count() > 2 {
            errors.push(ranges.invalid_as(json!({"CIDRs": ranges.value()}), "may only hold up to 2 values"));
            return errors;
        }
        ranges.items().for_each(|range| ip::canonical_network(&mut errors, &range));
        let families: Vec<bool> = ranges.items().map(|range| range.text().contains(':')).collect();
        if let [one, other] = families[..]
            && one == other
        {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.push(ranges.invalid(why));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        let spec = root.at("spec");
        let (ranges, was) = (spec.at("cidrs"), list(&old["spec"]["cidrs"]));
        let grows = was.len() == 1 && ranges.count() == 2;
        if ranges.count() != was.len() && !grows {
            errors.push(ranges.invalid("field is immutable"));
            return errors;
        }
        for (range, _) in ranges.items().zip(was).filter(|(range, was)| range.value() != *was) {
            errors.push(range.invalid("field is immutable"));
        }
        if grows {
            errors.extend(self.validate(context, new));
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}
