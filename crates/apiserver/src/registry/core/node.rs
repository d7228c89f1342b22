//! Nodes. A kubelet writes its node's status when it creates it.

use std::collections::BTreeSet;
use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, is_set, list, present, set, text};
use crate::registry::{Context, Descriptor, Strategy, check, ip, pod_spec};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor { resource: api::resources::NODES, strategy: |_| Arc::new(NodeStrategy) };

const FEATURE_LENGTH_MAX: usize = 253;

struct NodeStrategy;

impl Strategy for NodeStrategy {
    fn default(&self, node: &mut Value) {
        if let Some(status) = present(node, "status") {
            for field in ["capacity", "allocatable"] {
                if let Some(amounts) = present(status, field) {
                    pod_spec::round_up(amounts);
                }
            }
            if is_set(status, "capacity") && !is_set(status, "allocatable") {
                let capacity = status["capacity"].clone();
                set(status, "allocatable", capacity);
            }
        }
        // The singular and the plural name the same range.
        let Some(spec) = child(node, "spec") else { return };
        let single = text(&spec["podCIDR"]).to_owned();
        if !single.is_empty() && list(&spec["podCIDRs"]).is_empty() {
            set(spec, "podCIDRs", vec![single]);
        } else if single.is_empty()
            && let Some(first) = list(&spec["podCIDRs"]).first().cloned()
        {
            set(spec, "podCIDR", first);
        }
    }

    fn validate(&self, _: &Context<'_>, node: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(node, "");
        validate_taints(&mut errors, &root);
        validate_resources(&mut errors, &root.at("status"));
        validate_ranges(&mut errors, &root);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let root = At::new(new, "");
        let spec = root.at("spec");
        unique_addresses(&mut errors, &root.at("status"));
        let (ranges, was) = (spec.at("podCIDRs"), list(&old["spec"]["podCIDRs"]));
        if !was.is_empty() && list(ranges.value()) != was {
            errors.push(ranges.forbidden("node updates may not change podCIDR except from \"\" to valid"));
        }
        let (provider, was) = (spec.at("providerID"), text(&old["spec"]["providerID"]));
        if !was.is_empty() && provider.text() != was {
            errors.push(provider.forbidden("node updates may not change providerID except from \"\" to valid"));
        }
        if text(&new["spec"]["externalID"]) != text(&old["spec"]["externalID"]) {
            errors.push(spec.at("externalID").forbidden("may not be updated"));
        }
        errors
    }

    fn validate_subresource_update(&self, context: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        self.validate_update(context, new, old)
    }

    fn allows_create_on_update(&self) -> bool {
        false
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = At::new(new, "");
        let spec = root.at("spec");
        if spec.at("configSource").is_set() {
            let path = spec.at("configSource").path();
            warnings.push(format!("{path}: the feature is no longer supported. The field is ignored by kubelet"));
        }
        if spec.at("externalID").has_text() {
            let path = spec.at("externalID").path();
            warnings.push(format!("{path}: this field is deprecated, and is unused by Kubernetes"));
        }
        for range in spec.at("podCIDRs").items() {
            ip::warn_network(&mut warnings, &range);
        }
        warnings
    }
}

fn validate_taints(errors: &mut Errors, root: &At<'_>) {
    let (metadata, spec) = (root.at("metadata"), root.at("spec"));
    // Upstream looks for them in the metadata, by its path.
    let at = metadata.at("taints").with(spec.at("taints").value());
    let mut seen = BTreeSet::new();
    for taint in at.items() {
        let (key, value, effect) = (taint.text_at("key"), taint.at("value"), taint.at("effect"));
        check::label_key(errors, &key);
        let complaints = names::label_value(value.text());
        if !complaints.is_empty() {
            errors.push(value.invalid(&complaints.join(";")));
        }
        check::required_one_of(errors, &effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key.text().to_owned(), effect.text().to_owned())) {
            let shown = json!({"Key": key.text(), "Value": value.text(), "Effect": effect.text(),
                "TimeAdded": taint.at("timeAdded").value()});
            let mut error = taint.duplicate_as(shown);
            error.detail.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
}

fn validate_resources(errors: &mut Errors, status: &At<'_>) {
    for field in ["capacity", "allocatable"] {
        let amounts = status.at(field);
        for (name, amount) in amounts.entries() {
            pod_spec::resource_quantity(errors, &amounts.at(name).with(amount.value()), name);
        }
    }
    let features = status.at("declaredFeatures");
    let given: Vec<&str> = list(features.value()).iter().map(text).collect();
    for (index, feature) in features.items().enumerate() {
        if let Some(why) = wrong_feature(feature.text()) {
            errors.push(feature.invalid(&why));
        }
        match index.checked_sub(1).map(|before| given[before]) {
            Some(before) if before == feature.text() => errors.push(feature.duplicate()),
            Some(before) if before > feature.text() => {
                errors.push(feature.invalid("list must be sorted alphabetically"));
            }
            _ => {}
        }
    }
}

fn wrong_feature(name: &str) -> Option<String> {
    if name.len() > FEATURE_LENGTH_MAX {
        return Some(format!("invalid feature name {name:?}: must be no more than {FEATURE_LENGTH_MAX} characters"));
    }
    let mut segments = name.split('/');
    let word = |segment: &str| segment.bytes().all(|c| c.is_ascii_alphanumeric());
    let first =
        segments.next().is_some_and(|segment| word(segment) && segment.starts_with(|c: char| c.is_ascii_uppercase()));
    let rest = segments.all(|segment| word(segment) && segment.starts_with(|c: char| c.is_ascii_alphabetic()));
    (!first || !rest).then(|| {
        format!(
            "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments separated \
             by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
        )
    })
}

fn validate_ranges(errors: &mut Errors, root: &At<'_>) {
    let spec = root.at("spec");
    let ranges = spec.at("podCIDRs");
    for range in ranges.items() {
        ip::network(errors, &range);
    }
    let v6 = ranges.items().filter(|range| range.text().contains(':')).count();
    if ranges.count() > 2 || (ranges.count() == 2 && v6 != 1) {
        errors.push(ranges.invalid("may specify no more than one CIDR for each IP family"));
    }
}

fn unique_addresses(errors: &mut Errors, status: &At<'_>) {
    let mut seen = BTreeSet::new();
    for address in status.at("addresses").items() {
        let (kind, value) = (address.at("type").text(), address.at("address").text());
        if !seen.insert((kind.to_owned(), value.to_owned())) {
            errors.push(address.duplicate_as(json!({"Type": kind, "Address": value})));
        }
    }
}
