//! Lists whose elements are told apart: none may be there twice.

use std::collections::HashMap;

use machinery::apply::schema::Key;
use serde_json::{Map, Value};

use super::{ListType, Schema};
use crate::invalid::FieldError;

impl Schema {
    /// Elements of sets and keys of maps that are there more than once, in a whole object.
    pub fn duplicates(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.find_duplicates(object, "", &mut errors);
        errors
    }

    fn find_duplicates(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    if let Some(place) = self.property(name) {
                        place.find_duplicates(value, &format!("{path}{dot}{name}"), errors);
                    } else if let Some(place) = self.entries() {
                        place.find_duplicates(value, &format!("{path}[{name}]"), errors);
                    }
                }
            }
            Value::Array(items) => {
                match self.list_type {
                    ListType::Atomic => {}
                    ListType::Set => twice(items.iter().cloned(), path, errors),
                    ListType::Map => self.keys_twice(items, path, errors),
                }
                if let Some(place) = self.items() {
                    for (at, item) in items.iter().enumerate() {
                        place.find_duplicates(item, &format!("{path}[{at}]"), errors);
                    }
                }
            }
            _ => {}
        }
    }

    fn keys_twice(&self, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
        if let Some(at) = items.iter().position(|item| !item.is_null() && !item.is_object()) {
            let why = "must be an object for an array of list-type map";
            return errors.push(FieldError::invalid(format!("{path}[{at}]"), &items[at], why));
        }
        let keys = |item: &Value| {
            let known = |key: &Key| Some((key.name.to_string(), item.get(&*key.name)?.clone()));
            Value::Object(self.list_map_keys().iter().filter_map(known).collect::<Map<_, _>>())
        };
        twice(items.iter().map(keys), path, errors);
    }
}

/// Complains at the second appearance of each value.
fn twice(values: impl Iterator<Item = Value>, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (at, value) in values.enumerate() {
        let count = seen.entry(value.to_string()).or_default();
        *count += 1;
        if *count == 2 {
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), &value));
        }
    }
}
