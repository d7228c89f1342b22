//! What `kubectl get nodes.metrics.k8s.io` shows: metrics-server's columns.

use api::Resource;
use machinery::Quantity;
use machinery::quantity::Format;
use serde_json::{Value, json};

use crate::request::negotiate::RowObject;
use crate::request::respond;

/// A table with a row for each item. Without items there are no columns either: they are those of what is measured.
pub(super) fn of(resource: &Resource, items: Vec<Value>, rows: RowObject) -> Value {
    let kind = if resource.namespaced() { "pod" } else { "node" };
    let columns = match items.is_empty() {
        true => vec![],
        false => vec![
            column("Name", "name", &format!("Name of the {kind}")),
            column("cpu", "quantity", ""),
            column("memory", "quantity", ""),
            column("Window", "duration", ""),
        ],
    };
    let row = |item: Value| {
        let (cpu, memory) = usage(&item);
        let cells = json!([item["metadata"]["name"], cpu, memory, item["window"]]);
        let shown = match rows {
            RowObject::Metadata => respond::metadata_of(&item),
            RowObject::Whole => item,
            RowObject::Nothing => Value::Null,
        };
        json!({"cells": cells, "object": shown})
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns,
        "rows": items.into_iter().map(row).collect::<Vec<_>>()})
}

fn column(name: &str, format: &str, description: &str) -> Value {
    json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0})
}

/// A node's usage, or the sum of a pod's containers'.
fn usage(item: &Value) -> (String, String) {
    let containers = item["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if containers.is_empty() && item["usage"].is_object() {
        let text = |field: &str| item["usage"][field].as_str().unwrap_or_default().to_owned();
        return (text("cpu"), text("memory"));
    }
    let usages = || containers.iter().map(|container| &container["usage"]);
    let nanocores = |usage: &Value| usage["cpu"].as_str()?.strip_suffix('n')?.parse::<u64>().ok();
    let cpu: u64 = usages().filter_map(nanocores).sum();
    let memory = usages().filter_map(|usage| usage["memory"].as_str()?.parse::<Quantity>().ok());
    let memory = memory.fold(0_i64, |sum, one| sum.saturating_add(one.value()));
    (format!("{cpu}n"), Quantity::from_value(memory, Format::BinarySi).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_uses_what_its_containers_do() {
        let item = json!({"metadata": {"name": "p"}, "window": "15s", "containers": [
            {"usage": {"cpu": "1500n", "memory": "1Mi"}}, {"usage": {"cpu": "500n", "memory": "512Ki"}}]});
        assert_eq!(usage(&item), ("2000n".to_owned(), "1536Ki".to_owned()));
        let node = json!({"metadata": {"name": "n"}, "window": "15s", "usage": {"cpu": "7n", "memory": "1Gi"}});
        assert_eq!(usage(&node), ("7n".to_owned(), "1Gi".to_owned()));
    }
}
