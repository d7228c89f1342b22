//! Conditions in an object's status.

use serde_json::Value;

/// The condition of that type in a status.
pub(crate) fn find<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether the condition is there and `True`.
pub(crate) fn is_true(status: &Value, kind: &str) -> bool {
    find(status, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Sets a condition (`type`, `status`, `reason`, `message`). `lastTransitionTime` becomes `now` when the status changed;
/// a condition that says the same as before is left as it is.
pub(crate) fn set(status: &mut Value, mut condition: Value, now: &str) {
    let kind = condition["type"].as_str().unwrap_or_default().to_owned();
    let old = find(status, &kind).cloned().unwrap_or_default();
    let same = |field: &str| old[field] == condition[field];
    if same("status") && same("reason") && same("message") {
        return;
    }
    let unchanged = same("status") && old["lastTransitionTime"].is_string();
    condition["lastTransitionTime"] = if unchanged { old["lastTransitionTime"].clone() } else { now.into() };
    put(status, condition);
}

/// Puts a condition in as it is, in place of one of the same type.
pub(crate) fn put(status: &mut Value, condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = Value::Array(vec![]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return };
    match list.iter_mut().find(|old| old["type"] == condition["type"]) {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}

/// Takes a condition out.
pub(crate) fn remove(status: &mut Value, kind: &str) {
    if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| condition["type"] != kind);
        if list.is_empty() {
            status.as_object_mut().map(|fields| fields.remove("conditions"));
        }
    }
}
