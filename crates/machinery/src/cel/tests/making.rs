//! Objects and patches that expressions make.

use serde_json::json;

use super::super::{CALL_COST_MAX, Program, Type, Value};

fn made(source: &str) -> String {
    let program = match Program::compile_making(source, &[("object", Type::Dyn)]) {
        Ok(program) => program,
        Err(issues) => return issues.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let object = json!({"metadata": {"name": "x"}, "spec": {"replicas": 2}});
    let (value, _) = program.evaluate(vec![super::super::ANY.value(&object).unwrap()], CALL_COST_MAX);
    let shown = match value {
        Err(error) => format!("error: {error}"),
        Ok(Value::Message(of)) if !of.misplaced().is_empty() => of.misplaced().join("; "),
        Ok(value) => value.to_json().map_or_else(|why| format!("no JSON: {why}"), |json| json.to_string()),
    };
    format!("{}: {shown}", program.result())
}

#[test]
fn objects_and_patches_are_made_where_they_may_be() {
    for (source, expected) in [
        (
            r#"Object{metadata: Object.metadata{labels: {"a": "b"}}, spec: Object.spec{replicas: object.spec.replicas + 1}}"#,
            r#"Object: {"metadata":{"labels":{"a":"b"}},"spec":{"replicas":3}}"#,
        ),
        (
            r#"Object{spec: Object.spec{containers: [Object.spec.containers{name: "c", ?image: optional.none()}]}}"#,
            r#"Object: {"spec":{"containers":[{"name":"c"}]}}"#,
        ),
        (
            "Object{spec: Object.metadata{}}",
            r#"Object: unexpected type name "Object.metadata", expected "Object.spec", which matches field name path from root Object type"#,
        ),
        (
            r#"[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b~c"), value: "d"}]"#,
            r#"list(JSONPatch): [{"op":"add","path":"/metadata/labels/a~1b~0c","value":"d"}]"#,
        ),
        (
            r#"object.spec.replicas > 1 ? [JSONPatch{op: "replace", path: "/spec", value: Object.spec{replicas: 1}}] : []"#,
            r#"list(JSONPatch): [{"op":"replace","path":"/spec","value":{"replicas":1}}]"#,
        ),
        (
            r#"JSONPatch{op: 1}"#,
            "ERROR: <input>:1:13: expected type of field 'op' is 'string' but provided type is 'int'",
        ),
        (r#"JSONPatch{where: "x"}"#, "ERROR: <input>:1:16: undefined field 'where'"),
        ("Subject{}", "ERROR: <input>:1:8: undeclared reference to 'Subject' (in container '')"),
        ("Object{a: {1: 2}}", "Object: no JSON: map key is of type int, not string"),
    ] {
        assert_eq!(made(source), expected, "{source}");
    }
    for elsewhere in ["Object{}", r#"jsonpatch.escapeKey("a")"#] {
        let issues = Program::compile(elsewhere, &[]).unwrap_err().to_string();
        assert!(issues.contains("undeclared reference"), "{issues}");
    }
}
