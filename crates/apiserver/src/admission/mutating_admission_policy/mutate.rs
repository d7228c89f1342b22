//! What a mutation makes of an object: pure.

use machinery::apply::merge::merge;
use machinery::apply::schema::{ListKind, Place, Shape};
use machinery::apply::typed;
use machinery::cel::{OBJECT_COST_MAX, Value as Cel};
use machinery::patch::{self, PatchError};
use serde_json::{Value, json};

use super::policy::Mutation;
use crate::admission::policies::expressions::Expression;
use crate::admission::policies::scope::{Given, Scope};

/// The object with the mutation in it; `None` where it is not to be changed.
pub(super) fn mutated(
    mutation: &Mutation,
    variables: &[Expression],
    given: &Given<'_>,
    place: &dyn Place,
) -> Result<Option<Value>, String> {
    let mut scope = Scope::new(variables, given);
    scope.budget = OBJECT_COST_MAX;
    match mutation {
        Mutation::Apply(expression) => applied(&scope.expression(expression)?, given.object, place).map(Some),
        Mutation::Patch(expression) => patched(&scope.expression(expression)?, given.object),
    }
}

fn applied(made: &Cel<'_>, object: &Value, place: &dyn Place) -> Result<Value, String> {
    let Cel::Message(message) = made else {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned());
    };
    check_types(made)?;
    let mut config = Value::Object(serde_json::Map::new());
    for (name, value) in &message.fields {
        let value = value.to_json().map_err(|why| format!("fail to convert field {name:?}: {why}"))?;
        config[&**name] = value;
    }
    for field in ["apiVersion", "kind"] {
        config[field] = object[field].clone();
    }
    typed::check(&config, place)
        .map_err(|why| format!("error applying patch: failed to convert patch object to typed object: {why}"))?;
    let mut atomics = Vec::new();
    find_atomics(&config, place, "", &mut atomics);
    if !atomics.is_empty() {
        let all = atomics.join(", ");
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"
        ));
    }
    Ok(merge(object, &config, place))
}

/// Each object must be of the type that is named for its place.
fn check_types(made: &Cel<'_>) -> Result<(), String> {
    match made {
        Cel::Message(message) if !message.misplaced().is_empty() => {
            Err(format!("type mismatch: {}", message.misplaced().join("\n")))
        }
        _ => Ok(()),
    }
}

/// What would be replaced as a whole: who sets a part of it would remove the rest unawares.
fn find_atomics(value: &Value, place: &dyn Place, path: &str, found: &mut Vec<String>) {
    match (place.shape(), value) {
        (Shape::Map { atomic }, Value::Object(fields)) => {
            if atomic {
                found.push(path.to_owned());
            }
            for (name, value) in fields {
                if let Some(place) = place.entry(name).place() {
                    find_atomics(value, place, &format!("{path}.{name}"), found);
                }
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            if matches!(list.kind, ListKind::Atomic) {
                found.push(path.to_owned());
            }
            for (at, item) in items.iter().enumerate() {
                find_atomics(item, list.element, &format!("{path}[{at}]"), found);
            }
        }
        (Shape::AnyAtomic, Value::Object(_) | Value::Array(_)) => found.push(path.to_owned()),
        _ => {}
    }
}

fn patched(made: &Cel<'_>, object: &Value) -> Result<Option<Value>, String> {
    let Cel::List(_) = made else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut steps = Vec::new();
    for step in made.items()? {
        let Cel::Message(step) = step else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
        };
        let text = |field: &str| match step.fields.get(field) {
            Some(Cel::String(text)) => text.to_string(),
            _ => String::new(),
        };
        let mut written = json!({"op": text("op"), "path": text("path")});
        if !text("from").is_empty() {
            written["from"] = text("from").into();
        }
        if let Some(value) = step.fields.get("value") {
            check_types(value)?;
            written["value"] = value.to_json().map_err(|why| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}")
            })?;
        }
        steps.push(written);
    }
    let mut patched = object.clone();
    match patch::json(&mut patched, &Value::Array(steps)) {
        Ok(()) => Ok(Some(patched)),
        // A test that fails says that nothing is to be changed.
        Err(PatchError::Inapplicable(why)) if why.starts_with("testing value ") => Ok(None),
        Err(why) => Err(format!("JSON Patch: {why}")),
    }
}
