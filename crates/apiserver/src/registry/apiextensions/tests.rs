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

#[test]
fn rules_must_be_read_and_bounded() {
    const AT: &str = "spec.versions[0].schema.openAPIV3Schema";
    const BUDGET: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
                          strings are declared)";
    let place = |place: Value| json!({"type": "object", "properties": {"a": place}});
    let rule = |rule: Value| {
        place(json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {
            "n": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}}, "short": {"type": "string", "maxLength": 10}}}))
    };
    let rules = ".properties[a].x-kubernetes-validations[0]";
    let table = [
        (rule(json!({"rule": "self.n > 0", "messageExpression": "'no ' + self.short", "fieldPath": ".n"})), vec![]),
        (
            rule(json!({"rule": "self.z == 100"})),
            vec![format!(
                "{rules}.rule: Invalid value: {}: compilation failed: ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^",
                r#"{"Rule":"self.z == 100","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}"#
            )],
        ),
        (rule(json!({"rule": " "})), vec![format!("{rules}.rule: Required value: rule is not specified")]),
        (
            rule(json!({"rule": "self.n > 0", "messageExpression": " "})),
            vec![format!("{rules}.messageExpression: Required value: messageExpression must be non-empty if specified")],
        ),
        (
            rule(json!({"rule": "self.n > 0", "fieldPath": ".x"})),
            vec![format!("{rules}.fieldPath: Invalid value: \".x\": must be a valid path")],
        ),
        (
            rule(json!({"rule": "self.n > 0", "optionalOldSelf": true})),
            vec![format!("{rules}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule")],
        ),
        (
            place(json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}})),
            vec![format!(
                ".properties[a].items.x-kubernetes-validations[0].rule: Invalid value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within {AT}.properties[a]"
            )],
        ),
        (
            place(json!({"type": "array", "items": {"type": "array", "items": {"type": "string"},
                "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]}})),
            vec![
                format!(".properties[a].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {BUDGET}"),
                ".properties[a].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema".to_owned(),
                format!(": Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {BUDGET}"),
            ],
        ),
        (
            place(json!({"type": "string", "default": "b", "x-kubernetes-validations": [{"rule": "self == 'a'"}]})),
            vec![".properties[a].default: Invalid value: \"b\": failed rule: self == 'a'".to_owned()],
        ),
    ];
    for (schema, expected) in table {
        let expected: Vec<String> = expected.iter().map(|rest| format!("{AT}{rest}")).collect();
        assert_eq!(said(&definition(&schema), None), expected, "{schema}");
    }
    let wrong = [
        (json!({"rule": "self.n"}), "cel expression must evaluate to a bool"),
        (json!({"rule": "self = 42"}), "Syntax error"),
        (json!({"rule": "true", "messageExpression": "self.n"}), "messageExpression must evaluate to a string"),
        // What a number's text is long is not known: this is what upstream says, too.
        (
            json!({"rule": "true", "messageExpression": "'no ' + string(self.n)"}),
            "estimated messageExpression cost exceeds budget",
        ),
        (
            json!({"rule": "true", "messageExpression": "self.x"}),
            "messageExpression compilation failed: ERROR: <input>:1:5: undefined field 'x'",
        ),
        (
            json!({"rule": "self.l.all(x, self.l.all(y, x == y))"}),
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
    ];
    for (given, expected) in wrong {
        let said = said(&definition(&rule(given)), None);
        assert!(said[0].contains(expected), "{said:?}");
    }
}

/// A definition that was taken while rules could cost more can still be changed where its schema is not.
#[test]
fn an_unchanged_schema_is_let_off_the_cost_of_each_rule() {
    let schema = |limit: u32| {
        json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": limit, "items": {"type": "string", "maxLength": 10},
            "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}})
    };
    let old = definition(&schema(2000));
    assert_eq!(said(&old, None).len(), 1, "{:?}", said(&old, None));
    let mut changed = old.clone();
    changed["spec"]["names"]["shortNames"] = json!(["x"]);
    assert_eq!(said(&changed, Some(&old)), Vec::<String>::new());
    let dearer = definition(&schema(2001));
    assert_eq!(said(&dearer, Some(&old)).len(), 1);
}
