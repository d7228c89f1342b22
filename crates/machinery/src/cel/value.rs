//! The values that expressions are about: borrowed from JSON where they come from there, made where they are computed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value as Json;

use super::declared::{Declared, Kind, ListOf, Object};
use super::escape;
use super::eval::{EvalError, Meter};
use super::message::{self, Message};
use super::time::{self, Timestamp};
use crate::Quantity;

pub(super) type Made<'a> = Result<Value<'a>, EvalError>;

/// A text.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// Of the value that is looked at, or of the expression.
    Borrowed(&'a str),
    /// Computed.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<&str> for Text<'_> {
    fn from(text: &str) -> Self {
        Self::Shared(text.into())
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

/// A value.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `uint`
    Uint(u64),
    /// `double`
    Double(f64),
    /// `string`
    String(Text<'a>),
    /// `bytes`
    Bytes(Arc<[u8]>),
    /// A duration, in billionths of a second.
    Duration(i64),
    /// A moment.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Table<'a>),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A type, by its name.
    Type(Text<'a>),
    /// What an expression made.
    Message(Arc<Message<'a>>),
    /// A value of a library's type.
    Opaque(Arc<Opaque>),
}

/// Values of the types that Kubernetes adds.
#[derive(Debug, Clone)]
pub enum Opaque {
    /// `kubernetes.Quantity`
    Quantity(Quantity),
    /// `net.IP`
    Ip(IpAddr),
    /// `net.CIDR`: an address and how many of its bits are the network's.
    Cidr(IpAddr, u8),
    /// `kubernetes.URL`
    Url(super::functions::urls::Url),
    /// `kubernetes.Semver`
    Semver(super::functions::semver::Semver),
    /// `kubernetes.NamedFormat`, by its name.
    Format(&'static str),
    /// A question about what somebody may do, on its way.
    Asking(super::functions::authorizer::Asking),
    /// `kubernetes.authorization.Decision`
    Verdict(super::functions::authorizer::Verdict),
}

impl Opaque {
    /// The name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        use super::functions as of;
        match self {
            Self::Quantity(_) => of::QUANTITY,
            Self::Ip(_) => of::IP,
            Self::Cidr(..) => of::CIDR,
            Self::Url(_) => of::URL,
            Self::Semver(_) => of::SEMVER,
            Self::Format(_) => of::FORMAT,
            Self::Asking(asking) => asking.type_name(),
            Self::Verdict(_) => of::DECISION,
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(one), Self::Quantity(other)) => one == other,
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Cidr(one, bits), Self::Cidr(other, other_bits)) => (one, bits) == (other, other_bits),
            (Self::Url(one), Self::Url(other)) => one == other,
            (Self::Semver(one), Self::Semver(other)) => one.compare(other).is_eq(),
            (Self::Format(one), Self::Format(other)) => one == other,
            _ => false,
        }
    }
}

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    /// One that stands in JSON.
    Json(&'a [Json], Option<&'a ListOf>),
    /// A computed one.
    Made(Arc<Vec<Value<'a>>>),
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    /// The element at a place, which is there.
    pub(super) fn get(&self, at: usize) -> Made<'a> {
        match self {
            Self::Json(items, of) => of.map_or(&super::declared::ANY, |of| &of.items).value(&items[at]),
            Self::Made(items) => Ok(items[at].clone()),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Made<'a>> + '_ {
        (0..self.len()).map(|at| self.get(at))
    }

    /// All elements.
    pub(super) fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        self.iter().collect()
    }
}

/// A key of a computed map.
#[derive(Debug, Clone)]
pub enum MapKey<'a> {
    /// `true` and `false`
    Bool(bool),
    /// A whole number, and whether it is a `uint`; `1` and `1u` are one key.
    Number(i128, bool),
    /// A text.
    String(Text<'a>),
}

impl MapKey<'_> {
    fn order(&self) -> (u8, i128, &str) {
        match self {
            Self::Bool(value) => (0, i128::from(*value), ""),
            Self::Number(value, _) => (1, *value, ""),
            Self::String(text) => (2, 0, text),
        }
    }
}

impl PartialEq for MapKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for MapKey<'_> {}

impl PartialOrd for MapKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MapKey<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl<'a> MapKey<'a> {
    /// The key that a value is, where it can be one.
    pub(super) fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Number(i128::from(*value), false),
            Value::Uint(value) => Self::Number(i128::from(*value), true),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 1.8e19 => Self::Number(*value as i128, false),
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub(super) fn value(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value, true) => Value::Uint(u64::try_from(*value).unwrap_or(u64::MAX)),
            Self::Number(value, false) => Value::Int(i64::try_from(*value).unwrap_or(i64::MAX)),
            Self::String(text) => Value::String(text.clone()),
        }
    }
}

/// A map or an object.
#[derive(Debug, Clone)]
pub enum Table<'a> {
    /// A map that stands in JSON.
    Json(&'a serde_json::Map<String, Json>, &'a Declared),
    /// An object that stands in JSON: its names are escaped in expressions.
    Object(&'a serde_json::Map<String, Json>, &'a Object),
    /// A computed map.
    Made(Arc<BTreeMap<MapKey<'a>, Value<'a>>>),
}

impl<'a> Table<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(fields, _) | Self::Object(fields, _) => fields.len(),
            Self::Made(entries) => entries.len(),
        }
    }

    /// What stands under a text.
    pub(super) fn field(&self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Self::Json(fields, of) => fields.get(name).map(|value| of.value(value)).transpose(),
            Self::Object(fields, of) => {
                let Some(name) = escape::unescape(name) else { return Ok(None) };
                // An absent field and one that is null are the same, as an object cannot hold one of its own.
                let Some(value) = fields.get(&*name).filter(|value| !value.is_null()) else { return Ok(None) };
                of.field(&name).map(|of| of.value(value)).transpose()
            }
            Self::Made(entries) => Ok(entries.get(&MapKey::String(Text::Borrowed(name))).cloned()),
        }
    }

    /// What stands under a key.
    pub(super) fn find(&self, key: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (_, Value::String(name)) => self.field(name),
            (Self::Made(entries), _) => Ok(MapKey::of(key).and_then(|key| entries.get(&key).cloned())),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// All keys that can be seen.
    pub(super) fn keys(&self) -> Vec<Value<'a>> {
        let fields = |fields: &'a serde_json::Map<String, Json>| fields.keys().map(String::as_str);
        match self {
            Self::Json(given, _) => fields(given).map(|name| Value::String(Text::Borrowed(name))).collect(),
            Self::Object(given, of) => fields(given)
                .filter(|name| of.field(name).is_some())
                .map(|name| match escape::escape(name) {
                    Some(std::borrow::Cow::Owned(said)) => Value::String(said.into()),
                    _ => Value::String(Text::Borrowed(name)),
                })
                .collect(),
            Self::Made(entries) => entries.keys().map(MapKey::value).collect(),
        }
    }
}

impl Declared {
    /// A JSON value as what it is declared to be.
    pub fn value<'a>(&'a self, json: &'a Json) -> Result<Value<'a>, EvalError> {
        if json.is_null() {
            let why = "invalid data, got null for schema with nullable=false";
            return if self.nullable { Ok(Value::Null) } else { Err(EvalError::new(why)) };
        }
        match (&self.kind, json) {
            (Kind::Any, _) => Ok(any(json)),
            (Kind::IntOrString | Kind::String, Json::String(text)) => Ok(Value::String(Text::Borrowed(text))),
            (Kind::IntOrString | Kind::Int, Json::Number(number)) => {
                let whole = number.as_i64().or_else(|| number.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as i64));
                whole.map(Value::Int).ok_or_else(|| EvalError::new("invalid data, expected int, got float64"))
            }
            (Kind::Double, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
            (Kind::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
            (Kind::Bytes, Json::String(text)) => {
                let wrong = || EvalError::new(format!("Invalid byte formatted string {text}: illegal base64 data"));
                time::base64(text).map(|bytes| Value::Bytes(bytes.into())).ok_or_else(wrong)
            }
            (Kind::Duration, Json::String(text)) => {
                let wrong = || EvalError::new(format!("Invalid duration {text}: unable to parse {text} into duration"));
                time::schema_duration(text).map(Value::Duration).ok_or_else(wrong)
            }
            (Kind::Date, Json::String(text)) => {
                let wrong = || EvalError::new(format!("Invalid date formatted string {text}"));
                time::date(text).map(Value::Timestamp).ok_or_else(wrong)
            }
            (Kind::DateTime, Json::String(text)) => {
                let wrong = || EvalError::new(format!("Invalid date-time formatted string {text}"));
                Timestamp::parse(text).map(Value::Timestamp).ok_or_else(wrong)
            }
            (Kind::List(of), Json::Array(items)) => Ok(Value::List(List::Json(items, Some(of)))),
            (Kind::Map(of), Json::Object(fields)) => Ok(Value::Map(Table::Json(fields, of))),
            (Kind::Object(of), Json::Object(fields)) => Ok(Value::Map(Table::Object(fields, of))),
            _ => Err(EvalError::new("invalid data, the value is of another type than its schema says")),
        }
    }
}

/// A JSON value of which nothing is declared.
fn any(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, number) => Value::Double(number.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List::Json(items, None)),
        Json::Object(fields) => Value::Map(Table::Json(fields, &super::declared::ANY)),
    }
}

impl<'a> Value<'a> {
    pub(super) fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Made(Arc::new(items)))
    }

    pub(super) fn optional(of: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(of)))
    }

    pub(super) fn opaque(of: Opaque) -> Self {
        Self::Opaque(Arc::new(of))
    }

    /// The name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Message(of) if *of.name == *message::JSON_PATCH => message::JSON_PATCH,
            Self::Message(_) => message::OBJECT,
            Self::Opaque(of) => of.type_name(),
        }
    }

    /// Whether both are the same; values of different types are not, but for numbers.
    pub(super) fn same(&self, other: &Value<'a>, meter: &Meter) -> Result<bool, EvalError> {
        meter.steps(1)?;
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(other)) => one == other,
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Self::Int(_) | Self::Uint(_) | Self::Double(_)) => {
                self.compare(other)?.is_some_and(std::cmp::Ordering::is_eq)
            }
            (Self::String(one), Self::String(other)) | (Self::Type(one), Self::Type(other)) => **one == **other,
            (Self::Bytes(one), Self::Bytes(other)) => one == other,
            (Self::Duration(one), Self::Duration(other)) => one == other,
            (Self::Timestamp(one), Self::Timestamp(other)) => one == other,
            (Self::List(one), Self::List(other)) => super::lists::same(one, other, meter)?,
            (Self::Map(one), Self::Map(other)) => same_maps(one, other, meter)?,
            (Self::Optional(None), Self::Optional(None)) => true,
            (Self::Optional(Some(one)), Self::Optional(Some(other))) => one.same(other, meter)?,
            (Self::Opaque(one), Self::Opaque(other)) => one.same(other),
            _ => false,
        })
    }

    /// Which comes first; `None` where one is not a number.
    pub(super) fn compare(&self, other: &Value<'a>) -> Result<Option<std::cmp::Ordering>, EvalError> {
        Ok(match (self, other) {
            (Self::Int(one), Self::Int(other)) => Some(one.cmp(other)),
            (Self::Uint(one), Self::Uint(other)) => Some(one.cmp(other)),
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(other),
            (Self::Int(one), Self::Uint(other)) => Some(i128::from(*one).cmp(&i128::from(*other))),
            (Self::Uint(one), Self::Int(other)) => Some(i128::from(*one).cmp(&i128::from(*other))),
            (Self::Int(one), Self::Double(other)) => mixed(i128::from(*one), *other),
            (Self::Uint(one), Self::Double(other)) => mixed(i128::from(*one), *other),
            (Self::Double(one), Self::Int(other)) => mixed(i128::from(*other), *one).map(std::cmp::Ordering::reverse),
            (Self::Double(one), Self::Uint(other)) => mixed(i128::from(*other), *one).map(std::cmp::Ordering::reverse),
            (Self::Bool(one), Self::Bool(other)) => Some(one.cmp(other)),
            (Self::String(one), Self::String(other)) => Some((**one).cmp(other)),
            (Self::Bytes(one), Self::Bytes(other)) => Some(one.cmp(other)),
            (Self::Duration(one), Self::Duration(other)) => Some(one.cmp(other)),
            (Self::Timestamp(one), Self::Timestamp(other)) => Some(one.cmp(other)),
            _ => return Err(EvalError::no_overload()),
        })
    }

    /// How large it is by `size()`; everything that has no size is 1.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(table) => table.len() as u64,
            Self::Optional(Some(of)) => of.size(),
            Self::Opaque(of) => match &**of {
                Opaque::Ip(IpAddr::V4(_)) => 4,
                Opaque::Ip(IpAddr::V6(_)) => 16,
                Opaque::Cidr(_, bits) => u64::from(bits.div_ceil(8)),
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// A whole number against one with a fraction, exactly.
fn mixed(whole: i128, other: f64) -> Option<std::cmp::Ordering> {
    if other.is_nan() {
        return None;
    }
    if other.abs() >= 1e20 {
        return Some(if other > 0.0 { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater });
    }
    let floor = other.floor();
    Some(whole.cmp(&(floor as i128)).then(if other > floor {
        std::cmp::Ordering::Less
    } else {
        std::cmp::Ordering::Equal
    }))
}

fn same_maps<'a>(one: &Table<'a>, other: &Table<'a>, meter: &Meter) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    for key in one.keys() {
        match (one.find(&key)?, other.find(&key)?) {
            (Some(one), Some(other)) if one.same(&other, meter)? => {}
            (None, None) => {}
            _ => return Ok(false),
        }
    }
    if let (Table::Object(one, of), Table::Object(other, _)) = (one, other) {
        // What the schema does not name is compared as it stands.
        let unseen = one.iter().filter(|(name, _)| of.field(name).is_none());
        return Ok(unseen.into_iter().all(|(name, value)| other.get(name).is_none_or(|other| other == value)));
    }
    Ok(true)
}
