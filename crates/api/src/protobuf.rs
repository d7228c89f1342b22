//! Kubernetes' protobuf form, which typed clients speak: read here into the tree that the same client's JSON gives, written
//! by [`encode`] from an object's JSON bytes.
//!
//! Driven by the schema's table, so that no kind has code of its own; what comes out goes the way of JSON from there on
//! (defaults, field validation, pruning). The form is that of `k8s.io/apimachinery`'s protobuf serializer: four magic bytes,
//! then a `runtime.Unknown` around the object. Unknown fields are skipped, as protobuf wants it.
//!
//! **What zero means.** Go clients write every field that is no pointer, also when nobody set it: `""`, `0` and `false` on
//! the wire are what JSON's `omitempty` leaves out. A pointer is only written when it is set, and then its zero is meant
//! (`replicas: 0`). Neither the table nor the wire tells the two apart, so:
//! - a required field is kept, whatever it holds;
//! - an empty string or byte string stands for absent, except in [`EMPTY_IS_MEANT`];
//! - zero and `false` are kept, except in [`ZERO_IS_ABSENT`], the fields that are no pointers upstream;
//! - an empty message is `{}`, as in the JSON of a Go client; an empty time is none.

pub mod encode;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use crate::schema::{self, Field, Kind, Shape, TypeRef};
use wire::{Datum, Fields};

/// What every object in this form begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// How deep messages may lie in each other: somewhat less than JSON may, and far below what a thread's stack holds.
const DEPTH_MAX: usize = 100;

/// How deep the tree may be, embedded JSON included. It is stored and sent as JSON, which is not read back from 128 on; lists
/// and watch events add levels of their own.
const NESTING_MAX: usize = 120;

/// String fields that are pointers upstream and in which empty is not the same as absent, as `Type.field`.
const EMPTY_IS_MEANT: &[&str] = &[
    "DeviceAttribute.string",
    "LeaseSpec.holderIdentity",
    // Empty: only a volume without a class. Absent: the default class.
    "PersistentVolumeClaimSpec.storageClassName",
    "PersistentVolumeClaimSpec.volumeAttributesClassName",
    "PersistentVolumeSpec.volumeAttributesClassName",
];

/// Optional numbers and booleans that are no pointers upstream, so that zero is how a Go client says nothing: by field name,
/// the types of which this is true (none named: all that have the field). Sorted by name.
const ZERO_IS_ABSENT: &[(&str, &[&str])] = &[
    ("active", &["JobStatus"]),
    ("availableReplicas", &[]),
    ("chapAuthDiscovery", &[]),
    ("chapAuthSession", &[]),
    ("clusterScope", &[]),
    ("code", &["Status"]),
    ("count", &["DeviceSubRequest", "Event", "EventSeries", "ExactDeviceRequest"]),
    ("currentReplicas", &["HorizontalPodAutoscalerStatus", "StatefulSetStatus"]),
    ("denied", &[]),
    ("deprecated", &["CustomResourceDefinitionVersion"]),
    ("deprecatedCount", &[]),
    ("exclusiveMaximum", &[]),
    ("exclusiveMinimum", &[]),
    ("failed", &["JobStatus"]),
    ("failureThreshold", &[]),
    ("fullyLabeledReplicas", &[]),
    ("generation", &["ObjectMeta"]),
    ("globalDefault", &[]),
    ("handSize", &[]),
    ("healthCheckNodePort", &[]),
    ("hostIPC", &[]),
    ("hostNetwork", &[]),
    ("hostPID", &[]),
    ("hostPort", &[]),
    ("initialDelaySeconds", &[]),
    ("insecureSkipTLSVerify", &[]),
    ("matchingPrecedence", &[]),
    ("minReadySeconds", &[]),
    ("nodePort", &[]),
    ("nullable", &[]),
    ("number", &["ServiceBackendPort"]),
    ("numberAvailable", &[]),
    ("numberUnavailable", &[]),
    ("observedGeneration", &[]),
    ("partition", &["AWSElasticBlockStoreVolumeSource", "GCEPersistentDiskVolumeSource"]),
    ("paused", &["DeploymentSpec"]),
    ("periodSeconds", &[]),
    ("preserveUnknownFields", &[]),
    ("priority", &["CustomResourceColumnDefinition"]),
    ("publishNotReadyAddresses", &[]),
    ("queueLengthLimit", &[]),
    ("queues", &[]),
    // A pointer in two volume sources, where false is the default all the same.
    ("readOnly", &[]),
    ("readyReplicas", &[]),
    ("replicas", &["DeploymentStatus"]),
    ("retryAfterSeconds", &[]),
    ("signal", &[]),
    ("sizeBytes", &[]),
    ("sslEnabled", &[]),
    ("start", &["StatefulSetOrdinals"]),
    ("stdin", &[]),
    ("stdinOnce", &[]),
    ("succeeded", &["JobStatus"]),
    ("successThreshold", &[]),
    ("timeoutSeconds", &["Probe"]),
    ("tty", &[]),
    ("unavailableReplicas", &[]),
    ("uniqueItems", &[]),
    ("unschedulable", &[]),
    ("updatedNumberScheduled", &[]),
    ("updatedReplicas", &[]),
    ("x-kubernetes-embedded-resource", &[]),
    ("x-kubernetes-int-or-string", &[]),
];

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode protobuf{}", place(path))]
pub struct ProtobufError {
    /// Names of fields, innermost first.
    path: Vec<&'static str>,
    #[source]
    why: Why,
}

fn place(path: &[&str]) -> String {
    let names: Vec<&str> = path.iter().rev().copied().collect();
    if names.is_empty() { String::new() } else { format!(" at {}", names.join(".")) }
}

impl ProtobufError {
    fn within(mut self, field: &'static str) -> Self {
        self.path.push(field);
        self
    }
}

impl From<Why> for ProtobufError {
    fn from(why: Why) -> Self {
        Self { path: Vec::new(), why }
    }
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the body does not begin with the magic bytes \"k8s\\0\"")]
    Magic,
    #[error("the bytes end in the middle of a field")]
    Truncated,
    #[error("a variable-length integer has more than 64 bits")]
    Varint,
    #[error("{0} is not a field number")]
    Number(u64),
    #[error("wire type {0} is not supported")]
    Unsupported(u64),
    #[error("the field has wire type {found}, which does not hold {wanted}")]
    WireType { found: &'static str, wanted: &'static str },
    #[error("a string is not UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
    #[error("{0} does not fit the field")]
    Range(i64),
    #[error("{0} is no number that JSON can hold")]
    Double(f64),
    #[error("{0} seconds and {1} nanoseconds are no time between the years -9999 and 9999")]
    Time(i64, i64),
    #[error("messages lie more than {DEPTH_MAX} deep in each other")]
    Depth,
    #[error("lists and objects lie more than {NESTING_MAX} deep in each other")]
    Nesting,
    #[error("embedded JSON is invalid")]
    Json(#[source] serde_json::Error),
    #[error("apiVersion or kind is missing")]
    NoKind,
    #[error("no kind {kind:?} of version {version:?} has a protobuf form here: send JSON")]
    Kind { version: String, kind: String },
    #[error("content encoding {0:?} is not supported")]
    Encoding(String),
    #[error("content type {0:?} is not supported")]
    ContentType(String),
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Decodes an object: its `apiVersion`, its `kind`, and the tree, in which both stand again.
pub fn decode(bytes: &[u8]) -> Result<(String, String, Value)> {
    let decoded = envelope(bytes, 0)?;
    if nesting(&decoded.2) > NESTING_MAX {
        return Err(Why::Nesting.into());
    }
    Ok(decoded)
}

/// How many lists and objects lie in each other. What was read is not deep enough to exhaust a stack.
fn nesting(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(nesting).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(nesting).max().unwrap_or(0),
        _ => 0,
    }
}

/// `runtime.Unknown`: `typeMeta` 1, `raw` 2, `contentEncoding` 3, `contentType` 4.
fn envelope(bytes: &[u8], depth: usize) -> Result<(String, String, Value)> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(Why::Magic)?;
    let (mut version, mut kind, mut raw, mut encoding, mut content) =
        <(String, String, &[u8], String, String)>::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, datum) => {
                let meta = datum.bytes()?;
                version = text(meta, 1)?;
                kind = text(meta, 2)?;
            }
            (2, datum) => raw = datum.bytes()?,
            (3, datum) => datum.text()?.clone_into(&mut encoding),
            (4, datum) => datum.text()?.clone_into(&mut content),
            _ => {}
        }
    }
    if !encoding.is_empty() {
        return Err(Why::Encoding(encoding).into());
    }
    let value = match &*content {
        "" | "application/vnd.kubernetes.protobuf" => object(raw, &version, &kind, depth)?,
        "application/json" => serde_json::from_slice(raw).map_err(Why::Json)?,
        _ => return Err(Why::ContentType(content).into()),
    };
    Ok((version, kind, value))
}

fn object(raw: &[u8], version: &str, kind: &str, depth: usize) -> Result<Value> {
    if version.is_empty() || kind.is_empty() {
        return Err(Why::NoKind.into());
    }
    let of = type_of(version, kind).ok_or_else(|| Why::Kind { version: version.to_owned(), kind: kind.to_owned() })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), version.into());
    object.insert("kind".to_owned(), kind.into());
    message(raw, of, 0, depth, &mut object)?;
    Ok(Value::Object(object))
}

fn type_of(version: &str, kind: &str) -> Option<TypeRef> {
    let (group, number) = version.rsplit_once('/').unwrap_or(("", version));
    schema::by_kind(group, number, kind).or_else(|| match kind {
        // Every group has these, and they are the same in all.
        "DeleteOptions" | "Status" | "WatchEvent" => {
            schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
        }
        _ => None,
    })
}

/// Fields by type and by [`path`]; `None` for a message that only encloses what JSON has in line. Sorted.
static FIELDS: LazyLock<Vec<(TypeRef, u32, Option<&'static Field>)>> = LazyLock::new(|| {
    let mut found = Vec::new();
    for of in schema::types() {
        for field in of.fields() {
            let mut at = 0;
            for tag in field.tags() {
                if at != 0 {
                    found.push((of, at, None));
                }
                at = path(at, tag).expect("the table's tags are small, and at most three lie in each other");
            }
            if at != 0 {
                found.push((of, at, Some(field)));
            }
        }
    }
    found.sort_by_key(|(of, at, _)| (*of, *at));
    found.dedup_by_key(|(of, at, _)| (*of, *at));
    found
});

/// The tags from the outermost message inward, ten bits each; `None` where no field of ours can be.
fn path(outer: u32, tag: u32) -> Option<u32> {
    (tag < 1 << 10 && outer < 1 << 20).then_some(outer << 10 | tag)
}

fn field_at(of: TypeRef, at: u32) -> Option<Option<&'static Field>> {
    let found = FIELDS.binary_search_by_key(&(of, at), |(of, at, _)| (*of, *at)).ok()?;
    Some(FIELDS[found].2)
}

/// Reads the fields of a message, or of one that lies at `outer` in it, into an object. What is there is added to.
fn message(bytes: &[u8], of: TypeRef, outer: u32, depth: usize, into: &mut Map<String, Value>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Why::Depth.into());
    }
    for wire in Fields::of(bytes) {
        let (tag, datum) = wire?;
        let Some(at) = path(outer, tag) else { continue };
        match field_at(of, at) {
            None => {}
            Some(None) => message(datum.bytes()?, of, at, depth + 1, into)?,
            Some(Some(field)) => {
                add(field, of, datum, depth, into).map_err(|error| error.within(field.name))?;
            }
        }
    }
    Ok(())
}

/// Adds what was read for a field.
fn add(
    field: &'static Field,
    owner: TypeRef,
    datum: Datum<'_>,
    depth: usize,
    into: &mut Map<String, Value>,
) -> Result<()> {
    match (field.shape, field.kind()) {
        (Shape::One, Kind::Type(of)) => {
            // Given in two parts, a message is the sum of both.
            let inner = object_in(into, field.name);
            message(datum.bytes()?, of, 0, depth + 1, inner)?;
        }
        (Shape::One, _) => {
            let value = single(field, datum, depth)?;
            if is_absent(field, owner, &value) {
                into.shift_remove(field.name);
            } else {
                into.insert(field.name.to_owned(), value);
            }
        }
        (Shape::List, _) => {
            let items = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = items {
                element(field, datum, depth, items)?;
            }
        }
        (Shape::Map | Shape::MapOfLists, _) => {
            let (key, value) = entry(field, datum.bytes()?, depth)?;
            object_in(into, field.name).insert(key, value);
        }
    }
    Ok(())
}

fn object_in<'a>(into: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let inner = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
    inner.as_object_mut().expect("only objects are put under the name of a field that holds one")
}

/// One element of a list, or several numbers in one piece.
fn element(field: &'static Field, datum: Datum<'_>, depth: usize, items: &mut Vec<Value>) -> Result<()> {
    match (field.kind(), datum) {
        (Kind::Int32 | Kind::Int64 | Kind::Bool, Datum::Bytes(mut packed)) => {
            while !packed.is_empty() {
                let number = wire::varint(&mut packed)?;
                items.push(single(field, Datum::Varint(number), depth)?);
            }
        }
        _ => items.push(single(field, datum, depth)?),
    }
    Ok(())
}

/// An entry of a map: a message of key 1 and value 2. A list in it is a message of `items` 1.
fn entry(field: &'static Field, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let key = text(bytes, 1)?;
    let value = last(bytes, 2)?.unwrap_or(Datum::Bytes(&[]));
    if field.shape == Shape::Map {
        return Ok((key, single(field, value, depth)?));
    }
    let mut items = Vec::new();
    for wire in Fields::of(value.bytes()?) {
        if let (1, datum) = wire? {
            element(field, datum, depth, &mut items)?;
        }
    }
    Ok((key, Value::Array(items)))
}

/// Whether the value is what a Go client writes for a field that nobody set.
fn is_absent(field: &Field, owner: TypeRef, value: &Value) -> bool {
    if value.is_null() {
        return true;
    }
    if field.required {
        return false;
    }
    match field.kind() {
        Kind::String | Kind::Bytes => {
            let meant = |name: &&str| name.split_once('.') == Some((owner.short_name(), field.name));
            value.as_str() == Some("") && !EMPTY_IS_MEANT.iter().any(meant)
        }
        Kind::Int32 | Kind::Int64 | Kind::Bool => {
            let zero = value.as_i64() == Some(0) || value.as_bool() == Some(false);
            let found = || ZERO_IS_ABSENT.binary_search_by_key(&field.name, |(name, _)| name).ok();
            zero && found().is_some_and(|at| {
                let types = ZERO_IS_ABSENT[at].1;
                types.is_empty() || types.contains(&owner.short_name())
            })
        }
        _ => false,
    }
}

/// One value of a field's kind; null where there is none.
fn single(field: &'static Field, datum: Datum<'_>, depth: usize) -> Result<Value> {
    Ok(match field.kind() {
        Kind::String => datum.text()?.into(),
        Kind::Bytes => STANDARD.encode(datum.bytes()?).into(),
        Kind::Bool => (datum.varint()? != 0).into(),
        Kind::Int32 => int32(datum)?,
        Kind::Int64 => datum.varint()?.cast_signed().into(),
        Kind::Double => double(datum.fixed64()?)?,
        Kind::Quantity => match text(datum.bytes()?, 1)? {
            empty if empty.is_empty() => "0".into(),
            quantity => quantity.into(),
        },
        Kind::IntOrString => int_or_string(datum.bytes()?)?,
        Kind::Time => time(datum.bytes()?, machinery::time::seconds)?,
        Kind::MicroTime => time(datum.bytes()?, machinery::time::micros)?,
        Kind::Object | Kind::Any => json(field.type_ref(), datum.bytes()?, depth)?,
        Kind::Type(of) => {
            let mut object = Map::new();
            message(datum.bytes()?, of, 0, depth + 1, &mut object)?;
            Value::Object(object)
        }
    })
}

fn int32(datum: Datum<'_>) -> Result<Value> {
    let number = datum.varint()?.cast_signed();
    i32::try_from(number).map(Value::from).map_err(|_| Why::Range(number).into())
}

/// A whole number is written without a fraction, as Go does.
fn double(bits: u64) -> Result<Value> {
    /// Up to here every whole number is a double.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let number = f64::from_bits(bits);
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and lies within 53 bits")]
        return Ok(Value::from(number as i64));
    }
    Number::from_f64(number).map(Value::Number).ok_or_else(|| Why::Double(number).into())
}

/// `type` 1 says which counts: `intVal` 2 or `strVal` 3.
fn int_or_string(bytes: &[u8]) -> Result<Value> {
    match number(bytes, 1)? {
        0 => int32(last(bytes, 2)?.unwrap_or(Datum::Varint(0))),
        _ => text(bytes, 3).map(Value::from),
    }
}

/// `seconds` 1, `nanos` 2; nothing at all is Go's zero time, which stands for none.
fn time(bytes: &[u8], write: fn(jiff::Timestamp) -> String) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = (number(bytes, 1)?, number(bytes, 2)?);
    let at = i32::try_from(nanos).ok().and_then(|nanos| jiff::Timestamp::new(seconds, nanos).ok());
    at.map(|at| write(at).into()).ok_or_else(|| Why::Time(seconds, nanos).into())
}

/// What is JSON inside protobuf. Most of these types are a message of `raw` 1, which holds the text.
fn json(of: Option<TypeRef>, bytes: &[u8], depth: usize) -> Result<Value> {
    match of.map(TypeRef::short_name) {
        Some("CustomResourceSubresourceStatus" | "Patch") => Ok(Value::Object(Map::new())),
        // `schema` 1, `jSONSchemas` 2
        Some("JSONSchemaPropsOrArray") => either(bytes, depth, |datum| schema_props(datum, depth)),
        // `schema` 1, `property` 2
        Some("JSONSchemaPropsOrStringArray") => either(bytes, depth, |datum| Ok(datum.text()?.into())),
        // `allows` 1, `schema` 2
        Some("JSONSchemaPropsOrBool") => match last(bytes, 2)? {
            Some(datum) => schema_props(datum, depth),
            None => Ok((number(bytes, 1)? != 0).into()),
        },
        _ => {
            let raw = last(bytes, 1)?.map_or(Ok(&[][..]), Datum::bytes)?;
            if raw.starts_with(MAGIC) {
                return if depth < DEPTH_MAX { Ok(envelope(raw, depth + 1)?.2) } else { Err(Why::Depth.into()) };
            }
            if raw.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(raw).map_err(Why::Json)?) }
        }
    }
}

/// A list of what stands at 2, or else the schema at 1.
fn either(bytes: &[u8], depth: usize, read: impl Fn(Datum<'_>) -> Result<Value>) -> Result<Value> {
    let mut items = Vec::new();
    for wire in Fields::of(bytes) {
        if let (2, datum) = wire? {
            items.push(read(datum)?);
        }
    }
    match last(bytes, 1)? {
        _ if !items.is_empty() => Ok(Value::Array(items)),
        Some(datum) => schema_props(datum, depth),
        None => Ok(Value::Null),
    }
}

fn schema_props(datum: Datum<'_>, depth: usize) -> Result<Value> {
    let of = schema::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let mut object = Map::new();
    message(datum.bytes()?, of.expect("the table has JSONSchemaProps"), 0, depth + 1, &mut object)?;
    Ok(Value::Object(object))
}

/// The field of that tag; the last one, where it is given more than once.
fn last(bytes: &[u8], wanted: u32) -> Result<Option<Datum<'_>>> {
    let mut found = None;
    for wire in Fields::of(bytes) {
        let (tag, datum) = wire?;
        if tag == wanted {
            found = Some(datum);
        }
    }
    Ok(found)
}

fn text(bytes: &[u8], wanted: u32) -> Result<String> {
    last(bytes, wanted)?.map_or(Ok(String::new()), |datum| datum.text().map(str::to_owned))
}

fn number(bytes: &[u8], wanted: u32) -> Result<i64> {
    last(bytes, wanted)?.map_or(Ok(0), |datum| datum.varint().map(u64::cast_signed))
}
