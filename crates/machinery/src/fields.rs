//! Field selectors: `spec.nodeName=a,status.phase!=Running`.
//!
//! Public behaviour: apimachinery's `fields`. A backslash escapes `\`, `,` and `=` in values.

use std::fmt;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field's path.
    pub field: String,
    /// Whether the value must differ (`!=`) instead of being equal.
    pub negated: bool,
    /// The value; an absent field is the empty value.
    pub value: String,
}

/// All comparisons must hold; none holds for everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// The text is not a field selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term has no operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// All of it.
        selector: String,
        /// The part that has none.
        term: String,
    },
    /// A backslash stands before something else.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A `,` or `=` stands in a value.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(char),
}

impl FieldSelector {
    /// Reads a selector. Empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, FieldSelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, negated, value) = split_term(term)
                .ok_or_else(|| FieldSelectorError::Term { selector: text.to_owned(), term: term.to_owned() })?;
            requirements.push(FieldRequirement { field: field.to_owned(), negated, value: unescape(value)? });
        }
        Ok(Self { requirements })
    }

    /// Selects the objects whose `field` equals `value`.
    pub fn equal(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self { requirements: vec![FieldRequirement { field: field.into(), negated: false, value: value.into() }] }
    }

    /// The comparisons.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `field` must have, where the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.field == field && !r.negated).map(|r| &*r.value)
    }

    /// Whether all comparisons hold; `value` gives a field's value, `None` counts as empty.
    pub fn matches<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| (value(&r.field).unwrap_or("") == r.value) != r.negated)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, r) in self.requirements.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let operator = if r.negated { "!=" } else { "=" };
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", r.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// The first operator in a term splits it.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = term[at..].strip_prefix(operator) {
                return Some((&term[..at], negated, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => text.push(escaped),
                other => return Err(FieldSelectorError::Escape(other.map_or("\\".into(), |o| format!("\\{o}")))),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c)),
            _ => text.push(c),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upstreams_grammar() {
        let selector = FieldSelector::parse(r"a=1,b!=2,,c==x\,y\=z").unwrap();
        assert_eq!(selector.to_string(), r"a=1,b!=2,c=x\,y\=z");
        assert_eq!(selector.exact("c"), Some("x,y=z"));
        let value = |field: &str| match field {
            "a" => Some("1"),
            "c" => Some("x,y=z"),
            _ => None,
        };
        assert!(selector.matches(value), "an absent field differs from 2");
        assert!(!FieldSelector::equal("b", "2").matches(value));
        assert!(FieldSelector::parse("").unwrap().matches(|_| None));
    }

    #[test]
    fn refuses_in_upstreams_words() {
        for (text, message) in [
            ("a=1,b", "invalid selector: 'a=1,b'; can't understand 'b'"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), message);
        }
    }
}
