//! The schema that server-side apply works on: what stands at a place of an object, and who may own its parts.
//!
//! A type is walked from its root, together with an object: [`Place::shape`] says how the value at a place is owned (whole, or
//! part by part), [`Place::entry`] and [`List::element`] lead to the parts. Nothing is allocated on the way: places are
//! borrowed from the schema, which lives as long as the type is served.
//!
//! Built-in types and the structural schemas of custom resources implement it; for a custom resource without a schema, and
//! below `x-kubernetes-preserve-unknown-fields`, there is [`ANY`].

use std::borrow::Cow;

use serde_json::Value;

/// A place in a type: the object itself, a field, an entry of a map or an element of a list.
pub trait Place: Sync {
    /// What stands here.
    fn shape(&self) -> Shape<'_>;

    /// The entry of that name, where [`shape`](Self::shape) is [`Shape::Map`] or [`Shape::Any`]; not asked elsewhere.
    fn entry(&self, _name: &str) -> Entry<'_> {
        Entry::Unknown
    }

    /// Whether every object has this field, if with nothing in it: a struct that upstream's types hold in place, a list that is
    /// always written. Who fills it owns what he put there, not the field. Asked of built-in types only.
    fn always_has(&self, _name: &str) -> bool {
        false
    }
}

/// What stands at a place.
#[derive(Clone, Copy)]
pub enum Shape<'a> {
    /// A value without parts.
    Scalar(Scalar),
    /// A list.
    List(List<'a>),
    /// An object with known fields, a map, or both.
    Map {
        /// Whether one owner owns all of it (`x-kubernetes-map-type: atomic`).
        atomic: bool,
    },
    /// Whatever the value is: a scalar, a list that is owned whole, or a map whose entries are owned one by one and which
    /// [`Place::entry`] leads to. What has no type, or preserves unknown fields.
    Any,
    /// Whatever the value is, and one owner owns all of it.
    AnyAtomic,
}

/// What a value without parts may be. An explicit null is one too, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// A string, in whatever format.
    String,
    /// An integer or a floating point number.
    Number,
    /// A boolean.
    Bool,
    /// Any of them: quantities, integers that may be strings.
    Any,
}

/// A list.
#[derive(Clone, Copy)]
pub struct List<'a> {
    /// How its elements are owned.
    pub kind: ListKind<'a>,
    /// What its elements are.
    pub element: &'a dyn Place,
}

/// How the elements of a list are owned (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy)]
pub enum ListKind<'a> {
    /// One owner owns all of it. So are lists that do not say what they are.
    Atomic,
    /// Scalars, each owned for itself.
    Set,
    /// Objects, each owned for itself, told apart by these fields: at least one.
    Map(&'a [Key]),
}

/// A field that tells elements of a list apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The field's name.
    pub name: Cow<'static, str>,
    /// Its value in an element that leaves it out. Without one, such an element is told apart by its other keys.
    pub default: Option<Value>,
}

/// What a name leads to in a map.
#[derive(Clone, Copy)]
pub enum Entry<'a> {
    /// A field of the type.
    Field(&'a dyn Place),
    /// An entry of a map (`additionalProperties`), or a field that nobody knows and that is preserved.
    Additional(&'a dyn Place),
    /// The type has no such field.
    Unknown,
}

impl<'a> Entry<'a> {
    /// The place, where there is one.
    pub fn place(self) -> Option<&'a dyn Place> {
        match self {
            Entry::Field(place) | Entry::Additional(place) => Some(place),
            Entry::Unknown => None,
        }
    }
}

/// A place of which nothing is known: the entries of maps are owned one by one, lists whole.
pub static ANY: &dyn Place = &Anything;

/// A place of which nothing is known and that has one owner.
pub static ANY_ATOMIC: &dyn Place = &AnythingAtomic;

struct Anything;

impl Place for Anything {
    fn shape(&self) -> Shape<'_> {
        Shape::Any
    }
    fn entry(&self, _: &str) -> Entry<'_> {
        Entry::Additional(ANY)
    }
}

struct AnythingAtomic;

impl Place for AnythingAtomic {
    fn shape(&self) -> Shape<'_> {
        Shape::AnyAtomic
    }
}

impl Place for Scalar {
    fn shape(&self) -> Shape<'_> {
        Shape::Scalar(*self)
    }
}
