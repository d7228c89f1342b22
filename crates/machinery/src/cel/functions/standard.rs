//! What CEL itself has for sizes, types and texts.

use super::super::cost::Cost;
use super::super::value::{Text, Value};
use super::{Function, T, fail, global, member, no_overload};
use crate::pattern::Pattern;

const LIST: T = T::List(&T::A);
const MAP: T = T::Map(&T::A, &T::B);

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "size",
        overloads: &[
            global(&[T::Bytes], T::Int),
            member(&[T::Bytes], T::Int),
            global(&[LIST], T::Int),
            member(&[LIST], T::Int),
            global(&[MAP], T::Int),
            member(&[MAP], T::Int),
            global(&[T::String], T::Int),
            member(&[T::String], T::Int),
        ],
        cost: Cost::One,
        call: |args, _| match args {
            [of @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
                Ok(Value::Int(of.size() as i64))
            }
            _ => no_overload("size", args),
        },
    },
    Function {
        name: "type",
        overloads: &[global(&[T::A], T::Type(&T::A))],
        cost: Cost::One,
        call: |args, _| Ok(Value::Type(Text::Borrowed(args[0].type_name()))),
    },
    Function {
        name: "dyn",
        overloads: &[global(&[T::A], T::Dyn)],
        cost: Cost::One,
        call: |args, _| Ok(args[0].clone()),
    },
    Function {
        name: "contains",
        overloads: &[member(&[T::String, T::String], T::Bool)],
        cost: Cost::Contains,
        call: |args, _| match args {
            [Value::String(of), Value::String(part)] => Ok(Value::Bool(of.contains(&**part))),
            _ => no_overload("contains", args),
        },
    },
    Function {
        name: "startsWith",
        overloads: &[member(&[T::String, T::String], T::Bool)],
        cost: Cost::StartsWith,
        call: |args, _| match args {
            [Value::String(of), Value::String(part)] => Ok(Value::Bool(of.starts_with(&**part))),
            _ => no_overload("startsWith", args),
        },
    },
    Function {
        name: "endsWith",
        overloads: &[member(&[T::String, T::String], T::Bool)],
        cost: Cost::StartsWith,
        call: |args, _| match args {
            [Value::String(of), Value::String(part)] => Ok(Value::Bool(of.ends_with(&**part))),
            _ => no_overload("endsWith", args),
        },
    },
    Function {
        name: "matches",
        overloads: &[global(&[T::String, T::String], T::Bool), member(&[T::String, T::String], T::Bool)],
        cost: Cost::Regex,
        call: |args, with| match (args, with.pattern) {
            ([Value::String(of), Value::String(_)], Some(pattern)) => Ok(Value::Bool(pattern.matches(of))),
            ([Value::String(of), Value::String(pattern)], None) => match Pattern::check(pattern) {
                None => Ok(Value::Bool(Pattern::new(pattern).matches(of))),
                Some(why) => fail(why),
            },
            _ => no_overload("matches", args),
        },
    },
];
