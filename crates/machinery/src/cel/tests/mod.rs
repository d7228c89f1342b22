//! Expressions by table: what they come to, what is said of wrong ones, what they cost, and that none goes on for ever.

mod authorizer;
mod costs;
mod hostile;
mod language;
mod libraries;
mod making;
mod messages;

use serde_json::{Value as Json, json};

use super::{CALL_COST_MAX, Declared, Program, Type, Value};

/// What an expression without variables comes to, or why it does not.
fn result(source: &str) -> String {
    result_of(source, &json!({"type": "object"}), &json!({}))
}

/// What an expression about `self` comes to, or why it does not.
fn result_of(source: &str, schema: &Json, value: &Json) -> String {
    let declared = Declared::of_schema(schema, false).expect("a schema that can be seen");
    let program = match Program::compile(source, &[("self", declared.to_type())]) {
        Ok(program) => program,
        Err(issues) => return issues.to_string(),
    };
    let given = vec![declared.value(value).unwrap()];
    match program.evaluate(given, CALL_COST_MAX).0 {
        Ok(value) => shown(&value),
        Err(error) => format!("error: {error}"),
    }
}

/// A value as a text.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) => format!("{value:?}"),
        Value::String(text) => format!("{:?}", &**text),
        Value::Bytes(bytes) => format!("b{:?}", String::from_utf8_lossy(bytes)),
        Value::Duration(nanos) => super::time::duration_text(*nanos),
        Value::Timestamp(at) => at.to_string(),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| shown(&item.unwrap())).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(table) => {
            let entry = |key: Value<'_>| {
                let value = shown(&table.find(&key.clone()).unwrap().unwrap());
                format!("{}: {value}", shown(&key))
            };
            let entries: Vec<String> = table.keys().into_iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(of)) => format!("some({})", shown(of)),
        Value::Type(name) => format!("type({})", &**name),
        Value::Message(of) => format!("{of:?}"),
        Value::Opaque(of) => format!("{of:?}"),
    }
}

/// Each expression comes to what stands beside it.
fn check(table: &[(&str, &str)]) {
    for (source, expected) in table {
        assert_eq!(result(source), *expected, "{source}");
    }
}

/// Each expression is true.
fn holds(table: &[&str]) {
    for source in table {
        assert_eq!(result(source), "true", "{source}");
    }
}

#[test]
fn a_program_is_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Program>();
    let program = Program::compile("self + 1 == other", &[("self", Type::Int), ("other", Type::Dyn)]).unwrap();
    assert!(program.uses(0) && program.uses(1) && !program.uses(2));
    assert!(matches!(program.result(), Type::Bool));
    let (result, cost) = program.evaluate(vec![Value::Int(1), Value::Int(2)], CALL_COST_MAX);
    assert_eq!((shown(&result.unwrap()), cost), ("true".to_owned(), 4));
}

/// A policy's expressions were given values for variables that came later than they; their loops then took those for their
/// own.
#[test]
fn values_for_later_variables_do_not_matter() {
    let program = Program::compile("[1, 2].map(x, x + self)", &[("self", Type::Int)]).unwrap();
    for values in [vec![Value::Int(1)], vec![Value::Int(1), Value::Null, Value::Null]] {
        assert_eq!(shown(&program.evaluate(values, CALL_COST_MAX).0.unwrap()), "[2, 3]");
    }
}
