//! Rules by table: what they say of objects, new and changed.

use std::cell::RefCell;

use serde_json::{Value, json};

use super::Expressions;

/// What rules say against a value, which was another before, and what they warn of.
fn told(schema: &Value, value: &Value, old: Option<&Value>) -> (Vec<String>, Vec<String>) {
    let rules = Expressions::compile(schema, true).expect("the schema has rules");
    let warnings = RefCell::new(Vec::new());
    let warn = |error: &crate::invalid::FieldError| warnings.borrow_mut().push(error.to_string());
    let errors = rules.errors(value, old, "", &warn);
    (errors.iter().map(ToString::to_string).collect(), warnings.into_inner())
}

fn errors(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
    told(schema, value, old).0
}

fn spec(place: &Value) -> Value {
    json!({"type": "object", "properties": {"spec": place}})
}

/// One rule on `spec`, about the fields `n` (integer), `s` (string), `l` (list), `m` (map).
fn with_rule(rule: &Value) -> Value {
    spec(&json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {
        "n": {"type": "integer"}, "s": {"type": "string"}, "l": {"type": "array", "items": {"type": "integer"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "o": {"type": "object", "properties": {"x": {"type": "integer"}}}}}))
}

#[test]
fn failures_are_told_in_upstreams_words() {
    let table = [
        (json!({"rule": "self.n > 0"}), json!({"n": 1}), vec![]),
        (json!({"rule": "self.n > 0"}), json!({"n": 0}), vec!["spec: Invalid value: failed rule: self.n > 0"]),
        (
            json!({"rule": "self.n > 0", "message": " too small "}),
            json!({"n": 0}),
            vec!["spec: Invalid value: too small"],
        ),
        (
            json!({"rule": "self.n > 0", "messageExpression": "'got ' + string(self.n)"}),
            json!({"n": -5}),
            vec!["spec: Invalid value: got -5"],
        ),
        (
            json!({"rule": "self.n > 0", "messageExpression": "'a\\nb'", "message": "plain"}),
            json!({"n": -5}),
            vec!["spec: Invalid value: plain"],
        ),
        (
            json!({"rule": "self.n > 0", "messageExpression": "self.m['x']"}),
            json!({"n": -5, "m": {}}),
            vec!["spec: Invalid value: failed rule: self.n > 0"],
        ),
        (
            json!({"rule": "self.n > 0", "fieldPath": ".n", "reason": "FieldValueForbidden", "message": "no"}),
            json!({"n": 0}),
            vec!["spec.n: Forbidden: no"],
        ),
        (
            json!({"rule": "has(self.s)", "fieldPath": ".s", "reason": "FieldValueRequired", "message": "s is needed"}),
            json!({}),
            vec!["spec.s: Required value: s is needed"],
        ),
        (
            json!({"rule": "self.n > 0", "reason": "FieldValueDuplicate"}),
            json!({"n": 0}),
            vec!["spec: Duplicate value"],
        ),
        (
            json!({"rule": "self.n > 0"}),
            json!({}),
            vec![r#"spec: Invalid value: "object": no such key: n evaluating rule: self.n > 0"#],
        ),
        (
            json!({"rule": "self.l[5] > 0"}),
            json!({"l": []}),
            vec![r#"spec: Invalid value: "object": index out of bounds: 5 evaluating rule: self.l[5] > 0"#],
        ),
        (json!({"rule": ""}), json!({}), vec![]),
    ];
    for (rule, value, expected) in table {
        assert_eq!(errors(&with_rule(&rule), &json!({"spec": value}), None), expected, "{rule}");
    }
}

#[test]
fn rules_hold_at_every_depth() {
    let positive = json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]});
    let schema = spec(&json!({"type": "object", "properties": {
        "n": positive, "l": {"type": "array", "items": positive},
        "m": {"type": "object", "additionalProperties": positive},
        "dotted.name": positive,
        "nullable": {"type": "integer", "nullable": true, "x-kubernetes-validations": [{"rule": "self > 0"}]},
        "all": {"type": "object", "properties": {"x": {"type": "integer"}},
            "allOf": [{"properties": {"x": {"x-kubernetes-validations": [{"rule": "self > 0"}]}}}]},
        "either": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [
            {"rule": "type(self) == string ? self.endsWith('%') : self > 0"}]}}}));
    let value = json!({"n": 0, "l": [1, 0], "m": {"k": 0, "g": 1}, "dotted.name": 0, "nullable": null, "all": {"x": 0},
        "either": "5"});
    let mut found = errors(&schema, &json!({"spec": value}), None);
    found.sort();
    let expected = [
        "spec.all.x: Invalid value: 0: failed rule: self > 0",
        "spec.dotted.name: Invalid value: 0: failed rule: self > 0",
        r#"spec.either: Invalid value: "5": failed rule: type(self) == string ? self.endsWith('%') : self > 0"#,
        "spec.l[1]: Invalid value: 0: failed rule: self > 0",
        "spec.m[k]: Invalid value: 0: failed rule: self > 0",
        "spec.n: Invalid value: 0: failed rule: self > 0",
    ];
    assert_eq!(found, expected);
}

#[test]
fn metadata_is_seen_at_the_root_and_in_embedded_resources() {
    let schema = json!({"type": "object",
        "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a') && self.kind == 'K'", "message": "root"}],
        "properties": {"pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-validations": [{"rule": "self.metadata.name == 'p' && self.apiVersion == 'v1'", "message": "pod"}]}}});
    let object = |name: &str, pod: &str| {
        json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": name, "labels": {"x": "y"}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": {"containers": []}}})
    };
    assert_eq!(errors(&schema, &object("abc", "p"), None), Vec::<String>::new());
    assert_eq!(errors(&schema, &object("b", "q"), None), ["<nil>: Invalid value: root", "pod: Invalid value: pod"]);
}

#[test]
fn transitions_are_judged_where_the_old_value_can_be_told() {
    let grows = json!([{"rule": "self > oldSelf", "message": "must grow"}]);
    let number = json!({"type": "integer", "x-kubernetes-validations": grows});
    let schema = spec(&json!({"type": "object", "properties": {
        "n": number, "m": {"type": "object", "additionalProperties": number},
        "lm": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
            "type": "object", "properties": {"k": {"type": "string"}, "v": number}}},
        "immutable": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
        "born": {"type": "string", "x-kubernetes-validations": [
            {"rule": "oldSelf.hasValue() || self == 'new'", "optionalOldSelf": true, "message": "must begin as new"}]}}}));
    let old =
        json!({"spec": {"n": 5, "m": {"a": 5}, "lm": [{"k": "x", "v": 5}, {"k": "y", "v": 5}], "immutable": "i"}});
    let new = |spec: Value| json!({"spec": spec});
    let table = [
        (json!({"n": 6, "m": {"a": 6, "b": 0}, "lm": [{"k": "y", "v": 6}, {"k": "z", "v": 0}]}), vec![]),
        (json!({"n": 4}), vec!["spec.n: Invalid value: 4: must grow"]),
        (json!({"m": {"a": 4}}), vec!["spec.m[a]: Invalid value: 4: must grow"]),
        (json!({"lm": [{"k": "y", "v": 6}, {"k": "x", "v": 4}]}), vec!["spec.lm[1].v: Invalid value: 4: must grow"]),
        (json!({"immutable": "j"}), vec![r#"spec.immutable: Invalid value: "j": is immutable"#]),
        (json!({"born": "old"}), vec![r#"spec.born: Invalid value: "old": must begin as new"#]),
        (json!({"born": "new"}), vec![]),
    ];
    for (spec, expected) in table {
        assert_eq!(errors(&schema, &new(spec.clone()), Some(&old)), expected, "{spec}");
    }
    // A new object has no transitions but those that say what they do without.
    let created = errors(&schema, &new(json!({"n": 1, "immutable": "x", "born": "old"})), None);
    assert_eq!(created, [r#"spec.born: Invalid value: "old": must begin as new"#]);
}

#[test]
fn what_failed_before_and_is_unchanged_is_only_warned_of() {
    let schema = spec(&json!({"type": "object", "properties": {
        "s": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]},
        "other": {"type": "string"},
        "l": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}}}}));
    let old = json!({"spec": {"s": "bad", "other": "x", "l": ["bad"]}});
    let told = |spec: Value| told(&schema, &json!({"spec": spec}), Some(&old));
    let s = r#"spec.s: Invalid value: "bad": failed rule: self.startsWith('a')"#.to_owned();
    let l = r#"spec.l[0]: Invalid value: "bad": failed rule: self.startsWith('a')"#.to_owned();
    assert_eq!(told(json!({"s": "bad", "other": "y", "l": ["bad"]})), (vec![], vec![s, l.clone()]));
    let worse = r#"spec.s: Invalid value: "worse": failed rule: self.startsWith('a')"#.to_owned();
    assert_eq!(told(json!({"s": "worse", "other": "x", "l": ["bad"]})), (vec![worse], vec![l.clone()]));
    // Elements of a plain list cannot be told apart: where one changes, all are judged.
    assert_eq!(told(json!({"l": ["bad", "also"]})).0[0], l);
}

#[test]
fn a_rule_that_costs_too_much_ends_the_judging() {
    let schema = spec(&json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"}}},
        "x-kubernetes-validations": [
            {"rule": "self.l.all(x, self.l.all(y, y == x))", "message": "all the same"}, {"rule": "false"}]}));
    let found = errors(&schema, &json!({"spec": {"l": vec![20; 725]}}), None);
    let expected = "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation \
                    rules will be run due to call cost exceeds limit for rule: all the same";
    assert_eq!(found, [expected]);
    // Each element costs less than one rule may, all of them more than an object may.
    let each = spec(&json!({"type": "object", "properties": {"l": {"type": "array", "items": {
        "type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}}},
        "x-kubernetes-validations": [{"rule": "self.n.all(x, self.n.all(y, y == x))"}]}}}}));
    let found = errors(&each, &json!({"spec": {"l": vec![json!({"n": vec![1; 350]}); 20]}}), None);
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with(super::OUT_OF_BUDGET), "{}", found[0]);
}
