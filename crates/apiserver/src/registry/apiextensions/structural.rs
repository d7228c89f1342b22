//! Whether a schema is structural: what it says of fields stands outside of `allOf`, `anyOf`, `oneOf` and `not`, so that it
//! can be walked. Paths and texts are upstream's `ValidateStructural`.

use serde_json::{Value, json};

use crate::custom::schema::Pattern;
use crate::invalid::FieldError;
use crate::registry::tree::{entries, list, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All that keeps a schema from being structural, sorted by its text.
pub(super) fn errors(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut found = Found(Vec::new());
    found.place(schema, Level::Root, path);
    found.complete(schema, schema, path, path);
    found.0.sort_by_key(ToString::to_string);
    found.0
}

struct Found(Vec<FieldError>);

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

fn int_or_string(schemas: &Value) -> bool {
    *schemas == json!([{"type": "integer"}, {"type": "string"}])
}

impl Found {
    fn place(&mut self, schema: &Value, level: Level, path: &str) {
        if !schema.is_object() {
            return;
        }
        let below = |name: &str| format!("{path}.{name}");
        let kind = text(&schema["type"]);
        match &schema["items"] {
            Value::Null if kind == "array" => self.0.push(FieldError::required(below("items"), "must be specified")),
            items => self.place(items, Level::Item, &below("items")),
        }
        for (name, property) in entries(&schema["properties"]) {
            self.place(property, Level::Field, &format!("{path}.properties[{name}]"));
        }
        if schema.get("additionalProperties").is_some() {
            if level == Level::Root {
                self.0.push(FieldError::forbidden(below("additionalProperties"), "must not be used at the root"));
            }
            self.place(&schema["additionalProperties"], Level::Field, &below("additionalProperties"));
        }
        self.extensions(schema, path);
        let first = &list(&schema["allOf"]).first().map_or(&Value::Null, |first| &first["anyOf"]);
        self.values(schema, int_or_string(&schema["anyOf"]), int_or_string(first), level, path);
        self.kind(schema, level, path);
        self.of_resource(schema, level, path);
    }

    fn extensions(&mut self, schema: &Value, path: &str) {
        if !flag(schema, "x-kubernetes-int-or-string") {
            return;
        }
        for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if flag(schema, name) {
                let why = "must be false if x-kubernetes-int-or-string is true";
                self.0.push(FieldError::invalid(format!("{path}.{name}"), &true.into(), why));
            }
        }
    }

    fn kind(&mut self, schema: &Value, level: Level, path: &str) {
        let (kind, path) = (text(&schema["type"]), format!("{path}.type"));
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let free = flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
        if embedded && kind != "object" {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            self.0.push(match kind {
                "" => FieldError::required(&*path, why),
                _ => FieldError::invalid(&*path, &schema["type"], why),
            });
        } else if kind.is_empty() && !free {
            let why = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            self.0.push(FieldError::required(&*path, why));
        }
        if level == Level::Root && !kind.is_empty() && kind != "object" {
            self.0.push(FieldError::invalid(path, &schema["type"], "must be object at the root"));
        }
    }

    /// The fields that every resource has.
    fn of_resource(&mut self, schema: &Value, level: Level, path: &str) {
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        if embedded && schema.get("additionalProperties").is_some() {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            self.0.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
        }
        let is_resource = level == Level::Root || embedded;
        let properties = &schema["properties"];
        for name in ["kind", "apiVersion"] {
            if let Some(property) = properties.get(name).filter(|_| is_resource)
                && property["type"] != "string"
            {
                let path = format!("{path}.properties[{name}].type");
                self.0.push(FieldError::invalid(path, &text(&property["type"]).into(), "must be string"));
            }
        }
        if let Some(metadata) = properties.get("metadata") {
            let path = format!("{path}.properties[metadata]");
            if is_resource && metadata["type"] != "object" {
                let kind = text(&metadata["type"]).into();
                self.0.push(FieldError::invalid(format!("{path}.type"), &kind, "must be object"));
            }
            if level == Level::Root && !says_only_names(metadata) {
                let why =
                    "must not specify anything other than name and generateName, but metadata is implicitly specified";
                self.0.push(FieldError::forbidden(path, why));
            }
        }
        let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
        if embedded && !preserves && entries(properties).next().is_none() {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                       x-kubernetes-preserve-unknown-fields";
            self.0.push(FieldError::required(format!("{path}.properties"), why));
        }
    }

    fn values(&mut self, schema: &Value, skip_any: bool, skip_first: bool, level: Level, path: &str) {
        let lists = [("anyOf", skip_any, false), ("allOf", false, skip_first), ("oneOf", false, false)];
        for (name, skip, skip_any_of_first) in lists.into_iter() {
            for (at, nested) in list(&schema[name]).iter().enumerate().filter(|_| !skip) {
                self.nested(nested, at == 0 && skip_any_of_first, level, &format!("{path}.{name}[{at}]"));
            }
        }
        self.nested(&schema["not"], false, level, &format!("{path}.not"));
        let pattern = text(&schema["pattern"]);
        if let Some(why) = Some(pattern).filter(|it| !it.is_empty()).and_then(Pattern::check) {
            let why = format!("must be a valid regular expression, but isn't: {why}");
            self.0.push(FieldError::invalid(format!("{path}.pattern"), &schema["pattern"], &why));
        }
    }

    /// A schema that only says more of values.
    fn nested(&mut self, schema: &Value, skip_any: bool, level: Level, path: &str) {
        if !schema.is_object() {
            return;
        }
        self.values(schema, skip_any, false, level, path);
        self.nested(&schema["items"], false, level, &format!("{path}.items"));
        for (name, property) in entries(&schema["properties"]) {
            self.nested(property, false, Level::Field, &format!("{path}.properties[{name}]"));
        }
        const FORBIDDEN: &[(&str, &str)] = &[
            ("type", "must be empty to be structural"),
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
            ("x-kubernetes-embedded-resource", "must be false to be structural"),
            ("x-kubernetes-int-or-string", "must be false to be structural"),
            ("x-kubernetes-list-map-keys", "must be empty to be structural"),
            ("x-kubernetes-list-type", "must be undefined to be structural"),
            ("x-kubernetes-map-type", "must be undefined to be structural"),
            ("x-kubernetes-validations", "must be empty to be structural"),
        ];
        for (name, why) in FORBIDDEN {
            let given = schema.get(*name).filter(|given| **given != false && **given != "");
            if given.is_some() {
                self.0.push(FieldError::forbidden(format!("{path}.{name}"), why));
            }
        }
        if schema["properties"].get("metadata").is_some() {
            let why = "must not be specified in a nested context";
            self.0.push(FieldError::forbidden(format!("{path}.properties[metadata]"), why));
        }
    }

    /// Every field that `nested` schemas speak of is a field of the schema itself.
    fn complete(&mut self, schema: &Value, from: &Value, path: &str, from_path: &str) {
        for name in ["allOf", "anyOf", "oneOf"] {
            for (at, nested) in list(&from[name]).iter().enumerate() {
                self.complete_nested(schema, nested, path, &format!("{from_path}.{name}[{at}]"));
            }
        }
        self.complete_nested(schema, &from["not"], path, &format!("{from_path}.not"));
        if !std::ptr::eq(schema, from) {
            return;
        }
        self.complete_self(&schema["items"], &format!("{path}.items"));
        self.complete_self(&schema["additionalProperties"], &format!("{path}.additionalProperties"));
        for (name, property) in entries(&schema["properties"]) {
            self.complete_self(property, &format!("{path}.properties[{name}]"));
        }
    }

    fn complete_self(&mut self, schema: &Value, path: &str) {
        if schema.is_object() {
            self.complete(schema, schema, path, path);
        }
    }

    fn complete_nested(&mut self, schema: &Value, nested: &Value, path: &str, nested_path: &str) {
        if !nested.is_object() {
            return;
        }
        if !schema.is_object() {
            return self.0.push(FieldError::required(path, &format!("because it is defined in {nested_path}")));
        }
        self.complete(schema, nested, path, nested_path);
        self.complete_nested(
            &schema["items"],
            &nested["items"],
            &format!("{path}.items"),
            &format!("{nested_path}.items"),
        );
        for (name, property) in entries(&nested["properties"]) {
            let (own, other) = (format!("{path}.properties[{name}]"), format!("{nested_path}.properties[{name}]"));
            match schema["properties"].get(name) {
                Some(known) => self.complete_nested(known, property, &own, &other),
                None => self.0.push(FieldError::required(own, &format!("because it is defined in {other}"))),
            }
        }
    }
}

/// Whether a schema of metadata says something of its names and nothing else.
fn says_only_names(metadata: &Value) -> bool {
    let known = |name: &String| matches!(name.as_str(), "type" | "properties" | "default");
    let names = |name: &String| matches!(name.as_str(), "name" | "generateName");
    metadata.as_object().is_some_and(|fields| fields.keys().all(known))
        && entries(&metadata["properties"]).all(|(name, _)| names(name))
}
