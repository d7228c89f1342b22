//! Limit ranges: bounds and defaults of what pods, containers and claims ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use machinery::{Quantity, names};
use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, entries, is_set, list_mut, present, set};
use crate::registry::{Context, Descriptor, Strategy, pod_spec, resource_names};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::LIMIT_RANGES, strategy: |_| Arc::new(LimitRangeStrategy) };

const PARTS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

struct LimitRangeStrategy;

impl Strategy for LimitRangeStrategy {
    fn default(&self, range: &mut Value) {
        let Some(spec) = present(range, "spec") else { return };
        for limit in list_mut(spec, "limits") {
            for part in PARTS {
                if let Some(amounts) = present(limit, part) {
                    pod_spec::round_up(amounts);
                }
            }
            if limit["type"] == "Container" {
                fill(limit, "default", "max");
                fill(limit, "defaultRequest", "default");
                fill(limit, "defaultRequest", "min");
            }
        }
    }

    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate(&self, _: &Context<'_>, range: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(range, "");
        let (spec, mut seen) = (root.at("spec"), BTreeSet::new());
        for limit in spec.at("limits").items() {
            let kind = limit.text_at("type");
            validate_type(&mut errors, &kind);
            if !seen.insert(kind.text().to_owned()) {
                errors.push(kind.duplicate());
            }
            validate_limit(&mut errors, &limit, kind.text());
        }
        errors
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// Takes over the amounts that `part` leaves out.
fn fill(limit: &mut Value, part: &str, from: &str) {
    let source = limit[from].clone();
    if entries(&source).next().is_none() {
        return;
    }
    let Some(amounts) = child(limit, part) else { return };
    for (name, amount) in entries(&source) {
        if !is_set(amounts, name) {
            set(amounts, name, amount.clone());
        }
    }
}

fn validate_type(errors: &mut Errors, kind: &At<'_>) {
    let complaints = names::qualified_name(kind.text());
    errors.extend(complaints.iter().map(|why| kind.invalid(why)));
    let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind.text());
    if complaints.is_empty() && !kind.text().contains('/') && !standard {
        errors.push(kind.invalid("must be a standard limit type or fully qualified"));
    }
}

fn validate_limit(errors: &mut Errors, limit: &At<'_>, kind: &str) {
    let mut keys = BTreeSet::new();
    for part in PARTS {
        let amounts = limit.at(part);
        if kind == "Pod" && part.starts_with("default") {
            if amounts.count() > 0 {
                errors.push(amounts.forbidden("may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, amount) in amounts.entries() {
            match kind {
                "Pod" | "Container" => resource_names::container_resource(errors, &amount, name),
                _ => resource_names::resource(errors, &amount, name),
            }
            keys.insert(name.to_owned());
        }
    }
    let stores = ["min", "max"].iter().any(|part| limit.at(part).at("storage").is_set());
    if kind == "PersistentVolumeClaim" && !stores {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(limit.at("limits").required(why));
    }
    for name in &keys {
        consistent(errors, limit, kind, name);
    }
}

/// The least, the most and the defaults of one resource.
fn consistent(errors: &mut Errors, limit: &At<'_>, kind: &str, name: &str) {
    let of = |part: &str| {
        let skipped = kind == "Pod" && part.starts_with("default");
        limit.at(part).key(name).quantity().filter(|_| !skipped)
    };
    let [max, min, default, request, ratio] = PARTS.iter().map(|part| of(part)).collect::<Vec<_>>()[..] else { return };
    let mut complain = |part: &str, shown: Quantity, why: String| {
        errors.push(limit.at(part).key(name).invalid_as(shown.to_string(), &why));
    };
    for (low, high, part, shows_low, low_name, high_name) in [
        (min, max, "min", true, "min", "max"),
        (min, request, "defaultRequest", false, "min", "default request"),
        (request, max, "defaultRequest", true, "default request", "max"),
        (request, default, "defaultRequest", true, "default request", "default limit"),
        (min, default, "default", true, "min", "default"),
        (default, max, "default", false, "default", "max"),
    ] {
        let (Some(low), Some(high)) = (low, high) else { continue };
        if low > high {
            let why = format!("{low_name} value {low} is greater than {high_name} value {high}");
            complain(part, if shows_low { low } else { high }, why);
        }
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::from_milli(1000) {
            complain("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > most {
                let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
                complain("maxLimitRequestRatio", ratio, why);
            }
        }
    }
    let overcommits = resource_names::is_native(name) && !resource_names::is_huge_page(name);
    if let (Some(default), Some(request)) = (default, request)
        && !overcommits
        && default != request
    {
        let why = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        complain("defaultRequest", request, why);
    }
}
