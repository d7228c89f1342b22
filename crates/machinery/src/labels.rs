//! Label selectors: `app=web,tier in (front,back),!canary`.
//!
//! The requirements of a selector all hold or it does not match. Keys and values are checked when a selector is read, so
//! matching cannot fail. Public behaviour: apimachinery's `labels`, grammar and error texts included.

use std::fmt;

use serde_json::Value;

use crate::names;

/// What a requirement asks of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, each once.
    values: Vec<String>,
}

/// A conjunction of requirements, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// The text or object is not a label selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text cannot be read.
    #[error("unable to parse requirement: {0}")]
    Parse(String),
    /// A requirement of an object is wrong.
    #[error("{0}")]
    Requirement(String),
    /// An operator of an object is unknown.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: vec![], nothing: true }
    }

    /// Reads a selector as `kubectl -l` and `labelSelector=` write it. Empty text matches everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: lex(text)?, at: 0 };
        let mut requirements = parser.selector().map_err(SelectorError::Parse)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `meta/v1 LabelSelector`. Null matches nothing, an empty one everything.
    pub fn from_label_selector(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(requirement(key, Operator::Equals, vec![value])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect();
            requirements.push(requirement(text("key"), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// A selector that asks for equality with each pair, as a `Service` or `ReplicationController` has it.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, SelectorError> {
        let pairs = pairs.into_iter();
        let requirements: Result<Vec<_>, _> =
            pairs.map(|(key, value)| requirement(key, Operator::Equals, vec![value.to_owned()])).collect();
        let mut requirements = requirements?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// The selector that asks for one requirement more.
    #[must_use]
    pub fn and(mut self, requirement: Requirement) -> Self {
        let at = self.requirements.partition_point(|other| other.key <= requirement.key);
        self.requirements.insert(at, requirement);
        self
    }

    /// Whether labels match; `label` gives a label's value.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether labels, sorted by key, match.
    pub fn matches_pairs(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.matches(|key| labels.binary_search_by(|(label, _)| (**label).cmp(key)).ok().map(|at| &*labels[at].1))
    }

    /// Whether it matches every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it matches no object.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that a label must have, where the selector asks for exactly one: what an index can answer.
    pub fn exact(&self) -> Option<(&str, &str)> {
        self.requirements.iter().find_map(|requirement| match (requirement.operator, &*requirement.values) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some((&*requirement.key, &**value)),
            _ => None,
        })
    }
}

impl Requirement {
    /// A checked requirement.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        requirement(key, operator, values)
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is asked of it.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (`None`: absent) meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|wanted| wanted == value);
        let number = |text: &str| text.parse::<i64>().ok();
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => {
                value.and_then(number) > number(&self.values[0]) && value.and_then(number).is_some()
            }
            Operator::LessThan => value.and_then(number).is_some_and(|value| Some(value) < number(&self.values[0])),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

fn requirement(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, SelectorError> {
    let mut errors = Vec::new();
    let complaints = names::qualified_name(key);
    if !complaints.is_empty() {
        errors.push(format!("key: Invalid value: {key:?}: {}", complaints.join("; ")));
    }
    values.sort();
    values.dedup();
    let count = match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            Some("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            Some("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            Some("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
            Some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        _ => None,
    };
    errors.extend(count.map(|message| format!("values: Invalid value: [{}]: {message}", values.join(" "))));
    let ordered = matches!(operator, Operator::GreaterThan | Operator::LessThan);
    for (at, value) in values.iter().enumerate() {
        if ordered && value.parse::<i64>().is_err() {
            let message = "for 'Gt', 'Lt' operators, the value must be an integer";
            errors.push(format!("values[{at}]: Invalid value: {value:?}: {message}"));
        }
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            errors.push(format!("values[{at}][{key}]: Invalid value: {value:?}: {}", complaints.join("; ")));
        }
    }
    match errors.len() {
        0 => Ok(Requirement { key: key.to_owned(), operator, values }),
        1 => Err(SelectorError::Requirement(errors.remove(0))),
        _ => Err(SelectorError::Requirement(format!("[{}]", errors.join(", ")))),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A key, a value, or one of the words `in` and `notin` where a value may stand.
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

/// The longest symbol wins.
const SYMBOLS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn lex(text: &str) -> Result<Vec<Token>, SelectorError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c| is_space(c) || "=!(),><".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches(is_space);
    }
    tokens.push(Token::End);
    Ok(tokens)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        if *self.peek() == Token::End {
            return Ok(requirements);
        }
        if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
            return Err(format!("found '{}', expected: !, identifier, or 'end of string'", self.peek().text()));
        }
        loop {
            requirements.push(self.requirement()?);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => {
                    if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
                        return Err(format!("found '{}', expected: identifier after ','", self.peek().text()));
                    }
                }
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = *self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        let (operator, values) = if absent {
            (Operator::DoesNotExist, vec![])
        } else if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            (Operator::Exists, vec![])
        } else {
            let operator = self.operator()?;
            let values = match operator {
                Operator::In | Operator::NotIn => self.values()?,
                _ => vec![self.exact_value()?],
            };
            (operator, values)
        };
        requirement(&key, operator, values).map_err(|error| error.to_string())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let token = self.next();
        Ok(match token.text() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    /// `(a,b)`; an element may be empty.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        if *self.peek() == Token::Symbol(")") {
            self.next();
            return Ok(vec![]);
        }
        let mut values = Vec::new();
        loop {
            values.push(self.optional_word());
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(value) => Ok(value),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn optional_word(&mut self) -> String {
        if !matches!(self.peek(), Token::Word(_)) {
            return String::new();
        }
        self.next().text().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let parsed = Selector::parse(selector).unwrap();
        let label = |key: &str| labels.iter().find(|pair| pair.0 == key).map(|pair| pair.1);
        assert_eq!(parsed.matches(label), expected, "{selector} on {labels:?}");
    }

    #[test]
    fn matches_as_upstream_does() {
        let web = &[("app", "web"), ("n", "5")];
        for (selector, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app == web", true),
            ("app!=web", false),
            ("gone!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("gone notin (web)", true),
            ("app=", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("gone>1", false),
            ("app=web,!gone,n", true),
            ("app in (in,web)", true),
        ] {
            check(selector, web, expected);
        }
    }

    #[test]
    fn writes_what_it_read() {
        for (text, canonical) in [
            ("b=1,a", "a,b=1"),
            ("x in (c,a,a)", "x in (a,c)"),
            ("x notin (a,)", "x notin (,a)"),
            ("!x, y!=1", "!x,y!=1"),
            ("x>1", "x>1"),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.to_string(), canonical);
            assert_eq!(Selector::parse(canonical).unwrap(), selector);
        }
    }

    #[test]
    fn refuses_in_upstreams_words() {
        for (text, message) in [
            ("x in", "unable to parse requirement: found '' expected: '('"),
            (
                "x in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
            ("a,,b", "unable to parse requirement: found ',', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("!a=b", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
            ("a=b c", "unable to parse requirement: found 'c', expected: ',' or 'end of string'"),
            (
                "x>a",
                "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("=a", "unable to parse requirement: found '=', expected: !, identifier, or 'end of string'"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        assert!(Selector::parse("a/b/c=1").unwrap_err().to_string().starts_with(
            "unable to parse requirement: key: Invalid value: \"a/b/c\": a qualified name must consist of"
        ));
    }

    #[test]
    fn reads_label_selectors() {
        let selector = Selector::from_label_selector(&json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["db"]}, {"key": "x", "operator": "DoesNotExist"}]}));
        assert_eq!(selector.unwrap().to_string(), "app=web,tier notin (db),!x");
        assert!(Selector::from_label_selector(&json!({})).unwrap().is_everything());
        assert!(!Selector::from_label_selector(&Value::Null).unwrap().matches(|_| Some("x")));
        let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        assert_eq!(
            Selector::from_label_selector(&wrong).unwrap_err().to_string(),
            "\"Like\" is not a valid label selector operator"
        );
    }
}
