//! What makes paths of JSON patches. There only where patches can be made.

use super::super::cost::Cost;
use super::super::value::Value;
use super::{Function, T, global, no_overload};

pub(super) static FUNCTIONS: &[Function] = &[Function {
    name: super::ESCAPE_KEY,
    overloads: &[global(&[T::String], T::String)],
    cost: Cost::Parse,
    call: |args, _| match args {
        [Value::String(key)] => Ok(Value::String(key.replace('~', "~0").replace('/', "~1").into())),
        _ => no_overload(super::ESCAPE_KEY, args),
    },
}];
