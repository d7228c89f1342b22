//! A value in an object together with the way to it, so that a check is written against the place that it checks.
//!
//! Checks run on every write and nearly always find nothing: a place is a few references on the stack, and its path is
//! written out only for an error. Paths, and what an absent value is shown as, are those of upstream's `field.Path` and
//! `field.Error`.

use std::fmt;
use std::sync::LazyLock;

use machinery::Quantity;
use serde_json::Value;

use crate::invalid::FieldError;

/// What is wrong, in the order of finding.
pub type Errors = Vec<FieldError>;

/// A check of a text: every complaint about it.
pub type TextCheck = fn(&str) -> Vec<String>;

static NULL: Value = Value::Null;
static EMPTY: Value = Value::String(String::new());
static ZERO: LazyLock<Value> = LazyLock::new(|| Value::from(0));

/// A place in an object.
#[derive(Clone, Copy)]
pub struct At<'a> {
    value: &'a Value,
    path: Path<'a>,
}

#[derive(Clone, Copy)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The place named `path`, from which others are reached. An empty path stands for the object itself.
    pub fn new(value: &'a Value, path: &'a str) -> Self {
        Self { value, path: Path { parent: None, part: Part::Field(path) } }
    }

    fn step<'b>(&'b self, value: &'b Value, part: Part<'b>) -> At<'b> {
        At { value, path: Path { parent: Some(&self.path), part } }
    }

    /// A field.
    pub fn at<'b>(&'b self, field: &'b str) -> At<'b> {
        self.step(self.value.get(field).unwrap_or(&NULL), Part::Field(field))
    }

    /// A text field, shown as `""` where it is absent.
    pub fn text_at<'b>(&'b self, field: &'b str) -> At<'b> {
        self.step(self.value.get(field).filter(|value| !value.is_null()).unwrap_or(&EMPTY), Part::Field(field))
    }

    /// A number field, shown as `0` where it is absent.
    pub fn number_at<'b>(&'b self, field: &'b str) -> At<'b> {
        self.step(self.value.get(field).filter(|value| !value.is_null()).unwrap_or(&ZERO), Part::Field(field))
    }

    /// The value of another place, as if it stood here: some of upstream's paths are not the way to the value.
    pub fn with<'b>(&self, value: &'b Value) -> At<'b>
    where
        'a: 'b,
    {
        At { value, path: self.path }
    }

    /// An element of a list, whether it is there or not.
    pub fn index(&self, index: usize) -> At<'_> {
        self.step(self.value.get(index).unwrap_or(&NULL), Part::Index(index))
    }

    /// An entry of a map, whether it is there or not.
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        self.step(self.value.get(key).unwrap_or(&NULL), Part::Key(key))
    }

    /// The elements of a list; none where it is no list.
    pub fn items(&self) -> impl Iterator<Item = At<'_>> {
        let items = self.value.as_array().map_or(&[][..], Vec::as_slice);
        items.iter().enumerate().map(|(index, value)| self.step(value, Part::Index(index)))
    }

    /// The entries of a map; none where it is no map.
    pub fn entries(&self) -> impl Iterator<Item = (&str, At<'_>)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), self.step(value, Part::Key(key))))
    }

    /// The value.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether there is a value other than null.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// The text; empty where there is none.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// Whether there is a text other than the empty one.
    pub fn has_text(&self) -> bool {
        !self.text().is_empty()
    }

    /// The number, where there is one.
    pub fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Whether the value is `true`.
    pub fn is_true(&self) -> bool {
        *self.value == true
    }

    /// How many elements or entries there are.
    pub fn count(&self) -> usize {
        self.value.as_array().map(Vec::len).or_else(|| self.value.as_object().map(serde_json::Map::len)).unwrap_or(0)
    }

    /// The quantity, where there is one; JSON may write it as a number.
    pub fn quantity(&self) -> Option<Quantity> {
        super::tree::quantity(self.value)
    }

    /// The path, as errors show it.
    pub fn path(&self) -> String {
        self.path.to_string()
    }

    fn shown(&self) -> &'a Value {
        if self.value.is_null() { &EMPTY } else { self.value }
    }

    /// `spec.x: Required value: why`
    pub fn required(&self, why: &str) -> FieldError {
        FieldError::required(self.path(), why)
    }

    /// `spec.x: Invalid value: "v": why`
    pub fn invalid(&self, why: &str) -> FieldError {
        FieldError::invalid(self.path(), self.shown(), why)
    }

    /// As [`invalid`](Self::invalid), but shows something else than the value that is here.
    pub fn invalid_as(&self, shown: impl Into<Value>, why: &str) -> FieldError {
        FieldError::invalid(self.path(), &shown.into(), why)
    }

    /// `spec.x: Forbidden: why`
    pub fn forbidden(&self, why: &str) -> FieldError {
        FieldError::forbidden(self.path(), why)
    }

    /// `spec.x: Duplicate value: "v"`
    pub fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path(), self.shown())
    }

    /// As [`duplicate`](Self::duplicate), but shows something else than the value that is here.
    pub fn duplicate_as(&self, shown: impl Into<Value>) -> FieldError {
        FieldError::duplicate(self.path(), &shown.into())
    }

    /// `spec.x: Not found: "v"`
    pub fn not_found(&self) -> FieldError {
        FieldError::not_found(self.path(), self.shown())
    }

    /// `spec.x: Unsupported value: "v": supported values: "a", "b"`
    pub fn not_supported(&self, supported: &[&str]) -> FieldError {
        FieldError::not_supported(self.path(), self.shown(), supported)
    }

    /// `spec.x: Too long: may not be more than 63 bytes`
    pub fn too_long(&self, bytes_max: usize) -> FieldError {
        FieldError::too_long(self.path(), bytes_max)
    }

    /// `spec.x: Too many: 9: must have at most 8 items`
    pub fn too_many(&self, max: usize) -> FieldError {
        FieldError::too_many(self.path(), self.count(), max)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Field(name) if self.parent.is_none_or(|parent| parent.is_empty()) => f.write_str(name),
            Part::Field(name) => write!(f, ".{name}"),
            Part::Key(key) => write!(f, "[{key}]"),
            Part::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Path<'_> {
    fn is_empty(&self) -> bool {
        self.parent.is_none() && matches!(self.part, Part::Field(""))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_knows_its_path_and_its_value() {
        let object = json!({"spec": {"ports": [{"name": "a"}, {"name": "b", "port": 80}], "hard": {"cpu": "1"}}});
        let root = At::new(&object, "");
        let spec = root.at("spec");
        let names: Vec<_> = spec.at("ports").items().map(|port| port.text_at("name").path()).collect();
        assert_eq!(names, ["spec.ports[0].name", "spec.ports[1].name"]);
        let hard = spec.at("hard");
        let entries: Vec<_> = hard.entries().map(|(key, at)| (key.to_owned(), at.path())).collect();
        assert_eq!(entries, [("cpu".to_owned(), "spec.hard[cpu]".to_owned())]);
        let ports = spec.at("ports");
        let first = ports.index(0);
        assert_eq!(first.at("protocol").invalid("no").to_string(), r#"spec.ports[0].protocol: Invalid value: "": no"#);
        assert_eq!(first.number_at("port").invalid("no").to_string(), "spec.ports[0].port: Invalid value: 0: no");
        assert_eq!((first.at("port").number(), ports.count()), (None, 2));
        assert_eq!(At::new(&object, "template").at("spec").path(), "template.spec");
    }
}
