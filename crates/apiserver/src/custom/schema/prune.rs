//! Pruning: fields that the schema does not name are dropped, unless it says that they stay.

use serde_json::Value;

use super::Schema;

/// The fields of an embedded resource that every resource has: they are no schema's to name.
const OF_EVERY_RESOURCE: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Drops what the schema does not know from a whole object of the resource. Gives the paths of what was dropped, such
    /// as `spec.unknown`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut pruning = Pruning { path: String::new(), dropped: Vec::new() };
        pruning.place(object, Some(self), true, false);
        pruning.dropped.sort();
        pruning.dropped
    }

    /// Whether pruning a value that stands at this place would drop something.
    pub fn would_prune(&self, value: &Value) -> bool {
        let mut pruning = Pruning { path: String::new(), dropped: Vec::new() };
        pruning.place(&mut value.clone(), Some(self), self.embedded, false);
        !pruning.dropped.is_empty()
    }
}

struct Pruning {
    path: String,
    dropped: Vec<String>,
}

impl Pruning {
    /// `schema` is `None` where the schema says nothing: nothing named stays there. `preserved`: the list around says that
    /// what is unknown stays.
    fn place(&mut self, value: &mut Value, schema: Option<&Schema>, is_resource: bool, preserved: bool) {
        let preserve = preserved || schema.is_some_and(|schema| schema.preserve_unknown);
        if preserve && schema.is_none() {
            return;
        }
        match value {
            Value::Object(fields) => {
                let mut unknown = Vec::new();
                for (name, value) in fields.iter_mut() {
                    if is_resource && OF_EVERY_RESOURCE.contains(&name.as_str()) {
                        continue;
                    }
                    let property = schema.and_then(|schema| schema.property(name));
                    if let Some(property) = property {
                        self.below(name, |this| this.place(value, Some(property), property.embedded, false));
                    } else if schema.is_some_and(Schema::has_entries) {
                        let entries = schema.and_then(Schema::entries);
                        let embedded = entries.is_some_and(|entries| entries.embedded);
                        self.below(name, |this| this.place(value, entries, embedded, false));
                    } else if !preserve {
                        unknown.push(name.clone());
                    }
                }
                for name in unknown {
                    fields.shift_remove(&name);
                    self.below(&name, |this| this.dropped.push(this.path.clone()));
                }
            }
            Value::Array(items) => {
                let schema = schema.and_then(Schema::items);
                for (at, item) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{at}]"));
                    self.place(item, schema, schema.is_some_and(|schema| schema.embedded), preserve);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn below(&mut self, name: &str, step: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        step(self);
        self.path.truncate(length);
    }
}
