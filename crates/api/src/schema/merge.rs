//! The schema as `machinery::strategic` asks for it.

use machinery::strategic::{self, ListMerge, PatchSchema};

use super::{Field, Kind, Shape, TypeRef};

impl PatchSchema for TypeRef {
    fn name(&self) -> &str {
        self.short_name()
    }

    fn child(&self, field: &str) -> Option<strategic::Field<'_>> {
        self.field(field).map(Field::merging)
    }
}

/// A map: each of its entries is of one kind, whatever its name.
struct MapOf(TypeRef);

impl PatchSchema for MapOf {
    fn name(&self) -> &str {
        self.0.short_name()
    }

    fn child(&self, _: &str) -> Option<strategic::Field<'_>> {
        Some(strategic::Field { list: ListMerge::Replace, replace: false, schema: Some(Box::new(self.0)) })
    }
}

impl Field {
    fn merging(&self) -> strategic::Field<'static> {
        let strategy = |name: &str| self.patch_strategies().any(|strategy| strategy == name);
        let list = match self.merge_key() {
            _ if self.shape != Shape::List || !strategy("merge") => ListMerge::Replace,
            Some(key) => ListMerge::Key(key),
            None => ListMerge::Set,
        };
        let schema: Option<Box<dyn PatchSchema>> = match (self.shape, self.kind()) {
            (Shape::One | Shape::List, Kind::Type(of)) => Some(Box::new(of)),
            (Shape::Map, Kind::Type(of)) => Some(Box::new(MapOf(of))),
            _ => None,
        };
        strategic::Field { list, replace: strategy("replace"), schema }
    }
}
