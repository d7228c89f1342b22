//! `FieldsV1`: a set of fields as JSON, as it stands in `metadata.managedFields`.
//!
//! `f:name` is a field, `k:{...}` an element by its keys, `v:...` one by its value, `i:1` one by its place; `.` says that the
//! field around it is in the set itself. A step of another kind is left out, for a later version may know more.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::path::Step;
use super::set::{Node, Set};

impl Set {
    /// Appends the JSON to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        self.write_entries(&mut first, out);
        out.push(b'}');
    }

    fn write_entries(&self, first: &mut bool, out: &mut Vec<u8>) {
        for (step, node) in self.nodes() {
            if !std::mem::replace(first, false) {
                out.push(b',');
            }
            write_name(step, out);
            out.extend_from_slice(b":{");
            if !node.below.is_empty() {
                let mut first = true;
                if node.member {
                    out.extend_from_slice(b"\".\":{}");
                    first = false;
                }
                node.below.write_entries(&mut first, out);
            }
            out.push(b'}');
        }
    }
}

fn write_name(step: &Step, out: &mut Vec<u8>) {
    let name = match step {
        // Hardly a name needs escapes, so these are written without another copy.
        Step::Field(name) if name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') => {
            out.extend_from_slice(b"\"f:");
            out.extend_from_slice(name.as_bytes());
            out.push(b'"');
            return;
        }
        Step::Field(name) => format!("f:{name}"),
        Step::Key(keys) => {
            let mut text = "k:{".to_owned();
            for (at, (name, value)) in keys.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                text.push_str(&format!("{comma}{}:{value}", Value::from(&**name)));
            }
            text + "}"
        }
        Step::Value(value) => format!("v:{value}"),
        Step::Index(at) => format!("i:{at}"),
    };
    serde_json::to_writer(out, &name).expect("writing JSON to memory does not fail");
}

/// `None`: a step of a kind that is not known.
fn read_name(name: &str) -> Result<Option<Step>, String> {
    let Some((kind, text)) = name.split_once(':').filter(|(kind, _)| kind.len() == 1) else {
        return Err(match name.len() {
            0 | 1 => "key must be 2 characters long:".to_owned(),
            _ => format!("missing colon: {name}"),
        });
    };
    let parse = || serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    Ok(Some(match kind {
        "f" => Step::field(text),
        "v" => Step::Value(parse()?),
        "i" => Step::Index(text.parse().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))?),
        "k" => match parse()? {
            Value::Object(keys) => {
                let mut keys: Vec<_> = keys.into_iter().map(|(name, value)| (name.into_boxed_str(), value)).collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                Step::Key(keys.into())
            }
            _ => return Err(format!("expected an object of keys: {name}")),
        },
        _ => return Ok(None),
    }))
}

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries).map(|node| node.below)
    }
}

/// What stands at a step: an empty object is the field itself.
struct At(Node);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = deserializer.deserialize_map(Entries)?;
        Ok(Self(if node.below.is_empty() { Node { member: true, ..node } } else { node }))
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some(Name(name)) = map.next_key()? {
            if name == "." {
                map.next_value::<serde::de::IgnoredAny>()?;
                node.member = true;
                continue;
            }
            match read_name(&name).map_err(A::Error::custom)? {
                Some(step) => node.below.put(step, map.next_value::<At>()?.0),
                None => drop(map.next_value::<serde::de::IgnoredAny>()?),
            }
        }
        Ok(node)
    }
}

/// A key that stays where it was read from, unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(set: &Set) -> String {
        let mut out = Vec::new();
        set.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reads_and_writes_upstreams_form() {
        let table = [
            (r#"{}"#, r#"{}"#),
            (r#"{"f:a":{}}"#, r#"{"f:a":{}}"#),
            (r#"{"f:b":{},"f:a":{".":{},"f:c":{}}}"#, r#"{"f:a":{".":{},"f:c":{}},"f:b":{}}"#),
            // Alone, the mark says what the empty object says.
            (r#"{"f:a":{".":{}}}"#, r#"{"f:a":{}}"#),
            (
                r#"{"f:l":{"k:{\"protocol\":\"TCP\",\"containerPort\":80}":{".":{},"f:name":{}},"v:\"x\"":{},"i:1":{}}}"#,
                r#"{"f:l":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{}},"v:\"x\"":{},"i:1":{}}}"#,
            ),
            (r#"{"x:a":{"f:b":{}},"f:a":{}}"#, r#"{"f:a":{}}"#),
            (r#"{"f:a\"b":{},"f:a.b/c":{}}"#, r#"{"f:a\"b":{},"f:a.b/c":{}}"#),
        ];
        for (json, expected) in table {
            let set: Set = serde_json::from_str(json).unwrap();
            assert_eq!(written(&set), expected, "{json}");
            assert_eq!(serde_json::from_value::<Set>(serde_json::from_str(json).unwrap()).unwrap(), set, "{json}");
        }
        for (json, why) in [
            (r#"{"a":{}}"#, "key must be 2 characters long:"),
            (r#"{"abc":{}}"#, "missing colon: abc"),
            (r#"{"i:x":{}}"#, "strconv.Atoi: parsing \"x\": invalid syntax"),
            (r#"{"f:a":1}"#, "an object of fields"),
        ] {
            let error = serde_json::from_str::<Set>(json).unwrap_err().to_string();
            assert!(error.contains(why), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(set in super::super::set::tests::any_set()) {
            prop_assert_eq!(serde_json::from_str::<Set>(&written(&set)).unwrap(), set);
        }
    }
}
