//! Where a field is: the steps from an object's root to it, in upstream's order and spelling.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// One step into a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Into a field or an entry of a map.
    Field(Box<str>),
    /// Into the element of a list that has these keys, sorted by name.
    Key(Box<[(Box<str>, Value)]>),
    /// Into the element of a set that is this scalar.
    Value(Value),
    /// Into the element of a list at this place.
    Index(i64),
}

impl Step {
    /// Into a field.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// Compares with a step into a field, without making one.
    pub fn cmp_field(&self, name: &str) -> Ordering {
        match self {
            Self::Field(own) => (**own).cmp(name),
            _ => Ordering::Greater,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                let pairs = a.iter().zip(b).map(|(a, b)| a.0.cmp(&b.0).then_with(|| compare(&a.1, &b.1)));
                pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// Numbers, strings, booleans, lists, maps, null: the order in which field sets are written.
fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let items = a.iter().zip(b).map(|(a, b)| compare(a, b));
            items.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        // Maps are no keys in any type; what a stranger wrote into his managed fields needs an order all the same.
        (Value::Object(_), Value::Object(_)) => a.to_string().cmp(&b.to_string()),
        _ => rank(a).cmp(&rank(b)),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                for (at, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}={value}", if at == 0 { "[" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// The steps from the root, in text: `.spec.containers[name="web"].image`.
pub fn text(steps: &[Step]) -> String {
    steps.iter().map(Step::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_read_and_sort_as_upstream_writes_them() {
        let key = |keys: &[(&str, Value)]| {
            Step::Key(keys.iter().map(|(name, value)| (Box::from(*name), value.clone())).collect())
        };
        let sorted = [
            (Step::field("a"), ".a"),
            (Step::field("b"), ".b"),
            (key(&[("containerPort", json!(80)), ("protocol", json!("TCP"))]), "[containerPort=80,protocol=\"TCP\"]"),
            (key(&[("containerPort", json!(443))]), "[containerPort=443]"),
            (key(&[("name", json!("a"))]), "[name=\"a\"]"),
            (Step::Value(json!(1)), "[=1]"),
            (Step::Value(json!(1.5)), "[=1.5]"),
            (Step::Value(json!("x")), "[=\"x\"]"),
            (Step::Value(json!(true)), "[=true]"),
            (Step::Index(2), "[2]"),
        ];
        for (at, (step, expected)) in sorted.iter().enumerate() {
            assert_eq!(step.to_string(), *expected);
            for (other, _) in &sorted[at + 1..] {
                assert_eq!((step.cmp(other), other.cmp(step)), (Ordering::Less, Ordering::Greater), "{step} {other}");
            }
        }
    }
}
