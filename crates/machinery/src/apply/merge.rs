//! Merging an applied configuration into an object, and taking fields out of it again.

use serde_json::{Map, Value};

use super::path::Step;
use super::schema::{List, ListKind, Place, Shape};
use super::set::Set;
use super::typed::{TypeErrors, element_step};

/// The object with the configuration in it: what the configuration sets has its value, what it does not mention stays.
/// Elements of lists that are told apart come in the configuration's order, others stay where they were. The configuration
/// must fit the schema ([`super::typed::check`]).
pub fn merge(live: &Value, config: &Value, place: &dyn Place) -> Value {
    match (place.shape(), live, config) {
        (Shape::Map { atomic: false } | Shape::Any, Value::Object(live), Value::Object(config)) => {
            Value::Object(merge_maps(live, config, place))
        }
        // A null sets nothing in a map or list that has something in it.
        (Shape::Map { atomic: false } | Shape::Any, Value::Object(entries), Value::Null) if !entries.is_empty() => {
            live.clone()
        }
        (Shape::List(List { kind: ListKind::Set | ListKind::Map(_), .. }), Value::Array(items), Value::Null)
            if !items.is_empty() =>
        {
            live.clone()
        }
        (
            Shape::List(list @ List { kind: ListKind::Set | ListKind::Map(_), .. }),
            Value::Array(live),
            Value::Array(config),
        ) => Value::Array(merge_lists(live, config, &list)),
        _ => config.clone(),
    }
}

fn merge_maps(live: &Map<String, Value>, config: &Map<String, Value>, place: &dyn Place) -> Map<String, Value> {
    let mut merged = live.clone();
    for (name, value) in config {
        let value = match (live.get(name), place.entry(name).place()) {
            (Some(live), Some(place)) => merge(live, value, place),
            _ => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    merged
}

/// Walks both lists. An element that only the live one has keeps its place between its neighbours; where both have the same
/// elements in another order, the configuration's holds.
fn merge_lists(live: &[Value], config: &[Value], list: &List<'_>) -> Vec<Value> {
    let steps = |items: &[Value]| items.iter().map(|item| element_step(list, item).ok()).collect::<Vec<_>>();
    let (live_steps, config_steps) = (steps(live), steps(config));
    let shared = |step: &Option<Step>| live_steps.contains(step);
    let mut next_shared = config_steps.iter().filter(|step| shared(step)).peekable();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut taken: Vec<&Option<Step>> = Vec::with_capacity(config.len());
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if l < live.len() {
            let step = &live_steps[l];
            if !config_steps.contains(step) {
                merged.push(live[l].clone());
                l += 1;
                continue;
            }
            // To be merged where the configuration has it.
            if next_shared.peek().is_some_and(|next| *next != step) {
                l += 1;
                continue;
            }
            l += usize::from(taken.contains(&step));
        }
        if c < config.len() {
            let step = &config_steps[c];
            merged.push(merge_element(live, &live_steps, &config[c], step, list));
            taken.push(step);
            if next_shared.peek() == Some(&step) {
                next_shared.next();
            }
            if l < live.len() && live_steps[l] == *step {
                l += 1;
            }
            c += 1;
        }
    }
    merged
}

/// An element of the configuration, merged into the live one that is like it: where several are, it takes their place.
fn merge_element(
    live: &[Value],
    steps: &[Option<Step>],
    config: &Value,
    step: &Option<Step>,
    list: &List<'_>,
) -> Value {
    let mut like = live.iter().zip(steps).filter(|(_, other)| *other == step).map(|(item, _)| item);
    match (like.next(), like.next()) {
        (Some(only), None) => merge(only, config, list.element),
        _ => config.clone(),
    }
}

/// Takes fields, entries and elements out of a value. A map or list that is left with nothing stays, empty.
pub fn remove(value: &mut Value, doomed: &Set, place: &dyn Place) {
    match (place.shape(), value) {
        (Shape::Map { atomic: false } | Shape::Any, Value::Object(entries)) => {
            entries.retain(|name, value| {
                let Some(node) = doomed.get_field(name) else { return true };
                if !node.member
                    && let Some(place) = place.entry(name).place()
                {
                    remove(value, &node.below, place);
                }
                !node.member
            });
        }
        (Shape::List(list @ List { kind: ListKind::Set | ListKind::Map(_), .. }), Value::Array(items)) => {
            items.retain_mut(|item| {
                let step = element_step(&list, item).ok();
                let Some(node) = step.and_then(|step| doomed.get(&step)) else { return true };
                if !node.member {
                    remove(item, &node.below, list.element);
                }
                !node.member
            });
        }
        _ => {}
    }
}

/// The error of a configuration that does not fit, with what it is.
pub fn describe(config: &Value, error: &TypeErrors) -> String {
    let text = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
    let version = config["apiVersion"].as_str().unwrap_or_default();
    let slash = if version.contains('/') { "" } else { "/" };
    let kind = config["kind"].as_str().unwrap_or_default();
    let what = format!("{}/{}; {slash}{version}, Kind={kind}", text("namespace"), text("name"));
    format!("failed to create typed patch object ({what}): {error}")
}
