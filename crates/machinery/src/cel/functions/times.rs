//! The parts of moments and durations.

use jiff::civil::DateTime;

use super::super::cost::Cost;
use super::super::value::{Made, Value};
use super::{Function, Overload, T, fail, member, no_overload};

const OF_TIME: &[Overload] = &[member(&[T::Timestamp], T::Int), member(&[T::Timestamp, T::String], T::Int)];
const OF_BOTH: &[Overload] =
    &[member(&[T::Timestamp], T::Int), member(&[T::Timestamp, T::String], T::Int), member(&[T::Duration], T::Int)];

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "getFullYear",
        overloads: OF_TIME,
        cost: Cost::One,
        call: |args, _| part("getFullYear", args, |at| at.year().into(), 0),
    },
    Function {
        name: "getMonth",
        overloads: OF_TIME,
        cost: Cost::One,
        call: |args, _| part("getMonth", args, |at| i64::from(at.month()) - 1, 0),
    },
    Function {
        name: "getDayOfYear",
        overloads: OF_TIME,
        cost: Cost::One,
        call: |args, _| part("getDayOfYear", args, |at| i64::from(at.day_of_year()) - 1, 0),
    },
    Function {
        name: "getDayOfMonth",
        overloads: OF_TIME,
        cost: Cost::One,
        call: |args, _| part("getDayOfMonth", args, |at| i64::from(at.day()) - 1, 0),
    },
    Function {
        name: "getDate",
        overloads: OF_TIME,
        cost: Cost::One,
        call: |args, _| part("getDate", args, |at| at.day().into(), 0),
    },
    Function {
        name: "getDayOfWeek",
        overloads: OF_TIME,
        cost: Cost::One,
        call: |args, _| part("getDayOfWeek", args, |at| at.weekday().to_sunday_zero_offset().into(), 0),
    },
    Function {
        name: "getHours",
        overloads: OF_BOTH,
        cost: Cost::One,
        call: |args, _| part("getHours", args, |at| at.hour().into(), 3_600_000_000_000),
    },
    Function {
        name: "getMinutes",
        overloads: OF_BOTH,
        cost: Cost::One,
        call: |args, _| part("getMinutes", args, |at| at.minute().into(), 60_000_000_000),
    },
    Function {
        name: "getSeconds",
        overloads: OF_BOTH,
        cost: Cost::One,
        call: |args, _| part("getSeconds", args, |at| at.second().into(), 1_000_000_000),
    },
    Function {
        name: "getMilliseconds",
        overloads: OF_BOTH,
        cost: Cost::One,
        call: |args, _| part("getMilliseconds", args, |at| i64::from(at.subsec_nanosecond()) / 1_000_000, 1_000_000),
    },
];

fn part<'a>(name: &str, args: &[Value<'a>], of: fn(DateTime) -> i64, unit: i64) -> Made<'a> {
    let (at, zone) = match args {
        [Value::Duration(nanos)] if unit > 0 => return Ok(Value::Int(nanos / unit)),
        [Value::Timestamp(at)] => (at, ""),
        [Value::Timestamp(at), Value::String(zone)] => (at, &**zone),
        _ => return no_overload(name, args),
    };
    match at.in_zone(zone) {
        Some(at) => Ok(Value::Int(of(at))),
        None => fail(format!("unknown time zone {zone}")),
    }
}
