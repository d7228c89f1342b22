//! Schemas by table: what they leave of a value, set in it, and say of it.

use serde_json::{Value, json};

use super::Schema;

#[test]
fn unknown_fields_are_pruned_unless_they_are_to_stay() {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let table = [
        (json!({"a": {"type": "string"}}), json!({"a": "x", "b": 1}), json!({"a": "x"}), vec!["b"]),
        (json!({"a": any}), json!({"a": {"b": {"c": 1}}}), json!({"a": {"b": {"c": 1}}}), vec![]),
        (
            json!({"a": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"x": {"type": "integer"}}}}}}),
            json!({"a": {"known": {"x": 1, "y": 2}, "other": {"z": 1}}}),
            json!({"a": {"known": {"x": 1}, "other": {"z": 1}}}),
            vec!["a.known.y"],
        ),
        (
            json!({"a": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}}}),
            json!({"a": {"k": {"x": "1", "y": "2"}}}),
            json!({"a": {"k": {"x": "1"}}}),
            vec!["a.k.y"],
        ),
        (
            json!({"a": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}}}),
            json!({"a": [{"x": "1", "y": "2"}]}),
            json!({"a": [{"x": "1"}]}),
            vec!["a[0].y"],
        ),
        (
            json!({"a": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}),
            json!({"a": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {}}}),
            json!({"a": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {}}}),
            vec![],
        ),
        (
            json!({"a": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}),
            json!({"a": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {"x": 1}}}),
            json!({"a": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {}}}),
            vec!["a.spec.x"],
        ),
    ];
    for (properties, given, expected, dropped) in table {
        let schema = Schema::compile(&json!({"type": "object", "properties": properties}));
        let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}});
        let mut wanted = object.clone();
        object.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        wanted.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        assert_eq!((schema.prune(&mut object), object), (dropped.into_iter().map(str::to_owned).collect(), wanted));
    }
}

#[test]
fn defaults_are_set_once() {
    let schema = Schema::compile(&json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "x"},
        "n": {"type": "string", "default": "x", "nullable": true},
        "o": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 3}}},
        "none": {"type": "object", "properties": {"b": {"type": "integer", "default": 3}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "integer", "default": 3}}}},
        "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"b": {"type": "integer", "default": 3}}}}}}));
    let table = [
        (json!({}), json!({"a": "x", "n": "x", "o": {"b": 3}})),
        (json!({"a": null, "n": null, "o": {}}), json!({"a": "x", "n": null, "o": {"b": 3}})),
        (
            json!({"a": "y", "n": "y", "o": {"b": 1}, "l": [{}], "m": {"k": {}}, "none": {}}),
            json!({"a": "y", "n": "y", "o": {"b": 1}, "l": [{"b": 3}], "m": {"k": {"b": 3}}, "none": {"b": 3}}),
        ),
    ];
    for (mut given, expected) in table {
        schema.set_defaults(&mut given);
        assert_eq!(given, expected);
        schema.set_defaults(&mut given);
        assert_eq!(given, expected);
    }
}

#[test]
fn values_are_judged_in_upstreams_words() {
    let table: &[(Value, Value, &[&str])] = &[
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            &[r#"a: Invalid value: "a": a in body should be at least 2 chars long"#],
        ),
        (json!({"type": "string", "maxLength": 2}), json!("abc"), &["a: Too long: may not be more than 2 bytes"]),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("x"),
            &[r#"a: Invalid value: "x": a in body must be of type ipv4: "x""#],
        ),
        (json!({"type": "string", "format": "unheard-of"}), json!("x"), &[]),
        (json!({"type": "integer"}), json!(1.0), &[]),
        (
            json!({"type": "integer"}),
            json!(1.5),
            &[r#"a: Invalid value: "number": a in body must be of type integer: "number""#],
        ),
        (json!({"type": "number"}), json!(1), &[]),
        (
            json!({"type": "number", "multipleOf": 0.5}),
            json!(0.7),
            &["a: Invalid value: 0.7: a in body should be a multiple of 0.5"],
        ),
        (
            json!({"type": "number", "maximum": 1, "exclusiveMaximum": true}),
            json!(1),
            &["a: Invalid value: 1: a in body should be less than 1"],
        ),
        (
            json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
            json!([]),
            &["a: Invalid value: 0: a in body should have at least 1 items"],
        ),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["a", "b"]),
            &["a: Too many: 2: must have at most 1 items"],
        ),
        (
            json!({"type": "object", "maxProperties": 1}),
            json!({"x": 1, "y": 2}),
            &["a: Too many: 2: must have at most 1 items"],
        ),
        (
            json!({"type": "object", "minProperties": 1}),
            json!({}),
            &["a: Invalid value: 0: a in body should have at least 1 properties"],
        ),
        (json!({"type": "object", "required": ["x"]}), json!({}), &["a.x: Required value"]),
        (
            json!({"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}]}),
            json!({}),
            &[
                r#"<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found none valid"#,
                "a.x: Required value",
            ],
        ),
        (
            json!({"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}]}),
            json!({"x": 1, "y": 1}),
            &[
                r#"<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
        (
            json!({"type": "object", "anyOf": [{"required": ["x"]}, {"required": ["y"]}]}),
            json!({}),
            &[r#"<nil>: Invalid value: "": "a" must validate at least one schema (anyOf)"#, "a.x: Required value"],
        ),
        (
            json!({"type": "object", "not": {"required": ["x"]}}),
            json!({"x": 1}),
            &[r#"<nil>: Invalid value: "": "a" must not validate the schema (not)"#],
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^[0-9]+%$"}),
            json!("10"),
            &[r#"a: Invalid value: "10": a in body should match '^[0-9]+%$'"#],
        ),
    ];
    for (place, value, expected) in table {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"a": place}}));
        let errors: Vec<String> =
            schema.validate(&json!({"a": value}), None, "").iter().map(ToString::to_string).collect();
        assert_eq!(errors, *expected, "{place} {value}");
    }
}

#[test]
fn what_was_wrong_before_is_not_held_against_a_change() {
    let schema = Schema::compile(&json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "properties": {"n": {"type": "string"}, "v": {"type": "integer", "minimum": 5}}}}}}));
    let old = json!({"a": "long", "b": "x", "l": [{"n": "x", "v": 1}]});
    let change = |a: &str, l: Value| json!({"a": a, "b": "y", "l": l});
    let errors = |new: &Value| schema.validate(new, Some(&old), "").len();
    assert_eq!(errors(&change("long", json!([{"n": "y", "v": 6}, {"n": "x", "v": 1}]))), 0);
    assert_eq!(errors(&change("longer", json!([]))), 1);
    assert_eq!(errors(&change("long", json!([{"n": "x", "v": 2}]))), 1);
}

#[test]
fn a_place_is_small() {
    // Definitions of thousands of places are common: each word here is 20 kB of such a one.
    assert!(size_of::<Schema>() <= 56, "{}", size_of::<Schema>());
}
