//! Texts: places are counted in characters.

use super::super::cost::Cost;
use super::super::eval::Meter;
use super::super::lists::position;
use super::super::value::{List, Made, Text, Value};
use super::{Function, T, fail, global, member, no_overload, text_format};

const TEXTS: T = T::List(&T::String);

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "charAt",
        overloads: &[member(&[T::String, T::Int], T::String)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::String(of), Value::Int(at)] => {
                let chars = of.chars().count() as i64;
                match usize::try_from(*at).ok().filter(|_| *at <= chars) {
                    Some(at) => Ok(Value::String(of.chars().nth(at).map_or_else(|| "".into(), String::from).into())),
                    None => fail(format!("index out of range: {at}")),
                }
            }
            _ => no_overload("charAt", args),
        },
    },
    Function {
        name: "indexOf",
        overloads: &[
            member(&[T::String, T::String], T::Int),
            member(&[T::String, T::String, T::Int], T::Int),
            member(&[T::List(&T::A), T::A], T::Int),
        ],
        cost: Cost::Fold,
        call: |args, with| match args {
            [Value::String(of), Value::String(part)] => index_of(of, part, 0),
            [Value::String(of), Value::String(part), Value::Int(from)] => index_of(of, part, *from),
            [Value::List(of), item] => Ok(Value::Int(position(of, item, with.meter)?.map_or(-1, |at| at as i64))),
            _ => no_overload("indexOf", args),
        },
    },
    Function {
        name: "lastIndexOf",
        overloads: &[
            member(&[T::String, T::String], T::Int),
            member(&[T::String, T::String, T::Int], T::Int),
            member(&[T::List(&T::A), T::A], T::Int),
        ],
        cost: Cost::Fold,
        call: |args, with| match args {
            [Value::String(of), Value::String(part)] if part.is_empty() => Ok(Value::Int(of.chars().count() as i64)),
            [Value::String(of), Value::String(part)] => last_index_of(of, part, (of.chars().count() as i64 - 1).max(0)),
            [Value::String(of), Value::String(part), Value::Int(from)] => last_index_of(of, part, *from),
            [Value::List(of), item] => last_position(of, item, with.meter),
            _ => no_overload("lastIndexOf", args),
        },
    },
    Function {
        name: "lowerAscii",
        overloads: &[member(&[T::String], T::String)],
        cost: Cost::Traverse,
        call: |args, _| match args {
            [Value::String(of)] => Ok(Value::String(of.to_ascii_lowercase().into())),
            _ => no_overload("lowerAscii", args),
        },
    },
    Function {
        name: "upperAscii",
        overloads: &[member(&[T::String], T::String)],
        cost: Cost::Traverse,
        call: |args, _| match args {
            [Value::String(of)] => Ok(Value::String(of.to_ascii_uppercase().into())),
            _ => no_overload("upperAscii", args),
        },
    },
    Function {
        name: "trim",
        overloads: &[member(&[T::String], T::String)],
        cost: Cost::Traverse,
        call: |args, _| match args {
            [Value::String(of)] => Ok(Value::String(of.trim().into())),
            _ => no_overload("trim", args),
        },
    },
    Function {
        name: "replace",
        overloads: &[
            member(&[T::String, T::String, T::String], T::String),
            member(&[T::String, T::String, T::String, T::Int], T::String),
        ],
        cost: Cost::Replace,
        call: |args, _| match args {
            [Value::String(of), Value::String(old), Value::String(new)] => replaced(of, old, new, -1),
            [Value::String(of), Value::String(old), Value::String(new), Value::Int(count)] => {
                replaced(of, old, new, *count)
            }
            _ => no_overload("replace", args),
        },
    },
    Function {
        name: "split",
        overloads: &[member(&[T::String, T::String], TEXTS), member(&[T::String, T::String, T::Int], TEXTS)],
        cost: Cost::Split,
        call: |args, _| match args {
            [Value::String(of), Value::String(by)] => Ok(split(of, by, -1)),
            [Value::String(of), Value::String(by), Value::Int(count)] => Ok(split(of, by, *count)),
            _ => no_overload("split", args),
        },
    },
    Function {
        name: "substring",
        overloads: &[member(&[T::String, T::Int], T::String), member(&[T::String, T::Int, T::Int], T::String)],
        cost: Cost::Traverse,
        call: |args, _| match args {
            [Value::String(of), Value::Int(from)] => substring(of, *from, of.chars().count() as i64),
            [Value::String(_), Value::Int(from), Value::Int(to)] if from > to => {
                fail(format!("invalid substring range. start: {from}, end: {to}"))
            }
            [Value::String(of), Value::Int(from), Value::Int(to)] => substring(of, *from, *to),
            _ => no_overload("substring", args),
        },
    },
    Function {
        name: "join",
        overloads: &[member(&[TEXTS], T::String), member(&[TEXTS, T::String], T::String)],
        cost: Cost::Join,
        call: |args, with| match args {
            [Value::List(of)] => join(of, "", with.meter),
            [Value::List(of), Value::String(by)] => join(of, by, with.meter),
            _ => no_overload("join", args),
        },
    },
    Function {
        name: "format",
        overloads: &[member(&[T::String, T::List(&T::Dyn)], T::String)],
        cost: Cost::Format,
        call: |args, with| match args {
            [Value::String(of), Value::List(given)] => text_format::formatted(of, given, with.meter),
            _ => no_overload("format", args),
        },
    },
    Function {
        name: "strings.quote",
        overloads: &[global(&[T::String], T::String)],
        cost: Cost::Traverse,
        call: |args, _| match args {
            [Value::String(of)] => Ok(Value::String(quoted(of).into())),
            _ => no_overload("strings.quote", args),
        },
    },
];

fn index_of<'a>(of: &str, part: &str, from: i64) -> Made<'a> {
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    let Ok(from) = usize::try_from(from) else { return fail(format!("index out of range: {from}")) };
    let Some((start, _)) = of.char_indices().nth(from) else { return Ok(Value::Int(-1)) };
    let found = of[start..].find(part).map(|at| from + of[start..start + at].chars().count());
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn last_index_of<'a>(of: &str, part: &str, from: i64) -> Made<'a> {
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    let Ok(from) = usize::try_from(from) else { return fail(format!("index out of range: {from}")) };
    let Some((start, _)) = of.char_indices().nth(from) else { return Ok(Value::Int(-1)) };
    // What begins at `from` or before.
    let mut ends = (start + part.len()).min(of.len());
    while !of.is_char_boundary(ends) {
        ends += 1;
    }
    let found = of[..ends].rfind(part).filter(|at| *at <= start).map(|at| of[..at].chars().count());
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn last_position<'a>(of: &List<'a>, item: &Value<'a>, meter: &Meter) -> Made<'a> {
    for at in (0..of.len()).rev() {
        if of.get(at)?.same(item, meter)? {
            return Ok(Value::Int(at as i64));
        }
    }
    Ok(Value::Int(-1))
}

fn replaced<'a>(of: &str, old: &str, new: &str, count: i64) -> Made<'a> {
    /// Longer texts are not made: nothing that is read or written is as long.
    const BYTES_MAX: usize = 64 << 20;
    let times = if old.is_empty() { of.len() + 1 } else { of.matches(old).count() };
    let times = usize::try_from(count).map_or(times, |count| count.min(times));
    if of.len() + times * new.len() > BYTES_MAX {
        return fail("replace: the result is too long");
    }
    Ok(Value::String(of.replacen(old, new, times).into()))
}

fn split<'a>(of: &str, by: &str, count: i64) -> Value<'a> {
    let made = |part: &str| Value::String(Text::from(part));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 {
        return Value::list(Vec::new());
    }
    if !by.is_empty() {
        return Value::list(of.splitn(count, by).map(made).collect());
    }
    let mut parts = Vec::new();
    let mut rest = of;
    while let Some(sign) = rest.chars().next() {
        let ends = if parts.len() + 1 == count { rest.len() } else { sign.len_utf8() };
        parts.push(made(&rest[..ends]));
        rest = &rest[ends..];
    }
    Value::list(parts)
}

fn substring<'a>(of: &str, from: i64, to: i64) -> Made<'a> {
    let chars = of.chars().count() as i64;
    if let Some(wrong) = [from, to].into_iter().find(|at| !(0..=chars).contains(at)) {
        return fail(format!("index out of range: {wrong}"));
    }
    Ok(Value::String(of.chars().skip(from as usize).take((to - from) as usize).collect::<String>().into()))
}

fn join<'a>(of: &List<'a>, by: &str, meter: &Meter) -> Made<'a> {
    let mut joined = String::new();
    for (at, item) in of.iter().enumerate() {
        if at > 0 {
            joined.push_str(by);
        }
        match item? {
            Value::String(text) => {
                meter.steps(1 + (text.len() + by.len()) / 8)?;
                joined.push_str(&text);
            }
            other => return fail(format!("join: invalid input: {}", other.type_name())),
        }
    }
    Ok(Value::String(joined.into()))
}

fn quoted(of: &str) -> String {
    let mut out = String::with_capacity(of.len() + 2);
    out.push('"');
    for sign in of.chars() {
        match sign {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
