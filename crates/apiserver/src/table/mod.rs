//! Tables: what `kubectl get` shows. The columns of each kind are one line in [`COLUMNS`]; kinds without one show name and
//! age.
//!
//! Columns and cells are upstream's printers', priorities too: clients show priority 0 always, others with `-o wide`.

mod core;
mod workloads;

use api::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Served;
use crate::request::negotiate::RowObject;
use crate::request::respond;

/// One column.
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// 0 is always shown, 1 when wide.
    pub priority: u8,
    /// Its cell for an object.
    pub cell: fn(&Value, Timestamp) -> Value,
}

/// The columns of each kind behind the name.
pub const COLUMNS: &[(&Resource, &[Column])] = &[
    (api::resources::PODS, core::POD),
    (api::resources::SERVICES, core::SERVICE),
    (api::resources::NODES, core::NODE),
    (api::resources::NAMESPACES, core::NAMESPACE),
    (api::resources::CONFIG_MAPS, core::CONFIG_MAP),
    (api::resources::SECRETS, core::SECRET),
    (api::resources::SERVICE_ACCOUNTS, core::SERVICE_ACCOUNT),
    (api::resources::EVENTS, core::EVENT),
    (api::resources::ENDPOINTS, core::ENDPOINTS),
    (api::resources::PERSISTENT_VOLUMES, core::PERSISTENT_VOLUME),
    (api::resources::PERSISTENT_VOLUME_CLAIMS, core::PERSISTENT_VOLUME_CLAIM),
    (api::resources::ENDPOINT_SLICES, core::ENDPOINT_SLICE),
    (api::resources::LEASES, core::LEASE),
    (api::resources::INGRESSES, core::INGRESS),
    (api::resources::PRIORITY_CLASSES, core::PRIORITY_CLASS),
    (api::resources::STORAGE_CLASSES, core::STORAGE_CLASS),
    (api::resources::ROLE_BINDINGS, core::BINDING),
    (api::resources::CLUSTER_ROLE_BINDINGS, core::BINDING),
    (api::resources::ROLES, core::ROLE),
    (api::resources::CLUSTER_ROLES, core::ROLE),
    (api::resources::DEPLOYMENTS, workloads::DEPLOYMENT),
    (api::resources::REPLICA_SETS, workloads::REPLICA_SET),
    (api::resources::REPLICATION_CONTROLLERS, workloads::REPLICA_SET),
    (api::resources::STATEFUL_SETS, workloads::STATEFUL_SET),
    (api::resources::DAEMON_SETS, workloads::DAEMON_SET),
    (api::resources::JOBS, workloads::JOB),
    (api::resources::CRON_JOBS, workloads::CRON_JOB),
    (api::resources::POD_DISRUPTION_BUDGETS, workloads::POD_DISRUPTION_BUDGET),
    (api::resources::HORIZONTAL_POD_AUTOSCALERS, workloads::HORIZONTAL_POD_AUTOSCALER),
];

const PLAIN: &[Column] = &[AGE];

/// The column that nearly every kind has.
pub(crate) const AGE: Column = Column { name: "Age", kind: "string", priority: 0, cell: age };

/// A table with one row.
pub fn of_object(served: &Served, rows: RowObject, object: &Value, now: Timestamp) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    of_list(served, rows, std::iter::once(object.clone()), &metadata, now)
}

/// A table with a row for each object.
pub fn of_list(
    served: &Served,
    rows: RowObject,
    items: impl Iterator<Item = Value>,
    metadata: &Value,
    now: Timestamp,
) -> Value {
    let resource = &*served.resource;
    let known = COLUMNS.iter().find(|(row, _)| row.plural == resource.plural && row.group == resource.group);
    let columns = known.map_or(PLAIN, |(_, columns)| *columns);
    // Events show their time first and their name only when wide.
    let name_first = resource.plural != "events";
    let rows: Vec<Value> = items
        .map(|object| {
            let name = name_first.then(|| object["metadata"]["name"].clone());
            let cells: Vec<Value> =
                name.into_iter().chain(columns.iter().map(|column| (column.cell)(&object, now))).collect();
            let shown = match rows {
                RowObject::Metadata => respond::metadata_of(&object),
                RowObject::Whole => object,
                RowObject::Nothing => Value::Null,
            };
            json!({"cells": cells, "object": shown})
        })
        .collect();
    let name = name_first.then(|| definition("Name", "string", "name", 0));
    let definitions = columns.iter().map(|column| definition(column.name, column.kind, "", column.priority));
    let definitions: Vec<Value> = name.into_iter().chain(definitions).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows})
}

fn definition(name: &str, kind: &str, format: &str, priority: u8) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority})
}

pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    since(object["metadata"]["creationTimestamp"].as_str(), now).into()
}

/// How long ago, in the short form: `5s`, `3m10s`, `2d4h`.
pub(crate) fn since(at: Option<&str>, now: Timestamp) -> String {
    let at = at.and_then(|at| machinery::time::parse(at).ok());
    at.map_or_else(|| "<unknown>".to_owned(), |at| human(now.duration_since(at).as_secs()))
}

/// A duration as upstream's `HumanDuration` writes it.
pub(crate) fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |first: i64, unit: &str, second: i64, small: &str| match second {
        0 => format!("{first}{unit}"),
        second => format!("{first}{unit}{second}{small}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// A column of text that is always shown.
pub(crate) const fn text(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name, kind: "string", priority: 0, cell }
}

/// A column of numbers that is always shown.
pub(crate) const fn number(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name, kind: "integer", priority: 0, cell }
}

/// A column of text that is shown when wide.
pub(crate) const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name, kind: "string", priority: 1, cell }
}

/// The value at a pointer, or `<none>`.
pub(crate) fn or_none(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).filter(|value| !value.is_null() && *value != "").cloned().unwrap_or_else(|| "<none>".into())
}

/// The number at a pointer, or 0.
pub(crate) fn count(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0).into()
}

/// The elements of the list at a pointer.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> Vec<&'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten().collect()
}

/// Texts joined by commas, or `<none>`.
pub(crate) fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    let texts: Vec<&str> = texts.collect();
    if texts.is_empty() { "<none>".into() } else { texts.join(",").into() }
}

/// A label selector as text, or `<none>`.
pub(crate) fn selector(object: &Value, pointer: &str) -> Value {
    let Some(value) = object.pointer(pointer) else { return "<none>".into() };
    let plain =
        value.as_object().is_some_and(|map| !map.contains_key("matchLabels") && !map.contains_key("matchExpressions"));
    let value = if plain { json!({"matchLabels": value}) } else { value.clone() };
    let text = machinery::labels::Selector::from_label_selector(&value)
        .map(|selector| selector.to_string())
        .unwrap_or_default();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let table = [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (200_000, "2d7h"),
            (31_536_000 * 2, "2y"),
        ];
        for (seconds, text) in table {
            assert_eq!(human(seconds), text);
        }
    }
}
