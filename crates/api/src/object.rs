//! An object as it is stored, cached, listed and watched: its encoded JSON, and beside it the fields that servers and
//! controllers look at without decoding.
//!
//! Cloning shares the bytes. The bytes of a cached object may be a slice of the watch event that brought it, so that API
//! server and informers in one process hold one copy.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::schema::TypeRef;
use crate::{Resource, protobuf};

mod tree;

pub use tree::Tree;

/// Namespace (empty for cluster scope) and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace; empty for cluster scope.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key; `namespace` is empty for cluster scope.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// Who owns an object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// `group/version` of the owner.
    pub api_version: Box<str>,
    /// Kind of the owner.
    pub kind: Box<str>,
    /// Name of the owner, in the same namespace or cluster scope.
    pub name: Box<str>,
    /// The owner's uid.
    pub uid: Box<str>,
    /// Whether the owner manages the object. At most one does.
    #[serde(default)]
    pub controller: bool,
    /// Whether the owner waits for this object when it is deleted in the foreground.
    #[serde(default)]
    pub block_owner_deletion: bool,
}

/// What is kept beside an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Namespace and name.
    pub key: Key,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`; 0 where there is none yet.
    pub revision: u64,
    /// `metadata.generation`; 0 where there is none.
    pub generation: i64,
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `metadata.ownerReferences`.
    pub owners: Box<[OwnerReference]>,
    /// `metadata.finalizers`.
    pub finalizers: Box<[Box<str>]>,
    /// `metadata.deletionTimestamp`, as written.
    pub deletion_timestamp: Option<Box<str>>,
    /// The values of the resource's selectable fields, in the order of [`Resource::selectable_fields`]; empty where absent.
    pub fields: Box<[Box<str>]>,
}

/// An object's bytes do not have the shape of one.
#[derive(Debug, thiserror::Error)]
#[error("not an API object")]
pub struct EncodeError(#[from] serde_json::Error);

/// An encoded object with its index.
#[derive(Debug, Clone)]
pub struct Object(Arc<(Bytes, Index, OnceLock<Bytes>)>);

impl Object {
    /// Indexes encoded JSON. Reads metadata and the resource's selectable fields, skips the rest.
    pub fn parse(resource: &Resource, json: Bytes) -> Result<Self, EncodeError> {
        let mut reader = serde_json::Deserializer::from_slice(&json);
        let Head { metadata: meta } = map_only(&mut reader)?;
        reader.end()?;
        let mut labels: Vec<_> = meta.labels.0.into_iter().map(|(k, v)| (Box::from(&*k), Box::from(&*v))).collect();
        labels.sort();
        let index = Index {
            key: Key::new(&*meta.namespace, &*meta.name),
            uid: Box::from(&*meta.uid),
            revision: meta.resource_version.parse().unwrap_or(0),
            generation: meta.generation,
            labels: labels.into(),
            owners: meta.owner_references.unwrap_or_default().into(),
            finalizers: meta.finalizers.unwrap_or_default().into(),
            deletion_timestamp: meta.deletion_timestamp.map(|at| Box::from(&*at)),
            fields: select(resource, &json)?,
        };
        Ok(Self(Arc::new((json, index, OnceLock::new()))))
    }

    /// The encoded JSON.
    pub fn json(&self) -> &Bytes {
        &self.0.0
    }

    /// Its protobuf message, without an envelope, as an object of type `of`. Made when it is first asked for, then kept.
    pub fn protobuf(&self, of: TypeRef) -> Result<Bytes, protobuf::encode::EncodeError> {
        if let Some(known) = self.0.2.get() {
            return Ok(known.clone());
        }
        let mut made = protobuf::encode::message(of, self.json())?;
        made.shrink_to_fit();
        Ok(self.0.2.get_or_init(|| made.into()).clone())
    }

    /// What is kept beside the bytes.
    pub fn index(&self) -> &Index {
        &self.0.1
    }

    /// Namespace and name.
    pub fn key(&self) -> &Key {
        &self.0.1.key
    }

    /// The uid.
    pub fn uid(&self) -> &str {
        &self.0.1.uid
    }

    /// The resource version.
    pub fn revision(&self) -> u64 {
        self.0.1.revision
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = &self.0.1.labels;
        labels.binary_search_by(|(label, _)| (**label).cmp(key)).ok().map(|at| &*labels[at].1)
    }

    /// The value of a selectable field of `resource`; empty (for numbers and booleans `0` and `false`) where absent, `None`
    /// where it is not selectable.
    pub fn field(&self, resource: &Resource, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(&self.key().name),
            "metadata.namespace" => Some(&self.key().namespace),
            _ => {
                let at = resource.selectable_fields.iter().position(|field| field == path)?;
                self.0.1.fields.get(at).map(|value| &**value)
            }
        }
    }

    /// The owner that manages this object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.0.1.owners.iter().find(|owner| owner.controller)
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_deleting(&self) -> bool {
        self.0.1.deletion_timestamp.is_some()
    }

    /// Decodes the whole object as a tree: 10 times its bytes; for the few objects that a step needs.
    pub fn to_value(&self) -> Value {
        serde_json::from_slice(self.json()).expect("the bytes were parsed when the object was indexed")
    }

    /// The whole object as a tree but for its `metadata.managedFields`, which come beside it as they are encoded: as a tree they
    /// would take more time and memory than all the rest, and only one step of a write looks into them.
    pub fn to_tree(&self) -> Tree {
        tree::read(self.json()).expect("the bytes were parsed when the object was indexed")
    }
}

/// The JSON of an object's `metadata`, a slice of its bytes; `{}` where there is none.
pub fn raw_metadata(json: &[u8]) -> Result<&str, serde_json::Error> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    let head: Head<'_> = serde_json::from_slice(json)?;
    Ok(head.metadata.map_or("{}", RawValue::get))
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Encodes an object for the store: `apiVersion`, `kind` and `metadata` first, and no resource version, which the store
/// gives at commit and [`with_revision`] puts in. The object must have a non-empty `metadata` without one.
pub fn encode(object: &Value) -> Vec<u8> {
    encode_managed(object, b"")
}

/// [`encode`] with encoded `metadata.managedFields` put in; empty where there are none.
pub fn encode_managed(object: &Value, managed_fields: &[u8]) -> Vec<u8> {
    const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
    let mut json = Vec::with_capacity(1024);
    json.push(b'{');
    let empty = serde_json::Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, value) in first.chain(rest) {
        if json.len() > 1 {
            json.push(b',');
        }
        let written = serde_json::to_writer(&mut json, name);
        json.push(b':');
        written.and_then(|()| serde_json::to_writer(&mut json, value)).expect("writing JSON to memory does not fail");
        if name == "metadata" && !managed_fields.is_empty() && json.ends_with(b"}") {
            json.pop();
            json.extend_from_slice(if json.ends_with(b"{") { b"\"managedFields\":" } else { b",\"managedFields\":" });
            json.extend_from_slice(managed_fields);
            json.push(b'}');
        }
    }
    json.push(b'}');
    json
}

/// Appends the stored bytes to `out` with `metadata.resourceVersion` put in. Copies, decodes nothing.
pub fn with_revision(stored: &[u8], revision: u64, out: &mut Vec<u8>) {
    let at = stored.windows(METADATA.len()).position(|window| window == METADATA);
    let at = at.map_or(0, |at| at + METADATA.len());
    out.extend_from_slice(&stored[..at]);
    if at > 0 {
        out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
        if stored.get(at) != Some(&b'}') {
            out.push(b',');
        }
    }
    out.extend_from_slice(&stored[at..]);
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, deserialize_with = "map_only")]
    metadata: Meta<'a>,
}

/// Reads a struct from a JSON object and nothing else: derived code would take an array of its fields as well.
fn map_only<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct MapOnly<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for MapOnly<T> {
        type Value = T;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(MapOnly(PhantomData))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    generation: i64,
    #[serde(borrow)]
    labels: Labels<'a>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<Box<str>>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

/// Labels in a list: a tree map costs more than sorting once.
#[derive(Default)]
struct Labels<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_unit<E>(self) -> Result<Labels<'de>, E> {
                Ok(Labels::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels<'de>, A::Error> {
                let mut labels = Vec::new();
                while let Some(entry) = map.next_entry::<Borrowed<'de>, Borrowed<'de>>()? {
                    labels.push((entry.0.0, entry.1.0));
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_any(LabelsVisitor)
    }
}

/// A string that stays in the bytes it was read from, unless it has escapes.
#[derive(Deserialize)]
pub(crate) struct Borrowed<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Reads the selectable fields in one pass over the bytes.
fn select(resource: &Resource, json: &[u8]) -> Result<Box<[Box<str>]>, EncodeError> {
    if resource.selectable_fields.is_empty() {
        return Ok(Box::default());
    }
    let sources: Vec<_> = resource.selectable_fields.iter().map(|field| Source::of(resource, field)).collect();
    let mut values = vec![String::new(); sources.len()];
    let paths = sources.iter().map(|source| source.path).enumerate().collect();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Select { paths, values: &mut values }.deserialize(&mut deserializer)?;
    for (at, source) in sources.iter().enumerate() {
        if values[at].is_empty() {
            values[at] = match source.absent {
                Absent::Text(text) => text.to_owned(),
                Absent::Field(other) => {
                    let other = resource.selectable_fields.iter().position(|field| field == other);
                    other.map(|other| values[other].clone()).unwrap_or_default()
                }
            };
        }
    }
    Ok(values.into_iter().map(String::into_boxed_str).collect())
}

/// Where the value of a selectable field comes from.
#[derive(Clone, Copy)]
struct Source<'a> {
    path: &'a str,
    absent: Absent,
}

/// What stands for a value that is not there.
#[derive(Clone, Copy)]
enum Absent {
    Text(&'static str),
    /// Another selectable field's value.
    Field(&'static str),
}

impl<'a> Source<'a> {
    /// Selectable fields that upstream computes instead of reading the JSON path of the same name: numbers and booleans
    /// have a value where JSON leaves them out, and two fields carry another name than in JSON.
    const COMPUTED: &'static [(&'static str, &'static str, &'static str, Source<'static>)] = &[
        ("", "events", "source", Source { path: "source.component", absent: Absent::Field("reportingComponent") }),
        ("", "nodes", "spec.unschedulable", Source { path: "spec.unschedulable", absent: Absent::Text("false") }),
        ("", "pods", "spec.hostNetwork", Source { path: "spec.hostNetwork", absent: Absent::Text("false") }),
        (
            "",
            "replicationcontrollers",
            "status.replicas",
            Source { path: "status.replicas", absent: Absent::Text("0") },
        ),
        ("apps", "replicasets", "status.replicas", Source { path: "status.replicas", absent: Absent::Text("0") }),
        ("batch", "jobs", "status.successful", Source { path: "status.succeeded", absent: Absent::Text("0") }),
    ];

    fn of(resource: &Resource, field: &'a str) -> Self {
        let computed = Self::COMPUTED
            .iter()
            .find(|(group, plural, name, _)| *name == field && resource.plural == *plural && resource.group == *group);
        computed.map_or(Self { path: field, absent: Absent::Text("") }, |row| row.3)
    }
}

struct Select<'a> {
    /// The number of each wanted field, with what remains of its path.
    paths: Vec<(usize, &'a str)>,
    values: &'a mut [String],
}

impl<'de> DeserializeSeed<'de> for Select<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Select<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    // A value that is no object has none of the fields below it: as good as absent.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Borrowed<'de>>()? {
            let mut deeper = Vec::new();
            let mut here = None;
            for (number, path) in &self.paths {
                match path.split_once('.') {
                    Some((head, rest)) if head == name.0 => deeper.push((*number, rest)),
                    None if *path == name.0 => here = Some(*number),
                    _ => {}
                }
            }
            if let Some(number) = here {
                self.values[number] = match map.next_value::<Value>()? {
                    Value::String(text) => text,
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
            } else if deeper.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Select { paths: deeper, values: self.values })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
