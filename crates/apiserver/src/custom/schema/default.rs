//! Defaulting: what the schema has a default for is there afterwards.

use serde_json::Value;

use super::Schema;

impl Schema {
    /// Sets what a value at this place leaves out. A null that may not be one counts as left out. Idempotent.
    pub fn set_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, property) in &self.properties {
                    let Some(default) = property.default_value() else { continue };
                    if fields.get(&**name).is_none_or(|given| property.is_wrong_null(given)) {
                        fields.insert(name.to_string(), default.clone());
                    }
                }
                for (name, value) in fields.iter_mut() {
                    if let Some(place) = self.property(name).or_else(|| self.entries()) {
                        place.replace_null(value);
                        place.set_defaults(value);
                    }
                }
            }
            Value::Array(list) => {
                let Some(place) = self.items() else { return };
                for item in list {
                    place.replace_null(item);
                    place.set_defaults(item);
                }
            }
            _ => {}
        }
    }

    fn is_wrong_null(&self, value: &Value) -> bool {
        value.is_null() && !self.nullable
    }

    fn replace_null(&self, value: &mut Value) {
        if self.is_wrong_null(value)
            && let Some(default) = self.default_value()
        {
            *value = default.clone();
        }
    }
}
