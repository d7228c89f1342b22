//! `x-kubernetes-validations`: rules in CEL about the values of custom resources.
//!
//! A tree beside the schema, of the places that have rules here or below, compiled once for a version. Rules are evaluated
//! over the object as it stands, a value's place in the schema saying what it is. On an update a rule that speaks of
//! `oldSelf` is evaluated where the old value can be found, and an unchanged value's failures become warnings (KEP-4008).
//! Public behaviour: KEP-2876; texts are upstream's.

use std::cell::OnceCell;
use std::sync::Arc;

use machinery::cel::{CALL_COST_MAX, Declared, OBJECT_COST_MAX, Program, Type as CelType, Value as Cel};
use serde_json::Value;

use super::field_path;
use crate::invalid::{FieldError, FieldErrorKind};

/// A computed message that is longer is not shown.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a version's objects.
#[derive(Debug)]
pub struct Expressions {
    declared: Declared,
    root: Place,
}

/// A place that has rules here or below.
#[derive(Debug, Default)]
struct Place {
    rules: Box<[Rule]>,
    properties: Box<[(Box<str>, Place)]>,
    /// What holds of the elements of a list or the entries of a map.
    inner: Option<Box<Place>>,
    all_of: Box<[Place]>,
    /// The type that the schema names, which stands for the value in some messages.
    kind: Box<str>,
    /// The keys that tell the elements of a list apart.
    keys: Box<[Box<str>]>,
}

/// A rule, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    /// `None` where there is nothing to evaluate.
    pub(crate) program: Option<Result<Compiled, String>>,
    pub(crate) message_expression: Option<Result<Compiled, String>>,
    source: Box<str>,
    message: Box<str>,
    reason: FieldErrorKind,
    field_path: Option<Box<str>>,
    optional_old: bool,
}

/// An expression and what it costs at most.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) cost_max: u64,
}

impl Compiled {
    /// Whether the expression speaks of `oldSelf`.
    pub(crate) fn uses_old(&self) -> bool {
        self.program.uses(1)
    }
}

impl Rule {
    /// Compiles a rule about values that are declared so.
    pub(crate) fn compile(rule: &Value, schema: &Value, declared: &Declared) -> Self {
        let text = |name: &str| rule[name].as_str().unwrap_or_default();
        let optional_old = rule["optionalOldSelf"] == true;
        let compile = |source: &str| {
            let own = declared.to_type();
            let old = if optional_old { CelType::optional(own.clone()) } else { own.clone() };
            let (program, cost_max) = Program::compile_with_cost(source, &[("self", own), ("oldSelf", old)], declared)?;
            Ok::<_, machinery::cel::Issues>(Compiled { program, cost_max })
        };
        let program = (!text("rule").trim().is_empty()).then(|| match compile(text("rule")) {
            Ok(compiled) if !matches!(compiled.program.result(), CelType::Bool) => {
                Err("cel expression must evaluate to a bool".to_owned())
            }
            Ok(compiled) => Ok(compiled),
            Err(issues) => Err(format!("compilation failed: {issues}")),
        });
        let wanted = matches!(program, Some(Ok(_))) && !text("messageExpression").is_empty();
        let message_expression = wanted.then(|| match compile(text("messageExpression")) {
            Ok(compiled) if !matches!(compiled.program.result(), CelType::String) => {
                Err("messageExpression must evaluate to a string".to_owned())
            }
            Ok(compiled) => Ok(compiled),
            Err(issues) => Err(format!("messageExpression compilation failed: {issues}")),
        });
        Self {
            program,
            message_expression,
            source: text("rule").trim().into(),
            message: text("message").trim().into(),
            reason: match text("reason") {
                "FieldValueForbidden" => FieldErrorKind::Forbidden,
                "FieldValueRequired" => FieldErrorKind::Required,
                "FieldValueDuplicate" => FieldErrorKind::Duplicate,
                _ => FieldErrorKind::Invalid,
            },
            field_path: field_path::normalized(text("fieldPath"), schema)
                .ok()
                .filter(|path| !path.is_empty())
                .map(Into::into),
            optional_old,
        }
    }

    /// What the rule is called in messages.
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }

    fn default_message(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.source) } else { self.message.to_string() }
    }
}

impl Expressions {
    /// Compiles the rules of an `openAPIV3Schema`; `None` where it has none. `resource` is whether it describes whole
    /// objects.
    pub fn compile(schema: &Value, resource: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        let declared = Declared::of_schema(schema, resource)?;
        let root = Place::compile(schema, schema, &declared)?;
        Some(Self { declared, root })
    }

    /// What rules say against a value at `path`, which was `old` before. What is not held against it is warned of.
    pub fn errors(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        warn: &dyn Fn(&FieldError),
    ) -> Vec<FieldError> {
        let mut run = Run { errors: Vec::new(), budget: OBJECT_COST_MAX, spent: false, warn };
        let correlation = Correlation { value, old, above: None, same: OnceCell::new() };
        run.place(&self.root, &self.declared, &correlation, path);
        run.errors
    }
}

/// Whether a schema has rules, here or below.
pub(crate) fn has_rules(schema: &Value) -> bool {
    let own = schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty());
    let inner =
        ["items", "additionalProperties"].iter().any(|name| schema[*name].is_object() && has_rules(&schema[*name]));
    let all = schema["allOf"].as_array().is_some_and(|all| all.iter().any(has_rules));
    own || inner || all || schema["properties"].as_object().is_some_and(|all| all.values().any(has_rules))
}

impl Place {
    /// `rules` says the rules, `schema` what the place is: within `allOf` they are two.
    fn compile(rules: &Value, schema: &Value, declared: &Declared) -> Option<Self> {
        let text = |name: &str| schema[name].as_str().unwrap_or_default();
        let properties = rules["properties"].as_object().into_iter().flatten();
        let properties = properties.filter_map(|(name, property)| {
            let place = Self::compile(property, schema["properties"].get(name)?, declared.field(name)?)?;
            Some((name.as_str().into(), place))
        });
        let mut properties: Vec<(Box<str>, Self)> = properties.collect();
        properties.sort_by(|(one, _), (other, _)| one.cmp(other));
        let inner = ["items", "additionalProperties"].iter().find_map(|name| {
            Self::compile(rules.get(*name)?, schema.get(*name).filter(|inner| inner.is_object())?, declared.inner()?)
        });
        let all_of = rules["allOf"].as_array().into_iter().flatten();
        let own = rules["x-kubernetes-validations"].as_array().into_iter().flatten();
        let keys = schema["x-kubernetes-list-map-keys"].as_array().filter(|_| text("x-kubernetes-list-type") == "map");
        let place = Self {
            rules: own.map(|rule| Rule::compile(rule, schema, declared)).collect(),
            properties: properties.into(),
            inner: inner.map(Box::new),
            all_of: all_of.filter_map(|nested| Self::compile(nested, schema, declared)).collect(),
            kind: text("type").into(),
            keys: keys.into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect(),
        };
        let says = !place.rules.is_empty() || !place.properties.is_empty() || place.inner.is_some();
        (says || !place.all_of.is_empty()).then_some(place)
    }

    fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }
}

/// A value and what it was before, and the same of the place above it.
struct Correlation<'v> {
    value: &'v Value,
    old: Option<&'v Value>,
    above: Option<&'v Correlation<'v>>,
    same: OnceCell<bool>,
}

impl Correlation<'_> {
    /// Whether the value is what it was. Where its old self cannot be told, whether what holds it is.
    fn is_unchanged(&self) -> bool {
        match (self.old, self.above) {
            (Some(old), _) => *self.same.get_or_init(|| old == self.value),
            (None, Some(above)) => above.is_unchanged(),
            (None, None) => false,
        }
    }
}

struct Run<'r> {
    errors: Vec<FieldError>,
    budget: u64,
    /// Whether no more rules are to be evaluated.
    spent: bool,
    warn: &'r dyn Fn(&FieldError),
}

impl Run<'_> {
    fn place(&mut self, place: &Place, declared: &Declared, at: &Correlation<'_>, path: &str) {
        if at.value.is_null() || self.spent {
            return;
        }
        self.rules(place, declared, at, path);
        for nested in &place.all_of {
            // Their failures are held against a value also where it is unchanged, unless what holds it is.
            let same = OnceCell::from(at.above.is_some_and(Correlation::is_unchanged));
            let at = Correlation { value: at.value, old: at.old, above: at.above, same };
            self.place(nested, declared, &at, path);
        }
        match at.value {
            Value::Object(fields) => self.fields(place, declared, at, fields, path),
            Value::Array(items) => self.items(place, declared, at, items, path),
            _ => {}
        }
    }

    fn fields(
        &mut self,
        place: &Place,
        declared: &Declared,
        at: &Correlation<'_>,
        fields: &serde_json::Map<String, Value>,
        path: &str,
    ) {
        for (name, value) in fields {
            let dot = if path.is_empty() { "" } else { "." };
            let below = match (place.property(name), declared.field(name), &place.inner, declared.inner()) {
                (Some(property), Some(of), ..) => Some((property, of, format!("{path}{dot}{name}"))),
                (None, None, Some(entries), Some(of)) => Some((&**entries, of, format!("{path}[{name}]"))),
                _ => None,
            };
            let Some((place, declared, path)) = below else { continue };
            let old = at.old.and_then(|old| old.get(name));
            self.place(place, declared, &Correlation { value, old, above: Some(at), same: OnceCell::new() }, &path);
        }
    }

    fn items(&mut self, place: &Place, declared: &Declared, at: &Correlation<'_>, items: &[Value], path: &str) {
        let (Some(inner), Some(declared)) = (&place.inner, declared.inner()) else { return };
        let olds = Olds::of(&place.keys, at.old);
        for (index, value) in items.iter().enumerate() {
            let old = olds.find(value);
            let at = Correlation { value, old, above: Some(at), same: OnceCell::new() };
            self.place(inner, declared, &at, &format!("{path}[{index}]"));
        }
    }

    fn rules(&mut self, place: &Place, declared: &Declared, at: &Correlation<'_>, path: &str) {
        if place.rules.is_empty() {
            return;
        }
        let own = match declared.value(at.value) {
            Ok(own) => own,
            // Schema errors have been told already.
            Err(error) => return self.wrong(place, path, &error.to_string()),
        };
        for rule in &place.rules {
            if self.budget == 0 {
                self.spent = true;
                return self.wrong(place, path, OUT_OF_BUDGET);
            }
            self.rule(rule, place, declared, &own, at, path);
            if self.spent {
                return;
            }
        }
    }

    /// A complaint in which the type stands for the value.
    fn wrong(&mut self, place: &Place, path: &str, why: &str) {
        self.errors.push(FieldError::invalid(field(path), &(*place.kind).into(), why));
    }

    fn rule<'v>(
        &mut self,
        rule: &'v Rule,
        place: &Place,
        declared: &'v Declared,
        own: &Cel<'v>,
        at: &Correlation<'v>,
        path: &str,
    ) {
        let compiled = match &rule.program {
            None => return,
            Some(Err(why)) => return self.wrong(place, path, &format!("rule compile error: {why}")),
            Some(Ok(compiled)) => compiled,
        };
        let old = at.old.and_then(|old| declared.value(old).ok());
        if compiled.uses_old() && old.is_none() && !rule.optional_old {
            return;
        }
        let has_old = old.is_some() || rule.optional_old;
        let old = match old {
            old if rule.optional_old => Cel::Optional(old.map(Arc::new)),
            old => old.unwrap_or(Cel::Null),
        };
        let (result, cost) = compiled.program.evaluate(vec![own.clone(), old.clone()], CALL_COST_MAX);
        if cost > self.budget {
            self.spent = true;
            return self.wrong(place, path, OUT_OF_BUDGET);
        }
        self.budget -= cost;
        match result {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => self.failed(rule, place, [own, &old], has_old, at, path),
            Err(error) if error.is_limit() => {
                self.spent = true;
                let why = format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    rule.shown()
                );
                self.wrong(place, path, &why);
            }
            Err(error) if error.to_string().starts_with("no such overload") => {
                let why = format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for \
                     rule: {}",
                    rule.shown()
                );
                self.wrong(place, path, &why);
            }
            Err(error) => self.wrong(place, path, &format!("{error} evaluating rule: {}", rule.shown())),
        }
    }

    fn failed<'v>(
        &mut self,
        rule: &'v Rule,
        place: &Place,
        [own, old]: [&Cel<'v>; 2],
        has_old: bool,
        at: &Correlation<'v>,
        path: &str,
    ) {
        let message = match &rule.message_expression {
            Some(Ok(compiled)) if has_old || !compiled.uses_old() => {
                self.message(compiled, vec![own.clone(), old.clone()])
            }
            _ => Ok(None),
        };
        let path = match &rule.field_path {
            Some(below) if path.is_empty() => below.to_string(),
            Some(below) => format!("{path}.{below}"),
            None => path.to_owned(),
        };
        let error = match message {
            Ok(message) => {
                let detail = message.unwrap_or_else(|| rule.default_message());
                complaint(rule.reason, &path, &place.kind, at.value, detail)
            }
            Err(why) => {
                self.spent = true;
                FieldError::invalid(field(&path), &(*place.kind).into(), &why)
            }
        };
        let uses_old = matches!(&rule.program, Some(Ok(compiled)) if compiled.uses_old());
        if !uses_old && at.is_unchanged() {
            (self.warn)(&error);
        } else {
            self.errors.push(error);
        }
    }

    /// The message that an expression makes; none where it cannot be shown. An error ends everything.
    fn message<'v>(&mut self, compiled: &'v Compiled, values: Vec<Cel<'v>>) -> Result<Option<String>, String> {
        let (result, cost) = compiled.program.evaluate(values, CALL_COST_MAX);
        if cost > self.budget {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules \
                       will be run";
            return Err(why.to_owned());
        }
        self.budget -= cost;
        match result {
            Ok(Cel::String(text)) => {
                let text = text.trim();
                let shown = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
                Ok(shown.then(|| text.to_owned()))
            }
            Err(error) if error.is_limit() => {
                Err("no further validation rules will be run due to call cost exceeds limit \
                                                   for messageExpression"
                    .to_owned())
            }
            _ => Ok(None),
        }
    }
}

/// The error that a failed rule is, by its reason.
fn complaint(reason: FieldErrorKind, path: &str, kind: &str, value: &Value, detail: String) -> FieldError {
    let whole = matches!(kind, "object" | "array");
    let field = field(path);
    match reason {
        FieldErrorKind::Forbidden => FieldError::forbidden(field, &detail),
        FieldErrorKind::Required => FieldError::required(field, &detail),
        FieldErrorKind::Duplicate if whole => FieldError { kind: reason, field, detail: String::new() },
        FieldErrorKind::Duplicate => FieldError::duplicate(field, value),
        _ if whole => FieldError { kind: FieldErrorKind::Invalid, field, detail },
        _ => FieldError::invalid(field, value, &detail),
    }
}

/// The field of an error: upstream's is none for the object itself.
fn field(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}

/// The elements of an old list by their keys.
struct Olds<'v> {
    keys: &'v [Box<str>],
    by_key: std::collections::HashMap<String, &'v Value>,
}

impl<'v> Olds<'v> {
    fn of(keys: &'v [Box<str>], old: Option<&'v Value>) -> Self {
        let items = old.and_then(Value::as_array).filter(|_| !keys.is_empty()).into_iter().flatten();
        let mut by_key = std::collections::HashMap::new();
        for item in items {
            by_key.entry(key_of(keys, item)).or_insert(item);
        }
        Self { keys, by_key }
    }

    fn find(&self, item: &Value) -> Option<&'v Value> {
        if self.by_key.is_empty() {
            return None;
        }
        self.by_key.get(&key_of(self.keys, item)).copied()
    }
}

fn key_of(keys: &[Box<str>], item: &Value) -> String {
    keys.iter().map(|key| format!("{};", item[&**key])).collect()
}

#[cfg(test)]
mod tests;
