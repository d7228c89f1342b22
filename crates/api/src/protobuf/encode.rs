//! Writes objects in Kubernetes' protobuf form: one pass over their JSON bytes, driven by the schema's table.
//!
//! What stands in the JSON is written, in its order, and nothing else: an absent field and a written zero are the same to a
//! reader whose field is no pointer, and differ where the field is one, as they differ in JSON. Equal bytes give equal bytes.
//! Fields that the table does not know are left out, as a typed client would leave them out.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::value::RawValue;

use super::MAGIC;
use crate::object::Borrowed;
use crate::schema::{self, Field, Kind, Shape, TypeRef};

/// Why JSON cannot be written as protobuf: it is none, or a value is not of its field's kind.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the object as protobuf")]
pub struct EncodeError(#[from] serde_json::Error);

type Result<T> = std::result::Result<T, EncodeError>;

/// The message of an object of type `of`, without an envelope.
pub fn message(of: TypeRef, json: &[u8]) -> Result<Vec<u8>> {
    // Names are not on the wire: the message is shorter than the JSON, but for objects of short texts only.
    let mut out = Vec::with_capacity(json.len());
    let mut reader = serde_json::Deserializer::from_slice(json);
    Fields { of, out: &mut out }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(out)
}

/// The message of the `PartialObjectMetadata` that shows an object: its metadata as field 1.
pub fn metadata_message(json: &[u8]) -> Result<Vec<u8>> {
    let metadata = crate::object::raw_metadata(json)?;
    let of = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("the table has ObjectMeta");
    let mut out = Vec::with_capacity(metadata.len());
    put_bytes(&mut out, 1, &message(of, metadata.as_bytes())?);
    Ok(out)
}

/// The list whose items are messages made already: `metadata` (JSON) is field 1, each item one field 2. The caller writes the
/// items behind this head, each with [`item_head`].
pub fn list_head(metadata: &[u8]) -> Result<Vec<u8>> {
    let of = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").expect("the table has ListMeta");
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &message(of, metadata)?);
    Ok(out)
}

/// What stands before each item of a list.
pub fn item_head(length: usize, out: &mut Vec<u8>) {
    put_key(out, 2, LENGTH_DELIMITED);
    put_varint(out, length as u64);
}

/// `runtime.Unknown` around a message of `raw_length` bytes, up to where the message begins, magic bytes included.
pub fn envelope_head(api_version: &str, kind: &str, raw_length: usize) -> Vec<u8> {
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(meta.len() + 24);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &meta);
    put_key(&mut out, 2, LENGTH_DELIMITED);
    put_varint(&mut out, raw_length as u64);
    out
}

/// What stands behind the message in its envelope: the empty content encoding and type that upstream writes.
pub const ENVELOPE_TAIL: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// A message in its envelope.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, raw.len());
    out.reserve_exact(raw.len() + ENVELOPE_TAIL.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(ENVELOPE_TAIL);
    out
}

/// An object that says its own `apiVersion` and `kind`, in its envelope.
pub fn object(of: TypeRef, api_version: &str, kind: &str, json: &[u8]) -> Result<Vec<u8>> {
    Ok(envelope(api_version, kind, &message(of, json)?))
}

/// Any document in its envelope; `None` where it does not say its `apiVersion` and `kind`, or that kind has no protobuf form.
pub fn document(json: &[u8]) -> Result<Option<Vec<u8>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head<'a> {
        #[serde(borrow)]
        api_version: Option<Borrowed<'a>>,
        #[serde(borrow)]
        kind: Option<Borrowed<'a>>,
    }
    let Head { api_version: Some(api_version), kind: Some(kind) } = serde_json::from_slice(json)? else {
        return Ok(None);
    };
    let raw = match (&*api_version.0, &*kind.0) {
        ("meta.k8s.io/v1", "PartialObjectMetadata") => metadata_message(json)?,
        ("meta.k8s.io/v1", "PartialObjectMetadataList") => metadata_list(json)?,
        (version, kind) => match super::type_of(version, kind) {
            Some(of) => message(of, json)?,
            None => return Ok(None),
        },
    };
    Ok(Some(envelope(&api_version.0, &kind.0, &raw)))
}

fn metadata_list(json: &[u8]) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    let list: List<'_> = serde_json::from_slice(json)?;
    let mut out = list_head(list.metadata.get().as_bytes())?;
    for item in list.items {
        put_bytes(&mut out, 2, &metadata_message(item.get().as_bytes())?);
    }
    Ok(out)
}

/// A `WatchEvent` as a watch sends it: its length in four bytes, big end first, then `type` 1 and `object` 2, which is a
/// `RawExtension` of `raw` 1.
pub fn watch_frame(event: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(enveloped.len() + event.len() + 32);
    out.extend_from_slice(&[0; 4]);
    put_bytes(&mut out, 1, event.as_bytes());
    let extension = open(&mut out, 2);
    put_bytes(&mut out, 1, enveloped);
    close(&mut out, extension);
    let length = u32::try_from(out.len() - 4).expect("an object is smaller than 4 GiB");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_key(out: &mut Vec<u8>, tag: u16, wire_type: u8) {
    put_varint(out, u64::from(tag) << 3 | u64::from(wire_type));
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, tag: u16, bytes: &[u8]) {
    put_key(out, tag, LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_int(out: &mut Vec<u8>, tag: u16, number: i64) {
    put_key(out, tag, VARINT);
    put_varint(out, number.cast_unsigned());
}

/// Begins a message; gives where its content begins. One byte is left for the length, as most messages need no more.
pub(crate) fn open(out: &mut Vec<u8>, tag: u16) -> usize {
    put_key(out, tag, LENGTH_DELIMITED);
    out.push(0);
    out.len()
}

/// Ends a message: writes its length, and moves its content where that takes more than a byte.
pub(crate) fn close(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    let length = end - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    let more = prefix.len() - 1;
    out.resize(end + more, 0);
    out.copy_within(start..end, start + more);
    out[start - 1..start + more].copy_from_slice(&prefix);
}

/// The fields of an object, into a message that is open already.
struct Fields<'a> {
    of: TypeRef,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of type {}", self.of.short_name())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let Self { of, out } = self;
        let mut enclosing = Enclosing::default();
        while let Some(name) = map.next_key::<Borrowed<'de>>()? {
            let field = of.field(&name.0).and_then(|field| Some((field, field.wire().split_last()?)));
            let Some((field, (tag, outer))) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            enclosing.change(outer, out);
            map.next_value_seed(Member { field, tag: *tag, out })?;
        }
        enclosing.change(&[], out);
        Ok(())
    }
}

/// The open messages that enclose on the wire what JSON has in line. Fields of one that stand together in the JSON share one
/// message; readers join those that do not.
#[derive(Default)]
struct Enclosing {
    tags: &'static [u16],
    starts: [usize; 2],
}

impl Enclosing {
    fn change(&mut self, to: &'static [u16], out: &mut Vec<u8>) {
        if self.tags == to {
            return;
        }
        let kept = self.tags.iter().zip(to).take_while(|(a, b)| a == b).count();
        for level in (kept..self.tags.len()).rev() {
            close(out, self.starts[level]);
        }
        for (start, tag) in self.starts.iter_mut().zip(to).skip(kept) {
            *start = open(out, *tag);
        }
        self.tags = to;
    }
}

/// All values of a field.
struct Member<'a> {
    field: &'static Field,
    tag: u16,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        match self.field.shape {
            Shape::One => Single { field: self.field, tag: self.tag, out: self.out }.deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = if self.field.shape == Shape::List { "a list" } else { "a map" };
        write!(f, "{shape} in {}", self.field.name)
    }
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        if self.field.shape != Shape::List {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        while items.next_element_seed(Single { field: self.field, tag: self.tag, out: self.out })?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let Self { field, tag, out } = self;
        if field.shape == Shape::List {
            return Err(A::Error::invalid_type(Unexpected::Map, &Self { field, tag, out }));
        }
        while let Some(key) = map.next_key::<Borrowed<'de>>()? {
            let entry = open(out, tag);
            put_bytes(out, 1, key.0.as_bytes());
            if field.shape == Shape::Map {
                map.next_value_seed(Single { field, tag: 2, out })?;
            } else {
                let items = open(out, 2);
                map.next_value_seed(Items { field, out })?;
                close(out, items);
            }
            close(out, entry);
        }
        Ok(())
    }
}

/// A list in a map: a message of `items` 1.
struct Items<'a> {
    field: &'static Field,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list in {}", self.field.name)
    }
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        while items.next_element_seed(Single { field: self.field, tag: 1, out: self.out })?.is_some() {}
        Ok(())
    }
}

/// One value with its tag; null is none.
struct Single<'a> {
    field: &'static Field,
    tag: u16,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Single<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        if !matches!(self.field.kind(), Kind::Object | Kind::Any) {
            return deserializer.deserialize_any(self);
        }
        match self.field.type_ref().map(TypeRef::short_name) {
            Some("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" | "JSONSchemaPropsOrBool") => {
                deserializer.deserialize_any(SchemaOr(self))
            }
            of => {
                let raw = <&RawValue>::deserialize(deserializer)?.get();
                if raw == "null" {
                    return Ok(());
                }
                let start = open(self.out, self.tag);
                // This one has no content in either form.
                if of != Some("CustomResourceSubresourceStatus") {
                    put_bytes(self.out, 1, raw.as_bytes());
                }
                close(self.out, start);
                Ok(())
            }
        }
    }
}

impl Single<'_> {
    fn refused<E: Error>(&self, found: Unexpected<'_>) -> E {
        E::invalid_type(found, &Kinded(self.field))
    }

    fn number<E: Error>(self, number: i64) -> std::result::Result<(), E> {
        match self.field.kind() {
            Kind::Int32 | Kind::Int64 => put_int(self.out, self.tag, number),
            #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles to Go's reader as well")]
            Kind::Double => put_double(self.out, self.tag, number as f64),
            Kind::IntOrString => {
                let start = open(self.out, self.tag);
                put_int(self.out, 1, 0);
                put_int(self.out, 2, number);
                close(self.out, start);
            }
            Kind::Quantity => quantity(self.out, self.tag, &number.to_string()),
            _ => return Err(self.refused(Unexpected::Signed(number))),
        }
        Ok(())
    }
}

/// For error messages: what a field holds.
struct Kinded(&'static Field);

impl serde::de::Expected for Kinded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.0.kind(), self.0.name)
    }
}

impl<'de> Visitor<'de> for Single<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde::de::Expected::fmt(&Kinded(self.field), f)
    }
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, value: bool) -> std::result::Result<(), E> {
        match self.field.kind() {
            Kind::Bool => put_int(self.out, self.tag, i64::from(value)),
            _ => return Err(self.refused(Unexpected::Bool(value))),
        }
        Ok(())
    }
    fn visit_i64<E: Error>(self, value: i64) -> std::result::Result<(), E> {
        self.number(value)
    }
    fn visit_u64<E: Error>(self, value: u64) -> std::result::Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.number(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }
    fn visit_f64<E: Error>(self, value: f64) -> std::result::Result<(), E> {
        match self.field.kind() {
            Kind::Double => put_double(self.out, self.tag, value),
            Kind::Quantity => quantity(self.out, self.tag, &value.to_string()),
            _ => return Err(self.refused(Unexpected::Float(value))),
        }
        Ok(())
    }
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<(), E> {
        let Self { tag, .. } = self;
        match self.field.kind() {
            Kind::String => put_bytes(self.out, tag, text.as_bytes()),
            Kind::Bytes => {
                let bytes =
                    STANDARD.decode(text).map_err(|error| E::custom(format!("{}: {error}", self.field.name)))?;
                put_bytes(self.out, tag, &bytes);
            }
            Kind::Quantity => quantity(self.out, tag, text),
            Kind::IntOrString => {
                let start = open(self.out, tag);
                put_int(self.out, 1, 1);
                put_bytes(self.out, 3, text.as_bytes());
                close(self.out, start);
            }
            Kind::Time | Kind::MicroTime => {
                let at =
                    machinery::time::parse(text).map_err(|error| E::custom(format!("{}: {error}", self.field.name)))?;
                let start = open(self.out, tag);
                put_int(self.out, 1, at.as_second());
                put_int(self.out, 2, i64::from(at.subsec_nanosecond()));
                close(self.out, start);
            }
            _ => return Err(self.refused(Unexpected::Str(text))),
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<(), A::Error> {
        let Kind::Type(of) = self.field.kind() else {
            return Err(self.refused(Unexpected::Map));
        };
        let start = open(self.out, self.tag);
        Fields { of, out: &mut *self.out }.visit_map(map)?;
        close(self.out, start);
        Ok(())
    }
}

pub(crate) fn put_double(out: &mut Vec<u8>, tag: u16, number: f64) {
    put_key(out, tag, FIXED64);
    out.extend_from_slice(&number.to_le_bytes());
}

/// A message of `string` 1.
fn quantity(out: &mut Vec<u8>, tag: u16, text: &str) {
    let start = open(out, tag);
    put_bytes(out, 1, text.as_bytes());
    close(out, start);
}

/// A schema, or a list or boolean in its place: the unions of JSONSchemaProps.
struct SchemaOr<'a>(Single<'a>);

impl SchemaOr<'_> {
    /// `JSONSchemaPropsOrBool` is `allows` 1 and `schema` 2; the two others are `schema` 1 and a list at 2.
    fn is_or_bool(&self) -> bool {
        self.0.field.type_ref().map(TypeRef::short_name) == Some("JSONSchemaPropsOrBool")
    }
}

impl<'de> Visitor<'de> for SchemaOr<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a schema, a list or a boolean in {}", self.0.field.name)
    }
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, allows: bool) -> std::result::Result<(), E> {
        if !self.is_or_bool() {
            return Err(self.0.refused(Unexpected::Bool(allows)));
        }
        let start = open(self.0.out, self.0.tag);
        put_int(self.0.out, 1, i64::from(allows));
        close(self.0.out, start);
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<(), A::Error> {
        let or_bool = self.is_or_bool();
        let out = self.0.out;
        let start = open(out, self.0.tag);
        if or_bool {
            // A reader that knows the schema also reads whether it allows anything.
            put_int(out, 1, 1);
        }
        let schema = open(out, if or_bool { 2 } else { 1 });
        Fields { of: schema_props(), out: &mut *out }.visit_map(map)?;
        close(out, schema);
        close(out, start);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        let out = self.0.out;
        let start = open(out, self.0.tag);
        while items.next_element_seed(SchemaItem(&mut *out))?.is_some() {}
        close(out, start);
        Ok(())
    }
}

/// An element of a union's list: a schema or the name of a property, both at 2.
struct SchemaItem<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for SchemaItem<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SchemaItem<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a schema or the name of a property")
    }
    fn visit_str<E: Error>(self, name: &str) -> std::result::Result<(), E> {
        put_bytes(self.0, 2, name.as_bytes());
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<(), A::Error> {
        let start = open(self.0, 2);
        Fields { of: schema_props(), out: &mut *self.0 }.visit_map(map)?;
        close(self.0, start);
        Ok(())
    }
}

fn schema_props() -> TypeRef {
    let of = schema::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    of.expect("the table has JSONSchemaProps")
}
