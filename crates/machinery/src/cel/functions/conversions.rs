//! From one type to another.

use std::net::IpAddr;

use super::super::cost::Cost;
use super::super::eval::EvalError;
use super::super::time::{self, Timestamp};
use super::super::value::{Made, Opaque, Text, Value};
use super::{CIDR, Function, IP, T, fail, global, no_overload};

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "bool",
        overloads: &[global(&[T::Bool], T::Bool), global(&[T::String], T::Bool)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Bool(value)] => Ok(Value::Bool(*value)),
            [Value::String(text)] => match &**text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                _ => fail("type conversion error from 'string' to 'bool'"),
            },
            _ => no_overload("bool", args),
        },
    },
    Function {
        name: "bytes",
        overloads: &[global(&[T::Bytes], T::Bytes), global(&[T::String], T::Bytes)],
        cost: Cost::Bytes,
        call: |args, _| match args {
            [Value::Bytes(value)] => Ok(Value::Bytes(value.clone())),
            [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
            _ => no_overload("bytes", args),
        },
    },
    Function {
        name: "double",
        overloads: &[
            global(&[T::Double], T::Double),
            global(&[T::Int], T::Double),
            global(&[T::String], T::Double),
            global(&[T::Uint], T::Double),
        ],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Double(value)] => Ok(Value::Double(*value)),
            [Value::Int(value)] => Ok(Value::Double(*value as f64)),
            [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
            [Value::String(text)] => match text.parse() {
                Ok(value) => Ok(Value::Double(value)),
                Err(_) => fail(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", &**text)),
            },
            _ => no_overload("double", args),
        },
    },
    Function {
        name: "duration",
        overloads: &[
            global(&[T::Duration], T::Duration),
            global(&[T::Int], T::Duration),
            global(&[T::String], T::Duration),
        ],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Duration(value) | Value::Int(value)] => Ok(Value::Duration(*value)),
            [Value::String(text)] => match time::duration(text) {
                Some(value) => Ok(Value::Duration(value)),
                None => fail(format!("time: invalid duration {:?}", &**text)),
            },
            _ => no_overload("duration", args),
        },
    },
    Function {
        name: "int",
        overloads: &[
            global(&[T::Int], T::Int),
            global(&[T::Double], T::Int),
            global(&[T::Duration], T::Int),
            global(&[T::String], T::Int),
            global(&[T::Timestamp], T::Int),
            global(&[T::Uint], T::Int),
        ],
        cost: Cost::One,
        call: |args, _| int(args),
    },
    Function {
        name: "uint",
        overloads: &[
            global(&[T::Uint], T::Uint),
            global(&[T::Double], T::Uint),
            global(&[T::Int], T::Uint),
            global(&[T::String], T::Uint),
        ],
        cost: Cost::One,
        call: |args, _| uint(args),
    },
    Function {
        name: "timestamp",
        overloads: &[
            global(&[T::Timestamp], T::Timestamp),
            global(&[T::Int], T::Timestamp),
            global(&[T::String], T::Timestamp),
        ],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::Timestamp(value)] => Ok(Value::Timestamp(*value)),
            [Value::Int(seconds)] => Timestamp::of_seconds(*seconds)
                .map(Value::Timestamp)
                .ok_or_else(|| EvalError::new("timestamp overflow")),
            [Value::String(text)] => match Timestamp::parse(text) {
                Some(value) => Ok(Value::Timestamp(value)),
                None => fail(format!("parsing time {:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse", &**text)),
            },
            _ => no_overload("timestamp", args),
        },
    },
    Function {
        name: "string",
        overloads: &[
            global(&[T::String], T::String),
            global(&[T::Bool], T::String),
            global(&[T::Bytes], T::String),
            global(&[T::Double], T::String),
            global(&[T::Duration], T::String),
            global(&[T::Int], T::String),
            global(&[T::Timestamp], T::String),
            global(&[T::Uint], T::String),
            global(&[T::Opaque(IP)], T::String),
            global(&[T::Opaque(CIDR)], T::String),
        ],
        cost: Cost::String,
        call: |args, _| match text_of(&args[0])? {
            Some(text) => Ok(Value::String(text)),
            None => no_overload("string", args),
        },
    },
];

fn int<'a>(args: &[Value<'a>]) -> Made<'a> {
    let overflow = || EvalError::new("integer overflow");
    match args {
        [Value::Int(value)] => Ok(Value::Int(*value)),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        [Value::Timestamp(at)] => Ok(Value::Int(at.seconds())),
        [Value::Uint(value)] => i64::try_from(*value).map(Value::Int).map_err(|_| overflow()),
        // The bounds themselves may be rounded and are refused, as upstream.
        [Value::Double(value)] if *value > i64::MIN as f64 && *value < i64::MAX as f64 => Ok(Value::Int(*value as i64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::String(text)] => match text.strip_prefix('+').unwrap_or(text).parse() {
            Ok(value) => Ok(Value::Int(value)),
            Err(_) => fail(format!("strconv.ParseInt: parsing {:?}: invalid syntax", &**text)),
        },
        _ => no_overload("int", args),
    }
}

fn uint<'a>(args: &[Value<'a>]) -> Made<'a> {
    let overflow = || EvalError::new("unsigned integer overflow");
    match args {
        [Value::Uint(value)] => Ok(Value::Uint(*value)),
        [Value::Int(value)] => u64::try_from(*value).map(Value::Uint).map_err(|_| overflow()),
        [Value::Double(value)] if *value >= 0.0 && *value < u64::MAX as f64 => Ok(Value::Uint(*value as u64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::String(text)] => match text.parse() {
            Ok(value) => Ok(Value::Uint(value)),
            Err(_) => fail(format!("strconv.ParseUint: parsing {:?}: invalid syntax", &**text)),
        },
        _ => no_overload("uint", args),
    }
}

/// A value as a text, where there is one for its type.
pub(super) fn text_of<'a>(value: &Value<'a>) -> Result<Option<Text<'a>>, EvalError> {
    Ok(Some(match value {
        Value::String(text) | Value::Type(text) => text.clone(),
        Value::Bool(value) => Text::Borrowed(if *value { "true" } else { "false" }),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Double(value) => double_text(*value).into(),
        Value::Duration(nanos) => time::duration_text(*nanos).into(),
        Value::Int(value) => value.to_string().into(),
        Value::Uint(value) => value.to_string().into(),
        Value::Timestamp(at) => at.to_string().into(),
        Value::Opaque(of) => match &**of {
            Opaque::Ip(ip) => ip.to_string().into(),
            Opaque::Cidr(ip, bits) => cidr_text(*ip, *bits).into(),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn cidr_text(ip: IpAddr, bits: u8) -> String {
    format!("{ip}/{bits}")
}

/// A number as Go's shortest form: an exponent for what is very large or very small.
pub(in super::super) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 || (1e-4..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}
