//! Tables: what `kubectl get` shows. The columns of each kind are one line in [`COLUMNS`]; built-in kinds without one show
//! name and creation time, custom ones name and age.
//!
//! Columns and cells are upstream's printers', priorities too: clients show priority 0 always, others with `-o wide`. Cells are
//! made of an object's stored form, so that each form of a resource shows the same.

mod cells;
mod cluster;
mod config;
mod network;
mod pod;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::HashMap;
use std::sync::LazyLock;

use api::{Resource, resources};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::cells::age;
pub(crate) use self::cells::since;
use crate::conversion;
use crate::request::negotiate::RowObject;
use crate::request::respond;
use crate::server::Served;

/// One column.
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for names, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 when wide.
    pub priority: u8,
    /// What it says.
    pub about: About,
    /// Its cell for an object.
    pub cell: Cell,
}

/// Makes a cell.
pub type Cell = fn(&Value, Timestamp) -> Value;

/// What a column says.
#[derive(Debug, Clone, Copy)]
pub enum About {
    /// This.
    Text(&'static str),
    /// What the API says of a field: `io.k8s.api.` and this.
    Field(&'static str),
    /// What the API says of a field of the metadata.
    Metadata(&'static str),
}

/// The columns of each kind.
pub const COLUMNS: &[(&Resource, &[Column])] = &[
    (resources::COMPONENT_STATUSES, cluster::COMPONENT_STATUS),
    (resources::CONFIG_MAPS, config::CONFIG_MAP),
    (resources::ENDPOINTS, network::ENDPOINTS),
    (resources::EVENTS, cluster::EVENT),
    (resources::NAMESPACES, cluster::NAMESPACE),
    (resources::NODES, cluster::NODE),
    (resources::PERSISTENT_VOLUME_CLAIMS, storage::PERSISTENT_VOLUME_CLAIM),
    (resources::PERSISTENT_VOLUMES, storage::PERSISTENT_VOLUME),
    (resources::PODS, pod::POD),
    (resources::POD_TEMPLATES, workloads::POD_TEMPLATE),
    (resources::REPLICATION_CONTROLLERS, workloads::REPLICATION_CONTROLLER),
    (resources::RESOURCE_QUOTAS, config::RESOURCE_QUOTA),
    (resources::SECRETS, config::SECRET),
    (resources::SERVICE_ACCOUNTS, config::SERVICE_ACCOUNT),
    (resources::SERVICES, network::SERVICE),
    (resources::MUTATING_ADMISSION_POLICIES, config::MUTATING_ADMISSION_POLICY),
    (resources::MUTATING_ADMISSION_POLICY_BINDINGS, config::ADMISSION_POLICY_BINDING),
    (resources::MUTATING_WEBHOOK_CONFIGURATIONS, config::WEBHOOK_CONFIGURATION),
    (resources::VALIDATING_ADMISSION_POLICIES, config::VALIDATING_ADMISSION_POLICY),
    (resources::VALIDATING_ADMISSION_POLICY_BINDINGS, config::ADMISSION_POLICY_BINDING),
    (resources::VALIDATING_WEBHOOK_CONFIGURATIONS, config::WEBHOOK_CONFIGURATION),
    (resources::API_SERVICES, cluster::API_SERVICE),
    (resources::CONTROLLER_REVISIONS, workloads::CONTROLLER_REVISION),
    (resources::DAEMON_SETS, workloads::DAEMON_SET),
    (resources::DEPLOYMENTS, workloads::DEPLOYMENT),
    (resources::REPLICA_SETS, workloads::REPLICA_SET),
    (resources::STATEFUL_SETS, workloads::STATEFUL_SET),
    (resources::HORIZONTAL_POD_AUTOSCALERS, workloads::HORIZONTAL_POD_AUTOSCALER),
    (resources::CRON_JOBS, workloads::CRON_JOB),
    (resources::JOBS, workloads::JOB),
    (resources::CERTIFICATE_SIGNING_REQUESTS, config::CERTIFICATE_SIGNING_REQUEST),
    (resources::LEASES, cluster::LEASE),
    (resources::ENDPOINT_SLICES, network::ENDPOINT_SLICE),
    (resources::FLOW_SCHEMAS, cluster::FLOW_SCHEMA),
    (resources::PRIORITY_LEVEL_CONFIGURATIONS, cluster::PRIORITY_LEVEL_CONFIGURATION),
    (resources::INGRESS_CLASSES, network::INGRESS_CLASS),
    (resources::INGRESSES, network::INGRESS),
    (resources::IP_ADDRESSES, network::IP_ADDRESS),
    (resources::NETWORK_POLICIES, network::NETWORK_POLICY),
    (resources::SERVICE_CIDRS, network::SERVICE_CIDR),
    (resources::RUNTIME_CLASSES, cluster::RUNTIME_CLASS),
    (resources::POD_DISRUPTION_BUDGETS, workloads::POD_DISRUPTION_BUDGET),
    (resources::CLUSTER_ROLE_BINDINGS, config::CLUSTER_ROLE_BINDING),
    (resources::ROLE_BINDINGS, config::ROLE_BINDING),
    (resources::DEVICE_CLASSES, storage::DEVICE_CLASS),
    (resources::RESOURCE_CLAIMS, storage::RESOURCE_CLAIM),
    (resources::RESOURCE_CLAIM_TEMPLATES, storage::DEVICE_CLASS),
    (resources::RESOURCE_SLICES, storage::RESOURCE_SLICE),
    (resources::PRIORITY_CLASSES, cluster::PRIORITY_CLASS),
    (resources::CSI_DRIVERS, storage::CSI_DRIVER),
    (resources::CSI_NODES, storage::CSI_NODE),
    (resources::CSI_STORAGE_CAPACITIES, storage::CSI_STORAGE_CAPACITY),
    (resources::STORAGE_CLASSES, storage::STORAGE_CLASS),
    (resources::VOLUME_ATTACHMENTS, storage::VOLUME_ATTACHMENT),
    (resources::VOLUME_ATTRIBUTES_CLASSES, storage::VOLUME_ATTRIBUTES_CLASS),
];

/// The columns of the built-in kinds that have none of their own.
const CREATED: &[Column] = &[
    NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
        about: About::Metadata("creationTimestamp"),
        cell: |object, _| object["metadata"]["creationTimestamp"].clone(),
    },
];

/// The columns of custom kinds that have none of their own.
const PLAIN: &[Column] = &[NAME, AGE];

/// The name.
pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    about: About::Metadata("name"),
    cell: |object, _| object["metadata"]["name"].clone(),
};

/// The column that nearly every kind has.
pub(crate) const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    priority: 0,
    about: About::Metadata("creationTimestamp"),
    cell: age,
};

/// A column of text that is always shown.
pub(crate) const fn text(name: &'static str, about: About, cell: Cell) -> Column {
    Column { name, kind: "string", format: "", priority: 0, about, cell }
}

/// A column of numbers that is always shown.
pub(crate) const fn number(name: &'static str, about: About, cell: Cell) -> Column {
    Column { kind: "integer", ..text(name, about, cell) }
}

/// A column of truths that is always shown.
pub(crate) const fn boolean(name: &'static str, about: About, cell: Cell) -> Column {
    Column { kind: "boolean", ..text(name, about, cell) }
}

/// A column of text that is shown when wide.
pub(crate) const fn wide(name: &'static str, about: About, cell: Cell) -> Column {
    Column { priority: 1, ..text(name, about, cell) }
}

/// The columns of a stored form.
fn columns(stored: &Resource) -> &'static [Column] {
    let known = COLUMNS.iter().find(|(row, _)| row.plural == stored.plural && row.group == stored.group);
    match known {
        Some((_, columns)) => columns,
        None if api::schema::type_of(stored).is_some() => CREATED,
        None => PLAIN,
    }
}

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
    if let Some(version) = &served.custom {
        return version.columns.table(rows, items, metadata, now);
    }
    let resource = &*served.resource;
    let columns = columns(&served.stored);
    let row = |object: Value| {
        let cells = |object: &Value| columns.iter().map(|column| (column.cell)(object, now)).collect::<Vec<_>>();
        let cells = match served.is_stored_form() {
            true => cells(&object),
            false => cells(&conversion::to_stored(served, object.clone())),
        };
        let conditions = (resource.plural == "pods").then(|| pod::conditions(&object)).flatten();
        let shown = match rows {
            RowObject::Metadata => respond::metadata_of(&object),
            RowObject::Whole => object,
            RowObject::Nothing => Value::Null,
        };
        let mut row = json!({"cells": cells, "object": shown});
        if let Some(conditions) = conditions {
            row["conditions"] = conditions;
        }
        row
    };
    of_rows(&definitions(&served.stored, columns), &items.map(row).collect::<Vec<_>>(), metadata)
}

/// The table of a `Scale`, whose columns are no resource's.
pub fn of_scale(scale: &Value, rows: RowObject, now: Timestamp) -> Value {
    let cells: Vec<Value> = workloads::SCALE.iter().map(|column| (column.cell)(scale, now)).collect();
    let shown = match rows {
        RowObject::Metadata => respond::metadata_of(scale),
        RowObject::Whole => scale.clone(),
        RowObject::Nothing => Value::Null,
    };
    let definitions = workloads::SCALE.iter().map(|column| definition(column, ""));
    let metadata = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
    of_rows(&definitions.collect::<Vec<_>>(), &[json!({"cells": cells, "object": shown})], &metadata)
}

fn of_rows(definitions: &[Value], rows: &[Value], metadata: &Value) -> Value {
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows})
}

fn definitions(stored: &Resource, columns: &[Column]) -> Vec<Value> {
    let known = DESCRIPTIONS.get(&(&*stored.group, &*stored.plural));
    let text = |at: usize| known.and_then(|texts| texts.get(at)).map_or("", |text| &**text);
    columns.iter().enumerate().map(|(at, column)| definition(column, text(at))).collect()
}

fn definition(column: &Column, description: &str) -> Value {
    let Column { name, kind, format, priority, .. } = column;
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// By group and plural.
type ByResource<T> = HashMap<(&'static str, &'static str), T>;

/// What the columns say: made once, since the texts of the API's fields are kept deflated. 60 kB.
static DESCRIPTIONS: LazyLock<ByResource<Vec<Box<str>>>> = LazyLock::new(|| {
    let texts = api::schema::descriptions();
    let described = resources::RESOURCES.iter().filter(|row| row.stored_as.is_none() && row.serves(api::Verb::List));
    described
        .map(|row| {
            let of_columns = columns(row).iter().map(|column| describe(&texts, column.about).into());
            ((&*row.group, &*row.plural), of_columns.collect())
        })
        .collect()
});

fn describe(texts: &api::schema::Descriptions, about: About) -> String {
    let (of, field) = match about {
        About::Text(text) => return text.to_owned(),
        About::Metadata(field) => ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".to_owned(), field),
        About::Field(path) => match path.rsplit_once('.') {
            Some((of, field)) => (format!("io.k8s.{of}"), field),
            None => return String::new(),
        },
    };
    let of = api::schema::by_name(&of);
    let found = of.and_then(|of| Some((of, of.fields().iter().position(|known| known.name == field)?)));
    found.and_then(|(of, at)| texts.of_fields(of).nth(at)).unwrap_or_default().to_owned()
}
