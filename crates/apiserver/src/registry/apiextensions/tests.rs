//! Definitions by table: what is wrong with one, in upstream's words.

use serde_json::{Value, json};

use super::definition::validate;

fn definition(schema: &Value) -> Value {
    json!({"metadata": {"name": "as.example.com"}, "status": {"storedVersions": ["v1"]},
        "spec": {"group": "example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
            "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn said(definition: &Value, old: Option<&Value>) -> Vec<String> {
    validate(definition, old).iter().map(ToString::to_string).collect()
}

#[test]
fn schemas_must_be_structural() {
    const AT: &str = "spec.versions[0].schema.openAPIV3Schema";
    let place = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    let table = [
        (place(json!({"type": "string"})), vec![]),
        (json!({}), vec![".type: Required value: must not be empty at the root"]),
        (place(json!({})), vec![".properties[a].type: Required value: must not be empty for specified object fields"]),
        (place(json!({"type": "array"})), vec![".properties[a].items: Required value: must be specified"]),
        (
            place(json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]})),
            vec![
                ".properties[a].properties[b]: Required value: because it is defined in AT.properties[a].anyOf[0].properties[b]",
            ],
        ),
        (
            place(json!({"type": "string", "not": {"type": "string"}})),
            vec![".properties[a].not.type: Forbidden: must be empty to be structural"],
        ),
        (
            place(json!({"type": "integer", "default": "x"})),
            vec![
                ".properties[a].default: Invalid value: \"string\": AT.properties[a].default in body must be of type integer: \"string\"",
            ],
        ),
        (
            place(json!({"type": "object", "default": {"x": 1}})),
            vec![".properties[a].default: Invalid value: {\"x\":1}: must not have unknown fields"],
        ),
        (
            place(json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}})),
            vec![
                ".properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            place(json!({"type": "string", "x-kubernetes-map-type": "atomic"})),
            vec![
                ".properties[a].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified",
            ],
        ),
    ];
    for (schema, expected) in table {
        let expected: Vec<String> = expected.iter().map(|rest| format!("{AT}{}", rest.replace("AT", AT))).collect();
        assert_eq!(said(&definition(&schema), None), expected, "{schema}");
    }
}

#[test]
fn the_rest_of_a_definition_must_fit_together() {
    let good = definition(&json!({"type": "object"}));
    assert_eq!(said(&good, None), Vec::<String>::new());
    let table = [
        (
            "/metadata/name",
            json!("b.example.com"),
            r#"metadata.name: Invalid value: "b.example.com": must be spec.names.plural+"."+spec.group"#,
        ),
        ("/spec/scope", json!("x"), r#"spec.scope: Unsupported value: "x": supported values: "Cluster", "Namespaced""#),
        (
            "/spec/names/listKind",
            json!("A"),
            r#"spec.names.listKind: Invalid value: "A": kind and listKind may not be the same"#,
        ),
    ];
    for (at, value, expected) in table {
        let mut definition = good.clone();
        *definition.pointer_mut(at).expect("the path is in the definition") = value;
        assert_eq!(said(&definition, None), [expected]);
    }
    let mut changed = good.clone();
    changed["spec"]["scope"] = "Cluster".into();
    let mut old = good;
    assert_eq!(said(&changed, Some(&old)), Vec::<String>::new(), "nothing is stored before it is established");
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    assert_eq!(said(&changed, Some(&old)), [r#"spec.scope: Invalid value: "Cluster": field is immutable"#]);
}
