//! JSONPath as `kubectl` and printer columns write it: `.status.conditions[?(@.type=="Ready")].status`.
//!
//! Fields (`.a`, `['a']`), elements (`[0]`, `[-1]`, `[1:3]`, `[*]`), `..name` and filters with one comparison. A path is
//! parsed once and finds references: nothing is copied. What is missing is no error, it is not found. Defined by "JSONPath
//! Support" in the Kubernetes documentation.

use serde_json::Value;

/// Deeper paths are nobody's.
const STEPS_MAX: usize = 64;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Box<[Step]>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(Box<str>),
    Every,
    /// From, to (exclusive), in steps; negative ones count from the end.
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    /// All values below with that name.
    Below(Box<str>),
    Filter(Box<Filter>),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Operand,
    test: Option<(Comparison, Operand)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// Behind `@`.
    Path(JsonPath),
    Constant(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Differs,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The text is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSONPath {path:?}: {why}")]
pub struct JsonPathError {
    /// What was given.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl JsonPath {
    /// Reads a path, without the braces around it. A leading `$` is allowed.
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        let mut parser = Parser { rest: path.strip_prefix('$').unwrap_or(path) };
        parser.steps().map_err(|why| JsonPathError { path: path.to_owned(), why })
    }

    /// The names of the fields it leads through, where it is a plain path of fields.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|step| if let Step::Field(name) = step { Some(&**name) } else { None }).collect()
    }

    /// All values that it leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![value], |found, step| {
            let mut next = Vec::new();
            found.into_iter().for_each(|value| step.take(value, &mut next));
            next
        })
    }

    /// The first value that it leads to.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match self.fields() {
            Some(fields) => fields.into_iter().try_fold(value, |value, name| value.as_object()?.get(name)),
            None => self.find(value).into_iter().next(),
        }
    }
}

impl Step {
    fn take<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match (self, value) {
            (Self::Field(name), Value::Object(fields)) => out.extend(fields.get(&**name)),
            (Self::Every, Value::Object(fields)) => out.extend(fields.values()),
            (Self::Every, Value::Array(items)) => out.extend(items),
            (Self::Index(at), Value::Array(items)) => {
                out.extend(from_end(*at, items.len()).and_then(|at| items.get(at)));
            }
            (Self::Slice(from, to, by), Value::Array(items)) => {
                let count = items.len();
                let bound = |at: i64| from_end(at, count).unwrap_or(0).min(count);
                let (from, to) = (from.map_or(0, bound), to.map_or(count, bound));
                let by = usize::try_from(*by).unwrap_or(1).max(1);
                out.extend(items.get(from..to.max(from)).into_iter().flatten().step_by(by));
            }
            (Self::Below(name), _) => below(name, value, out),
            (Self::Filter(filter), Value::Array(items)) => out.extend(items.iter().filter(|item| filter.holds(item))),
            _ => {}
        }
    }
}

fn from_end(at: i64, count: usize) -> Option<usize> {
    let count = i64::try_from(count).ok()?;
    usize::try_from(if at < 0 { at + count } else { at }).ok()
}

fn below<'a>(name: &str, value: &'a Value, out: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            out.extend(fields.get(name));
            fields.values().for_each(|value| below(name, value, out));
        }
        Value::Array(items) => items.iter().for_each(|item| below(name, item, out)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let Some(left) = self.left.of(item) else { return false };
        let Some((comparison, right)) = &self.test else { return true };
        let Some(right) = right.of(item) else { return false };
        let order = match (left, right) {
            (Value::Number(left), Value::Number(right)) => left.as_f64().partial_cmp(&right.as_f64()),
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            _ => None,
        };
        match comparison {
            Comparison::Equal => left == right || order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::Differs => left != right && !order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

impl Operand {
    fn of<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Path(path) => path.first(item),
            Self::Constant(value) => Some(value),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn steps(&mut self) -> Result<JsonPath, &'static str> {
        let mut steps = Vec::new();
        // A single point means the object itself.
        if self.rest == "." {
            self.rest = "";
        }
        while !self.rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return Err("too many steps");
            }
            steps.push(self.step()?);
        }
        Ok(JsonPath(steps.into()))
    }

    fn step(&mut self) -> Result<Step, &'static str> {
        if self.takes("..") {
            return Ok(Step::Below(self.name()?));
        }
        if self.takes("[") {
            return self.bracket();
        }
        if !self.takes(".") {
            return Err("a step begins with a point or a bracket");
        }
        if self.takes("*") {
            return Ok(Step::Every);
        }
        if self.takes("[") {
            return self.bracket();
        }
        Ok(Step::Field(self.name()?))
    }

    /// A backslash takes the next sign for what it is, as in `.metadata.labels.example\.com/name`.
    fn name(&mut self) -> Result<Box<str>, &'static str> {
        let (mut name, mut end, mut escaped) = (String::new(), self.rest.len(), false);
        for (at, sign) in self.rest.char_indices() {
            match sign {
                _ if escaped => {
                    name.push(sign);
                    escaped = false;
                }
                '\\' => escaped = true,
                '.' | '[' | ']' | ' ' | ')' | '=' | '<' | '>' | '!' => {
                    end = at;
                    break;
                }
                _ => name.push(sign),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() { Err("a name is missing") } else { Ok(name.into()) }
    }

    fn bracket(&mut self) -> Result<Step, &'static str> {
        if self.takes("?(") {
            let filter = self.filter()?;
            self.skip_spaces();
            return if self.takes(")]") { Ok(Step::Filter(Box::new(filter))) } else { Err("a filter ends with )]") };
        }
        if let Some(quote @ ('\'' | '"')) = self.rest.chars().next() {
            let text = self.quoted(quote)?;
            return if self.takes("]") { Ok(Step::Field(text.into())) } else { Err("a bracket is not closed") };
        }
        let (inside, rest) = self.rest.split_once(']').ok_or("a bracket is not closed")?;
        self.rest = rest;
        if inside == "*" {
            return Ok(Step::Every);
        }
        const NUMBER: &str = "between brackets stands a number, a slice, a name in quotes, a filter or *";
        let number = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse::<i64>().map(Some).map_err(|_| NUMBER),
        };
        let parts: Vec<Option<i64>> = inside.split(':').map(number).collect::<Result<_, _>>()?;
        match parts[..] {
            [Some(at)] => Ok(Step::Index(at)),
            [from, to] => Ok(Step::Slice(from, to, 1)),
            [from, to, by] => Ok(Step::Slice(from, to, by.unwrap_or(1))),
            _ => Err(NUMBER),
        }
    }

    fn filter(&mut self) -> Result<Filter, &'static str> {
        const COMPARISONS: &[(&str, Comparison)] = &[
            ("==", Comparison::Equal),
            ("!=", Comparison::Differs),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let left = self.operand()?;
        self.skip_spaces();
        let Some((_, comparison)) = COMPARISONS.iter().find(|(sign, _)| self.takes(sign)) else {
            return Ok(Filter { left, test: None });
        };
        Ok(Filter { left, test: Some((*comparison, self.operand()?)) })
    }

    fn operand(&mut self) -> Result<Operand, &'static str> {
        self.skip_spaces();
        if self.takes("@") {
            let mut steps = Vec::new();
            while self.rest.starts_with(['.', '[']) {
                if steps.len() == STEPS_MAX {
                    return Err("too many steps");
                }
                steps.push(self.step()?);
            }
            return Ok(Operand::Path(JsonPath(steps.into())));
        }
        if let Some(quote @ ('\'' | '"')) = self.rest.chars().next() {
            return Ok(Operand::Constant(self.quoted(quote)?.into()));
        }
        let end = self.rest.find([' ', ')', '=', '!', '<', '>']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        serde_json::from_str(text)
            .map(Operand::Constant)
            .map_err(|_| "a filter compares @, texts in quotes and numbers")
    }

    fn quoted(&mut self, quote: char) -> Result<String, &'static str> {
        let (mut text, mut escaped) = (String::new(), false);
        for (at, sign) in self.rest.char_indices().skip(1) {
            match sign {
                _ if escaped => {
                    text.push(sign);
                    escaped = false;
                }
                '\\' => escaped = true,
                _ if sign == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                _ => text.push(sign),
            }
        }
        Err("a quote is not closed")
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    fn takes(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_kubectl_finds() {
        let object = json!({"spec": {"replicas": 3, "a.b": "dotted", "list": [{"n": 1}, {"n": 2}, {"n": 3}]},
            "metadata": {"labels": {"example.com/x": "y"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Idle", "status": "False"}]}});
        let table: &[(&str, Value)] = &[
            (".spec.replicas", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec['a.b']", json!(["dotted"])),
            (".spec.a\\.b", json!(["dotted"])),
            (".metadata.labels.example\\.com/x", json!(["y"])),
            (".spec.list[0].n", json!([1])),
            (".spec.list[-1].n", json!([3])),
            (".spec.list[1:].n", json!([2, 3])),
            (".spec.list[0:3:2].n", json!([1, 3])),
            (".spec.list[*].n", json!([1, 2, 3])),
            ("..n", json!([1, 2, 3])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type != 'Ready')].status", json!(["False"])),
            (".spec.list[?(@.n > 1)].n", json!([2, 3])),
            (".spec.list[?(@.missing)].n", json!([])),
            (".missing.too", json!([])),
            (".", json!([object])),
        ];
        for (path, expected) in table {
            let parsed = JsonPath::parse(path).unwrap();
            assert_eq!(json!(parsed.find(&object)), *expected, "{path}");
            assert_eq!(parsed.first(&object), expected.get(0), "{path}");
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        let deep = ".a".repeat(STEPS_MAX + 1);
        for path in ["a", ".a[", ".a[x]", ".a[?(@.b==)]", ".a['b]", "..", ".a[?(@.b==1]", &deep] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
