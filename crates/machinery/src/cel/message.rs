//! Objects and patches that expressions make, where they may: `Object.spec{replicas: 3}`, `JSONPatch{op: "add", ...}`; and
//! what values look like as JSON.
//!
//! An object's type is named for its place in the object that it is to be merged into; nothing else is known of it, so any
//! field may be given anything. Defined by KEP-3962.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::types::Type;
use super::value::{List, Table, Value};

/// The type of what is merged into an object.
pub(super) const OBJECT: &str = "Object";
/// The type of a step of a JSON patch.
pub(super) const JSON_PATCH: &str = "JSONPatch";

/// A made object.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The name of its type.
    pub name: Arc<str>,
    /// Its fields, without those that are left out.
    pub fields: BTreeMap<Box<str>, Value<'a>>,
}

/// Whether objects of a type can be made.
pub(super) fn can_make(name: &str) -> bool {
    name == JSON_PATCH || name == OBJECT || name.strip_prefix(OBJECT).is_some_and(|rest| rest.starts_with('.'))
}

/// The type of a field; `None` where there is no such field.
pub(super) fn field(of: &str, field: &str) -> Option<Type> {
    match (of, field) {
        (JSON_PATCH, "op" | "path" | "from") => Some(Type::String),
        (JSON_PATCH, "value") => Some(Type::Dyn),
        (JSON_PATCH, _) => None,
        _ => Some(Type::Dyn),
    }
}

impl Message<'_> {
    /// What is wrong with the types of objects in it: each is named for the place where it stands.
    pub fn misplaced(&self) -> Vec<String> {
        let mut found = Vec::new();
        misplaced_object(self, &self.name, &mut found);
        found
    }
}

fn misplaced_object(of: &Message<'_>, place: &str, found: &mut Vec<String>) {
    if *of.name != *place {
        found.push(format!(
            "unexpected type name {:?}, expected {place:?}, which matches field name path from root Object type",
            &*of.name
        ));
    }
    of.fields.iter().for_each(|(name, value)| misplaced(value, &format!("{place}.{name}"), found));
}

fn misplaced(value: &Value<'_>, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Message(of) => misplaced_object(of, place, found),
        Value::List(List::Made(items)) => items.iter().for_each(|item| misplaced(item, place, found)),
        Value::Map(Table::Made(entries)) => entries.values().for_each(|value| misplaced(value, place, found)),
        _ => {}
    }
}

impl<'a> Value<'a> {
    /// The elements of a list, or why one of them cannot be seen; none of what is no list.
    pub fn items(&self) -> Result<Vec<Value<'a>>, String> {
        let Self::List(list) = self else { return Ok(Vec::new()) };
        list.to_vec().map_err(|error| error.to_string())
    }
}

impl Value<'_> {
    /// The value as JSON, or why there is none.
    pub fn to_json(&self) -> Result<Json, String> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Uint(value) => (*value).into(),
            Self::Double(value) => {
                Json::Number(serde_json::Number::from_f64(*value).ok_or("a number that JSON does not have")?)
            }
            Self::String(text) | Self::Type(text) => (**text).into(),
            Self::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Self::Duration(nanos) => super::time::duration_text(*nanos).into(),
            Self::Timestamp(at) => at.to_string().into(),
            Self::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Self::List(List::Made(items)) => Json::Array(items.iter().map(Value::to_json).collect::<Result<_, _>>()?),
            Self::Map(Table::Json(fields, _) | Table::Object(fields, _)) => Json::Object((*fields).clone()),
            Self::Map(Table::Made(entries)) => {
                let entry = |(key, value): (&super::value::MapKey<'_>, &Value<'_>)| match key.value() {
                    Value::String(key) => Ok((key.to_string(), value.to_json()?)),
                    key => Err(format!("map key is of type {}, not string", key.type_name())),
                };
                Json::Object(entries.iter().map(entry).collect::<Result<_, _>>()?)
            }
            Self::Message(of) => {
                let mut fields = serde_json::Map::new();
                for (name, value) in &of.fields {
                    fields.insert(name.to_string(), value.to_json()?);
                }
                Json::Object(fields)
            }
            Self::Optional(Some(of)) => of.to_json()?,
            Self::Optional(None) | Self::Opaque(_) => {
                return Err(format!("a value of {} is no JSON", self.type_name()));
            }
        })
    }
}
