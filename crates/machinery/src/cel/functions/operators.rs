//! What the signs stand for. `&&`, `||`, `?:` and selections are not functions: what they do not need is not evaluated.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::cost::Cost;
use super::super::eval::{EvalError, Meter};
use super::super::lists as list;
use super::super::time::Timestamp;
use super::super::value::{List, Made, MapKey, Table, Value};
use super::{Function, Overload, T, fail, global};

const LIST: T = T::List(&T::A);
const MAP: T = T::Map(&T::A, &T::B);

/// All pairs that can be compared.
macro_rules! comparable {
    () => {
        &[
            global(&[T::Bool, T::Bool], T::Bool),
            global(&[T::Int, T::Int], T::Bool),
            global(&[T::Int, T::Double], T::Bool),
            global(&[T::Int, T::Uint], T::Bool),
            global(&[T::Uint, T::Uint], T::Bool),
            global(&[T::Uint, T::Double], T::Bool),
            global(&[T::Uint, T::Int], T::Bool),
            global(&[T::Double, T::Double], T::Bool),
            global(&[T::Double, T::Int], T::Bool),
            global(&[T::Double, T::Uint], T::Bool),
            global(&[T::String, T::String], T::Bool),
            global(&[T::Bytes, T::Bytes], T::Bool),
            global(&[T::Timestamp, T::Timestamp], T::Bool),
            global(&[T::Duration, T::Duration], T::Bool),
        ]
    };
}

const BOOL_PAIR: &[Overload] = &[global(&[T::Bool, T::Bool], T::Bool)];

pub(super) static FUNCTIONS: &[Function] = &[
    Function { name: "_&&_", overloads: BOOL_PAIR, cost: Cost::One, call: |_, _| fail("no such overload") },
    Function { name: "_||_", overloads: BOOL_PAIR, cost: Cost::One, call: |_, _| fail("no such overload") },
    Function {
        name: "_?_:_",
        overloads: &[global(&[T::Bool, T::A, T::A], T::A)],
        cost: Cost::One,
        call: |_, _| fail("no such overload"),
    },
    Function {
        name: "@not_strictly_false",
        overloads: &[global(&[T::Bool], T::Bool)],
        cost: Cost::One,
        call: |_, _| fail("no such overload"),
    },
    Function {
        name: "!_",
        overloads: &[global(&[T::Bool], T::Bool)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Bool(value)] => Ok(Value::Bool(!value)),
            _ => fail("no such overload"),
        },
    },
    Function {
        name: "-_",
        overloads: &[global(&[T::Double], T::Double), global(&[T::Int], T::Int)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Int(value)] => value.checked_neg().map(Value::Int).ok_or_else(overflow),
            [Value::Double(value)] => Ok(Value::Double(-value)),
            _ => fail("no such overload"),
        },
    },
    Function {
        name: "_==_",
        overloads: &[global(&[T::A, T::A], T::Bool)],
        cost: Cost::Equal,
        call: |args, with| Ok(Value::Bool(args[0].same(&args[1], with.meter)?)),
    },
    Function {
        name: "_!=_",
        overloads: &[global(&[T::A, T::A], T::Bool)],
        cost: Cost::Equal,
        call: |args, with| Ok(Value::Bool(!args[0].same(&args[1], with.meter)?)),
    },
    Function {
        name: "_<_",
        overloads: comparable!(),
        cost: Cost::Compare,
        call: |args, _| compared(args, |order| order == Ordering::Less),
    },
    Function {
        name: "_<=_",
        overloads: comparable!(),
        cost: Cost::Compare,
        call: |args, _| compared(args, |order| order != Ordering::Greater),
    },
    Function {
        name: "_>_",
        overloads: comparable!(),
        cost: Cost::Compare,
        call: |args, _| compared(args, |order| order == Ordering::Greater),
    },
    Function {
        name: "_>=_",
        overloads: comparable!(),
        cost: Cost::Compare,
        call: |args, _| compared(args, |order| order != Ordering::Less),
    },
    Function {
        name: "_+_",
        overloads: &[
            global(&[T::Bytes, T::Bytes], T::Bytes),
            global(&[T::Double, T::Double], T::Double),
            global(&[T::Duration, T::Duration], T::Duration),
            global(&[T::Duration, T::Timestamp], T::Timestamp),
            global(&[T::Timestamp, T::Duration], T::Timestamp),
            global(&[T::Int, T::Int], T::Int),
            global(&[LIST, LIST], LIST),
            global(&[T::String, T::String], T::String),
            global(&[T::Uint, T::Uint], T::Uint),
        ],
        cost: Cost::Add,
        call: |args, with| add(&args[0], &args[1], with.meter),
    },
    Function {
        name: "_-_",
        overloads: &[
            global(&[T::Double, T::Double], T::Double),
            global(&[T::Duration, T::Duration], T::Duration),
            global(&[T::Int, T::Int], T::Int),
            global(&[T::Timestamp, T::Duration], T::Timestamp),
            global(&[T::Timestamp, T::Timestamp], T::Duration),
            global(&[T::Uint, T::Uint], T::Uint),
        ],
        cost: Cost::One,
        call: |args, _| subtract(&args[0], &args[1]),
    },
    Function {
        name: "_*_",
        overloads: &[
            global(&[T::Double, T::Double], T::Double),
            global(&[T::Int, T::Int], T::Int),
            global(&[T::Uint, T::Uint], T::Uint),
        ],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Int(one), Value::Int(other)] => one.checked_mul(*other).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(one), Value::Uint(other)] => {
                one.checked_mul(*other).map(Value::Uint).ok_or_else(unsigned_overflow)
            }
            [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one * other)),
            _ => fail("no such overload"),
        },
    },
    Function {
        name: "_/_",
        overloads: &[
            global(&[T::Double, T::Double], T::Double),
            global(&[T::Int, T::Int], T::Int),
            global(&[T::Uint, T::Uint], T::Uint),
        ],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fail("division by zero"),
            [Value::Int(one), Value::Int(other)] => one.checked_div(*other).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(one), Value::Uint(other)] => Ok(Value::Uint(one / other)),
            [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one / other)),
            _ => fail("no such overload"),
        },
    },
    Function {
        name: "_%_",
        overloads: &[global(&[T::Int, T::Int], T::Int), global(&[T::Uint, T::Uint], T::Uint)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fail("modulus by zero"),
            [Value::Int(one), Value::Int(other)] => one.checked_rem(*other).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(one), Value::Uint(other)] => Ok(Value::Uint(one % other)),
            _ => fail("no such overload"),
        },
    },
    Function {
        name: "@in",
        overloads: &[global(&[T::A, LIST], T::Bool), global(&[T::A, MAP], T::Bool)],
        cost: Cost::In,
        call: |args, with| match args {
            [item, Value::List(of)] => Ok(Value::Bool(list::position(of, item, with.meter)?.is_some())),
            [key, Value::Map(of)] => Ok(Value::Bool(of.find(key)?.is_some())),
            _ => fail("no such overload"),
        },
    },
    Function {
        name: "_[_]",
        overloads: &[
            global(&[LIST, T::Int], T::A),
            global(&[MAP, T::A], T::B),
            global(&[T::Optional(&LIST), T::Int], T::Optional(&T::A)),
            global(&[T::Optional(&MAP), T::A], T::Optional(&T::B)),
        ],
        cost: Cost::One,
        call: |_, _| fail("no such overload"),
    },
    Function {
        name: "_[?_]",
        overloads: &[
            global(&[LIST, T::Int], T::Optional(&T::A)),
            global(&[T::Optional(&LIST), T::Int], T::Optional(&T::A)),
            global(&[MAP, T::A], T::Optional(&T::B)),
            global(&[T::Optional(&MAP), T::A], T::Optional(&T::B)),
        ],
        cost: Cost::One,
        call: |_, _| fail("no such overload"),
    },
    Function {
        name: "cel.@mapInsert",
        overloads: &[global(&[MAP, T::A, T::B], MAP), global(&[MAP, MAP], MAP)],
        cost: Cost::One,
        call: |args, _| {
            let Value::Map(Table::Made(into)) = &args[0] else { return fail("no such overload") };
            let mut entries = into.clone();
            insert(&mut entries, &args[1..])?;
            Ok(Value::Map(Table::Made(entries)))
        },
    },
];

/// Puts a key and a value, or all entries of another map, into a map; a key twice is an error.
pub(in super::super) fn insert<'a>(
    into: &mut Arc<std::collections::BTreeMap<MapKey<'a>, Value<'a>>>,
    given: &[Value<'a>],
) -> Result<(), EvalError> {
    let mut one = |key: &Value<'a>, value: Value<'a>| {
        let made = MapKey::of(key).ok_or_else(EvalError::no_overload)?;
        match Arc::make_mut(into).insert(made, value) {
            None => Ok(()),
            Some(_) => Err(EvalError::new(format!("insert failed: key {} already exists", shown(key)))),
        }
    };
    match given {
        [key, value] => one(key, value.clone()),
        [Value::Map(table)] => {
            for key in table.keys() {
                let value = table.find(&key)?.unwrap_or(Value::Null);
                one(&key, value)?;
            }
            Ok(())
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// A key as errors name it.
pub(in super::super) fn shown(key: &Value<'_>) -> String {
    match key {
        Value::String(text) => text.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => super::conversions::double_text(*value),
        Value::Bool(value) => value.to_string(),
        Value::Null => "null".to_owned(),
        other => other.type_name().to_owned(),
    }
}

fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn compared<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Made<'a> {
    match args[0].compare(&args[1])? {
        Some(order) => Ok(Value::Bool(holds(order))),
        None => fail("NaN values cannot be ordered"),
    }
}

/// `one + other`
pub(in super::super) fn add<'a>(one: &Value<'a>, other: &Value<'a>, meter: &Meter) -> Made<'a> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => one.checked_add(*other).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(one), Value::Uint(other)) => {
            one.checked_add(*other).map(Value::Uint).ok_or_else(unsigned_overflow)
        }
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one + other)),
        (Value::String(one), Value::String(other)) => Ok(Value::String([&**one, &**other].concat().into())),
        (Value::Bytes(one), Value::Bytes(other)) => Ok(Value::Bytes([&**one, &**other].concat().into())),
        (Value::List(one), Value::List(other)) => concatenated(one, other, meter),
        (Value::Duration(one), Value::Duration(other)) => {
            one.checked_add(*other).map(Value::Duration).ok_or_else(|| EvalError::new("duration overflow"))
        }
        (Value::Timestamp(at), Value::Duration(by)) | (Value::Duration(by), Value::Timestamp(at)) => moved(*at, *by),
        _ => fail("no such overload"),
    }
}

fn concatenated<'a>(one: &List<'a>, other: &List<'a>, meter: &Meter) -> Made<'a> {
    meter.steps(one.len() + other.len())?;
    if let Some(union) = list::union(one, other)? {
        return Ok(Value::list(union));
    }
    let mut items = one.to_vec()?;
    items.extend(other.to_vec()?);
    Ok(Value::list(items))
}

fn moved<'a>(at: Timestamp, nanos: i64) -> Made<'a> {
    at.plus(i128::from(nanos)).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn subtract<'a>(one: &Value<'a>, other: &Value<'a>) -> Made<'a> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => one.checked_sub(*other).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(one), Value::Uint(other)) => {
            one.checked_sub(*other).map(Value::Uint).ok_or_else(unsigned_overflow)
        }
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one - other)),
        (Value::Duration(one), Value::Duration(other)) => {
            one.checked_sub(*other).map(Value::Duration).ok_or_else(|| EvalError::new("duration overflow"))
        }
        (Value::Timestamp(one), Value::Timestamp(other)) => {
            let nanos = one.nanos_since(*other);
            i64::try_from(nanos).map(Value::Duration).map_err(|_| EvalError::new("duration overflow"))
        }
        (Value::Timestamp(at), Value::Duration(by)) => {
            let moved = at.plus(-i128::from(*by));
            moved.map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
        }
        _ => fail("no such overload"),
    }
}
