//! Amounts of resources: `quantity('1Gi').isGreaterThan(quantity('1M'))`. Comparisons are shared with versions.

use std::cmp::Ordering;

use super::super::cost::Cost;
use super::super::value::{Made, Opaque, Value};
use super::{Function, QUANTITY, SEMVER, T, fail, global, member, no_overload};
use crate::Quantity;
use crate::quantity::Format;

const AMOUNT: T = T::Opaque(QUANTITY);
const VERSION: T = T::Opaque(SEMVER);

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "quantity",
        overloads: &[global(&[T::String], AMOUNT)],
        cost: Cost::Parse,
        call: |args, _| match args {
            [Value::String(text)] => match Quantity::parse(text) {
                Ok(amount) => Ok(made(amount)),
                Err(why) => fail(why.to_string()),
            },
            _ => no_overload("quantity", args),
        },
    },
    Function {
        name: "isQuantity",
        overloads: &[global(&[T::String], T::Bool)],
        cost: Cost::Parse,
        call: |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(Quantity::parse(text).is_ok())),
            _ => no_overload("isQuantity", args),
        },
    },
    Function {
        name: "sign",
        overloads: &[global(&[AMOUNT], T::Int), member(&[AMOUNT], T::Int)],
        cost: Cost::One,
        call: |args, _| match amount(&args[0]) {
            Some(amount) => Ok(Value::Int(amount.nanos().signum() as i64)),
            None => no_overload("sign", args),
        },
    },
    Function {
        name: "isInteger",
        overloads: &[member(&[AMOUNT], T::Bool)],
        cost: Cost::One,
        call: |args, _| match amount(&args[0]) {
            Some(amount) => Ok(Value::Bool(whole(&amount).is_some())),
            None => no_overload("isInteger", args),
        },
    },
    Function {
        name: "asInteger",
        overloads: &[member(&[AMOUNT], T::Int)],
        cost: Cost::One,
        call: |args, _| match amount(&args[0]).map(|amount| whole(&amount)) {
            Some(Some(amount)) => Ok(Value::Int(amount)),
            Some(None) => fail("cannot convert value to integer"),
            None => no_overload("asInteger", args),
        },
    },
    Function {
        name: "asApproximateFloat",
        overloads: &[member(&[AMOUNT], T::Double)],
        cost: Cost::One,
        call: |args, _| match amount(&args[0]) {
            Some(amount) => Ok(Value::Double(amount.nanos() as f64 / 1e9)),
            None => no_overload("asApproximateFloat", args),
        },
    },
    Function {
        name: "isGreaterThan",
        overloads: &[member(&[AMOUNT, AMOUNT], T::Bool), member(&[VERSION, VERSION], T::Bool)],
        cost: Cost::One,
        call: |args, _| match compared(args) {
            Some(order) => Ok(Value::Bool(order.is_gt())),
            None => no_overload("isGreaterThan", args),
        },
    },
    Function {
        name: "isLessThan",
        overloads: &[member(&[AMOUNT, AMOUNT], T::Bool), member(&[VERSION, VERSION], T::Bool)],
        cost: Cost::One,
        call: |args, _| match compared(args) {
            Some(order) => Ok(Value::Bool(order.is_lt())),
            None => no_overload("isLessThan", args),
        },
    },
    Function {
        name: "compareTo",
        overloads: &[member(&[AMOUNT, AMOUNT], T::Int), member(&[VERSION, VERSION], T::Int)],
        cost: Cost::One,
        call: |args, _| match compared(args) {
            Some(order) => Ok(Value::Int(order as i64)),
            None => no_overload("compareTo", args),
        },
    },
    Function {
        name: "add",
        overloads: &[member(&[AMOUNT, AMOUNT], AMOUNT), member(&[AMOUNT, T::Int], AMOUNT)],
        cost: Cost::One,
        call: |args, _| sum("add", args, |one, other| one + other),
    },
    Function {
        name: "sub",
        overloads: &[member(&[AMOUNT, AMOUNT], AMOUNT), member(&[AMOUNT, T::Int], AMOUNT)],
        cost: Cost::One,
        call: |args, _| sum("sub", args, |one, other| one - other),
    },
];

fn made<'a>(amount: Quantity) -> Value<'a> {
    Value::opaque(Opaque::Quantity(amount))
}

fn amount(value: &Value<'_>) -> Option<Quantity> {
    match value {
        Value::Opaque(of) => match &**of {
            Opaque::Quantity(amount) => Some(*amount),
            _ => None,
        },
        _ => None,
    }
}

/// The amount as a whole number, where it is one.
fn whole(amount: &Quantity) -> Option<i64> {
    (amount.nanos() % 1_000_000_000 == 0).then(|| amount.value())
}

fn compared(args: &[Value<'_>]) -> Option<Ordering> {
    let [Value::Opaque(one), Value::Opaque(other)] = args else { return None };
    match (&**one, &**other) {
        (Opaque::Quantity(one), Opaque::Quantity(other)) => Some(one.nanos().cmp(&other.nanos())),
        (Opaque::Semver(one), Opaque::Semver(other)) => Some(one.compare(other)),
        _ => None,
    }
}

fn sum<'a>(name: &str, args: &[Value<'a>], of: fn(Quantity, Quantity) -> Quantity) -> Made<'a> {
    let other = match &args[1] {
        Value::Int(whole) => Some(Quantity::from_value(*whole, Format::DecimalExponent)),
        other => amount(other),
    };
    match (amount(&args[0]), other) {
        (Some(one), Some(other)) => Ok(made(of(one, other))),
        _ => no_overload(name, args),
    }
}
