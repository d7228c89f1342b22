//! Values that may be absent. `or` and `orValue` are not here: what they do not need is not evaluated.

use super::super::cost::Cost;
use super::super::value::{List, Made, Opaque, Value};
use super::{Function, T, fail, global, member, no_overload};

const OPTIONAL: T = T::Optional(&T::A);
const LIST: T = T::List(&T::A);

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "optional.of",
        overloads: &[global(&[T::A], OPTIONAL)],
        cost: Cost::One,
        call: |args, _| Ok(Value::optional(args[0].clone())),
    },
    Function {
        name: "optional.ofNonZeroValue",
        overloads: &[global(&[T::A], OPTIONAL)],
        cost: Cost::One,
        call: |args, _| Ok(if is_zero(&args[0]) { Value::Optional(None) } else { Value::optional(args[0].clone()) }),
    },
    Function {
        name: "optional.none",
        overloads: &[global(&[], OPTIONAL)],
        cost: Cost::One,
        call: |_, _| Ok(Value::Optional(None)),
    },
    Function {
        name: "value",
        overloads: &[member(&[OPTIONAL], T::A)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Optional(Some(of))] => Ok((**of).clone()),
            [Value::Optional(None)] => fail("optional.none() dereference"),
            _ => no_overload("value", args),
        },
    },
    Function {
        name: "hasValue",
        overloads: &[member(&[OPTIONAL], T::Bool)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Optional(of)] => Ok(Value::Bool(of.is_some())),
            _ => no_overload("hasValue", args),
        },
    },
    Function {
        name: "or",
        overloads: &[member(&[OPTIONAL, OPTIONAL], OPTIONAL)],
        cost: Cost::One,
        call: |args, _| no_overload("or", args),
    },
    Function {
        name: "orValue",
        overloads: &[member(&[OPTIONAL, T::A], T::A)],
        cost: Cost::One,
        call: |args, _| no_overload("orValue", args),
    },
    Function {
        name: "first",
        overloads: &[member(&[LIST], OPTIONAL)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::List(of)] if of.len() == 0 => Ok(Value::Optional(None)),
            [Value::List(of)] => of.get(0).map(Value::optional),
            _ => no_overload("first", args),
        },
    },
    Function {
        name: "last",
        overloads: &[member(&[LIST], OPTIONAL)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::List(of)] if of.len() == 0 => Ok(Value::Optional(None)),
            [Value::List(of)] => of.get(of.len() - 1).map(Value::optional),
            _ => no_overload("last", args),
        },
    },
    Function {
        name: "optional.unwrap",
        overloads: &[global(&[T::List(&OPTIONAL)], LIST)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::List(of)] => unwrapped(of),
            _ => no_overload("optional.unwrap", args),
        },
    },
    Function {
        name: "unwrapOpt",
        overloads: &[member(&[T::List(&OPTIONAL)], LIST)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::List(of)] => unwrapped(of),
            _ => no_overload("unwrapOpt", args),
        },
    },
];

fn unwrapped<'a>(of: &List<'a>) -> Made<'a> {
    let mut items = Vec::new();
    for item in of.iter() {
        match item? {
            Value::Optional(Some(of)) => items.push((*of).clone()),
            Value::Optional(None) => {}
            other => return fail(format!("value of type {} is not optional", other.type_name())),
        }
    }
    Ok(Value::list(items))
}

/// Whether a value is what its type begins with.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) | Value::Duration(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.len() == 0,
        Value::Map(table) => table.len() == 0,
        Value::Optional(of) => of.as_deref().is_none_or(is_zero),
        Value::Opaque(of) => matches!(&**of, Opaque::Quantity(of) if of.is_zero()),
        Value::Message(of) => of.fields.is_empty(),
        Value::Timestamp(_) | Value::Type(_) => false,
    }
}
