//! What the caller declares of a JSON value: its types, its fields, and how large it may be.
//!
//! Made of an OpenAPI v3 schema as custom resources carry them. Which places can be seen in expressions, and the sizes that
//! costs are estimated by, are upstream's (`SchemaDeclType`): what has no type, no items or no fields is not visible.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::escape;
use super::types::Type;

/// The largest request that is taken; what limits sizes that a schema does not limit.
pub const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// What a place in a value is declared to be.
#[derive(Debug)]
pub struct Declared {
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    /// How many elements, entries or bytes there may be.
    pub(super) elements_max: u64,
    /// How many bytes the smallest value takes in JSON.
    pub(super) size_min: u64,
}

/// What stands in a place.
#[derive(Debug)]
pub(super) enum Kind {
    /// Whatever the JSON says.
    Any,
    IntOrString,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    List(Box<ListOf>),
    Map(Box<Declared>),
    Object(Arc<Object>),
}

#[derive(Debug)]
pub struct ListOf {
    pub(super) items: Declared,
    pub(super) merge: Merge,
}

/// How lists are compared and added up.
#[derive(Debug)]
pub(super) enum Merge {
    Atomic,
    Set,
    /// The keys that tell elements apart.
    Map(Box<[Box<str>]>),
}

/// An object with declared fields.
#[derive(Debug)]
pub struct Object {
    name: Box<str>,
    /// By their names in JSON, sorted.
    fields: Box<[(Box<str>, Declared)]>,
}

impl Object {
    /// The name of its type, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The field of that name in JSON.
    pub(super) fn field(&self, name: &str) -> Option<&Declared> {
        let at = self.fields.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.fields[at].1)
    }

    /// The field of that name in expressions.
    pub(super) fn escaped(&self, name: &str) -> Option<&Declared> {
        let plain = escape::unescape(name)?;
        // A name that has to be escaped cannot be said plainly.
        (escape::escape(&plain)? == name).then(|| self.field(&plain)).flatten()
    }
}

/// What is declared of values of which nothing is known.
pub static ANY: Declared = Declared { kind: Kind::Any, nullable: true, elements_max: u64::MAX, size_min: 1 };

impl Declared {
    /// What a schema declares; `None` where expressions see nothing. `resource` is whether the place is the root of a
    /// resource, which has a type and a name whatever its schema says.
    pub fn of_schema(schema: &Json, resource: bool) -> Option<Self> {
        let schema = schema.as_object()?;
        Maker { path: "selfType".to_owned() }.place(schema, resource)
    }

    /// The type of its values.
    pub fn to_type(&self) -> Type {
        match &self.kind {
            Kind::Any | Kind::IntOrString => Type::Dyn,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Double => Type::Double,
            Kind::String => Type::String,
            Kind::Bytes => Type::Bytes,
            Kind::Duration => Type::Duration,
            Kind::Date | Kind::DateTime => Type::Timestamp,
            Kind::List(of) => Type::list(of.items.to_type()),
            Kind::Map(of) => Type::map(Type::String, of.to_type()),
            Kind::Object(of) => Type::Object(of.clone()),
        }
    }

    /// What is declared of a field, by its name in JSON.
    pub fn field(&self, name: &str) -> Option<&Declared> {
        if let Kind::Object(of) = &self.kind { of.field(name) } else { None }
    }

    /// What is declared of the elements of a list or the entries of a map.
    pub fn inner(&self) -> Option<&Declared> {
        match &self.kind {
            Kind::List(of) => Some(&of.items),
            Kind::Map(of) => Some(of),
            _ => None,
        }
    }

    /// How often a value of this kind can be in one request.
    pub fn cardinality_max(&self) -> u64 {
        REQUEST_BYTES_MAX / (self.size_min + 1)
    }
}

struct Maker {
    path: String,
}

impl Maker {
    fn below(&self, part: &str) -> Self {
        Self { path: format!("{}.{part}", self.path) }
    }

    fn place(&self, schema: &Map<String, Json>, resource: bool) -> Option<Declared> {
        let flag = |name: &str| schema.get(name) == Some(&Json::Bool(true));
        let length = schema.get("maxLength").and_then(Json::as_i64).map(|length| length.max(0) as u64);
        let nullable = flag("nullable");
        if flag("x-kubernetes-int-or-string") {
            let elements_max = length.map_or(REQUEST_BYTES_MAX - 2, |length| length.saturating_mul(4));
            return Some(Declared { kind: Kind::IntOrString, nullable, elements_max, size_min: 1 });
        }
        let (kind, elements_max, size_min) = match schema.get("type").and_then(Json::as_str)? {
            "array" => self.list(schema)?,
            "object" => self.object(schema, resource)?,
            "string" => string(schema, length),
            "boolean" => (Kind::Bool, 0, 4),
            "number" => (Kind::Double, 0, 1),
            "integer" => (Kind::Int, 0, 1),
            _ => return None,
        };
        Some(Declared { kind, nullable, elements_max, size_min })
    }

    fn list(&self, schema: &Map<String, Json>) -> Option<(Kind, u64, u64)> {
        let items = schema.get("items")?.as_object()?;
        let items = self.below("@idx").place(items, is_embedded(items))?;
        let fits = (REQUEST_BYTES_MAX - 2) / (items.size_min + 1);
        let merge = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
            Some("set") => Merge::Set,
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array).into_iter().flatten();
                Merge::Map(keys.filter_map(Json::as_str).map(Into::into).collect())
            }
            _ => Merge::Atomic,
        };
        Some((Kind::List(Box::new(ListOf { items, merge })), count(schema, "maxItems").unwrap_or(fits), 2))
    }

    fn object(&self, schema: &Map<String, Json>, resource: bool) -> Option<(Kind, u64, u64)> {
        if let Some(entries) = schema.get("additionalProperties").and_then(Json::as_object) {
            let entries = self.below("@elem").place(entries, is_embedded(entries))?;
            let fits = (REQUEST_BYTES_MAX - 2) / (entries.size_min + 6);
            return Some((Kind::Map(Box::new(entries)), count(schema, "maxProperties").unwrap_or(fits), 2));
        }
        let required = schema.get("required").and_then(Json::as_array);
        let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
        let given = schema.get("properties").and_then(Json::as_object);
        let mut size_min = 2;
        let mut fields: Vec<(Box<str>, Declared)> = Vec::new();
        for (name, place) in given.into_iter().flatten() {
            if resource && ["apiVersion", "kind", "metadata"].contains(&&**name) {
                continue;
            }
            let Some(place) = place.as_object() else { continue };
            let Some(declared) = self.below(name).place(place, is_embedded(place)) else { continue };
            if is_required(name) && !place.contains_key("default") {
                size_min += name.len() as u64 + declared.size_min + 4;
            }
            fields.push((name.as_str().into(), declared));
        }
        if resource {
            let named = [("generateName", text()), ("name", text())];
            let metadata = self.below("metadata").fields(named.map(|(name, place)| (name.into(), place)).into());
            fields.extend([("apiVersion".into(), text()), ("kind".into(), text()), ("metadata".into(), metadata)]);
        }
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        let object = self.fields(fields);
        Some((object.kind, 0, size_min))
    }

    fn fields(&self, fields: Vec<(Box<str>, Declared)>) -> Declared {
        let object = Object { name: self.path.as_str().into(), fields: fields.into() };
        Declared { kind: Kind::Object(Arc::new(object)), nullable: false, elements_max: 0, size_min: 2 }
    }
}

fn text() -> Declared {
    Declared { kind: Kind::String, nullable: false, elements_max: REQUEST_BYTES_MAX - 2, size_min: 2 }
}

fn is_embedded(schema: &Map<String, Json>) -> bool {
    schema.get("x-kubernetes-embedded-resource") == Some(&Json::Bool(true))
}

fn count(schema: &Map<String, Json>, name: &str) -> Option<u64> {
    schema.get(name).and_then(Json::as_i64).map(|count| count.max(0) as u64)
}

fn string(schema: &Map<String, Json>, length: Option<u64>) -> (Kind, u64, u64) {
    let unlimited = REQUEST_BYTES_MAX - 2;
    match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
        "byte" => (Kind::Bytes, length.unwrap_or(unlimited), 2),
        // The longest duration and time in RFC 3339, in quotes.
        "duration" => (Kind::Duration, 32, 3),
        "date" => (Kind::Date, 12, 12),
        "date-time" => (Kind::DateTime, 32, 21),
        _ => {
            let longest = |values: &Vec<Json>| values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0);
            let values = schema.get("enum").and_then(Json::as_array).filter(|values| !values.is_empty());
            let known = values.map_or(unlimited, |values| longest(values) as u64);
            // A character takes up to four bytes.
            (Kind::String, length.map_or(known, |length| length.saturating_mul(4)), 2)
        }
    }
}
