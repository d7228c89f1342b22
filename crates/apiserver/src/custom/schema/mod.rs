//! A custom resource's structural schema, compiled once for a version: what pruning, defaulting, validation and server-side
//! apply walk.
//!
//! Most places of a schema say little: a node is a few machine words, and what is rare lies behind one pointer. Descriptions
//! are not kept: the published schema is made from the definition's own bytes. What a schema may say is defined by
//! `apiextensions.k8s.io/v1` `JSONSchemaProps` and KEP-979; that it says it rightly is checked in
//! [`crate::registry::apiextensions`] before it comes here, so what cannot be read is taken as absent.

mod default;
pub(crate) mod field_path;
mod format;
mod lists;
mod ownership;

mod prune;
mod resource;
mod rules;
mod validate;

#[cfg(test)]
mod tests;

use machinery::apply::schema::Key;
use serde_json::{Map, Value};

pub use self::format::is_supported as is_supported_format;
pub use machinery::pattern::Pattern;

pub use self::rules::Expressions;
pub(crate) use self::rules::{Rule, has_rules};

/// The values that a place takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Type {
    /// Any.
    #[default]
    Any,
    /// A map.
    Object,
    /// A list.
    Array,
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Yes or no.
    Boolean,
}

impl Type {
    /// The type of that name.
    pub fn parse(name: &str) -> Self {
        match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    /// Its name in schemas and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value as a whole.
    #[default]
    Atomic,
    /// Each element once.
    Set,
    /// Elements that are told apart by their keys.
    Map,
}

/// A place in an object.
#[derive(Debug, Default)]
pub struct Schema {
    /// What stands there.
    pub kind: Type,
    /// `nullable`
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-map-type: atomic`
    pub atomic_map: bool,
    /// Whether here or below are `x-kubernetes-validations`.
    expressions: bool,
    /// `x-kubernetes-list-type`
    pub list_type: ListType,
    /// `properties`, sorted by name.
    pub properties: Box<[(Box<str>, Schema)]>,
    /// What holds of other entries of a map, or of a list's elements: a place has one of the two.
    inner: Inner,
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
enum Inner {
    #[default]
    None,
    /// `additionalProperties: true`
    AnyEntries,
    Entries(Box<Schema>),
    Items(Box<Schema>),
}

/// What most places do not say.
#[derive(Debug, Default)]
struct Rare {
    default: Option<Value>,
    list_map_keys: Box<[Key]>,
    rules: Option<Box<Rules>>,
}

/// What a value must fulfil besides its type.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    format: Option<Box<str>>,
    maximum: Option<(f64, bool)>,
    minimum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length_max: Option<u64>,
    length_min: Option<u64>,
    items_max: Option<u64>,
    items_min: Option<u64>,
    properties_max: Option<u64>,
    properties_min: Option<u64>,
    pattern: Option<Pattern>,
    unique_items: bool,
    required: Box<[Box<str>]>,
    one_of_values: Box<[Value]>,
    all_of: Box<[Schema]>,
    any_of: Box<[Schema]>,
    one_of: Box<[Schema]>,
    not: Option<Box<Schema>>,
}

impl Schema {
    /// Compiles an `openAPIV3Schema`.
    pub fn compile(schema: &Value) -> Self {
        let Some(fields) = schema.as_object() else { return Self::default() };
        let flag = |name: &str| fields.get(name) == Some(&Value::Bool(true));
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let properties = properties(fields.get("properties"));
        let inner = Inner::compile(fields);
        let expressions = fields.contains_key("x-kubernetes-validations")
            || properties.iter().any(|(_, place)| place.expressions)
            || inner.place().is_some_and(|place| place.expressions);
        Self {
            kind: Type::parse(text("type")),
            expressions,
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            list_type: match text("x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            properties,
            inner,
            rare: Rare::compile(fields),
        }
    }

    /// A field that is named in the schema.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        let at = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// What holds of entries that have no name in the schema, where the schema describes them.
    pub fn entries(&self) -> Option<&Schema> {
        if let Inner::Entries(entries) = &self.inner { Some(entries) } else { None }
    }

    /// Whether entries without a name in the schema stay.
    fn has_entries(&self) -> bool {
        matches!(self.inner, Inner::Entries(_) | Inner::AnyEntries)
    }

    /// What holds of a list's elements.
    pub fn items(&self) -> Option<&Schema> {
        if let Inner::Items(items) = &self.inner { Some(items) } else { None }
    }

    /// What stands for an absent value.
    pub fn default_value(&self) -> Option<&Value> {
        self.rare.as_ref()?.default.as_ref()
    }

    /// The fields that tell the elements of a list apart.
    pub fn list_map_keys(&self) -> &[Key] {
        self.rare.as_ref().map_or(&[], |rare| &rare.list_map_keys)
    }

    /// Whether here or below are `x-kubernetes-validations`.
    pub fn has_expressions(&self) -> bool {
        self.expressions
    }

    fn rules(&self) -> Option<&Rules> {
        self.rare.as_ref()?.rules.as_deref()
    }

    /// Follows a path of names, as `spec.replicas`.
    pub fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Schema> {
        path.into_iter().try_fold(self, |place, name| place.property(name).or_else(|| place.entries()))
    }
}

fn properties(given: Option<&Value>) -> Box<[(Box<str>, Schema)]> {
    let given = given.and_then(Value::as_object).into_iter().flatten();
    let mut properties: Vec<_> = given.map(|(name, schema)| (name.as_str().into(), Schema::compile(schema))).collect();
    properties.sort_by(|(a, _): &(Box<str>, _), (b, _)| a.cmp(b));
    properties.into()
}

impl Inner {
    fn place(&self) -> Option<&Schema> {
        if let Self::Entries(place) | Self::Items(place) = self { Some(place) } else { None }
    }

    fn compile(fields: &Map<String, Value>) -> Self {
        match (fields.get("items"), fields.get("additionalProperties")) {
            (Some(items @ Value::Object(_)), _) => Self::Items(Box::new(Schema::compile(items))),
            (_, Some(Value::Bool(true))) => Self::AnyEntries,
            (_, Some(entries @ Value::Object(_))) => Self::Entries(Box::new(Schema::compile(entries))),
            _ => Self::None,
        }
    }
}

impl Rare {
    fn compile(fields: &Map<String, Value>) -> Option<Box<Self>> {
        let rare = Self {
            default: fields.get("default").cloned(),
            list_map_keys: keys(fields),
            rules: Rules::compile(fields),
        };
        let says = rare.default.is_some() || !rare.list_map_keys.is_empty() || rare.rules.is_some();
        says.then(|| Box::new(rare))
    }
}

impl Rules {
    fn compile(fields: &Map<String, Value>) -> Option<Box<Self>> {
        const RULES: &[&str] = &[
            "format",
            "maximum",
            "minimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "maxItems",
            "minItems",
            "maxProperties",
            "minProperties",
            "pattern",
            "uniqueItems",
            "required",
            "enum",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        if !RULES.iter().any(|rule| fields.contains_key(*rule)) {
            return None;
        }
        let number = |name: &str| fields.get(name).and_then(Value::as_f64);
        let count = |name: &str| number(name).filter(|count| *count >= 0.0).map(|count| count as u64);
        let flag = |name: &str| fields.get(name) == Some(&Value::Bool(true));
        let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let schemas = |name: &str| {
            let given = fields.get(name).and_then(Value::as_array).into_iter().flatten();
            given.map(Schema::compile).collect::<Box<[Schema]>>()
        };
        let kind = Type::parse(text("type").unwrap_or_default());
        Some(Box::new(Self {
            format: text("format").filter(|format| format::is_supported(kind, format)).map(Into::into),
            maximum: number("maximum").map(|bound| (bound, flag("exclusiveMaximum"))),
            minimum: number("minimum").map(|bound| (bound, flag("exclusiveMinimum"))),
            multiple_of: number("multipleOf"),
            length_max: count("maxLength"),
            length_min: count("minLength"),
            items_max: count("maxItems"),
            items_min: count("minItems"),
            properties_max: count("maxProperties"),
            properties_min: count("minProperties"),
            pattern: text("pattern").map(Pattern::new),
            unique_items: flag("uniqueItems"),
            required: texts(fields.get("required")),
            one_of_values: fields.get("enum").and_then(Value::as_array).into_iter().flatten().cloned().collect(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: fields.get("not").map(|not| Box::new(Schema::compile(not))),
        }))
    }
}

fn keys(fields: &Map<String, Value>) -> Box<[Key]> {
    let default = |name: &str| fields.get("items")?.get("properties")?.get(name)?.get("default").cloned();
    let names = texts(fields.get("x-kubernetes-list-map-keys")).into_iter();
    names.map(|name| Key { default: default(&name), name: String::from(name).into() }).collect()
}

fn texts(given: Option<&Value>) -> Box<[Box<str>]> {
    let given = given.and_then(Value::as_array).into_iter().flatten();
    given.filter_map(Value::as_str).map(Into::into).collect()
}
