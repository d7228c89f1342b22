//! Validation of values: OpenAPI v3's rules, with the messages that upstream's validator gives.
//!
//! On an update what has not changed is not complained about (KEP-4008, ratcheting): an object that was stored under an
//! earlier schema can be changed where it is right. Elements of lists are compared only where the list's keys tell them
//! apart.

use serde_json::{Number, Value};

use super::{ListType, Rules, Schema, Type, format};
use crate::invalid::FieldError;

/// More complaints say nothing new. Without an end a list of a million wrong elements would be answered with as many.
const COMPLAINTS_MAX: usize = 100;

impl Schema {
    /// All that is wrong with a value at `path` (empty for the whole object), which was `old` before.
    pub fn validate(&self, value: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
        let mut run = Run::default();
        run.place(self, value, old, path);
        run.errors
    }
}

/// One run over a value, or a trial of one alternative.
#[derive(Default)]
struct Run {
    errors: Vec<FieldError>,
    /// How many checks were made: of several alternatives the one that got furthest is reported.
    checks: usize,
}

impl Run {
    fn complain(&mut self, error: FieldError) {
        if self.errors.len() < COMPLAINTS_MAX {
            self.errors.push(error);
        }
    }

    /// `path in body should ...`
    fn invalid(&mut self, path: &str, value: &Value, rest: &str) {
        let shown = if path.is_empty() { "" } else { path };
        self.complain(FieldError::invalid(field(path), value, &format!("{shown} in body {rest}")));
    }

    fn place(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        if old == Some(value) {
            return;
        }
        self.checks += 1;
        if !self.kind(schema, value, path) && value.is_null() {
            return;
        }
        if let Some(rules) = schema.rules() {
            self.checks += 1;
            self.alternatives(rules, value, path);
        }
        match value {
            Value::String(text) => self.text(schema.rules(), value, text, path),
            Value::Number(number) => self.number(schema.rules(), value, number, path),
            Value::Array(items) => self.list(schema, items, old, path),
            _ => {}
        }
        if let Some(rules) = schema.rules() {
            self.one_of_values(rules, value, path);
        }
        if let Value::Object(_) = value {
            self.object(schema, value, old, path);
        }
    }

    /// Whether the value is of the place's type.
    fn kind(&mut self, schema: &Schema, value: &Value, path: &str) -> bool {
        let fits = match (schema.kind, value) {
            (_, Value::Null) => schema.nullable || schema.kind == Type::Any && !schema.int_or_string,
            _ if schema.int_or_string => value.is_string() || is_whole(value),
            (Type::Any, _) | (Type::Object, Value::Object(_)) | (Type::Array, Value::Array(_)) => true,
            (Type::String, Value::String(_)) | (Type::Boolean, Value::Bool(_)) => true,
            (Type::Integer, Value::Number(_)) => is_whole(value),
            (Type::Number, Value::Number(_)) => true,
            _ => false,
        };
        if !fits {
            let wanted = if schema.int_or_string { "integer,string" } else { schema.kind.name() };
            let found = kind_of(value);
            let why = format!("{path} in body must be of type {wanted}: {found:?}");
            self.complain(FieldError::type_invalid(field(path), &found.into(), &why));
        }
        fits
    }

    fn alternatives(&mut self, rules: &Rules, value: &Value, path: &str) {
        let trials = |schemas: &[Schema]| -> Vec<Run> {
            let trial = |schema| {
                let mut run = Run::default();
                run.place(schema, value, None, path);
                run
            };
            schemas.iter().map(trial).collect()
        };
        if !rules.any_of.is_empty() {
            let tried = trials(&rules.any_of);
            if !tried.iter().any(|run| run.errors.is_empty()) {
                self.of_all(&format!("{path:?} must validate at least one schema (anyOf)"));
                self.merge_best(tried);
            }
        }
        if !rules.one_of.is_empty() {
            let tried = trials(&rules.one_of);
            let valid = tried.iter().filter(|run| run.errors.is_empty()).count();
            let why =
                if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
            if valid != 1 {
                self.of_all(&format!("{path:?} must validate one and only one schema (oneOf). {why}"));
            }
            if valid == 0 {
                self.merge_best(tried);
            }
        }
        if !rules.all_of.is_empty() {
            let tried = trials(&rules.all_of);
            let valid = tried.iter().filter(|run| run.errors.is_empty()).count();
            if valid < tried.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                for error in tried.into_iter().flat_map(|run| run.errors) {
                    self.complain(error);
                }
                self.of_all(&format!("{path:?} must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &rules.not {
            let mut run = Run::default();
            run.place(not, value, None, path);
            if run.errors.is_empty() {
                self.of_all(&format!("{path:?} must not validate the schema (not)"));
            }
        }
    }

    /// A complaint that upstream gives without a field.
    fn of_all(&mut self, why: &str) {
        self.complain(FieldError::invalid("<nil>", &"".into(), why));
    }

    fn merge_best(&mut self, tried: Vec<Run>) {
        // The first of those that got equally far.
        let best = tried.into_iter().rev().max_by_key(|run| run.checks);
        best.into_iter().flat_map(|run| run.errors).for_each(|error| self.complain(error));
    }

    fn text(&mut self, rules: Option<&Rules>, value: &Value, text: &str, path: &str) {
        let Some(rules) = rules else { return };
        let length = text.chars().count() as u64;
        if let Some(max) = rules.length_max.filter(|max| length > *max) {
            return self.complain(FieldError::too_long(field(path), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = rules.length_min.filter(|min| length < *min) {
            return self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
            return self.invalid(path, value, &format!("should match '{}'", pattern.source()));
        }
        if let Some(format) = rules.format.as_deref().filter(|format| !format::matches(format, text)) {
            let why = format!("{path} in body must be of type {format}: {text:?}");
            self.complain(FieldError::type_invalid(field(path), value, &why));
        }
    }

    fn number(&mut self, rules: Option<&Rules>, value: &Value, number: &Number, path: &str) {
        let Some(rules) = rules else { return };
        if let Some(factor) = rules.multiple_of.filter(|factor| !is_multiple(number, *factor)) {
            self.invalid(path, value, &format!("should be a multiple of {factor}"));
        }
        let shown = number.as_f64().unwrap_or_default();
        if let Some((min, exclusive)) = rules.minimum
            && (shown < min || exclusive && shown <= min)
        {
            let words = if exclusive { "greater than" } else { "greater than or equal to" };
            self.invalid(path, value, &format!("should be {words} {min}"));
        }
        if let Some((max, exclusive)) = rules.maximum
            && (shown > max || exclusive && shown >= max)
        {
            let words = if exclusive { "less than" } else { "less than or equal to" };
            self.invalid(path, value, &format!("should be {words} {max}"));
        }
        if rules.format.as_deref() == Some("int32")
            && number.as_i64().is_some_and(|whole| i32::try_from(whole).is_err())
        {
            let why = format!("Checked value must be of type integer with format int32 in {path}");
            self.complain(FieldError::invalid("<nil>", &"".into(), &why));
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>, path: &str) {
        if let Some(place) = schema.items() {
            for (at, item) in items.iter().enumerate() {
                let before = old.and_then(|old| counterpart(schema, item, old));
                self.place(place, item, before, &format!("{path}[{at}]"));
                if self.errors.len() >= COMPLAINTS_MAX {
                    return;
                }
            }
        }
        let Some(rules) = schema.rules() else { return };
        let count = items.len() as u64;
        if let Some(min) = rules.items_min.filter(|min| count < *min) {
            self.invalid(path, &count.into(), &format!("should have at least {min} items"));
        }
        if let Some(max) = rules.items_max.filter(|max| count > *max) {
            self.complain(FieldError::too_many(field(path), items.len(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if rules.unique_items && (1..items.len()).any(|at| items[..at].contains(&items[at])) {
            self.invalid(path, &"".into(), "shouldn't contain duplicates");
        }
    }

    fn one_of_values(&mut self, rules: &Rules, value: &Value, path: &str) {
        if rules.one_of_values.is_empty() || rules.one_of_values.iter().any(|allowed| same(allowed, value)) {
            return;
        }
        let text = |allowed: &Value| allowed.as_str().map_or_else(|| allowed.to_string(), str::to_owned);
        let allowed: Vec<String> = rules.one_of_values.iter().map(text).collect();
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        self.complain(FieldError::not_supported(field(path), value, &allowed));
    }

    fn object(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        let fields = value.as_object().into_iter().flatten();
        let rules = schema.rules();
        let count = value.as_object().map_or(0, serde_json::Map::len) as u64;
        if let Some(min) = rules.and_then(|rules| rules.properties_min).filter(|min| count < *min) {
            self.invalid(path, &count.into(), &format!("should have at least {min} properties"));
        }
        if let Some(max) = rules.and_then(|rules| rules.properties_max).filter(|max| count > *max) {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            self.complain(FieldError::too_many(field(path), usize::try_from(count).unwrap_or(usize::MAX), max));
        }
        for (name, value) in fields {
            let Some(place) = schema.property(name).or_else(|| schema.entries()) else { continue };
            let before = old.and_then(|old| old.get(name));
            self.place(place, value, before, &joined(path, name));
        }
        for name in rules.map_or(&[][..], |rules| &rules.required) {
            if value.get(&**name).is_none() {
                self.complain(FieldError::required(joined(path, name), ""));
            }
        }
    }
}

/// The element of an old list that has the keys of `item`.
fn counterpart<'a>(schema: &Schema, item: &Value, old: &'a Value) -> Option<&'a Value> {
    if schema.list_type != ListType::Map {
        return None;
    }
    let same =
        |before: &&Value| schema.list_map_keys().iter().all(|key| before.get(&*key.name) == item.get(&*key.name));
    old.as_array()?.iter().find(same)
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The field of an error: upstream's is none for the object itself.
fn field(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a value is a whole number, as `1` and `1.0` are.
fn is_whole(value: &Value) -> bool {
    value
        .as_number()
        .is_some_and(|number| !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0))
}

fn is_multiple(number: &Number, factor: f64) -> bool {
    if let Some(whole) = number.as_i64().filter(|_| factor.fract() == 0.0 && factor >= 1.0) {
        return whole % (factor as i64) == 0;
    }
    let quotient = number.as_f64().unwrap_or_default() / factor;
    quotient.fract() == 0.0
}

/// Equality that takes `1` and `1.0` for the same.
fn same(one: &Value, other: &Value) -> bool {
    one == other
        || match (one, other) {
            (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
            _ => false,
        }
}
