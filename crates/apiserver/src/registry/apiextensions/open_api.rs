//! What must hold of every place of a schema, and of the defaults in it. Paths and texts are upstream's
//! `ValidateCustomResourceDefinitionOpenAPISchema` and `ValidateDefaults`.

use serde_json::Value;

use crate::custom::schema::{Expressions, Schema, field_path};
use crate::invalid::FieldError;
use crate::registry::tree::{entries, list, text};

const TYPES: &[&str] = &["string", "number", "integer", "boolean", "array", "object"];

/// Calls `look` with every place of a schema.
pub(super) fn visit(schema: &Value, look: &mut dyn FnMut(&Value)) {
    if !schema.is_object() {
        return;
    }
    look(schema);
    for (_, property) in entries(&schema["properties"]) {
        visit(property, look);
    }
    for name in ["items", "additionalProperties", "not"] {
        visit(&schema[name], look);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        list(&schema[name]).iter().for_each(|nested| visit(nested, look));
    }
}

/// What a place of a schema may say.
#[derive(Clone, Copy)]
struct Here<'a> {
    /// Why defaults are forbidden, where they are.
    no_defaults: Option<&'a str>,
    is_root: bool,
    in_metadata: bool,
}

/// All that is wrong with a schema.
pub(super) fn errors(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    place(schema, path, Here { no_defaults: None, is_root: true, in_metadata: false }, errors);
}

fn place(schema: &Value, path: &str, here: Here<'_>, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        return;
    }
    forbidden(schema, path, here, errors);
    let inner = Here { is_root: false, ..here };
    let more = &schema["additionalProperties"];
    if !more.is_null() {
        if entries(&schema["properties"]).next().is_some() && *more != true {
            let why = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
        }
        let no_defaults = if here.in_metadata {
            Some("inside additionalProperties applying to object metadata")
        } else {
            inner.no_defaults
        };
        place(more, &format!("{path}.additionalProperties"), Here { no_defaults, ..inner }, errors);
    }
    for (name, property) in entries(&schema["properties"]) {
        let is_meta = matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
        let in_metadata = is_meta && (here.is_root || schema["x-kubernetes-embedded-resource"] == true);
        let top = format!("in top-level {name}");
        let no_defaults = if in_metadata && here.is_root { Some(&*top) } else { inner.no_defaults };
        let below = Here { no_defaults, in_metadata: in_metadata || here.in_metadata, ..inner };
        place(property, &format!("{path}.properties[{name}]"), below, errors);
    }
    place(&schema["not"], &format!("{path}.not"), inner, errors);
    for name in ["allOf", "oneOf", "anyOf"] {
        for (at, nested) in list(&schema[name]).iter().enumerate() {
            place(nested, &format!("{path}.{name}[{at}]"), inner, errors);
        }
    }
    place(&schema["items"], &format!("{path}.items"), inner, errors);
    extensions(schema, path, errors);
    expressions(schema, path, errors);
}

fn forbidden(schema: &Value, path: &str, here: Here<'_>, errors: &mut Vec<FieldError>) {
    if let Some(why) = here.no_defaults.filter(|_| schema.get("default").is_some()) {
        let why = format!("must not be set {why}");
        errors.push(FieldError::forbidden(format!("{path}.default"), &why));
    }
    let kind = text(&schema["type"]);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        let mut sorted = TYPES.to_vec();
        sorted.sort_unstable();
        errors.push(FieldError::not_supported(format!("{path}.type"), &schema["type"], &sorted));
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(format!("{path}.type"), why));
    }
    for name in ["$ref", "definitions", "dependencies", "id", "patternProperties", "additionalItems"] {
        if schema.get(name).is_some_and(|given| !given.is_null() && *given != "") {
            errors.push(FieldError::forbidden(format!("{path}.{name}"), &format!("{name} is not supported")));
        }
    }
    if schema["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), why));
    }
    if schema["items"].is_array() {
        let why = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(format!("{path}.items"), why));
    }
}

fn extensions(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.x-kubernetes-{name}");
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        errors.push(FieldError::invalid(at("preserve-unknown-fields"), &false.into(), "must be true or undefined"));
    }
    for (name, kind, allowed) in
        [("map-type", "object", &["atomic", "granular"][..]), ("list-type", "array", &["atomic", "set", "map"][..])]
    {
        let given = &schema[format!("x-kubernetes-{name}")];
        if given.is_null() {
            continue;
        }
        if schema["type"] != kind {
            let why = format!("must be {kind} if x-kubernetes-{name} is specified");
            let path = format!("{path}.type");
            errors.push(match text(&schema["type"]) {
                "" => FieldError::required(path, &why),
                _ => FieldError::invalid(path, &schema["type"], &why),
            });
        }
        if !allowed.contains(&text(given)) {
            errors.push(FieldError::not_supported(at(name), given, allowed));
        }
    }
    set_items(schema, path, errors);
    map_keys(schema, path, errors);
}

/// The elements of a set are compared whole.
fn set_items(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let items = &schema["items"];
    if schema["x-kubernetes-list-type"] != "set" || schema["type"] != "array" {
        return;
    }
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (name, given) = match text(&items["type"]) {
        "array" => ("x-kubernetes-list-type", &items["x-kubernetes-list-type"]),
        "object" => ("x-kubernetes-map-type", &items["x-kubernetes-map-type"]),
        _ => return,
    };
    // A list is atomic where it does not say; a map is not.
    let atomic = *given == "atomic" || given.is_null() && name == "x-kubernetes-list-type";
    if !atomic {
        errors.push(FieldError::invalid(format!("{path}.items.{name}"), given, why));
    }
}

fn map_keys(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (keys, items) = (&schema["x-kubernetes-list-map-keys"], &schema["items"]);
    let list_type = &schema["x-kubernetes-list-type"];
    let at = |name: &str| format!("{path}.{name}");
    if !list(keys).is_empty() && *list_type != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            Value::Null => FieldError::required(at("x-kubernetes-list-type"), why),
            given => FieldError::invalid(at("x-kubernetes-list-type"), given, why),
        });
    }
    let nullable = |errors: &mut Vec<FieldError>| {
        if matches!(text(list_type), "map" | "set") && items["nullable"] == true {
            let why = format!("cannot be nullable when x-kubernetes-list-type is {}", text(list_type));
            errors.push(FieldError::forbidden(at("items.nullable"), &why));
        }
    };
    nullable(errors);
    if *list_type != "map" {
        return;
    }
    if list(keys).is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(at("x-kubernetes-list-map-keys"), why));
    }
    if items.is_null() {
        return errors.push(FieldError::required(at("items"), "must have a schema if x-kubernetes-list-type is map"));
    }
    if items["type"] != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.push(FieldError::invalid(at("items.type"), &text(&items["type"]).into(), why));
    }
    for (index, key) in list(keys).iter().enumerate() {
        let name = text(key);
        let Some(property) = items["properties"].get(name) else {
            let why = "entries must all be names of item properties";
            errors.push(FieldError::invalid(at("x-kubernetes-list-map-keys"), keys, why));
            continue;
        };
        if matches!(text(&property["type"]), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(at(&format!("items.properties[{name}].type")), &items["type"], why));
        }
        if list(keys)[..index].contains(key) {
            let why = "must not contain duplicate entries";
            errors.push(FieldError::invalid(at("x-kubernetes-list-map-keys"), keys, why));
        }
        if property["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(at(&format!("items.properties[{name}].nullable")), why));
        }
        if property.get("default").is_none() && !list(&items["required"]).contains(key) {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(at(&format!("items.properties[{name}].default")), why));
        }
    }
}

/// What can be said of rules without reading them.
fn expressions(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (at, rule) in list(&schema["x-kubernetes-validations"]).iter().enumerate() {
        let at = |name: &str| format!("{path}.x-kubernetes-validations[{at}].{name}");
        let (expression, message) = (text(&rule["rule"]).trim(), text(&rule["message"]));
        if expression.is_empty() {
            errors.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(at("message"), &rule["message"], "must be non-empty if specified"));
        } else if message.trim().contains('\n') {
            errors.push(FieldError::invalid(at("message"), &rule["message"], "must not contain line breaks"));
        } else if expression.contains('\n') && message.is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(at("message"), why));
        }
        let message_expression = text(&rule["messageExpression"]);
        if !message_expression.is_empty() && message_expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(at("messageExpression"), why));
        }
        const REASONS: &[&str] =
            &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        let reason = &rule["reason"];
        if !reason.is_null() && !REASONS.contains(&text(reason)) {
            errors.push(FieldError::not_supported(at("reason"), reason, REASONS));
        }
        field_path_errors(rule, schema, &at("fieldPath"), errors);
    }
}

fn field_path_errors(rule: &Value, schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let path = text(&rule["fieldPath"]);
    if path.is_empty() {
        return;
    }
    let mut complain = |why: &str| errors.push(FieldError::invalid(at, &rule["fieldPath"], why));
    if path.trim().is_empty() {
        complain("must be non-empty if specified");
    }
    if path.contains(['\n', '\r']) {
        complain("must not contain line breaks");
    }
    if path.trim().is_empty() || field_path::normalized(path, schema).is_err() {
        complain("must be a valid path");
    }
}

/// Defaults that would not be valid values, or would be pruned.
pub(super) fn default_errors(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        return;
    }
    if let Some(default) = schema.get("default") {
        let (place, path) = (Schema::compile(schema), format!("{path}.default"));
        if place.would_prune(default) {
            errors.push(FieldError::invalid(&*path, default, "must not have unknown fields"));
        }
        let wrong = place.validate(default, None, &path);
        if let (true, Some(rules)) = (wrong.is_empty(), Expressions::compile(schema, false)) {
            // As if it had been there before, and as if it had not.
            let mut found = rules.errors(default, Some(default), &path, &|_| {});
            if found.is_empty() {
                found = rules.errors(default, None, &path, &|_| {});
            }
            errors.extend(found);
        }
        errors.extend(wrong);
    }
    default_errors(&schema["items"], &format!("{path}.items"), errors);
    for (name, property) in entries(&schema["properties"]) {
        default_errors(property, &format!("{path}.properties[{name}]"), errors);
    }
}
