//! Resources that show the same objects in several forms: events of both groups, autoscalers of both versions.
//!
//! One form is stored ([`api::Resource::stored_as`]); the others are converted on the way in and out. Everything else is
//! passed through untouched.

use std::borrow::Cow;

use api::{ApiError, Object, Reason, Resource};
use serde_json::{Map, Value, json};

use crate::{Served, custom};

/// Fields of `events.k8s.io/v1` and of the stored `v1` that differ only by name.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// An object of the stored form in the form of `resource`.
pub fn object_from_stored(served: &Served, object: Object) -> Result<Object, ApiError> {
    if served.is_stored_form() {
        return Ok(object);
    }
    if let Some(version) = &served.custom {
        return custom::object_from_stored(version, &object);
    }
    let converted = from_stored(served, object.to_value());
    Object::parse(&served.resource, converted.to_string().into()).map_err(|error| {
        ApiError::new(Reason::InternalError, format!("Internal error occurred: {}", base::chain(&error)))
    })
}

/// A tree of the stored form in the form of `resource`.
pub fn from_stored(served: &Served, object: Value) -> Value {
    if served.is_stored_form() {
        return object;
    }
    if let Some(version) = &served.custom {
        return custom::from_stored(version, object);
    }
    let resource = &*served.resource;
    let object = match &*resource.kind {
        "Event" => renamed(object, EVENT_FIELDS.iter().map(|(new, old)| (*old, *new))),
        _ => autoscaler_to_v1(object),
    };
    with_version(object, resource)
}

/// A tree of the form of `resource` in the stored form.
pub fn to_stored(served: &Served, object: Value) -> Value {
    if served.is_stored_form() {
        return object;
    }
    if let Some(version) = &served.custom {
        return custom::to_stored(version, object);
    }
    let resource = &*served.resource;
    let object = match &*resource.kind {
        "Event" => renamed(object, EVENT_FIELDS.iter().copied()),
        _ => autoscaler_from_v1(object),
    };
    with_version(object, &served.stored)
}

/// The path in the stored form of a field of `resource`.
pub fn stored_field<'a>(resource: &Resource, field: &'a str) -> Cow<'a, str> {
    if resource.stored_as.is_none() || resource.kind != "Event" {
        return field.into();
    }
    let (head, rest) = field.split_once('.').map_or((field, None), |(head, rest)| (head, Some(rest)));
    let Some((_, head)) = EVENT_FIELDS.iter().find(|(new, _)| *new == head) else { return field.into() };
    rest.map_or_else(|| (*head).into(), |rest| format!("{head}.{rest}").into())
}

fn with_version(mut object: Value, resource: &Resource) -> Value {
    object["apiVersion"] = resource.api_version().into();
    object
}

fn renamed<'a>(object: Value, names: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let Value::Object(mut fields) = object else { return object };
    for (from, to) in names {
        if let Some(value) = fields.shift_remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
    Value::Object(fields)
}

/// Where `autoscaling/v1` keeps the behaviour.
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// `autoscaling/v1` knows one metric, the use of CPU in per cent; the others ride in an annotation, as upstream's do.
fn autoscaler_to_v1(mut object: Value) -> Value {
    const ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    let behavior = spec.shift_remove("behavior");
    let metrics = match spec.shift_remove("metrics") {
        Some(Value::Array(metrics)) => metrics,
        _ => Vec::new(),
    };
    let (mut others, mut percent) = (Vec::new(), None);
    for metric in metrics {
        match cpu_percent(&metric) {
            Some(value) if percent.is_none() => percent = Some(value),
            _ => others.push(metric),
        }
    }
    if let Some(percent) = percent {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.into());
    }
    if let Some(behavior) = behavior {
        object["metadata"]["annotations"][BEHAVIOR] = behavior.to_string().into();
    }
    if !others.is_empty() {
        object["metadata"]["annotations"][ANNOTATION] = Value::Array(others).to_string().into();
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current = status.shift_remove("currentMetrics");
        status.shift_remove("conditions");
        let of_cpu = current.iter().filter_map(Value::as_array).flatten().find_map(|metric| {
            let resource = metric.get("resource").filter(|resource| resource["name"] == "cpu")?;
            resource["current"]["averageUtilization"].as_i64()
        });
        if let Some(percent) = of_cpu {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent.into());
        }
    }
    object
}

fn cpu_percent(metric: &Value) -> Option<i64> {
    let resource = metric.get("resource").filter(|resource| resource["name"] == "cpu")?;
    resource["target"]["averageUtilization"].as_i64()
}

fn autoscaler_from_v1(mut object: Value) -> Value {
    const ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
    let annotation = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
    let (others, behavior) = annotation
        .map_or((None, None), |annotations| (annotations.shift_remove(ANNOTATION), annotations.shift_remove(BEHAVIOR)));
    let behavior = behavior.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let others = others.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let mut metrics = others.unwrap_or_default();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), metrics.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
        && let Some(percent) = status.shift_remove("currentCPUUtilizationPercentage")
    {
        let current = json!({"averageUtilization": percent});
        status.insert(
            "currentMetrics".to_owned(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]),
        );
    }
    drop_empty(&mut object, "annotations");
    object
}

fn drop_empty(object: &mut Value, field: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get(field).and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        metadata.shift_remove(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_convert_there_and_back() {
        let table = [
            (
                api::resources::EVENTS_V1,
                json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "note": "n",
                    "regarding": {"name": "p"}, "reportingController": "c", "deprecatedCount": 2}),
            ),
            (
                api::resources::HORIZONTAL_POD_AUTOSCALERS_V1,
                json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
                    "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}}),
            ),
        ];
        for (resource, object) in table {
            let served = Served::plain(resource);
            let stored = to_stored(&served, object.clone());
            assert_ne!(stored, object);
            assert_eq!(stored["apiVersion"], served.stored.api_version());
            assert_eq!(from_stored(&served, stored), object);
        }
    }
}
