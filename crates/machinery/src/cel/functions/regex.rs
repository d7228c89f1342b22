//! What patterns find.

use super::super::cost::Cost;
use super::super::value::{Made, Value};
use super::{Function, T, fail, member, no_overload};
use crate::pattern::Pattern;

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "find",
        overloads: &[member(&[T::String, T::String], T::String)],
        cost: Cost::Find,
        call: |args, with| match args {
            [Value::String(of), Value::String(pattern)] => {
                let parts = found(pattern, with.pattern, |pattern| pattern.find_all(of, Some(1)));
                parts.map(|parts| Value::String(parts.into_iter().next().unwrap_or_default().into())).or_else(fail)
            }
            _ => no_overload("find", args),
        },
    },
    Function {
        name: "findAll",
        overloads: &[
            member(&[T::String, T::String], T::List(&T::String)),
            member(&[T::String, T::String, T::Int], T::List(&T::String)),
        ],
        cost: Cost::Find,
        call: |args, with| match args {
            [Value::String(of), Value::String(pattern)] => all(of, pattern, with.pattern, -1),
            [Value::String(of), Value::String(pattern), Value::Int(count)] => all(of, pattern, with.pattern, *count),
            _ => no_overload("findAll", args),
        },
    },
];

fn all<'a>(of: &str, pattern: &str, compiled: Option<&Pattern>, count: i64) -> Made<'a> {
    let parts = found(pattern, compiled, |pattern| pattern.find_all(of, usize::try_from(count).ok()));
    match parts {
        Ok(parts) => Ok(Value::list(parts.into_iter().map(|part| Value::String(part.into())).collect())),
        Err(why) => fail(why),
    }
}

fn found<'t>(
    pattern: &str,
    compiled: Option<&Pattern>,
    find: impl FnOnce(&Pattern) -> Vec<&'t str>,
) -> Result<Vec<&'t str>, String> {
    match compiled {
        Some(pattern) => Ok(find(pattern)),
        None => match Pattern::check(pattern) {
            None => Ok(find(&Pattern::new(pattern))),
            Some(why) => Err(format!("Illegal regex: {why}")),
        },
    }
}
