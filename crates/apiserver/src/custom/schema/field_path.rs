//! The path of a field below a place, as rules name it: `.a.b`, `.a['x.y']`.

use serde_json::Value;

/// The path as errors show it: `a.b`, `a[x.y]`; or why the schema has no such field. Empty for an empty path.
pub(crate) fn normalized(path: &str, schema: &Value) -> Result<String, String> {
    let (mut rest, mut schema, mut out) = (path.trim(), schema, String::new());
    while !rest.is_empty() {
        let (name, behind) = match rest.strip_prefix('.') {
            Some(behind) => {
                let ends = behind.find(['.', '[', ']']).unwrap_or(behind.len());
                (behind[..ends].to_owned(), &behind[ends..])
            }
            None if rest.starts_with('[') => quoted(&rest[1..])?,
            None => return Err(format!("expected [ or . but got: {rest}")),
        };
        if name.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        if schema["properties"].is_object() {
            schema = schema["properties"].get(&name).ok_or("does not refer to a valid field")?;
            out.push_str(if out.is_empty() { "" } else { "." });
            out.push_str(&name);
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            out.push_str(&format!("[{name}]"));
        } else {
            return Err("does not refer to a valid field".to_owned());
        }
        rest = behind;
    }
    Ok(out)
}

/// A name in single quotes before `]`, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let inner = text.strip_prefix('\'').ok_or_else(|| format!("expected single quoted string but got {text}"))?;
    let mut name = String::new();
    let mut signs = inner.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '\'' => {
                let rest = inner[at + 1..].strip_prefix(']').ok_or("expected ]")?;
                return Ok((name, rest));
            }
            '\\' => match signs.next() {
                Some((_, sign @ ('\'' | '\\'))) => name.push(sign),
                Some((_, 'n')) => name.push('\n'),
                Some((_, 't')) => name.push('\t'),
                _ => return Err("invalid string literal: invalid escape char".to_owned()),
            },
            sign => name.push(sign),
        }
    }
    Err("unexpected end of JSON path".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_fields() {
        let schema = json!({"properties": {
            "a": {"properties": {"b": {"type": "string"}, "x.y": {"type": "string"}}},
            "m": {"additionalProperties": {"properties": {"c": {"type": "string"}}}}}});
        for (path, expected) in [
            ("", "".to_owned()),
            (".a.b", "a.b".to_owned()),
            (".a['x.y']", "a.x.y".to_owned()),
            (".m['k'].c", "m[k].c".to_owned()),
            (".m.k", "m[k]".to_owned()),
        ] {
            assert_eq!(normalized(path, &schema), Ok(expected), "{path}");
        }
        for path in ["a", ".", ".a.", ".a.z", ".a[b]", ".a['b'", ".a['b'x", ".a.b.c", ".a[0]"] {
            assert!(normalized(path, &schema).is_err(), "{path}");
        }
    }
}
