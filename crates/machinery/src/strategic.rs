//! Strategic merge patch: a merge patch that merges lists by key, as the schema says.
//!
//! Directives: `$patch: replace|delete` in objects and list elements, `$retainKeys`, `$setElementOrder/<list>` and
//! `$deleteFromPrimitiveList/<list>`. None of them is left in the result.
//!
//! Public behaviour: "Update API Objects in Place Using kubectl patch", and apimachinery's `strategicpatch`, error texts
//! included.

use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";

/// The schema of an object or a map, as far as merging needs it.
pub trait PatchSchema {
    /// The type's name, for messages, such as `Container`.
    fn name(&self) -> &str;
    /// What is known of a field (of a map: of any entry). `None`: the type has no such field.
    fn child(&self, field: &str) -> Option<Field<'_>>;
}

/// How a field merges.
pub struct Field<'a> {
    /// How a list merges; [`ListMerge::Replace`] for what is no list.
    pub list: ListMerge<'a>,
    /// Whether an object is replaced, not merged (`patchStrategy: replace`).
    pub replace: bool,
    /// The schema of the object, of a map's entries or of a list's elements; `None` for scalars and arbitrary JSON.
    pub schema: Option<Box<dyn PatchSchema + 'a>>,
}

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListMerge<'a> {
    /// The patch's list replaces the old one.
    Replace,
    /// A set of scalars.
    Set,
    /// Objects, told apart by this field.
    Key(&'a str),
}

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A directive has a value that it cannot have.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective {
        /// The value of `$patch`.
        directive: String,
        /// The object around it.
        map: String,
    },
    /// An element cannot be told apart.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The element.
        map: String,
        /// The field that it lacks.
        key: String,
    },
    /// The patch names what the type does not have.
    #[error("unable to find api field in struct {name} for the json field {field:?}")]
    UnknownField {
        /// The type.
        name: String,
        /// The field.
        field: String,
    },
    /// Something has another shape.
    #[error("{0}")]
    Shape(String),
}

type Result<T> = std::result::Result<T, StrategicError>;
type Object = Map<String, Value>;

/// Applies `patch` to `original`. Both must be objects.
pub fn merge(original: Value, patch: Value, schema: &dyn PatchSchema) -> Result<Value> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            merge_object(original, patch, Some(schema)).map(Value::Object)
        }
        _ => Err(StrategicError::Shape("a strategic merge patch and its target must be objects".to_owned())),
    }
}

fn merge_object(mut original: Object, mut patch: Object, schema: Option<&dyn PatchSchema>) -> Result<Object> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            // The rest of the patch is taken as it is: this level and all below it.
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_orders(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        if let Some(list) = parallel_list(&key, DELETE_FROM_LIST)? {
            delete_from_list(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.shift_remove(&key);
            continue;
        }
        let merged = match (original.get_mut(&key).map(Value::take), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let field = field_of(schema, &key)?;
                if field.as_ref().is_some_and(|field| field.replace) {
                    clean(Value::Object(new)).unwrap_or_default()
                } else {
                    let inner = field.as_ref().and_then(|field| field.schema.as_deref());
                    Value::Object(merge_object(old, new, inner)?)
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Value::Array(merge_list(old, new, field_of(schema, &key)?.as_ref())?)
            }
            (_, new) => match clean(new) {
                Some(new) => new,
                None => {
                    original.shift_remove(&key);
                    continue;
                }
            },
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// `$retainKeys`: fields that it does not name are dropped.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let invalid = || StrategicError::Shape("invalid patch format of retainKeys".to_owned());
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(invalid)?;
    let kept = |name: &str| keys.iter().any(|key| key == name);
    let directive = |name: &str| name.starts_with(DELETE_FROM_LIST) || name.starts_with(SET_ORDER);
    if patch.iter().any(|(name, value)| !value.is_null() && !directive(name) && !kept(name)) {
        return Err(invalid());
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// `$setElementOrder/<list>`: merges those lists and puts their elements in the order that the patch gives.
fn set_orders(original: &mut Object, patch: &mut Object, schema: Option<&dyn PatchSchema>) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let list = parallel_list(&directive, SET_ORDER)?.unwrap_or_default().to_owned();
        let order = as_list(patch.shift_remove(&directive).unwrap_or_default(), &directive)?;
        let old = original.get_mut(&list).map(|old| as_list(old.take(), &list)).transpose()?;
        // A null in the patch deletes the list: its order is moot.
        if patch.get(&list).is_some_and(Value::is_null) {
            continue;
        }
        let new = patch.shift_remove(&list).map(|new| as_list(new, &list)).transpose()?;
        let field = field_of(schema, &list)?;
        let key = field.as_ref().and_then(|field| merge_key(field.list));
        check_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => clean_list(new),
            (Some(old), Some(new)) => merge_list(old, new, field.as_ref())?,
        };
        original.insert(list, Value::Array(in_order(merged, &order, &server_order, key)));
    }
    Ok(())
}

/// The patch must name its elements in the order that it asks for, or it contradicts itself.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    let mut at = 0;
    for element in patch.iter().filter(|element| element.get(PATCH).is_none()) {
        match order[at..].iter().position(|wanted| same(wanted, element, key)) {
            Some(found) => at += found + 1,
            None => {
                let (patch, order) = (Value::from(patch.to_vec()), Value::from(order.to_vec()));
                return Err(StrategicError::Shape(format!(
                    "The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n"
                )));
            }
        }
    }
    Ok(())
}

fn delete_from_list(original: &mut Object, list: &str, doomed: &Value) -> Result<()> {
    let doomed =
        doomed.as_array().ok_or_else(|| StrategicError::Shape("invalid patch format of primitive list".to_owned()))?;
    if let Some(Value::Array(elements)) = original.get_mut(list) {
        elements.retain(|element| !doomed.contains(element));
    }
    Ok(())
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, field: Option<&Field<'_>>) -> Result<Vec<Value>> {
    let server_order = old.clone();
    match field.map_or(ListMerge::Replace, |field| field.list) {
        ListMerge::Replace => Ok(clean_list(new)),
        ListMerge::Set => {
            let order = new.clone();
            let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
            for element in old.into_iter().chain(new) {
                if !merged.contains(&element) {
                    merged.push(element);
                }
            }
            Ok(in_order(merged, &order, &server_order, None))
        }
        ListMerge::Key(key) => {
            let schema = field.and_then(|field| field.schema.as_deref());
            let (mut merged, new) = apply_element_directives(old, new, key)?;
            let order = new.clone();
            for element in new {
                merge_element(&mut merged, element, key, schema)?;
            }
            Ok(in_order(merged, &order, &server_order, Some(key)))
        }
    }
}

/// Takes the `$patch` elements out of a patch's list and does what they say to the old one.
fn apply_element_directives(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut rest, mut replace) = (Vec::with_capacity(new.len()), false);
    for element in new {
        match element.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None => rest.push(element),
            Some("delete") => {
                let id = element.get(key).ok_or_else(|| no_merge_key(&element, key))?;
                old.retain(|kept| kept.get(key) != Some(id));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                let message = "merging lists cannot yet be specified in the patch";
                return Err(StrategicError::Shape(message.to_owned()));
            }
            Some(_) => {
                let map = element.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(&element[PATCH], &map));
            }
        }
    }
    Ok(if replace { (Vec::new(), rest) } else { (old, rest) })
}

fn merge_element(merged: &mut Vec<Value>, new: Value, key: &str, schema: Option<&dyn PatchSchema>) -> Result<()> {
    let id = new.get(key).ok_or_else(|| no_merge_key(&new, key))?;
    let found = merged.iter_mut().find(|element| element.get(key) == Some(id));
    match (found, new) {
        (Some(found), Value::Object(new)) => {
            let old = match found.take() {
                Value::Object(old) => old,
                _ => Object::new(),
            };
            *found = Value::Object(merge_object(old, new, schema)?);
        }
        (_, new) => merged.extend(clean(new)),
    }
    Ok(())
}

/// Elements that the patch names stand in its order; the others keep their place relative to their old neighbours.
fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], element: &Value| list.iter().position(|other| same(other, element, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        merged.into_iter().map(|element| (place(order, &element), element)).partition(|(at, _)| at.is_some());
    named.sort_by_key(|(at, _)| *at);
    for (at, element) in &mut others {
        *at = place(server_order, element);
    }
    others.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));
    let mut sorted = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, element) in named {
        // An element of the server alone goes first where it stood before this one.
        let here = place(server_order, &element);
        while let (Some(here), Some((Some(before), _))) = (here, others.peek()) {
            if *before >= here {
                break;
            }
            sorted.extend(others.next().map(|(_, other)| other));
        }
        sorted.push(element);
    }
    sorted.extend(others.map(|(_, other)| other));
    sorted
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn merge_key(list: ListMerge<'_>) -> Option<&str> {
    match list {
        ListMerge::Key(key) => Some(key),
        _ => None,
    }
}

/// Without a schema (arbitrary JSON) there is nothing to know; with one, an unknown field is the patch's mistake.
fn field_of<'a>(schema: Option<&'a dyn PatchSchema>, name: &str) -> Result<Option<Field<'a>>> {
    let Some(schema) = schema else { return Ok(None) };
    let unknown = || StrategicError::UnknownField { name: schema.name().to_owned(), field: name.to_owned() };
    schema.child(name).map(Some).ok_or_else(unknown)
}

/// The list that a directive such as `$setElementOrder/containers` is about.
fn parallel_list<'a>(key: &'a str, prefix: &str) -> Result<Option<&'a str>> {
    let Some(rest) = key.strip_prefix(prefix) else { return Ok(None) };
    match rest.strip_prefix('/') {
        Some(list) if !list.is_empty() => Ok(Some(list)),
        _ => Err(StrategicError::Shape(format!("invalid patch directive: {key}"))),
    }
}

fn as_list(value: Value, name: &str) -> Result<Vec<Value>> {
    match value {
        Value::Array(list) => Ok(list),
        Value::Null => Ok(Vec::new()),
        other => Err(StrategicError::Shape(format!("expected a list in {name}, but received {other}"))),
    }
}

/// What a patch adds anew, without nulls and directives. `None`: the directive says that it should not be there.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            if fields.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            let fields = fields.into_iter().filter(|(name, value)| !value.is_null() && !is_directive(name));
            Some(Value::Object(fields.filter_map(|(name, value)| Some((name, clean(value)?))).collect()))
        }
        Value::Array(list) => Some(Value::Array(clean_list(list))),
        other => Some(other),
    }
}

fn clean_list(list: Vec<Value>) -> Vec<Value> {
    // `{"$patch": "replace"}` alone is an instruction, not an element.
    let instruction = |value: &Value| value.get(PATCH).is_some() && value.as_object().is_some_and(|o| o.len() == 1);
    list.into_iter().filter(|value| !instruction(value)).filter_map(clean).collect()
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_FROM_LIST)
}

fn unknown_directive(directive: &Value, map: &Object) -> StrategicError {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    StrategicError::UnknownDirective { directive, map: Value::Object(map.clone()).to_string() }
}

fn no_merge_key(element: &Value, key: &str) -> StrategicError {
    StrategicError::NoMergeKey { map: element.to_string(), key: key.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// `items` and `nested` merge by `name`, `set` is a set, `atomic` and any other list is replaced.
    struct Test;

    impl PatchSchema for Test {
        fn name(&self) -> &str {
            "Test"
        }
        fn child(&self, field: &str) -> Option<Field<'_>> {
            let list = match field {
                "items" | "nested" => ListMerge::Key("name"),
                "set" => ListMerge::Set,
                "gone" => return None,
                _ => ListMerge::Replace,
            };
            Some(Field { list, replace: field == "whole", schema: Some(Box::new(Test)) })
        }
    }

    fn apply(original: &Value, patch: &Value) -> Result<Value> {
        merge(original.clone(), patch.clone(), &Test)
    }

    #[test]
    fn merges_by_schema() {
        let abc = json!({"items": [{"name": "a", "x": 1}, {"name": "b", "x": 2}, {"name": "c"}]});
        let table = [
            (json!({"a": {"b": 1}}), json!({"a": {"b": null, "c": 2}}), json!({"a": {"c": 2}})),
            (json!({}), json!({"a": {"b": null, "c": 2}}), json!({"a": {"c": 2}})),
            (json!({"whole": {"a": 1}}), json!({"whole": {"b": 1}}), json!({"whole": {"b": 1}})),
            (json!({"set": [1, 2]}), json!({"set": [3, 1]}), json!({"set": [3, 1, 2]})),
            (json!({"atomic": [1, 2]}), json!({"atomic": [3]}), json!({"atomic": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": {"$patch": "replace", "c": 1}}), json!({"a": {"c": 1}})),
            (json!({"a": {"b": 1}}), json!({"a": {"$patch": "delete"}}), json!({"a": {}})),
            (json!({"set": [1, 2, 3]}), json!({"$deleteFromPrimitiveList/set": [2]}), json!({"set": [1, 3]})),
            (
                json!({"t": {"type": "R", "roll": 1}}),
                json!({"t": {"$retainKeys": ["type"], "type": "C"}}),
                json!({"t": {"type": "C"}}),
            ),
            (
                abc.clone(),
                json!({"items": [{"name": "b", "y": 1}, {"name": "d", "$setElementOrder/x": []}]}),
                json!({"items": [{"name": "a", "x": 1}, {"name": "b", "x": 2, "y": 1}, {"name": "d"}, {"name": "c"}]}),
            ),
            (
                abc.clone(),
                json!({"items": [{"name": "b", "$patch": "delete"}]}),
                json!({"items": [{"name": "a", "x": 1}, {"name": "c"}]}),
            ),
            (abc.clone(), json!({"items": [{"$patch": "replace"}, {"name": "z"}]}), json!({"items": [{"name": "z"}]})),
            (
                abc,
                json!({"$setElementOrder/items": [{"name": "c"}, {"name": "a"}], "items": [{"name": "a", "x": null}]}),
                json!({"items": [{"name": "b", "x": 2}, {"name": "c"}, {"name": "a"}]}),
            ),
            (
                json!({"items": [{"name": "a", "nested": [{"name": "p", "v": 1}]}]}),
                json!({"items": [{"name": "a", "nested": [{"name": "p", "w": 2}]}]}),
                json!({"items": [{"name": "a", "nested": [{"name": "p", "v": 1, "w": 2}]}]}),
            ),
        ];
        for (original, patch, expected) in table {
            assert_eq!(apply(&original, &patch).unwrap(), expected, "{original} + {patch}");
        }
    }

    #[test]
    fn refuses_in_upstreams_words() {
        for (original, patch, message) in [
            (json!({}), json!({"$patch": "huh"}), "unknown patch type: huh in map: {}"),
            (
                json!({"items": []}),
                json!({"items": [{"x": 1}]}),
                "map: {\"x\":1} does not contain declared merge key: name",
            ),
            (
                json!({"gone": {}}),
                json!({"gone": {"a": 1}}),
                "unable to find api field in struct Test for the json field \"gone\"",
            ),
            (json!({}), json!({"$retainKeys": ["a"], "b": 1}), "invalid patch format of retainKeys"),
        ] {
            assert_eq!(apply(&original, &patch).unwrap_err().to_string(), message);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![Just(Value::Null), (0..4).prop_map(Value::from), "[a-c]".prop_map(Value::from)];
        let name = prop::sample::select(vec![
            "items",
            "nested",
            "set",
            "atomic",
            "name",
            "gone",
            "whole",
            "$patch",
            "$retainKeys",
            "$setElementOrder/items",
            "$setElementOrder/set",
            "$setElementOrder",
            "$deleteFromPrimitiveList/set",
        ]);
        scalar.prop_recursive(4, 48, 5, move |inner| {
            let directive = prop::sample::select(vec!["delete", "replace", "merge"]).prop_map(Value::from);
            let entry = (name.clone(), prop_oneof![4 => inner.clone(), 1 => directive]);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                prop::collection::vec(entry, 0..5)
                    .prop_map(|entries| entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics(original in any_json(), patch in any_json()) {
            let _ = apply(&original, &patch);
        }

        #[test]
        fn an_empty_patch_changes_nothing(original in any_json().prop_filter("object", Value::is_object)) {
            prop_assert_eq!(apply(&original, &json!({})), Ok(original));
        }
    }
}
