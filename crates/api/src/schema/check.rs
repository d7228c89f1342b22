//! Reads an object by its schema, in one pass: says what is unknown or given twice, refuses values of the wrong kind, and
//! gives the object as it is to be stored.
//!
//! Stored is what upstream's decoding and encoding would leave: no unknown fields, no nulls, no empty lists and maps where
//! they are optional, quantities and times in canonical form. Wording and paths are those of upstream's decoder
//! (sigs.k8s.io/json), which users and tests match on. Names are case-sensitive.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::Quantity;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Field, Kind, Shape, TypeRef};
use crate::object::Borrowed;
use crate::{ApiError, Reason, Resource};

/// What becomes of unknown fields and of fields that are given twice (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// They are dropped; the last of two holds.
    Ignore,
    /// The same, and the client is warned.
    Warn,
    /// They are refused.
    Strict,
}

impl Strictness {
    /// Reads the query parameter; `Warn` where there is none. `None`: not a value that it can have.
    pub fn parse(parameter: Option<&str>) -> Option<Self> {
        match parameter {
            None | Some("" | "Warn") => Some(Self::Warn),
            Some("Ignore") => Some(Self::Ignore),
            Some("Strict") => Some(Self::Strict),
            Some(_) => None,
        }
    }
}

/// An object that was read by its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object as it is to be stored.
    pub value: Value,
    /// What the client is warned of, such as `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON.
    #[error("invalid JSON")]
    Syntax(#[source] serde_json::Error),
    /// A value is of the wrong kind. The text is upstream's.
    #[error("{0}")]
    Kind(String),
    /// It has unknown fields, or fields given twice, and that was to be refused.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

impl DecodeError {
    /// The answer to a request whose body was to be one of `resource`'s objects.
    pub fn to_api_error(&self, resource: &Resource) -> ApiError {
        let (kind, version) = (&resource.kind, resource.api_version());
        let why = base::chain(self);
        ApiError::new(Reason::BadRequest, format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    }
}

/// More than this many complaints say nothing new; upstream stops there too.
const COMPLAINTS_MAX: usize = 100;

/// Reads an object from JSON. Only here is it seen that a field is given twice.
pub fn decode(json: &[u8], of: TypeRef, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let mut findings = Findings::default();
    let mut source = serde_json::Deserializer::from_slice(json);
    let value = Reader::root(of, &mut findings).deserialize(&mut source);
    findings.settle(value.and_then(|value| source.end().map(|()| value)), strictness)
}

/// Reads an object from a tree, such as YAML or a patch gave.
pub fn check(value: &Value, of: TypeRef, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let mut findings = Findings::default();
    let value = Reader::root(of, &mut findings).deserialize(value);
    findings.settle(value, strictness)
}

#[derive(Default)]
struct Findings {
    complaints: Vec<String>,
    /// The first value of the wrong kind; ends the reading.
    wrong: Option<String>,
}

impl Findings {
    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX && !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }

    fn settle(self, value: Result<Value, serde_json::Error>, strictness: Strictness) -> Result<Decoded, DecodeError> {
        if let Some(wrong) = self.wrong {
            return Err(DecodeError::Kind(wrong));
        }
        let value = value.map_err(DecodeError::Syntax)?;
        match strictness {
            Strictness::Strict if !self.complaints.is_empty() => Err(DecodeError::Strict(self.complaints)),
            Strictness::Ignore => Ok(Decoded { value, warnings: Vec::new() }),
            Strictness::Warn | Strictness::Strict => Ok(Decoded { value, warnings: self.complaints }),
        }
    }
}

/// Where a value is.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    Field { parent: &'a Place<'a>, owner: TypeRef, name: &'a str },
    Index { parent: &'a Place<'a>, at: usize },
    Key { parent: &'a Place<'a>, key: &'a str },
}

/// With indexes and keys: how unknown fields are named.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field { parent: Place::Root, name, .. } => f.write_str(name),
            Place::Field { parent, name, .. } | Place::Key { parent, key: name } => write!(f, "{parent}.{name}"),
            Place::Index { parent, at } => write!(f, "{parent}[{at}]"),
        }
    }
}

impl Place<'_> {
    /// The innermost type around the value and the fields that lead to it: how values of the wrong kind are named.
    fn field(&self) -> Option<(TypeRef, String)> {
        match self {
            Place::Root => None,
            Place::Field { parent, owner, name } => {
                let above = parent.field().map_or(String::new(), |(_, above)| above + ".");
                Some((*owner, above + name))
            }
            Place::Index { parent, .. } | Place::Key { parent, .. } => parent.field(),
        }
    }
}

/// Reads one value, or a list or map of them. Null where there is nothing.
struct Reader<'a> {
    shape: Shape,
    kind: Kind,
    place: Place<'a>,
    findings: &'a mut Findings,
}

impl<'a> Reader<'a> {
    fn root(of: TypeRef, findings: &'a mut Findings) -> Self {
        Self { shape: Shape::One, kind: Kind::Type(of), place: Place::Root, findings }
    }

    fn wrong<E: Error>(self, why: impl Into<String>) -> E {
        self.findings.wrong = Some(why.into());
        E::custom("a value of the wrong kind")
    }

    /// The value is a `found` and should not be.
    fn mismatch<E: Error>(self, found: &str) -> E {
        // These read themselves, upstream, and so know nothing of where they are.
        let inner = match (self.shape, self.kind) {
            (Shape::One, Kind::Quantity) => return self.wrong(NOT_A_QUANTITY),
            (Shape::One, Kind::IntOrString) => Some("int32"),
            (Shape::One, Kind::Time | Kind::MicroTime) => Some("string"),
            _ => None,
        };
        let why = match (inner, self.place.field()) {
            (Some(inner), _) => format!("json: cannot unmarshal {found} into Go value of type {inner}"),
            (None, None) => {
                format!("json: cannot unmarshal {found} into Go value of type {}", go_type(self.shape, self.kind))
            }
            (None, Some((owner, path))) => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{path} of type {}",
                owner.short_name(),
                go_type(self.shape, self.kind)
            ),
        };
        self.wrong(why)
    }

    fn number<E: Error>(self, number: serde_json::Number) -> Result<Value, E> {
        let fits = |number: &serde_json::Number| number.as_i64().is_some_and(|whole| i32::try_from(whole).is_ok());
        match (self.shape, self.kind) {
            (Shape::One, Kind::Int32 | Kind::IntOrString) if fits(&number) => Ok(Value::Number(number)),
            (Shape::One, Kind::Int64) if number.as_i64().is_some() => Ok(Value::Number(number)),
            (Shape::One, Kind::Double | Kind::Any | Kind::Object) => Ok(Value::Number(number)),
            (Shape::One, Kind::Quantity) => self.quantity(&number.to_string()),
            (Shape::One, Kind::Int32 | Kind::Int64 | Kind::IntOrString) => {
                Err(self.mismatch(&format!("number {number}")))
            }
            _ => Err(self.mismatch("number")),
        }
    }

    fn quantity<E: Error>(self, text: &str) -> Result<Value, E> {
        match Quantity::parse(text) {
            Ok(quantity) => Ok(Value::String(quantity.to_string())),
            Err(error) => Err(self.wrong(error.to_string())),
        }
    }

    fn time<E: Error>(self, text: &str) -> Result<Value, E> {
        let (write, layout): (fn(jiff::Timestamp) -> String, _) = match self.kind {
            Kind::MicroTime => (machinery::time::micros, "2006-01-02T15:04:05.000000Z07:00"),
            _ => (machinery::time::seconds, "2006-01-02T15:04:05Z07:00"),
        };
        match machinery::time::parse(text) {
            Ok(at) => Ok(Value::String(write(at))),
            Err(_) => {
                Err(self.wrong(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")))
            }
        }
    }

    /// Base64, in which Go allows line ends.
    fn bytes<E: Error>(self, text: &str) -> Result<Value, E> {
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match STANDARD.decode(&text) {
            Ok(_) => Ok(Value::String(text)),
            Err(error) => {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => text.len(),
                };
                Err(self.wrong(format!("illegal base64 data at input byte {at}")))
            }
        }
    }

    /// The fields of an object.
    fn object<'de, A: MapAccess<'de>>(self, of: TypeRef, mut map: A) -> Result<Value, A::Error> {
        let (mut object, mut seen) = (Map::new(), Vec::new());
        while let Some(Borrowed(name)) = map.next_key()? {
            let place = Place::Field { parent: &self.place, owner: of, name: &name };
            let Some(field) = of.field(&name) else {
                self.findings.complain(format!("unknown field \"{place}\""));
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&field.name) {
                self.findings.complain(format!("duplicate field \"{place}\""));
            }
            seen.push(field.name);
            let reader = Reader { shape: field.shape, kind: field.kind(), place, findings: &mut *self.findings };
            let value = map.next_value_seed(reader)?;
            if is_nothing(field, &value) {
                object.shift_remove(field.name);
            } else {
                object.insert(name.into_owned(), value);
            }
        }
        Ok(Value::Object(object))
    }

    /// The entries of a map, each in the shape `inner`.
    fn entries<'de, A: MapAccess<'de>>(self, inner: Shape, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(Borrowed(key)) = map.next_key()? {
            let place = Place::Key { parent: &self.place, key: &key };
            if object.contains_key(&*key) {
                self.findings.complain(format!("duplicate field \"{place}\""));
            }
            let reader = Reader { shape: inner, kind: self.kind, place, findings: &mut *self.findings };
            let value = map.next_value_seed(reader)?;
            object.insert(key.into_owned(), or_zero(value, inner, self.kind));
        }
        Ok(Value::Object(object))
    }
}

/// Whether upstream's encoding would leave the field out.
fn is_nothing(field: &Field, value: &Value) -> bool {
    let empty = match value {
        Value::Null => return true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    empty && field.shape != Shape::One && !field.required
}

/// What a null in a list or map means: a value with nothing in it.
fn or_zero(value: Value, shape: Shape, kind: Kind) -> Value {
    if !value.is_null() {
        return value;
    }
    match (shape, kind) {
        (Shape::List, _) => Value::Array(Vec::new()),
        (Shape::Map | Shape::MapOfLists, _) | (_, Kind::Type(_)) => Value::Object(Map::new()),
        (_, Kind::String | Kind::Bytes) => Value::String(String::new()),
        (_, Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString) => Value::from(0),
        (_, Kind::Bool) => Value::Bool(false),
        (_, Kind::Quantity) => Value::String("0".to_owned()),
        (_, Kind::Time | Kind::MicroTime | Kind::Object | Kind::Any) => Value::Null,
    }
}

const NOT_A_QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The name of the Go type, as upstream's messages have it.
fn go_type(shape: Shape, kind: Kind) -> String {
    let value = match kind {
        Kind::String => "string".to_owned(),
        Kind::Int32 => "int32".to_owned(),
        Kind::Int64 => "int64".to_owned(),
        Kind::Double => "float64".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::Bytes => "[]uint8".to_owned(),
        Kind::Quantity if shape == Shape::Map => return "v1.ResourceList".to_owned(),
        Kind::Quantity => "resource.Quantity".to_owned(),
        Kind::IntOrString => "intstr.IntOrString".to_owned(),
        Kind::Time => "v1.Time".to_owned(),
        Kind::MicroTime => "v1.MicroTime".to_owned(),
        Kind::Object => "runtime.RawExtension".to_owned(),
        Kind::Any => "interface {}".to_owned(),
        Kind::Type(of) => {
            let package = of.name().rsplit('.').nth(1).unwrap_or_default();
            format!("{package}.{}", of.short_name())
        }
    };
    match shape {
        Shape::One => value,
        Shape::List => format!("[]{value}"),
        Shape::Map => format!("map[string]{value}"),
        Shape::MapOfLists => format!("map[string][]{value}"),
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        // A field may be null; the whole object may not.
        if matches!(self.place, Place::Root) { Err(self.mismatch("null")) } else { Ok(Value::Null) }
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        match (self.shape, self.kind) {
            (Shape::One, Kind::Bool | Kind::Any | Kind::Object) => Ok(Value::Bool(value)),
            _ => Err(self.mismatch("bool")),
        }
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.number(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.number(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) => self.number(number),
            None => Err(self.mismatch("number")),
        }
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        match (self.shape, self.kind) {
            (Shape::One, Kind::String | Kind::IntOrString | Kind::Any | Kind::Object) => {
                Ok(Value::String(text.to_owned()))
            }
            (Shape::One, Kind::Quantity) => self.quantity(text),
            (Shape::One, Kind::Time | Kind::MicroTime) => self.time(text),
            (Shape::One, Kind::Bytes) => self.bytes(text),
            _ => Err(self.mismatch("string")),
        }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        match (self.shape, self.kind) {
            (Shape::List, _) => {
                let mut list = Vec::new();
                loop {
                    let place = Place::Index { parent: &self.place, at: list.len() };
                    let reader = Reader { shape: Shape::One, kind: self.kind, place, findings: &mut *self.findings };
                    let Some(item) = items.next_element_seed(reader)? else { return Ok(Value::Array(list)) };
                    list.push(or_zero(item, Shape::One, self.kind));
                }
            }
            (Shape::One, Kind::Any | Kind::Object) => Value::deserialize(SeqAccessDeserializer::new(items)),
            _ => Err(self.mismatch("array")),
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match (self.shape, self.kind) {
            (Shape::One, Kind::Type(of)) => self.object(of, map),
            (Shape::Map, _) => self.entries(Shape::One, map),
            (Shape::MapOfLists, _) => self.entries(Shape::List, map),
            (Shape::One, Kind::Any | Kind::Object) => Value::deserialize(MapAccessDeserializer::new(map)),
            _ => Err(self.mismatch("object")),
        }
    }
}
