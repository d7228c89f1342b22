//! A value seen by its schema: whether it fits, how the elements of its lists are told apart, and which fields it sets.

use serde_json::{Map, Value};

use super::path::Step;
use super::schema::{Entry, List, ListKind, Place, Scalar, Shape};
use super::set::{Node, Set};

/// What does not fit the schema, each with its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeErrors(Vec<(String, String)>);

impl std::fmt::Display for TypeErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |(path, why): &(String, String)| if path.is_empty() { why.clone() } else { format!("{path}: {why}") };
        match &self.0[..] {
            [only] => f.write_str(&one(only)),
            all => {
                f.write_str("errors:")?;
                all.iter().try_for_each(|error| write!(f, "\n  {}", one(error)))
            }
        }
    }
}

impl std::error::Error for TypeErrors {}

impl TypeErrors {
    fn here(&mut self, why: String) {
        self.0.push((String::new(), why));
    }

    fn below(&mut self, step: &Step, below: Self) {
        self.0.extend(below.0.into_iter().map(|(path, why)| (format!("{step}{path}"), why)));
    }
}

/// Whether a value fits, with no two elements of a list alike where they are told apart.
pub fn check(value: &Value, place: &dyn Place) -> Result<(), TypeErrors> {
    let errors = errors(value, place);
    if errors.0.is_empty() { Ok(()) } else { Err(errors) }
}

fn errors(value: &Value, place: &dyn Place) -> TypeErrors {
    let mut errors = TypeErrors::default();
    match (place.shape(), value) {
        (_, Value::Null) | (Shape::AnyAtomic, _) => {}
        (Shape::Scalar(scalar), value) => errors.0.extend(scalar_error(scalar, value).map(|why| (String::new(), why))),
        (Shape::List(list), Value::Array(items)) => element_errors(&list, items, &mut errors),
        (Shape::List(_), other) => errors.here(format!("expected list, got {}", plain_pointer(other))),
        (Shape::Map { .. } | Shape::Any, Value::Object(fields)) => {
            for (name, value) in fields {
                match place.entry(name).place() {
                    Some(place) => errors.below(&Step::field(name), self::errors(value, place)),
                    None => {
                        let mut unknown = TypeErrors::default();
                        unknown.here("field not declared in schema".to_owned());
                        errors.below(&Step::field(name), unknown);
                        return errors;
                    }
                }
            }
        }
        (Shape::Any, _) => {}
        (Shape::Map { .. }, other) => errors.here(format!("expected map, got {}", plain_pointer(other))),
    }
    errors
}

fn element_errors(list: &List<'_>, items: &[Value], errors: &mut TypeErrors) {
    let mut seen: Vec<Step> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let step = match list.kind {
            ListKind::Atomic => Step::Index(i64::try_from(at).unwrap_or(i64::MAX)),
            _ => match element_step(list, item) {
                Ok(step) => step,
                Err(why) => return errors.here(format!("element {at}: {why}")),
            },
        };
        match seen.binary_search(&step) {
            Ok(_) => errors.here(format!("duplicate entries for key {step}")),
            Err(at) => seen.insert(at, step.clone()),
        }
        errors.below(&step, self::errors(item, list.element));
    }
}

fn scalar_error(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::String | Scalar::Any, Value::String(_))
        | (Scalar::Number | Scalar::Any, Value::Number(_))
        | (Scalar::Bool | Scalar::Any, Value::Bool(_)) => None,
        (Scalar::Number, other) => Some(format!("expected numeric (int or float), got {}", go_type(other))),
        (Scalar::String, other) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(other)))
        }
        (Scalar::Bool, other) => Some(format!("expected boolean, got {}", plain_pointer(other))),
        (Scalar::Any, other) => Some(format!("expected any scalar, got {}", plain_pointer(other))),
    }
}

/// The texts below are values as Go prints them: upstream's messages carry them and clients see them.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn go_syntax(value: &Value) -> String {
    let list = |items: Vec<String>| format!("{}{{{}}}", go_type(value), items.join(", "));
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => list(items.iter().map(go_syntax).collect()),
        Value::Object(fields) => {
            list(sorted(fields).map(|(name, value)| format!("{name:?}:{}", go_syntax(value))).collect())
        }
        scalar => scalar.to_string(),
    }
}

fn plain_pointer(value: &Value) -> String {
    format!("&{{{}}}", go_plain(value))
}

fn go_plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<_> = sorted(fields).map(|(name, value)| format!("{name}:{}", go_plain(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

fn sorted(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    fields.into_iter()
}

/// The step into an element of a list whose elements are told apart.
pub fn element_step(list: &List<'_>, element: &Value) -> Result<Step, String> {
    let keys = match (list.kind, element) {
        (ListKind::Map(keys), _) => keys,
        (_, Value::Object(_)) => return Err("associative list without keys has an element that's a map type".into()),
        (_, Value::Array(_)) => return Err("not supported: associative list with lists as elements".into()),
        (_, Value::Null) => {
            return Err("associative list without keys has an element that's an explicit null".into());
        }
        (_, scalar) => return Ok(Step::Value(scalar.clone())),
    };
    let fields = match element {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let found = keys.iter().filter_map(|key| {
        let value = fields.get(&*key.name).or(key.default.as_ref())?;
        Some((Box::from(&*key.name), value.clone()))
    });
    let mut found: Vec<(Box<str>, Value)> = found.collect();
    if found.is_empty() {
        let names: Vec<_> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values \
             for any key fields)",
            names.join(" ")
        ));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Step::Key(found.into()))
}

/// The elements of a list with their steps, in the order of the steps; those alike keep their order. An element that
/// cannot be told apart is left out: nobody can own it.
pub fn elements<'v>(list: &List<'_>, items: &'v [Value]) -> Vec<(Step, &'v Value)> {
    let mut all: Vec<_> = items.iter().filter_map(|item| Some((element_step(list, item).ok()?, item))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The fields that a value sets: who applies it owns them.
pub fn fields(value: &Value, place: &dyn Place) -> Set {
    fields_at(value, place).below
}

fn fields_at(value: &Value, place: &dyn Place) -> Node {
    let leaf = || Node { member: true, below: Set::default() };
    match (place.shape(), value) {
        (
            Shape::List(List { kind: ListKind::Set | ListKind::Map(_), .. })
            | Shape::Map { atomic: false }
            | Shape::Any,
            Value::Null,
        ) => Node::default(),
        (Shape::List(list @ List { kind: ListKind::Set | ListKind::Map(_), .. }), Value::Array(items)) => {
            Node { member: false, below: element_fields(&list, items) }
        }
        (Shape::Map { atomic: false } | Shape::Any, Value::Object(entries)) => {
            let mut below = Set::default();
            for (name, value) in entries {
                let entry = place.entry(name);
                let mut node = entry.place().map_or_else(Node::default, |place| fields_at(value, place));
                let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                node.member |= is_empty || !matches!(entry, Entry::Field(_));
                below.put(Step::field(name), node);
            }
            Node { member: false, below }
        }
        _ => leaf(),
    }
}

/// Elements that are alike are owned together, as if they were one value.
fn element_fields(list: &List<'_>, items: &[Value]) -> Set {
    let mut below = Set::default();
    for alike in elements(list, items).chunk_by(|a, b| a.0 == b.0) {
        let inner = match alike {
            [(_, only)] => fields_at(only, list.element).below,
            _ => Set::default(),
        };
        below.push(alike[0].0.clone(), Node::from(inner));
    }
    below
}

/// The set with those named fields of the schema in it through which its fields are reached.
pub fn with_named_fields(set: &Set, place: Option<&dyn Place>) -> Set {
    set.clone().map_nodes(&mut |step, mut node| {
        let shape = place.map(Place::shape);
        let (inner, is_named) = match (step, shape) {
            (Step::Field(name), Some(Shape::Map { .. } | Shape::Any)) => {
                let entry = place.map_or(Entry::Unknown, |place| place.entry(name));
                (entry.place(), matches!(entry, Entry::Field(_)))
            }
            (Step::Key(_), Some(Shape::List(list))) => (Some(list.element), false),
            _ => (None, false),
        };
        node.member |= is_named && !node.below.is_empty();
        node.below = with_named_fields(&node.below, inner);
        node
    })
}

/// The set as it is after parts of the type have come to be owned whole: who owned parts of such a value owns the value.
pub fn reconciled(set: Set, place: &dyn Place) -> Set {
    set.map_nodes(&mut |step, node| {
        let inner = match (step, place.shape()) {
            (Step::Field(name), Shape::Map { .. }) => place.entry(name).place(),
            (Step::Key(_) | Step::Value(_), Shape::List(list)) => Some(list.element),
            // What has no type has not changed its type.
            _ => None,
        };
        let Some(inner) = inner.filter(|_| !node.below.is_empty()) else { return node };
        match inner.shape() {
            Shape::List(List { kind: ListKind::Atomic, .. }) | Shape::Map { atomic: true } => {
                Node::from(Set::default())
            }
            _ => Node { member: node.member, below: reconciled(node.below, inner) },
        }
    })
}
