//! Types as OpenAPI schemas.

use serde_json::{Map, Value, json};

use super::{Custom, Dialect, group_versions, listed};
use crate::Resource;
use crate::schema::{Descriptions, Field, Kind, ListType, Shape, TypeRef};

/// What the schemas of custom resources refer to besides themselves.
pub(super) const METADATA: &[&str] = &[OBJECT_META, LIST_META];
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Kinds that every group version has.
const EVERYWHERE: &[&str] = &["DeleteOptions", "WatchEvent"];

/// A built-in type.
pub(super) fn built_in(of: TypeRef, descriptions: &Descriptions, dialect: Dialect) -> Value {
    let mut schema = Map::new();
    describe(&mut schema, descriptions.of_type(of));
    match of.scalar() {
        Some(kind) => schema.extend(scalar_type(kind, dialect)),
        None => {
            schema.insert("type".into(), "object".into());
            let fields = of.fields().iter().zip(descriptions.of_fields(of));
            let properties: Map<_, _> =
                fields.map(|(field, text)| (field.name.to_owned(), property(field, text, dialect))).collect();
            if !properties.is_empty() {
                schema.insert("properties".into(), properties.into());
            }
            let required: Vec<&str> = of.fields().iter().filter(|it| it.required).map(|it| it.name).collect();
            if !required.is_empty() {
                schema.insert("required".into(), required.into());
            }
        }
    }
    if of.is_atomic() {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some((discriminator, members)) = of.union() {
        let members: Map<_, _> = members.map(|member| (member.to_owned(), capitalized(member).into())).collect();
        let mut union = json!({"fields-to-discriminateBy": members});
        if !discriminator.is_empty() {
            union["discriminator"] = discriminator.into();
        }
        schema.insert("x-kubernetes-unions".into(), json!([union]));
    }
    let kinds = kinds(of);
    if !kinds.is_empty() {
        schema.insert("x-kubernetes-group-version-kind".into(), kinds.into());
    }
    Value::Object(schema)
}

fn kinds(of: TypeRef) -> Vec<Value> {
    if EVERYWHERE.contains(&of.short_name()) {
        let all = group_versions().into_iter();
        return all.map(|(group, version)| group_version_kind(group, version, of.short_name())).collect();
    }
    let Some((api_version, kind)) = of.kind() else { return Vec::new() };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    vec![group_version_kind(group, version, kind)]
}

/// `x-kubernetes-group-version-kind` for one kind.
pub(super) fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

fn describe(schema: &mut Map<String, Value>, text: &str) {
    if !text.is_empty() {
        schema.insert("description".into(), text.into());
    }
}

fn property(field: &Field, text: &str, dialect: Dialect) -> Value {
    let value = value_schema(field, dialect);
    let mut schema = match field.shape {
        Shape::One => value,
        Shape::List => json!({"type": "array", "items": value}),
        Shape::Map => json!({"type": "object", "additionalProperties": value}),
        Shape::MapOfLists => {
            json!({"type": "object", "additionalProperties": {"type": "array", "items": value}})
        }
    };
    let schema = schema.as_object_mut().map(std::mem::take).unwrap_or_default();
    // In v3 nothing may stand beside a reference.
    let mut schema = match dialect {
        Dialect::V3 if schema.contains_key("$ref") && !text.is_empty() => {
            Map::from_iter([("allOf".to_owned(), json!([schema]))])
        }
        _ => schema,
    };
    describe(&mut schema, text);
    let mut mark = |name: &str, value: Value| schema.insert(format!("x-kubernetes-{name}"), value);
    if let Some(kind) = field.list_type() {
        let kind = match kind {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        mark("list-type", kind.into());
    }
    let keys: Vec<&str> = field.map_keys().collect();
    if !keys.is_empty() {
        mark("list-map-keys", keys.into());
    }
    if let Some(key) = field.merge_key() {
        mark("patch-merge-key", key.into());
    }
    let strategies: Vec<&str> = field.patch_strategies().collect();
    if !strategies.is_empty() {
        mark("patch-strategy", strategies.join(",").into());
    }
    if let Some(kind) = field.map_type() {
        mark("map-type", kind.into());
    }
    Value::Object(schema)
}

fn value_schema(field: &Field, dialect: Dialect) -> Value {
    match field.type_ref() {
        Some(of) => dialect.reference(of.name()),
        None => Value::Object(scalar_type(field.kind(), dialect)),
    }
}

fn scalar_type(kind: Kind, dialect: Dialect) -> Map<String, Value> {
    let schema = match (kind, dialect) {
        (Kind::String, _) | (Kind::Quantity, Dialect::V2) => json!({"type": "string"}),
        (Kind::Int32, _) => json!({"type": "integer", "format": "int32"}),
        (Kind::Int64, _) => json!({"type": "integer", "format": "int64"}),
        (Kind::Double, _) => json!({"type": "number", "format": "double"}),
        (Kind::Bool, _) => json!({"type": "boolean"}),
        (Kind::Bytes, _) => json!({"type": "string", "format": "byte"}),
        (Kind::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Kind::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Kind::IntOrString, Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Kind::Time | Kind::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Kind::Object | Kind::Type(_), _) => json!({"type": "object"}),
        (Kind::Any, _) => json!({}),
    };
    if let Value::Object(schema) = schema { schema } else { Map::new() }
}

fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The name of a custom resource's type: `com.example.stable.v1.CronTab` for `stable.example.com/v1 CronTab`.
pub(super) fn custom_name(resource: &Resource) -> String {
    let group: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), resource.version, resource.kind)
}

/// A custom resource's type and that of its list.
pub(super) fn custom(custom: Custom<'_>, descriptions: &Descriptions, dialect: Dialect) -> Vec<(String, Value)> {
    let resource = custom.resource;
    let name = custom_name(resource);
    let kind = |kind: &str| json!([group_version_kind(&resource.group, &resource.version, kind)]);
    let mut object = custom.schema.as_object().cloned().unwrap_or_default();
    // Clients of v2 refuse every field that is not named once one is.
    let open = dialect == Dialect::V2 && object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if open {
        object.clear();
    } else if dialect == Dialect::V2 {
        object = as_v2(object);
    }
    object.insert("type".into(), "object".into());
    object.insert("x-kubernetes-group-version-kind".into(), kind(&resource.kind));
    if !open && let Value::Object(properties) = object.entry("properties").or_insert_with(|| json!({})) {
        properties.extend(meta("ConfigMap", descriptions, dialect));
    }
    let list_kind = format!("{}List", resource.kind);
    let mut properties = meta("ConfigMapList", descriptions, dialect);
    properties.insert("items".into(), json!({"type": "array", "items": dialect.reference(&name)}));
    let list = json!({"description": format!("{list_kind} is a list of {}", resource.kind), "type": "object",
        "properties": properties, "required": ["items"], "x-kubernetes-group-version-kind": kind(&list_kind)});
    let mut types = vec![(name.clone(), Value::Object(object))];
    if listed(resource) {
        types.push((format!("{name}List"), list));
    }
    types
}

/// The fields that every object has, or every list, as this one of them has them.
fn meta(kind: &str, descriptions: &Descriptions, dialect: Dialect) -> Map<String, Value> {
    let of = crate::schema::by_kind("", "v1", kind).expect("the table has the core kinds");
    let fields = of.fields().iter().zip(descriptions.of_fields(of));
    let common = fields.filter(|(field, _)| ["apiVersion", "kind", "metadata"].contains(&field.name));
    common.map(|(field, text)| (field.name.to_owned(), property(field, text, dialect))).collect()
}

/// What v2 can say of a v3 schema: less, and where leaving a part out would make it stricter, nothing at all.
fn as_v2(schema: Map<String, Value>) -> Map<String, Value> {
    const UNKNOWN: &[&str] = &["anyOf", "oneOf", "not", "default", "x-kubernetes-validations"];
    // Clients of v2 refuse fields that they do not know, nulls, and anything but the one type.
    let is = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
    if is("x-kubernetes-preserve-unknown-fields") || is("x-kubernetes-int-or-string") || is("nullable") {
        return schema.into_iter().filter(|(name, _)| name == "description" || name.starts_with("x-")).collect();
    }
    let known = schema.into_iter().filter(|(name, _)| !UNKNOWN.contains(&&**name));
    known
        .map(|(name, value)| {
            let value = match (&*name, value) {
                ("items" | "additionalProperties", Value::Object(inner)) => Value::Object(as_v2(inner)),
                ("properties", Value::Object(fields)) => fields
                    .into_iter()
                    .map(|(name, field)| match field {
                        Value::Object(field) => (name, Value::Object(as_v2(field))),
                        other => (name, other),
                    })
                    .collect(),
                (_, value) => value,
            };
            (name, value)
        })
        .collect()
}
