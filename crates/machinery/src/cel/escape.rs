//! How names of properties are said in expressions: `x-y.z` is `x__dash__y__dot__z`, `namespace` is `__namespace__`.

use std::borrow::Cow;

const SIGNS: [(&str, &str); 4] = [("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")];
const RESERVED: [&str; 17] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
];
const RESERVED_MORE: [&str; 4] = ["return", "var", "void", "while"];

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_MORE.contains(&name)
}

/// The name as it is said in expressions; `None` where it cannot be said.
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() || name.starts_with(|sign: char| sign.is_ascii_digit()) {
        return None;
    }
    if is_reserved(name) {
        return Some(format!("__{name}__").into());
    }
    if !name.chars().all(|sign| sign.is_ascii_alphanumeric() || "_.-/".contains(sign)) {
        return None;
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return Some(name.into());
    }
    let mut out = String::with_capacity(name.len() + 8);
    let mut rest = name;
    while let Some(sign) = rest.chars().next() {
        match SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            Some((sign, word)) => {
                out.push_str(&format!("__{word}__"));
                rest = &rest[sign.len()..];
            }
            None => {
                out.push(sign);
                rest = &rest[1..];
            }
        }
    }
    Some(out.into())
}

/// The name that is meant by one in an expression; `None` where it holds an escape that is none.
pub fn unescape(name: &str) -> Option<Cow<'_, str>> {
    if !name.contains("__") {
        return Some(name.into());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        let inner = &rest[at + 2..];
        // An escape is two underscores, letters without underscores, and two more.
        let ends = inner.find('_').filter(|ends| *ends > 0 && inner[*ends..].starts_with("__"));
        let Some(ends) = ends else {
            out.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
            continue;
        };
        let word = &inner[..ends];
        out.push_str(&rest[..at]);
        match SIGNS.iter().find(|(_, known)| *known == word) {
            Some((sign, _)) => out.push_str(sign),
            None if is_reserved(word) && name.len() == word.len() + 4 => out.push_str(word),
            None => return None,
        }
        rest = &inner[ends + 2..];
    }
    out.push_str(rest);
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let table = [
            ("plain", "plain"),
            ("under_score", "under_score"),
            ("namespace", "__namespace__"),
            ("in", "__in__"),
            ("self", "self"),
            ("a.b-c/d", "a__dot__b__dash__c__slash__d"),
            ("a__b", "a__underscores__b"),
            ("___", "__underscores___"),
            ("int", "int"),
        ];
        for (name, said) in table {
            assert_eq!(escape(name).as_deref(), Some(said), "{name}");
            assert_eq!(unescape(said).as_deref(), Some(name), "{said}");
        }
        for name in ["", "1a", "a b", "é", "a$"] {
            assert_eq!(escape(name), None, "{name}");
        }
        assert_eq!(unescape("a__unknown__b"), None);
        assert_eq!(unescape("a__in__b"), None);
    }
}
