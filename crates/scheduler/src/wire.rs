//! Decoding of the few fields that the scheduler reads.

use api::Object;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes an object into a struct with defaults. A null counts as absent, as everywhere in the API: objects that have any
/// are rare, so only they pay for a second look.
pub(crate) fn decode<T: DeserializeOwned>(object: &Object) -> Result<T, serde_json::Error> {
    serde_json::from_slice(object.json()).or_else(|_| {
        let mut value = object.to_value();
        drop_nulls(&mut value);
        serde_json::from_value(value)
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
