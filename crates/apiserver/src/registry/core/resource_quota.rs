//! Resource quotas: what a namespace may use, and which of its objects count.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{list, present, set};
use crate::registry::{Context, Descriptor, Strategy, pod_spec, resource_names};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::RESOURCE_QUOTAS, strategy: |_| Arc::new(QuotaStrategy) };

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
/// What a pod counts with.
const COMPUTE: &[&str] = &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

struct QuotaStrategy;

impl Strategy for QuotaStrategy {
    fn default(&self, quota: &mut Value) {
        for part in ["spec", "status"] {
            for amounts in ["hard", "used"] {
                if let Some(amounts) = present(quota, part).and_then(|part| present(part, amounts)) {
                    pod_spec::round_up(amounts);
                }
            }
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, quota: &mut Value) {
        set(quota, "status", json!({}));
    }

    fn validate(&self, _: &Context<'_>, quota: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(quota, "");
        let spec = root.at("spec");
        amounts(&mut errors, &spec.at("hard"));
        scopes(&mut errors, &spec);
        selector(&mut errors, &spec);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        let of = |quota: &Value| -> BTreeSet<String> {
            list(&quota["spec"]["scopes"]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        if of(new) != of(old) {
            let root = At::new(new, "");
            let spec = root.at("spec");
            errors.push(spec.at("scopes").invalid_as(new["spec"]["scopes"].clone(), "field is immutable"));
        }
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        let status = root.at("status");
        amounts(&mut errors, &status.at("hard"));
        amounts(&mut errors, &status.at("used"));
        errors
    }
}

fn amounts(errors: &mut Errors, at: &At<'_>) {
    for (name, amount) in at.entries() {
        resource_names::quota_resource(errors, &amount, name);
        pod_spec::resource_quantity(errors, &amount, name);
    }
}

fn counts_in(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        _ => true,
    }
}

/// How many of the limited resources have nothing to do with a scope.
fn misapplied(spec: &At<'_>, scope: &str) -> usize {
    let hard = spec.at("hard");
    hard.entries().filter(|(name, _)| resource_names::is_quota_standard(name) && !counts_in(scope, name)).count()
}

fn conflict(scopes: &BTreeSet<String>) -> usize {
    let pairs = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    pairs.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(*scope))).count()
}

fn scopes(errors: &mut Errors, spec: &At<'_>) {
    let at = spec.at("scopes");
    let mut seen = BTreeSet::new();
    for scope in at.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.push(at.invalid("unsupported scope"));
        }
        for _ in 0..misapplied(spec, scope.text()) {
            errors.push(at.invalid("unsupported scope applied to resource"));
        }
        seen.insert(scope.text().to_owned());
    }
    for _ in 0..conflict(&seen) {
        errors.push(at.invalid("conflicting scopes"));
    }
}

fn selector(errors: &mut Errors, spec: &At<'_>) {
    const ONLY_EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
         ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
         ResourceQuotaScopeCrossNamespacePodAffinity";
    let selector = spec.at("scopeSelector");
    let at = selector.at("matchExpressions");
    let mut seen = BTreeSet::new();
    for requirement in at.items() {
        let (scope, operator) = (requirement.text_at("scopeName"), requirement.text_at("operator"));
        let values = requirement.at("values");
        if !SCOPES.contains(&scope.text()) {
            errors.push(at.at("scopeName").invalid_as(scope.text(), "unsupported scope"));
        }
        for _ in 0..misapplied(spec, scope.text()) {
            errors.push(at.invalid_as(internal(selector.value()), "unsupported scope applied to resource"));
        }
        if !["PriorityClass", "VolumeAttributesClass"].contains(&scope.text())
            && SCOPES.contains(&scope.text())
            && operator.text() != "Exists"
        {
            errors.push(at.at("operator").invalid_as(operator.text(), ONLY_EXISTS));
        }
        match (operator.text(), values.count()) {
            ("In" | "NotIn", 0) => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(at.at("values").required(why));
            }
            ("Exists" | "DoesNotExist", 1..) => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(at.at("values").invalid_as(values.value().clone(), why));
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            _ => errors.push(at.at("operator").invalid_as(operator.text(), "not a valid selector operator")),
        }
        seen.insert(scope.text().to_owned());
    }
    for _ in 0..conflict(&seen) {
        errors.push(at.invalid_as(spec.at("scopes").value().clone(), "conflicting scopes"));
    }
}

/// A selector as upstream shows it: its internal type has no JSON names.
fn internal(selector: &Value) -> Value {
    let shown =
        |one: &Value| json!({"ScopeName": one["scopeName"], "Operator": one["operator"], "Values": one["values"]});
    json!({"MatchExpressions": list(&selector["matchExpressions"]).iter().map(shown).collect::<Vec<_>>()})
}
