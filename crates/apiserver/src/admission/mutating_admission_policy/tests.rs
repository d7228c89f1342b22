//! Mutations by table.

use std::sync::Arc;

use machinery::cel::{Authority, Question, Verdict};
use serde_json::{Value, json};

use super::mutate::mutated;
use super::policy::Compiled;
use crate::admission::policies::scope::Given;

#[derive(Debug)]
struct Nobody;

impl Authority for Nobody {
    fn decide(&self, _: &Question) -> Verdict {
        Verdict::default()
    }
}

/// What becomes of a pod by a mutation, or why nothing does.
fn changed(kind: &str, expression: &str) -> Result<Option<Value>, String> {
    let field = if kind == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
    let policy = Compiled::of(&json!({"metadata": {"name": "p"}, "spec": {
        "variables": [{"name": "image", "expression": "'new'"}],
        "mutations": [{"patchType": kind, field: {"expression": expression}}]}}));
    if let Some((path, _, why)) = policy.errors.first() {
        return Err(format!("{path}: {}", why.lines().next().unwrap_or_default()));
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "old", "args": ["x"]}]}});
    let (null, question, authority): (_, _, Arc<dyn Authority>) = (Value::Null, Question::default(), Arc::new(Nobody));
    let given = Given {
        object: &pod,
        old: None,
        request: &null,
        namespace: None,
        params: &null,
        authority: &authority,
        asked: &question,
    };
    let place = api::schema::by_kind("", "v1", "Pod").unwrap().place();
    mutated(&policy.mutations[0], &policy.variables, &given, place)
}

#[test]
fn configurations_are_merged_by_the_schema() {
    let expression = r#"Object{metadata: Object.metadata{labels: {"b": "2"}}, spec: Object.spec{containers: [
        Object.spec.containers{name: "c", image: variables.image}, Object.spec.containers{name: "d", image: "e"}]}}"#;
    let pod = changed("ApplyConfiguration", expression).unwrap().unwrap();
    assert_eq!(pod["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(
        pod["spec"]["containers"],
        json!([{"name": "c", "image": "new", "args": ["x"]}, {"name": "d", "image": "e"}])
    );
    for (expression, why) in [
        (
            r#"Object{spec: Object.spec{containers: [Object.spec.containers{name: "c", args: ["y"]}]}}"#,
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.containers[0].args",
        ),
        (
            "Object{spec: Object.spec{nowhere: 1}}",
            "error applying patch: failed to convert patch object to typed object: .spec.nowhere: field not declared in schema",
        ),
        (
            "Object{spec: Object.metadata{}}",
            "type mismatch: unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path \
             from root Object type",
        ),
        (
            "object.metadata.name == 'x'",
            "spec.mutations[0].applyConfiguration.expression: must evaluate to Object but got bool",
        ),
    ] {
        assert_eq!(changed("ApplyConfiguration", expression), Err(why.to_owned()), "{expression}");
    }
}

#[test]
fn patches_are_applied_in_order_and_a_failed_test_changes_nothing() {
    let expression = r#"[JSONPatch{op: "test", path: "/metadata/labels/a", value: "1"},
        JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("x/y"), value: "z"},
        JSONPatch{op: "replace", path: "/spec/containers/0", value: Object.spec.containers{name: "c", image: "new"}}]"#;
    let pod = changed("JSONPatch", expression).unwrap().unwrap();
    assert_eq!(pod["metadata"]["labels"], json!({"a": "1", "x/y": "z"}));
    assert_eq!(pod["spec"]["containers"], json!([{"name": "c", "image": "new"}]));
    let failed = r#"[JSONPatch{op: "add", path: "/metadata/labels/b", value: "2"},
        JSONPatch{op: "test", path: "/metadata/labels/a", value: "9"}]"#;
    assert_eq!(changed("JSONPatch", failed), Ok(None));
    let gone = r#"[JSONPatch{op: "remove", path: "/spec/nothing"}]"#;
    let why = changed("JSONPatch", gone).unwrap_err();
    assert!(why.starts_with("JSON Patch: "), "{why}");
    assert_eq!(
        changed("JSONPatch", "Object{}"),
        Err("spec.mutations[0].jsonPatch.expression: must evaluate to list(JSONPatch) but got Object".to_owned())
    );
}
