//! What changed, for people: a unified difference of two trees, as upstream shows it where a change is refused.

use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

const CONTEXT_LINES: usize = 3;
/// More lines than this say nothing more; without it a refusal could be twice as large as the object.
const LINES_MAX: usize = 200;

/// The lines between the first and the last that differ, with some around them.
pub fn difference(old: &Value, new: &Value) -> String {
    let (old, new) = (pretty(old), pretty(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let (removed, added) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let before = &old[head.saturating_sub(CONTEXT_LINES)..head];
    let after = &old[old.len() - tail..(old.len() - tail + CONTEXT_LINES).min(old.len())];
    let around = before.len() + after.len();
    let start = head - before.len() + 1;
    let mut text = format!("@@ -{start},{} +{start},{} @@\n", removed.len() + around, added.len() + around);
    let marked = [(" ", before), ("-", removed), ("+", added), (" ", after)];
    let lines = marked.iter().flat_map(|(mark, lines)| lines.iter().map(move |line| (mark, line)));
    for (mark, line) in lines.take(LINES_MAX) {
        text.extend([mark, line, "\n"]);
    }
    text
}

fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
    serde::Serialize::serialize(value, &mut serializer).expect("a tree can be written to memory");
    String::from_utf8(bytes).expect("JSON is text")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_what_changed_with_some_lines_around_it() {
        let old = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8});
        let mut new = old.clone();
        new["e"] = json!([1]);
        assert_eq!(
            difference(&old, &new),
            "@@ -3,7 +3,9 @@\n  \"b\": 2,\n  \"c\": 3,\n  \"d\": 4,\n- \"e\": 5,\n+ \"e\": [\n+  1\n+ ],\n  \"f\": 6,\n  \"g\": 7,\n  \"h\": 8\n"
        );
    }
}
