//! What makes two pod templates the same, and the hash that names what is made from one.
//!
//! The hash is the same on every machine and in every version: a change would start a rollout of every workload.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Letters that make no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A hash of a template in ten letters. `collisions` counts how often another template had the same.
pub(crate) fn hash(template: &Value, collisions: i64) -> String {
    let digest = Sha256::new().chain_update(canonical(template)).chain_update(collisions.to_be_bytes()).finalize();
    digest.iter().take(10).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// A text that two values share exactly when they say the same: fields are sorted, and nulls left out.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

/// The same value with its fields sorted, also those of everything in it, and without nulls.
pub(crate) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(name, _)| *name);
            fields.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (name, value) in fields {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hashes_do_not_depend_on_the_order_of_fields() {
        let a = json!({"spec": {"x": 1, "y": [{"b": null, "a": "t"}]}});
        let b = json!({"spec": {"y": [{"a": "t"}], "x": 1}});
        assert_eq!(hash(&a, 0), hash(&b, 0));
        assert_ne!(hash(&a, 0), hash(&a, 1));
        assert_eq!(hash(&a, 0).len(), 10);
    }
}
