//! Reads the objects of custom resources: JSON in whatever shape, of which the schema keeps what it knows.
//!
//! Metadata is read by the schema of all metadata. What is unknown or given twice is dropped, complained of, or refused, as
//! the request asks. The texts are upstream's.

use api::schema::{self, DecodeError, Strictness, TypeRef};
use api::{ApiError, Resource};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::schema::Schema;

/// More complaints than this say nothing new; upstream stops there too.
const COMPLAINTS_MAX: usize = 100;
/// The type of every object's metadata.
pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Reads JSON, whose bytes still show what is given twice.
pub fn bytes(resource: &Resource, schema: &Schema, json: &[u8], strictness: Strictness) -> Read {
    let mut twice = Vec::new();
    let mut source = serde_json::Deserializer::from_slice(json);
    let value = Reader { path: String::new(), twice: &mut twice }.deserialize(&mut source);
    let value = value.and_then(|value| source.end().map(|()| value));
    finish(resource, schema, value.map_err(|error| crate::request::body::malformed(&error))?, twice, strictness)
}

/// Reads a tree that YAML or a patch gave.
pub fn tree(resource: &Resource, schema: &Schema, tree: &Value, strictness: Strictness) -> Read {
    finish(resource, schema, tree.clone(), Vec::new(), strictness)
}

/// An object and what the client is warned of.
pub type Read = Result<(Value, Vec<String>), ApiError>;

fn finish(
    resource: &Resource,
    schema: &Schema,
    mut object: Value,
    mut complaints: Vec<String>,
    strictness: Strictness,
) -> Read {
    let refused = |error: DecodeError| error.to_api_error(resource);
    if !object.is_object() {
        return Err(refused(DecodeError::Kind("Object 'Kind' is missing".to_owned())));
    }
    complaints.extend(metadata(&mut object).map_err(refused)?);
    let unknown = schema.prune(&mut object);
    complaints.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
    complaints.truncate(COMPLAINTS_MAX);
    match strictness {
        Strictness::Ignore => Ok((object, Vec::new())),
        Strictness::Strict if !complaints.is_empty() => Err(refused(DecodeError::Strict(complaints))),
        Strictness::Strict | Strictness::Warn => Ok((object, complaints)),
    }
}

/// Reads the metadata as that of every object is read. Gives complaints about it.
fn metadata(object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let Some(metadata) = object.get_mut("metadata") else { return Ok(Vec::new()) };
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
        return Ok(Vec::new());
    }
    let decoded = schema::check(metadata, object_meta(), Strictness::Warn)?;
    *metadata = decoded.value;
    // The complaint names the field within the metadata.
    Ok(decoded.warnings.into_iter().map(|it| it.replacen("field \"", "field \"metadata.", 1)).collect())
}

fn object_meta() -> TypeRef {
    schema::by_name(OBJECT_META).expect("every object's metadata is in the schema")
}

/// Reads any JSON and notes fields that are given twice; the last one holds.
struct Reader<'a> {
    path: String,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let reader = Reader { path: format!("{}[{}]", self.path, list.len()), twice: &mut *self.twice };
            let Some(item) = items.next_element_seed(reader)? else { return Ok(Value::Array(list)) };
            list.push(item);
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key_seed(Name)? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{name}", self.path);
            if fields.contains_key(&name) && self.twice.len() < COMPLAINTS_MAX {
                let complaint = format!("duplicate field {path:?}");
                if !self.twice.contains(&complaint) {
                    self.twice.push(complaint);
                }
            }
            let value = map.next_value_seed(Reader { path, twice: &mut *self.twice })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        String::deserialize(deserializer)
    }
}
