//! Lists as sets.

use super::super::cost::Cost;
use super::super::eval::{EvalError, Meter};
use super::super::lists::position;
use super::super::value::{List, Value};
use super::{Function, Overload, T, global, no_overload};

const LIST: T = T::List(&T::A);
const PAIR: &[Overload] = &[global(&[LIST, LIST], T::Bool)];

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "sets.contains",
        overloads: PAIR,
        cost: Cost::Sets(1),
        call: |args, with| match args {
            [Value::List(of), Value::List(part)] => Ok(Value::Bool(contains(of, part, with.meter)?)),
            _ => no_overload("sets.contains", args),
        },
    },
    Function {
        name: "sets.equivalent",
        overloads: PAIR,
        cost: Cost::Sets(2),
        call: |args, with| match args {
            [Value::List(one), Value::List(other)] => {
                Ok(Value::Bool(contains(one, other, with.meter)? && contains(other, one, with.meter)?))
            }
            _ => no_overload("sets.equivalent", args),
        },
    },
    Function {
        name: "sets.intersects",
        overloads: PAIR,
        cost: Cost::Sets(1),
        call: |args, with| match args {
            [Value::List(one), Value::List(other)] => {
                for item in one.iter() {
                    if position(other, &item?, with.meter)?.is_some() {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            _ => no_overload("sets.intersects", args),
        },
    },
];

fn contains<'a>(of: &List<'a>, part: &List<'a>, meter: &Meter) -> Result<bool, EvalError> {
    for item in part.iter() {
        if position(of, &item?, meter)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
