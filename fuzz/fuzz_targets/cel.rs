//! An expression: parsed, checked, its cost estimated, and evaluated on an object.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machinery::cel::{CALL_COST_MAX, Declared, Program, Type};
use serde_json::{Value, json};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "s": {"type": "string"}, "n": {"type": "number"}, "b": {"type": "boolean"},
        "e": {"x-kubernetes-int-or-string": true}, "l": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "t": {"type": "string", "format": "date-time"}, "d": {"type": "string", "format": "duration"}}})
});
static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "i": 5, "s": "text", "n": 1.5, "b": true, "e": "50%",
        "l": [1, 2, 3], "set": ["a", "b"], "m": {"k": "v"}, "t": "2024-01-02T03:04:05Z", "d": "1h"})
});
static DECLARED: LazyLock<Declared> =
    LazyLock::new(|| Declared::of_schema(&SCHEMA, true).expect("the schema can be seen"));

fuzz_target!(|source: &str| {
    let variables = [("self", DECLARED.to_type()), ("dyn", Type::Dyn)];
    let Ok((program, _)) = Program::compile_with_cost(source, &variables, &DECLARED) else { return };
    let value = DECLARED.value(&OBJECT).expect("the object is as its schema says");
    let (_, cost) = program.evaluate(vec![value.clone(), value], CALL_COST_MAX);
    drop(cost);
});
