//! How cells are written: ages, counts, lists, selectors.

use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(object["metadata"]["creationTimestamp"].as_str(), now).into()
}

/// How long ago, in the short form: `5s`, `3m10s`, `2d4h`.
pub(crate) fn since(at: Option<&str>, now: Timestamp) -> String {
    let at = at.and_then(|at| machinery::time::parse(at).ok());
    at.map_or_else(|| "<unknown>".to_owned(), |at| human(now.duration_since(at).as_secs()))
}

/// A duration as upstream's `HumanDuration` writes it.
pub(super) fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |first: i64, unit: &str, second: i64, small: &str| match second {
        0 => format!("{first}{unit}"),
        second => format!("{first}{unit}{second}{small}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The text at a pointer; empty where there is none.
pub(super) fn string<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a pointer, as a cell.
pub(super) fn plain(object: &Value, pointer: &str) -> Value {
    string(object, pointer).into()
}

/// The text at a pointer, or another where that is absent or empty.
pub(super) fn or(object: &Value, pointer: &str, other: &str) -> Value {
    Some(string(object, pointer)).filter(|text| !text.is_empty()).unwrap_or(other).into()
}

/// The text at a pointer, or `<none>`.
pub(super) fn or_none(object: &Value, pointer: &str) -> Value {
    or(object, pointer, "<none>")
}

/// The number at a pointer, or 0.
pub(super) fn count(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0).into()
}

/// The truth at a pointer, or another where there is none.
pub(super) fn truth(object: &Value, pointer: &str, otherwise: bool) -> Value {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(otherwise).into()
}

/// How many elements or entries there are at a pointer.
pub(super) fn size(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(fields)) => fields.len(),
        _ => 0,
    }
}

/// The elements of the list at a pointer.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(super) fn texts<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    list(object, pointer).iter().filter_map(Value::as_str)
}

/// Texts joined by commas.
pub(super) fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// Texts joined by commas, or `<none>`.
pub(super) fn joined_or_none<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    let text = joined(texts);
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// At most `shown_max`, then how many more; nothing where there is none.
pub(super) fn shortened(mut texts: Vec<String>, shown_max: usize, separator: &str) -> String {
    let more = texts.len().saturating_sub(shown_max);
    texts.truncate(shown_max);
    let shown = texts.join(separator);
    if more == 0 { shown } else { format!("{shown} + {more} more...") }
}

/// Like [`shortened`] to three, with another text where there is none.
pub(super) fn three_or(texts: Vec<String>, none: &str) -> Value {
    let text = shortened(texts, 3, ",");
    if text.is_empty() { none.into() } else { text.into() }
}

/// A map of labels as text, or `<none>`.
pub(super) fn labels(object: &Value, pointer: &str) -> Value {
    let Some(labels) = object.pointer(pointer).and_then(Value::as_object) else { return "<none>".into() };
    let mut pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    joined_or_none(pairs.iter().map(String::as_str))
}

/// A label selector as text, or `<none>`.
pub(super) fn selector(object: &Value, pointer: &str) -> Value {
    let Some(value) = object.pointer(pointer) else { return "<none>".into() };
    let selector = machinery::labels::Selector::from_label_selector(value);
    let text = selector.map_or_else(|_| "<error>".to_owned(), |selector| selector.to_string());
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The condition of that type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|condition| condition["type"] == kind)
}

/// The names of a template's containers, or another field of each.
pub(super) fn of_containers(object: &Value, pointer: &str, field: &str) -> Value {
    joined(list(object, pointer).iter().map(|container| container[field].as_str().unwrap_or_default())).into()
}

/// The name, marked where an annotation makes the object its kind's default.
pub(super) fn name_or_default(object: &Value, annotations: &[&str]) -> Value {
    let name = string(object, "/metadata/name");
    let set = |annotation: &&str| object["metadata"]["annotations"][*annotation] == json!("true");
    if annotations.iter().any(set) { format!("{name} (default)").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let table = [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (200_000, "2d7h"),
            (31_536_000 * 2, "2y"),
        ];
        for (seconds, text) in table {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn lists_are_cut() {
        let texts = |count: usize| (0..count).map(|at| at.to_string()).collect::<Vec<_>>();
        assert_eq!(three_or(texts(3), "<none>"), "0,1,2");
        assert_eq!(three_or(texts(5), "<none>"), "0,1,2 + 2 more...");
        assert_eq!(three_or(texts(0), "<none>"), "<none>");
    }
}
