//! What storage drivers say of themselves: drivers, their nodes, and how much room there is.

use std::collections::BTreeSet;
use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::pod_spec::volume_sources::csi_driver_name;
use crate::registry::tree::{child, is_set, list, remove, set, set_default};
use crate::registry::{Context, Descriptor, Strategy, check};

/// Drivers.
pub const CSI_DRIVER: Descriptor =
    Descriptor { resource: api::resources::CSI_DRIVERS, strategy: |_| Arc::new(DriverStrategy) };
/// What the drivers on a node say.
pub const CSI_NODE: Descriptor =
    Descriptor { resource: api::resources::CSI_NODES, strategy: |_| Arc::new(NodeStrategy) };
/// How much room there is.
pub const CSI_STORAGE_CAPACITY: Descriptor =
    Descriptor { resource: api::resources::CSI_STORAGE_CAPACITIES, strategy: |_| Arc::new(CapacityStrategy) };

const NODE_ID_LENGTH_MAX: usize = 256;
const UPDATE_PERIOD_SECONDS_MIN: i64 = 10;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

struct DriverStrategy;

impl Strategy for DriverStrategy {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, driver: &mut Value) {
        let Some(spec) = child(driver, "spec") else { return };
        let flags = [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
        ];
        for (field, default) in flags.into_iter().chain([("seLinuxMount", false)]) {
            if !is_set(spec, field) {
                set(spec, field, default);
            }
        }
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(&spec["volumeLifecycleModes"]).is_empty() {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, driver: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(driver, "");
        let spec = root.at("spec");
        // Upstream's path has another name than the field.
        for (field, shown) in [
            ("attachRequired", "attachedRequired"),
            ("podInfoOnMount", "podInfoOnMount"),
            ("storageCapacity", "storageCapacity"),
            ("seLinuxMount", "seLinuxMount"),
        ] {
            if !spec.at(field).is_set() {
                errors.push(spec.at(shown).required(""));
            }
        }
        check::one_of(&mut errors, &spec.at("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"]);
        token_requests(&mut errors, &spec.at("tokenRequests"));
        let modes = spec.at("volumeLifecycleModes");
        for mode in modes.items() {
            check::one_of(&mut errors, &modes.with(mode.value()), &["Persistent", "Ephemeral"]);
        }
        let period = spec.at("nodeAllocatableUpdatePeriodSeconds");
        if period.number().is_some_and(|seconds| seconds < UPDATE_PERIOD_SECONDS_MIN) {
            errors.push(period.invalid("must be greater than or equal to 10 seconds"));
        }
        let in_secrets = spec.at("serviceAccountTokenInSecrets");
        if in_secrets.is_set() && spec.at("tokenRequests").count() == 0 {
            errors.push(in_secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified"));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        let (spec, was) = (root.at("spec"), &old["spec"]);
        let attach = spec.at("attachedRequired").with(spec.at("attachRequired").value());
        check::immutable(&mut errors, &attach, &was["attachRequired"]);
        check::immutable(&mut errors, &spec.at("volumeLifecycleModes"), &was["volumeLifecycleModes"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Tokens among the attributes of a volume end up in logs.
    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let (spec, requests) = (&new["spec"], &new["spec"]["tokenRequests"]);
        let changed = old.is_none_or(|old| old["spec"]["tokenRequests"] != *requests);
        if list(requests).is_empty() || is_set(spec, "serviceAccountTokenInSecrets") || !changed {
            return Vec::new();
        }
        let why = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                   possible logging of tokens in volume attributes";
        vec![why.to_owned()]
    }
}

fn token_requests(errors: &mut Errors, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for request in at.items() {
        let audience = request.text_at("audience");
        if !seen.insert(audience.text().to_owned()) {
            errors.push(audience.duplicate());
            continue;
        }
        let seconds = request.at("expirationSeconds");
        match seconds.number() {
            Some(short) if short < TOKEN_SECONDS_MIN => {
                errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            }
            Some(long) if long > TOKEN_SECONDS_MAX => {
                errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
}

struct NodeStrategy;

impl Strategy for NodeStrategy {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, node: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(node, "");
        let (spec, mut seen) = (root.at("spec"), BTreeSet::new());
        for driver in spec.at("drivers").items() {
            let (name, id) = (driver.text_at("name"), driver.at("nodeID"));
            csi_driver_name(&mut errors, &name);
            check::required(&mut errors, &id);
            if id.text().len() > NODE_ID_LENGTH_MAX {
                errors.push(id.invalid(&format!("must be {NODE_ID_LENGTH_MAX} characters or less")));
            }
            check::not_negative(&mut errors, &driver.at("allocatable").at("count"));
            if !seen.insert(name.text().to_owned()) {
                errors.push(name.duplicate());
            }
            topology_keys(&mut errors, &driver);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            remove(&mut driver, "allocatable");
            driver
        };
        let root = At::new(new, "");
        let spec = root.at("spec");
        let drivers = spec.at("drivers");
        for was in list(&old["spec"]["drivers"]) {
            for now in drivers.items().filter(|now| *now.at("name").value() == was["name"]) {
                if fixed(now.value()) != fixed(was) {
                    let shown = json!({"Name": now.at("name").value(), "NodeID": now.at("nodeID").value(),
                        "TopologyKeys": now.at("topologyKeys").value(), "Allocatable": null});
                    errors.push(drivers.invalid_as(shown, "field is immutable"));
                }
            }
        }
        errors
    }
}

/// Upstream names the driver, not the key.
fn topology_keys(errors: &mut Errors, driver: &At<'_>) {
    let mut seen = BTreeSet::new();
    for key in driver.at("topologyKeys").items() {
        if !key.has_text() {
            errors.push(driver.required(""));
        }
        if !seen.insert(key.text().to_owned()) {
            errors.push(driver.duplicate_as(key.text()));
        }
        errors.extend(names::qualified_name(key.text()).iter().map(|why| driver.invalid_as(key.text(), why)));
    }
}

struct CapacityStrategy;

impl Strategy for CapacityStrategy {
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, capacity: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(capacity, "");
        check::label_selector(&mut errors, &root.at("nodeTopology"));
        check::text(&mut errors, &root.text_at("storageClassName"), names::dns1123_subdomain);
        let amount = root.at("capacity");
        if let Some(given) = amount.quantity().filter(|given| given.is_negative()) {
            errors.push(amount.invalid_as(given.to_string(), "must be greater than or equal to 0"));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        for field in ["nodeTopology", "storageClassName"] {
            check::immutable(&mut errors, &root.at(field), old.get(field).unwrap_or(&Value::Null));
        }
        errors
    }
}
