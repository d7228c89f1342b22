//! The built-in types as data: their fields with JSON names, kinds of value, protobuf tags, and how lists and maps merge.
//!
//! Derived from k8s-openapi and k8s-pb by `cargo xtask gen` into a table that lies beside this file; nothing here is
//! specific to a kind. The table is read at the first use and takes 0.1 MB; descriptions are kept deflated, since only
//! OpenAPI wants them.
//!
//! [`decode`] and [`check`] read an object as the API server does: field validation, pruning, canonical values.
//! [`TypeRef`] is the schema that `machinery::strategic` merges by, and [`TypeRef::place`] the one of server-side apply.

mod check;
mod merge;
mod ownership;
mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use check::{DecodeError, Decoded, Strictness, check, decode};
pub use table::Descriptions;

use crate::Resource;
use table::TABLE;

/// A built-in type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeRef(u16);

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// A floating point number.
    Double,
    /// A boolean.
    Bool,
    /// Bytes, in JSON as base64.
    Bytes,
    /// A quantity such as `100m`: a string, or a number that becomes one.
    Quantity,
    /// An integer of 32 bits, or a string.
    IntOrString,
    /// A time in seconds, as RFC 3339.
    Time,
    /// A time in microseconds, as RFC 3339.
    MicroTime,
    /// Any JSON that upstream documents as an object (`RawExtension`, `FieldsV1`).
    Object,
    /// Any JSON.
    Any,
    /// An object of this type.
    Type(TypeRef),
}

/// How many values a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list.
    List,
    /// A map by string.
    Map,
    /// A map of lists.
    MapOfLists,
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// One owner owns all of it.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects, told apart by [`Field::map_keys`].
    Map,
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// How many values it holds.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    value: Value,
    /// The protobuf tags, padded with 0.
    wire: [u16; 3],
    /// The protobuf tags, then what else is known, as in the table: read where it is wanted.
    rest: &'static str,
}

/// As in [`Kind`], except that a type which is a scalar is still a type: OpenAPI refers to it by name.
#[derive(Debug, Clone, Copy)]
enum Value {
    Scalar(Kind),
    Type(TypeRef),
}

/// The type of a resource's objects; `None` where it is not built in.
pub fn type_of(resource: &Resource) -> Option<TypeRef> {
    by_kind(&resource.group, &resource.version, &resource.kind)
}

/// The type of a kind, such as `DeploymentList` or `Scale`; `None` where it is not built in.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    TABLE.by_kind(group, version, kind)
}

/// The type of that name, such as `io.k8s.api.core.v1.PodSpec`.
pub fn by_name(name: &str) -> Option<TypeRef> {
    TABLE.by_name(name)
}

/// All types, by name.
pub fn types() -> impl Iterator<Item = TypeRef> {
    (0..TABLE.types.len()).map(|at| TypeRef(u16::try_from(at).expect("the table has less than 65,536 types")))
}

/// Inflates the descriptions: 0.6 MB, so keep them no longer than they are needed.
pub fn descriptions() -> Descriptions {
    Descriptions::inflate()
}

impl TypeRef {
    /// Its full name, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Its name without the package, such as `PodSpec`.
    pub fn short_name(self) -> &'static str {
        let name = self.name();
        name.rsplit_once('.').map_or(name, |(_, short)| short)
    }

    /// `apiVersion` and `kind` of its objects, where it is a kind.
    pub fn kind(self) -> Option<(&'static str, &'static str)> {
        let kind = self.row().kind;
        kind.rsplit_once('/')
    }

    /// What it is, where it is no object with known fields: a quantity, a time, any JSON.
    pub fn scalar(self) -> Option<Kind> {
        self.row().scalar
    }

    /// Its fields, by name.
    pub fn fields(self) -> &'static [Field] {
        &TABLE.fields[self.row().fields.clone()]
    }

    /// Its field of that JSON name.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        self.fields().binary_search_by(|field| field.name.cmp(name)).ok().map(|at| &self.fields()[at])
    }

    /// Whether server-side apply treats its objects as one value (`x-kubernetes-map-type: atomic`).
    pub fn is_atomic(self) -> bool {
        table::mark(self.row().rest, "map") == Some("atomic")
    }

    /// Where exactly one of some fields may be set: the field that says which (empty where there is none), and the fields.
    pub fn union(self) -> Option<(&'static str, impl Iterator<Item = &'static str>)> {
        let (discriminator, members) = table::mark(self.row().rest, "union")?.split_once(':')?;
        Some((discriminator, members.split(',')))
    }

    fn row(self) -> &'static table::Row {
        &TABLE.types[usize::from(self.0)]
    }
}

impl Field {
    /// What its values are.
    pub fn kind(&self) -> Kind {
        match self.value {
            Value::Scalar(kind) => kind,
            Value::Type(of) => of.scalar().unwrap_or(Kind::Type(of)),
        }
    }

    /// The type that its values refer to by name, scalar or not.
    pub fn type_ref(&self) -> Option<TypeRef> {
        if let Value::Type(of) = self.value { Some(of) } else { None }
    }

    /// Protobuf tags from the outermost message inward: more than one where a message encloses what JSON has in line.
    /// Empty where the field is not on the wire.
    pub fn tags(&self) -> impl Iterator<Item = u32> {
        self.wire().iter().copied().map(u32::from)
    }

    /// [`Self::tags`], as they are kept.
    pub fn wire(&self) -> &[u16] {
        let length = self.wire.iter().position(|tag| *tag == 0).unwrap_or(self.wire.len());
        &self.wire[..length]
    }

    /// How server-side apply sees the list, where upstream says so.
    pub fn list_type(&self) -> Option<ListType> {
        match self.mark("list")? {
            "map" => Some(ListType::Map),
            "set" => Some(ListType::Set),
            _ => Some(ListType::Atomic),
        }
    }

    /// The fields that tell the elements of a [`ListType::Map`] apart.
    pub fn map_keys(&self) -> impl Iterator<Item = &'static str> {
        self.mark("keys").into_iter().flat_map(|keys| keys.split(','))
    }

    /// The field that tells elements apart in a strategic merge patch.
    pub fn merge_key(&self) -> Option<&'static str> {
        self.mark("merge")
    }

    /// How a strategic merge patch treats it: `merge`, `replace`, `retainKeys`.
    pub fn patch_strategies(&self) -> impl Iterator<Item = &'static str> {
        self.mark("strategy").into_iter().flat_map(|strategies| strategies.split(','))
    }

    /// `atomic` or `granular`, where upstream says how server-side apply sees a map.
    pub fn map_type(&self) -> Option<&'static str> {
        self.mark("map")
    }

    fn mark(&self, name: &str) -> Option<&'static str> {
        table::mark(self.rest, name)
    }
}
