//! Reads an encoded object as a tree, its managed fields apart.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Borrowed;

/// An object as a tree.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// All but `metadata.managedFields`.
    pub object: Value,
    /// `metadata.managedFields`, encoded; `None` where there are none.
    pub managed_fields: Option<Box<RawValue>>,
}

pub(super) fn read(json: &[u8]) -> Result<Tree, serde_json::Error> {
    let mut managed_fields = None;
    let mut reader = serde_json::Deserializer::from_slice(json);
    let object = Fields { depth: 0, managed_fields: &mut managed_fields }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(Tree { object, managed_fields })
}

/// The fields of the object (`depth` 0) or of its metadata.
struct Fields<'a> {
    depth: usize,
    managed_fields: &'a mut Option<Box<RawValue>>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(Borrowed(name)) = map.next_key()? {
            let value = match (self.depth, &*name) {
                (0, "metadata") => {
                    map.next_value_seed(Fields { depth: 1, managed_fields: &mut *self.managed_fields })?
                }
                (1, "managedFields") => {
                    *self.managed_fields = Some(map.next_value()?);
                    continue;
                }
                _ => map.next_value()?,
            };
            fields.insert(name.into_owned(), value);
        }
        Ok(Value::Object(fields))
    }
}
