//! What the spec of an autoscaler must be. Paths and texts are upstream's.

use machinery::names;
use serde_json::Value;

use crate::invalid::FieldError;
use crate::registry::tree::{is_set, list, named, quantity, text};

const PERIOD_SECONDS_MAX: i64 = 1800;
const WINDOW_SECONDS_MAX: i64 = 3600;
const SOURCES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

type Errors = Vec<FieldError>;

/// A check of one source, with its path.
type Check = fn(&mut Errors, &Value, &str);

/// All that is wrong with a spec in its newer form.
pub(super) fn validate(spec: &Value) -> Errors {
    let mut errors = Vec::new();
    let (least, most) = (&spec["minReplicas"], &spec["maxReplicas"]);
    if least.as_i64().is_some_and(|least| least < 1) {
        errors.push(FieldError::invalid("spec.minReplicas", least, "must be greater than or equal to 1"));
    }
    match most.as_i64().unwrap_or(0) {
        0 => errors.push(FieldError::required("spec.maxReplicas", "must be set and greater than 0")),
        count if count < 0 => {
            errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than or equal to 1"));
        }
        _ => {}
    }
    if least.as_i64().is_some_and(|least| most.as_i64().unwrap_or(0) < least) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", &most.as_i64().unwrap_or(0).into(), why));
    }
    reference(&mut errors, &spec["scaleTargetRef"], "spec.scaleTargetRef");
    for (at, metric) in list(&spec["metrics"]).iter().enumerate() {
        validate_metric(&mut errors, metric, &format!("spec.metrics[{at}]"));
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if !rules.is_null() {
            validate_rules(&mut errors, rules, &format!("spec.behavior.{direction}"));
        }
    }
    errors
}

fn reference(errors: &mut Errors, reference: &Value, path: &str) {
    for field in ["kind", "name"] {
        segment(errors, &reference[field], &format!("{path}.{field}"), "");
    }
    let version = &reference["apiVersion"];
    if text(version).matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {}", text(version));
        errors.push(FieldError::invalid(format!("{path}.apiVersion"), version, &why));
    }
}

/// A text that can stand in a path.
fn segment(errors: &mut Errors, value: &Value, path: &str, missing: &str) {
    match text(value) {
        "" => errors.push(FieldError::required(path, missing)),
        _ => named(errors, value, path, names::path_segment),
    }
}

fn validate_metric(errors: &mut Errors, metric: &Value, path: &str) {
    let kind = text(&metric["type"]);
    let type_path = format!("{path}.type");
    if kind.is_empty() {
        errors.push(FieldError::required(type_path.as_str(), "must specify a metric source type"));
    }
    if !SOURCES.contains(&kind) {
        errors.push(FieldError::not_supported(type_path.as_str(), &kind.into(), &SOURCES));
    }
    let sources: [(&str, Check); 5] = [
        ("object", object_source),
        ("external", external_source),
        ("pods", pods_source),
        ("resource", resource_source),
        ("containerResource", container_source),
    ];
    let given: Vec<_> = sources.iter().filter(|(field, _)| is_set(metric, field)).collect();
    if let Some((field, check)) = given.first() {
        check(errors, &metric[*field], &format!("{path}.{field}"));
    }
    let expected = SOURCES.contains(&kind).then(|| kind[..1].to_lowercase() + &kind[1..]);
    match &expected {
        Some(expected) if !is_set(metric, expected) => {
            let why = "must populate information for the given metric source";
            errors.push(FieldError::required(format!("{path}.{expected}"), why));
        }
        Some(_) => {}
        None => errors.push(FieldError::not_supported(type_path, &kind.into(), &SOURCES)),
    }
    if given.len() != 1 {
        for (field, _) in given.iter().filter(|(field, _)| Some(*field) != expected.as_deref()) {
            let why = "must populate the given metric source only";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        }
    }
}

fn object_source(errors: &mut Errors, source: &Value, path: &str) {
    reference(errors, &source["describedObject"], &format!("{path}.describedObject"));
    metric_name(errors, source, path);
    target(errors, &source["target"], &format!("{path}.target"));
    if !is_set(&source["target"], "value") && !is_set(&source["target"], "averageValue") {
        let why = "must set either a target value or averageValue";
        errors.push(FieldError::required(format!("{path}.target.averageValue"), why));
    }
}

fn external_source(errors: &mut Errors, source: &Value, path: &str) {
    metric_name(errors, source, path);
    target(errors, &source["target"], &format!("{path}.target"));
    match (is_set(&source["target"], "value"), is_set(&source["target"], "averageValue")) {
        (false, false) => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.push(FieldError::required(format!("{path}.target.averageValue"), why));
        }
        (true, true) => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(format!("{path}.target.value"), why));
        }
        _ => {}
    }
}

fn pods_source(errors: &mut Errors, source: &Value, path: &str) {
    metric_name(errors, source, path);
    target(errors, &source["target"], &format!("{path}.target"));
    if !is_set(&source["target"], "averageValue") {
        let why = "must specify a positive target averageValue";
        errors.push(FieldError::required(format!("{path}.target.averageValue"), why));
    }
}

fn resource_source(errors: &mut Errors, source: &Value, path: &str) {
    if text(&source["name"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), "must specify a resource name"));
    }
    utilization(errors, source, path);
}

fn container_source(errors: &mut Errors, source: &Value, path: &str) {
    if text(&source["name"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), "must specify a resource name"));
    }
    match text(&source["container"]) {
        "" => errors.push(FieldError::required(format!("{path}.container"), "must specify a container")),
        _ => named(errors, &source["container"], &format!("{path}.container"), names::dns1123_label),
    }
    utilization(errors, source, path);
}

fn utilization(errors: &mut Errors, source: &Value, path: &str) {
    target(errors, &source["target"], &format!("{path}.target"));
    match (is_set(&source["target"], "averageUtilization"), is_set(&source["target"], "averageValue")) {
        (false, false) => {
            let why = "must set either a target raw value or a target utilization";
            errors.push(FieldError::required(format!("{path}.target.averageUtilization"), why));
        }
        (true, true) => {
            let why = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(format!("{path}.target.averageValue"), why));
        }
        _ => {}
    }
}

fn metric_name(errors: &mut Errors, source: &Value, path: &str) {
    segment(errors, &source["metric"]["name"], &format!("{path}.metric.name"), "must specify a metric name");
}

fn target(errors: &mut Errors, target: &Value, path: &str) {
    let kind = text(&target["type"]);
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(format!("{path}.type"), &kind.into(), why));
    }
    for field in ["value", "averageValue"] {
        let positive = |amount: machinery::Quantity| !amount.is_zero() && !amount.is_negative();
        if quantity(&target[field]).is_some_and(|amount| !positive(amount)) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &target[field], "must be positive"));
        }
    }
    let percent = &target["averageUtilization"];
    if percent.as_i64().is_some_and(|percent| percent < 1) {
        errors.push(FieldError::invalid(format!("{path}.averageUtilization"), percent, "must be greater than 0"));
    }
}

fn validate_rules(errors: &mut Errors, rules: &Value, path: &str) {
    let window = &rules["stabilizationWindowSeconds"];
    let window_path = format!("{path}.stabilizationWindowSeconds");
    match window.as_i64() {
        Some(seconds) if seconds < 0 => {
            errors.push(FieldError::invalid(window_path, window, "must be greater than or equal to zero"));
        }
        Some(seconds) if seconds > WINDOW_SECONDS_MAX => {
            let why = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.push(FieldError::invalid(window_path, window, &why));
        }
        _ => {}
    }
    let select = &rules["selectPolicy"];
    if !select.is_null() && !["Disabled", "Max", "Min"].contains(&text(select)) {
        errors.push(FieldError::not_supported(format!("{path}.selectPolicy"), select, &["Disabled", "Max", "Min"]));
    }
    let policies = list(&rules["policies"]);
    if policies.is_empty() {
        errors.push(FieldError::required(format!("{path}.policies"), "must specify at least one Policy"));
    }
    for (at, policy) in policies.iter().enumerate() {
        validate_policy(errors, policy, &format!("{path}.policies[{at}]"));
    }
    let tolerance = &rules["tolerance"];
    if quantity(tolerance).is_some_and(|tolerance| tolerance.is_negative()) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("{path}.tolerance"), tolerance, why));
    }
}

fn validate_policy(errors: &mut Errors, policy: &Value, path: &str) {
    if !["Pods", "Percent"].contains(&text(&policy["type"])) {
        let kind = text(&policy["type"]).into();
        errors.push(FieldError::not_supported(format!("{path}.type"), &kind, &["Percent", "Pods"]));
    }
    for field in ["value", "periodSeconds"] {
        let number = policy[field].as_i64().unwrap_or(0);
        if number <= 0 {
            errors.push(FieldError::invalid(format!("{path}.{field}"), &number.into(), "must be greater than zero"));
        }
    }
    let seconds = &policy["periodSeconds"];
    if seconds.as_i64().is_some_and(|seconds| seconds > PERIOD_SECONDS_MAX) {
        let why = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
        errors.push(FieldError::invalid(format!("{path}.periodSeconds"), seconds, &why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_mistake_is_named_where_it_is() {
        let good = json!({"minReplicas": 1, "maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
        let with = |field: &str, value: Value| {
            let mut spec = good.clone();
            spec[field] = value;
            spec
        };
        let cpu = |target: Value| json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        let rows = [
            (good.clone(), ""),
            (with("minReplicas", json!(0)), "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"),
            (
                with("maxReplicas", json!(-1)),
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1; spec.maxReplicas: Invalid value: \
                 -1: must be greater than or equal to `minReplicas`",
            ),
            (with("scaleTargetRef", json!({"kind": "D"})), "spec.scaleTargetRef.name: Required value"),
            (
                with("metrics", cpu(json!({"type": "Utilization", "averageUtilization": 0}))),
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
            ),
            (
                with("metrics", cpu(json!({"type": "Utilization"}))),
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or \
                 a target utilization",
            ),
            (
                with("metrics", json!([{"type": "Pods"}])),
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ),
            (
                with("behavior", json!({"scaleUp": {"policies": []}})),
                "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
            ),
            (
                with(
                    "behavior",
                    json!({"scaleDown": {"stabilizationWindowSeconds": 4000,
                        "policies": [{"type": "Pods", "value": 0, "periodSeconds": 2000}]}}),
                ),
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to \
                 3600; spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero; \
                 spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 2000: must be less than or equal to 1800",
            ),
        ];
        for (spec, expected) in rows {
            let errors: Vec<String> = validate(&spec).iter().map(ToString::to_string).collect();
            assert_eq!(errors.join("; "), expected, "{spec}");
        }
    }
}
