//! What a change adds, modifies and removes, field by field.
//!
//! Parts that are equal cost one comparison and no memory, so that the work follows the change.

use serde_json::Value;

use super::path::Step;
use super::schema::{List, ListKind, Place, Scalar, Shape};
use super::set::{Node, Set};
use super::typed::elements;

/// What differs between two objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// In the new one only.
    pub added: Set,
    /// In both, with another value.
    pub modified: Set,
    /// In the old one only.
    pub removed: Set,
}

impl Comparison {
    /// The same but for these fields and those below them.
    pub fn without(self, ignored: &Set) -> Self {
        let without = |set: Set| if set.is_empty() { set } else { set.without(ignored) };
        Self { added: without(self.added), modified: without(self.modified), removed: without(self.removed) }
    }
}

/// Compares two objects of a type. Without an old one, the new one was made from nothing: from an object that has just
/// what [`Place::always_has`].
pub fn compare(old: Option<&Value>, new: &Value, place: &dyn Place) -> Comparison {
    let mut diff = Diff::default();
    walk(old.map_or(Old::Zero, Old::Is), Some(new), place, &mut diff);
    Comparison { added: diff.added.below, modified: diff.modified.below, removed: diff.removed.below }
}

/// What was there before.
#[derive(Clone, Copy)]
enum Old<'v> {
    Nothing,
    /// A value with nothing in it, which objects of the type always have.
    Zero,
    Is(&'v Value),
}

impl<'v> Old<'v> {
    fn of(value: Option<&'v Value>) -> Self {
        value.map_or(Self::Nothing, Self::Is)
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn items(self) -> &'v [Value] {
        match self {
            Self::Is(Value::Array(items)) => items,
            _ => &[],
        }
    }
}

#[derive(Default)]
struct Diff {
    added: Node,
    modified: Node,
    removed: Node,
}

impl Diff {
    /// Hangs what was found at a part below it.
    fn attach(&mut self, step: impl Fn() -> Step, part: Self) {
        for (whole, part) in
            [(&mut self.added, part.added), (&mut self.modified, part.modified), (&mut self.removed, part.removed)]
        {
            if !part.is_empty() {
                whole.below.push(step(), part);
            }
        }
    }

    fn sort(&mut self) {
        for node in [&mut self.added, &mut self.modified, &mut self.removed] {
            node.below.sort();
        }
    }

    /// The value changed as one.
    fn leaf(&mut self, old: Old<'_>, new: Option<&Value>) {
        let side = match (old, new) {
            (Old::Nothing, _) => &mut self.added,
            (_, None) => &mut self.removed,
            _ => &mut self.modified,
        };
        side.member = true;
    }
}

fn walk(old: Old<'_>, new: Option<&Value>, place: &dyn Place, diff: &mut Diff) {
    let shape = place.shape();
    if is_same(old, new, shape) {
        return;
    }
    match shape {
        Shape::Map { atomic: false } => {}
        Shape::List(list @ List { kind: ListKind::Set | ListKind::Map(_), .. }) => {
            let items = new.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if old.items().is_empty() && items.is_empty() {
                return diff.leaf(old, new);
            }
            return in_list(old, new, items, &list, diff);
        }
        Shape::Any => {
            if let Some(done) = untyped(old, new, place, diff) {
                return done;
            }
        }
        _ => return diff.leaf(old, new),
    }
    in_map(old, new, place, diff);
}

fn is_same(old: Old<'_>, new: Option<&Value>, shape: Shape<'_>) -> bool {
    match (old, new, shape) {
        (Old::Is(old), Some(new), _) => old == new,
        (Old::Zero, None, _) => true,
        (Old::Zero, Some(new), Shape::Scalar(scalar)) => match scalar {
            Scalar::String => new == "",
            Scalar::Number => new.as_f64() == Some(0.0),
            Scalar::Bool => *new == false,
            Scalar::Any => false,
        },
        (Old::Zero, Some(Value::Array(items)), _) => items.is_empty(),
        (Old::Zero, Some(Value::Object(entries)), _) => entries.is_empty(),
        _ => false,
    }
}

/// Where the value says what it is: done with, unless all there is are maps.
fn untyped(old: Old<'_>, new: Option<&Value>, place: &dyn Place, diff: &mut Diff) -> Option<()> {
    let is_map = |value: &Value| matches!(value, Value::Object(_) | Value::Null);
    let (old_map, new_map) = (!matches!(old, Old::Is(old) if !is_map(old)), new.is_none_or(is_map));
    match (old_map, new_map) {
        (true, true) => return None,
        // One kind of value took the place of another.
        (true, false) if !old.is_nothing() => in_map(old, None, place, diff),
        (false, true) if new.is_some() => in_map(Old::Nothing, new, place, diff),
        _ => {}
    }
    if let (Old::Is(_), Some(_)) = (old, new) {
        (diff.added.member, diff.removed.member) = (false, false);
    }
    diff.leaf(old, new);
    Some(())
}

fn in_map(old: Old<'_>, new: Option<&Value>, place: &dyn Place, diff: &mut Diff) {
    let before = if let Old::Is(Value::Object(entries)) = old { Some(entries) } else { None };
    let after = new.and_then(Value::as_object);
    if before.is_none_or(serde_json::Map::is_empty) && after.is_none_or(serde_json::Map::is_empty) {
        return diff.leaf(old, new);
    }
    let mut part = |name: &str, old: Old<'_>, new: Option<&Value>| {
        let Some(place) = place.entry(name).place() else { return };
        let mut found = Diff::default();
        walk(old, new, place, &mut found);
        diff.attach(|| Step::field(name), found);
    };
    for (name, value) in after.into_iter().flatten() {
        let old = match old {
            Old::Zero if place.always_has(name) => Old::Zero,
            _ => Old::of(before.and_then(|before| before.get(name))),
        };
        part(name, old, Some(value));
    }
    for (name, value) in before.into_iter().flatten() {
        if after.is_none_or(|after| !after.contains_key(name)) {
            part(name, Old::Is(value), None);
        }
    }
    diff.sort();
    whole(old, new, diff);
}

/// What came or went with all its parts came or went itself.
fn whole(old: Old<'_>, new: Option<&Value>, diff: &mut Diff) {
    diff.added.member |= old.is_nothing();
    diff.removed.member |= new.is_none();
}

fn in_list(old: Old<'_>, new: Option<&Value>, items: &[Value], list: &List<'_>, diff: &mut Diff) {
    let (before, after) = (elements(list, old.items()), elements(list, items));
    let (mut before, mut after) = (alike(&before).peekable(), alike(&after).peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a[0].0.cmp(&b[0].0),
        };
        let a = if order.is_le() { before.next().unwrap_or_default() } else { &[] };
        let b = if order.is_ge() { after.next().unwrap_or_default() } else { &[] };
        let Some((step, _)) = a.first().or(b.first()) else { break };
        diff.attach(|| step.clone(), element(a, b, list.element));
    }
    whole(old, new, diff);
}

type Alike<'a, 'v> = &'a [(Step, &'v Value)];

fn alike<'a, 'v>(elements: &'a [(Step, &'v Value)]) -> impl Iterator<Item = Alike<'a, 'v>> {
    elements.chunk_by(|a, b| a.0 == b.0)
}

fn first<'v>(elements: Alike<'_, 'v>) -> Option<&'v Value> {
    elements.first().map(|(_, value)| *value)
}

/// Elements that are alike, before and after. Several that are alike are compared as one value.
fn element(before: Alike<'_, '_>, after: Alike<'_, '_>, place: &dyn Place) -> Diff {
    let mut diff = Diff::default();
    match (before.len(), after.len()) {
        (0 | 1, 0 | 1) => walk(Old::of(first(before)), first(after), place, &mut diff),
        (0 | 1, _) => {
            if let Some(old) = first(before) {
                walk(Old::Is(old), None, place, &mut diff);
            }
            diff.added.member = true;
        }
        (_, 0 | 1) => {
            if let Some(new) = first(after) {
                walk(Old::Nothing, Some(new), place, &mut diff);
            }
            diff.removed.member = true;
        }
        _ => diff.modified.member = !before.iter().map(|(_, value)| value).eq(after.iter().map(|(_, value)| value)),
    }
    diff
}
