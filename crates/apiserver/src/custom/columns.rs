//! What `kubectl get` shows of custom resources: the columns that the definition names, each a JSONPath.

use jiff::Timestamp;
use machinery::jsonpath::JsonPath;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::request::negotiate::RowObject;
use crate::request::respond;
use crate::table;

/// `additionalPrinterColumns[]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Column {
    name: String,
    r#type: String,
    format: String,
    description: String,
    priority: i32,
    json_path: String,
}

/// The columns of one version behind the name.
#[derive(Debug, PartialEq)]
pub struct Columns(Vec<(Column, Option<JsonPath>)>);

impl Columns {
    /// The columns that a definition names; the age alone where it names none.
    pub(super) fn of(given: &[Column]) -> Self {
        let age = Column {
            name: "Age".to_owned(),
            r#type: "date".to_owned(),
            description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is \
                          not guaranteed to be set in happens-before order across separate operations. Clients may not set \
                          this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. \
                          Read-only. Null for lists. More info: \
                          https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
                .to_owned(),
            json_path: ".metadata.creationTimestamp".to_owned(),
            ..Column::default()
        };
        let given = if given.is_empty() { vec![age] } else { given.to_vec() };
        Self(given.into_iter().map(|column| (column.clone(), JsonPath::parse(&column.json_path).ok())).collect())
    }

    /// A table of objects.
    pub fn table(
        &self,
        rows: RowObject,
        items: impl Iterator<Item = Value>,
        metadata: &Value,
        now: Timestamp,
    ) -> Value {
        let rows: Vec<Value> = items.map(|object| self.row(object, rows, now)).collect();
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": self.definitions(), "rows": rows})
    }

    fn definitions(&self) -> Vec<Value> {
        const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
                            resources may allow a client to request the generation of an appropriate name automatically. \
                            Name is primarily intended for creation idempotence and configuration definition. Cannot be \
                            updated. More info: \
                            https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
        let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
        let rest = self.0.iter().map(|(column, _)| {
            let description = if column.description.is_empty() {
                format!("Custom resource definition column (in JSONPath format): {}", column.json_path)
            } else {
                column.description.clone()
            };
            json!({"name": column.name, "type": column.r#type, "format": column.format,
                "description": description, "priority": column.priority})
        });
        std::iter::once(name).chain(rest).collect()
    }

    fn row(&self, object: Value, shown: RowObject, now: Timestamp) -> Value {
        let name = object["metadata"]["name"].clone();
        let cells = self.0.iter().map(|(column, path)| {
            let found = path.as_ref().and_then(|path| path.first(&object));
            found.map_or(Value::Null, |value| cell(&column.r#type, value, now))
        });
        let cells: Vec<Value> = std::iter::once(name).chain(cells).collect();
        let shown = match shown {
            RowObject::Metadata => respond::metadata_of(&object),
            RowObject::Whole => object,
            RowObject::Nothing => Value::Null,
        };
        json!({"cells": cells, "object": shown})
    }
}

/// A value as a cell of a column's type; null where it is of another.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", value) => value.to_string().into(),
        ("integer", Value::Number(number)) => {
            number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match machinery::time::parse(text) {
            Ok(_) => table::since(Some(text), now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_their_columns_type() {
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let table = [
            ("string", json!("x"), json!("x")),
            ("string", json!(3), json!("3")),
            ("string", json!(["a", "b"]), json!("[\"a\",\"b\"]")),
            ("integer", json!(3), json!(3)),
            ("integer", json!(3.7), json!(3)),
            ("integer", json!("3"), Value::Null),
            ("boolean", json!(true), json!(true)),
            ("boolean", json!("true"), Value::Null),
            ("date", json!("2026-01-01T00:00:00Z"), json!("5m")),
            ("date", json!("yesterday"), json!("<invalid>")),
        ];
        for (kind, value, expected) in table {
            assert_eq!(cell(kind, &value, now), expected, "{kind} {value}");
        }
    }
}
