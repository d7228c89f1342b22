//! OpenAPI v2 in protobuf, as clients in Go ask for it: gnostic's `openapi.v2.Document`.
//!
//! Written from the JSON document by a table: which field has which number, and what its value is. Vendor extensions and
//! defaults are YAML texts there, of which JSON is one.

use serde_json::Value;

use crate::protobuf::encode::{close, open, put_bytes, put_double, put_int};

/// A message: its fields by JSON name, and where other names go.
struct Shape {
    fields: &'static [(&'static str, u16, Put)],
    /// Names that are data: each becomes a message of `name` 1 and `value` 2 at this tag.
    every: Option<(u16, &'static Put)>,
    /// The tag of vendor extensions.
    vendor: u16,
}

/// How a value is written.
enum Put {
    Text,
    Texts,
    Int,
    Double,
    Bool,
    /// A message of `yaml` 2.
    Yaml,
    /// [`Put::Yaml`] for each element.
    Yamls,
    One(&'static Shape),
    Many(&'static Shape),
    /// A message that holds the value at this tag.
    Inside(u16, &'static Put),
    /// A schema 1, or a boolean 2.
    SchemaOrBool,
    /// A body parameter 1, or another 2, by place.
    Parameter,
    /// Each a parameter 1, or a reference 2.
    Parameters,
}

static DOCUMENT: Shape = Shape {
    fields: &[
        ("swagger", 1, Put::Text),
        ("info", 2, Put::One(&INFO)),
        ("paths", 8, Put::One(&PATHS)),
        ("definitions", 9, Put::One(&DEFINITIONS)),
        ("parameters", 10, Put::One(&PARAMETERS)),
        ("security", 12, Put::Many(&SECURITY_REQUIREMENT)),
        ("securityDefinitions", 13, Put::One(&SECURITY_DEFINITIONS)),
    ],
    every: None,
    vendor: 16,
};

static INFO: Shape = Shape {
    fields: &[("title", 1, Put::Text), ("version", 2, Put::Text), ("description", 3, Put::Text)],
    every: None,
    vendor: 7,
};

static PATHS: Shape = Shape { fields: &[], every: Some((2, &Put::One(&PATH_ITEM))), vendor: 1 };
static DEFINITIONS: Shape = Shape { fields: &[], every: Some((1, &Put::One(&SCHEMA))), vendor: 0 };
static PARAMETERS: Shape = Shape { fields: &[], every: Some((1, &Put::Parameter)), vendor: 0 };
static RESPONSES: Shape = Shape { fields: &[], every: Some((1, &Put::Inside(1, &Put::One(&RESPONSE)))), vendor: 2 };
static SECURITY_REQUIREMENT: Shape = Shape { fields: &[], every: Some((1, &Put::Inside(1, &Put::Texts))), vendor: 0 };
static SECURITY_DEFINITIONS: Shape =
    Shape { fields: &[], every: Some((1, &Put::Inside(2, &Put::One(&API_KEY)))), vendor: 0 };

static API_KEY: Shape = Shape {
    fields: &[("type", 1, Put::Text), ("name", 2, Put::Text), ("in", 3, Put::Text), ("description", 4, Put::Text)],
    every: None,
    vendor: 5,
};

static PATH_ITEM: Shape = Shape {
    fields: &[
        ("$ref", 1, Put::Text),
        ("get", 2, Put::One(&OPERATION)),
        ("put", 3, Put::One(&OPERATION)),
        ("post", 4, Put::One(&OPERATION)),
        ("delete", 5, Put::One(&OPERATION)),
        ("options", 6, Put::One(&OPERATION)),
        ("head", 7, Put::One(&OPERATION)),
        ("patch", 8, Put::One(&OPERATION)),
        ("parameters", 9, Put::Parameters),
    ],
    every: None,
    vendor: 10,
};

static OPERATION: Shape = Shape {
    fields: &[
        ("tags", 1, Put::Texts),
        ("summary", 2, Put::Text),
        ("description", 3, Put::Text),
        ("operationId", 5, Put::Text),
        ("produces", 6, Put::Texts),
        ("consumes", 7, Put::Texts),
        ("parameters", 8, Put::Parameters),
        ("responses", 9, Put::One(&RESPONSES)),
        ("schemes", 10, Put::Texts),
        ("deprecated", 11, Put::Bool),
        ("security", 12, Put::Many(&SECURITY_REQUIREMENT)),
    ],
    every: None,
    vendor: 13,
};

static RESPONSE: Shape = Shape {
    fields: &[("description", 1, Put::Text), ("schema", 2, Put::Inside(1, &Put::One(&SCHEMA)))],
    every: None,
    vendor: 5,
};

static BODY_PARAMETER: Shape = Shape {
    fields: &[
        ("description", 1, Put::Text),
        ("name", 2, Put::Text),
        ("in", 3, Put::Text),
        ("required", 4, Put::Bool),
        ("schema", 5, Put::One(&SCHEMA)),
    ],
    every: None,
    vendor: 6,
};

static QUERY_PARAMETER: Shape = Shape {
    fields: &[
        ("required", 1, Put::Bool),
        ("in", 2, Put::Text),
        ("description", 3, Put::Text),
        ("name", 4, Put::Text),
        ("type", 6, Put::Text),
        ("format", 7, Put::Text),
        ("uniqueItems", 20, Put::Bool),
    ],
    every: None,
    vendor: 23,
};

static PATH_PARAMETER: Shape = Shape {
    fields: &[
        ("required", 1, Put::Bool),
        ("in", 2, Put::Text),
        ("description", 3, Put::Text),
        ("name", 4, Put::Text),
        ("type", 5, Put::Text),
        ("format", 6, Put::Text),
        ("uniqueItems", 19, Put::Bool),
    ],
    every: None,
    vendor: 22,
};

static IN_PATH: Put = Put::One(&PATH_PARAMETER);
static IN_QUERY: Put = Put::One(&QUERY_PARAMETER);

static SCHEMA: Shape = Shape {
    fields: &[
        ("$ref", 1, Put::Text),
        ("format", 2, Put::Text),
        ("title", 3, Put::Text),
        ("description", 4, Put::Text),
        ("default", 5, Put::Yaml),
        ("multipleOf", 6, Put::Double),
        ("maximum", 7, Put::Double),
        ("exclusiveMaximum", 8, Put::Bool),
        ("minimum", 9, Put::Double),
        ("exclusiveMinimum", 10, Put::Bool),
        ("maxLength", 11, Put::Int),
        ("minLength", 12, Put::Int),
        ("pattern", 13, Put::Text),
        ("maxItems", 14, Put::Int),
        ("minItems", 15, Put::Int),
        ("uniqueItems", 16, Put::Bool),
        ("maxProperties", 17, Put::Int),
        ("minProperties", 18, Put::Int),
        ("required", 19, Put::Texts),
        ("enum", 20, Put::Yamls),
        ("additionalProperties", 21, Put::SchemaOrBool),
        ("type", 22, Put::Inside(1, &Put::Texts)),
        ("items", 23, Put::Inside(1, &Put::One(&SCHEMA))),
        ("allOf", 24, Put::Many(&SCHEMA)),
        ("properties", 25, Put::One(&DEFINITIONS)),
        ("example", 30, Put::Yaml),
    ],
    every: None,
    vendor: 31,
};

/// Writes a v2 document.
pub(super) fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    fields(&mut out, &DOCUMENT, document);
    out
}

fn fields(out: &mut Vec<u8>, shape: &Shape, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some((_, tag, how)) = shape.fields.iter().find(|(known, ..)| known == name) {
            put(out, *tag, how, value);
        } else if let Some((tag, how)) = shape.every.filter(|_| shape.vendor == 0 || !name.starts_with("x-")) {
            named(out, tag, name, |out| put(out, 2, how, value));
        } else if name.starts_with("x-") && shape.vendor != 0 {
            named(out, shape.vendor, name, |out| put(out, 2, &Put::Yaml, value));
        }
    }
}

fn named(out: &mut Vec<u8>, tag: u16, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    let entry = open(out, tag);
    put_bytes(out, 1, name.as_bytes());
    value(out);
    close(out, entry);
}

fn put(out: &mut Vec<u8>, tag: u16, how: &Put, value: &Value) {
    let within = |out: &mut Vec<u8>, tag: u16, shape: &Shape, value: &Value| {
        let start = open(out, tag);
        fields(out, shape, value);
        close(out, start);
    };
    match how {
        Put::Text => put_bytes(out, tag, value.as_str().unwrap_or_default().as_bytes()),
        Put::Texts => each(value, |text| put(out, tag, &Put::Text, text)),
        Put::Int => put_int(out, tag, value.as_i64().unwrap_or_default()),
        Put::Double => put_double(out, tag, value.as_f64().unwrap_or_default()),
        Put::Bool => put_int(out, tag, i64::from(value.as_bool().unwrap_or_default())),
        Put::Yaml => {
            let start = open(out, tag);
            put_bytes(out, 2, format!("{value}\n").as_bytes());
            close(out, start);
        }
        Put::Yamls => each(value, |item| put(out, tag, &Put::Yaml, item)),
        Put::One(shape) => within(out, tag, shape, value),
        Put::Many(shape) => each(value, |item| within(out, tag, shape, item)),
        Put::Inside(inner, how) => {
            let start = open(out, tag);
            put(out, *inner, how, value);
            close(out, start);
        }
        Put::SchemaOrBool => {
            let start = open(out, tag);
            match value {
                Value::Bool(_) => put(out, 2, &Put::Bool, value),
                schema => within(out, 1, &SCHEMA, schema),
            }
            close(out, start);
        }
        Put::Parameter => parameter(out, tag, value),
        Put::Parameters => each(value, |item| {
            let start = open(out, tag);
            match item.get("$ref") {
                Some(reference) => put(out, 2, &Put::Inside(1, &Put::Text), reference),
                None => parameter(out, 1, item),
            }
            close(out, start);
        }),
    }
}

fn parameter(out: &mut Vec<u8>, tag: u16, value: &Value) {
    let start = open(out, tag);
    match value["in"].as_str() {
        Some("body") => put(out, 1, &Put::One(&BODY_PARAMETER), value),
        Some("path") => put(out, 2, &Put::Inside(4, &IN_PATH), value),
        _ => put(out, 2, &Put::Inside(3, &IN_QUERY), value),
    }
    close(out, start);
}

/// Each element of a list, or the value itself where it is none.
fn each(value: &Value, mut write: impl FnMut(&Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(write),
        one => write(one),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(tag: u16, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, tag, &parts.concat());
        out
    }

    #[test]
    fn writes_gnostics_numbers() {
        let document = json!({"swagger": "2.0", "definitions": {"a.B": {"type": "object", "x-kubernetes-list-type": "map",
            "properties": {"p": {"$ref": "#/definitions/C"}}, "additionalProperties": {"format": "int32"}}},
            "paths": {"/x": {"get": {"parameters": [{"$ref": "#/parameters/q"}, {"name": "n", "in": "path"}]}}}});
        let reference = data(2, &[&data(1, &[b"#/definitions/C"])]);
        let schema = [
            data(22, &[&data(1, &[b"object"])]),
            data(31, &[&data(1, &[b"x-kubernetes-list-type"]), &data(2, &[&data(2, &[b"\"map\"\n"])])]),
            data(25, &[&data(1, &[&data(1, &[b"p"]), &reference])]),
            data(21, &[&data(1, &[&data(2, &[b"int32"])])]),
        ]
        .concat();
        let parameters = [
            data(8, &[&data(2, &[&data(1, &[b"#/parameters/q"])])]),
            data(8, &[&data(1, &[&data(2, &[&data(4, &[&data(4, &[b"n"]), &data(2, &[b"path"])])])])]),
        ]
        .concat();
        let expected = [
            data(1, &[b"2.0"]),
            data(9, &[&data(1, &[&data(1, &[b"a.B"]), &data(2, &[&schema])])]),
            data(8, &[&data(2, &[&data(1, &[b"/x"]), &data(2, &[&data(2, &[&parameters])])])]),
        ];
        assert_eq!(v2_protobuf(&document), expected.concat());
    }
}
