//! The schema as server-side apply asks for it: who may own which parts of an object.

use api::schema::by_name;
use machinery::apply::schema::{ANY, ANY_ATOMIC, Entry, List, ListKind, Place, Scalar, Shape};

use super::{ListType, Schema, Type};
use crate::custom::decode::OBJECT_META;
use crate::custom::definition::LazySchema;

impl Place for Schema {
    fn shape(&self) -> Shape<'_> {
        match self.kind {
            _ if self.int_or_string => Shape::Scalar(Scalar::Any),
            Type::String => Shape::Scalar(Scalar::String),
            Type::Integer | Type::Number => Shape::Scalar(Scalar::Number),
            Type::Boolean => Shape::Scalar(Scalar::Bool),
            Type::Array => Shape::List(self.list()),
            Type::Object => Shape::Map { atomic: self.atomic_map },
            Type::Any if self.atomic_map => Shape::AnyAtomic,
            Type::Any => Shape::Any,
        }
    }

    fn entry(&self, name: &str) -> Entry<'_> {
        if let Some(entry) = of_every_resource(name).filter(|_| self.embedded) {
            return entry;
        }
        match (self.property(name), self.entries()) {
            (Some(field), _) => Entry::Field(field),
            (None, Some(entries)) => Entry::Additional(entries),
            (None, None) if self.preserve_unknown || self.has_entries() || self.kind == Type::Any => {
                Entry::Additional(ANY)
            }
            (None, None) => Entry::Unknown,
        }
    }
}

impl Schema {
    fn list(&self) -> List<'_> {
        let kind = match self.list_type {
            ListType::Set => ListKind::Set,
            ListType::Map if !self.list_map_keys().is_empty() => ListKind::Map(self.list_map_keys()),
            _ => ListKind::Atomic,
        };
        let element = self.items().map_or(if self.preserve_unknown { ANY } else { ANY_ATOMIC }, |items| items);
        List { kind, element }
    }
}

/// The fields that a resource has whatever its schema says.
fn of_every_resource(name: &str) -> Option<Entry<'static>> {
    match name {
        "apiVersion" | "kind" => Some(Entry::Field(&Scalar::String)),
        "metadata" => by_name(OBJECT_META).map(|of| Entry::Field(of.place())),
        _ => None,
    }
}

/// The root of the objects of a version.
impl Place for LazySchema {
    fn shape(&self) -> Shape<'_> {
        Shape::Map { atomic: false }
    }

    fn entry(&self, name: &str) -> Entry<'_> {
        of_every_resource(name).unwrap_or_else(|| self.get().entry(name))
    }
}
