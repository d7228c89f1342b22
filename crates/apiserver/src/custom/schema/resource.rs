//! Resources that stand within resources: they have a type and metadata of their own, which follow the rules of all metadata.

use machinery::names;
use serde_json::Value;

use super::Schema;
use crate::invalid::FieldError;

impl Schema {
    /// All that is wrong with the type and metadata of embedded resources, in a whole object.
    pub fn embedded_errors(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.find_embedded(object, "", &mut errors);
        errors
    }

    fn find_embedded(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        match value {
            Value::Object(fields) => {
                if self.embedded {
                    resource_errors(value, path, errors);
                }
                for (name, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    if let Some(place) = self.property(name) {
                        place.find_embedded(value, &format!("{path}{dot}{name}"), errors);
                    } else if let Some(place) = self.entries() {
                        place.find_embedded(value, &format!("{path}[{name}]"), errors);
                    }
                }
            }
            Value::Array(items) => {
                let Some(place) = self.items() else { return };
                for (at, item) in items.iter().enumerate() {
                    place.find_embedded(item, &format!("{path}[{at}]"), errors);
                }
            }
            _ => {}
        }
    }
}

fn resource_errors(resource: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let field = format!("{path}.{name}");
        match resource.get(name) {
            None => errors.push(FieldError::required(field, "")),
            Some(value @ Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(field, value, "must not be empty"));
            }
            Some(Value::String(_)) => {}
            Some(value) => errors.push(FieldError::invalid(field, value, "must be a string")),
        }
    }
    let kind = resource["kind"].as_str().unwrap_or_default();
    let complaints = names::dns1035_label(&kind.to_lowercase());
    if !kind.is_empty() && !complaints.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
        errors.push(FieldError::invalid(format!("{path}.kind"), &resource["kind"], &why));
    }
    let version = resource["apiVersion"].as_str().unwrap_or_default();
    if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.push(FieldError::invalid(format!("{path}.apiVersion"), &resource["apiVersion"], &why));
    }
    if let Some(metadata) = resource.get("metadata") {
        metadata_errors(metadata, &format!("{path}.metadata"), errors);
    }
}

fn metadata_errors(metadata: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !metadata.is_object() {
        return errors.push(FieldError::invalid(path, metadata, "must be an object"));
    }
    for field in ["labels", "annotations"] {
        for (key, value) in metadata[field].as_object().into_iter().flatten() {
            let at = format!("{path}.{field}");
            let complaints = names::qualified_name(&key.to_lowercase());
            errors.extend(complaints.iter().map(|why| FieldError::invalid(&*at, &key.as_str().into(), why)));
            let complaints = names::label_value(value.as_str().unwrap_or_default());
            if field == "labels" {
                errors.extend(complaints.iter().map(|why| FieldError::invalid(&*at, value, why)));
            }
        }
    }
}
