//! Lists: sums, extremes, parts, orders.

use std::cmp::Ordering;

use super::super::cost::Cost;
use super::super::eval::{EvalError, Meter};
use super::super::value::{List, Made, Value};
use super::{Function, Overload, T, fail, global, member, no_overload, operators};

const LIST: T = T::List(&T::A);
/// The longest list that `lists.range` makes. Its cost is only known when it is made.
const RANGE_MAX: i64 = 1_000_000;

const INTS: T = T::List(&T::Int);
const UINTS: T = T::List(&T::Uint);
const DOUBLES: T = T::List(&T::Double);
const BOOLS: T = T::List(&T::Bool);
const DURATIONS: T = T::List(&T::Duration);
const TIMES: T = T::List(&T::Timestamp);
const TEXTS: T = T::List(&T::String);
const BYTES: T = T::List(&T::Bytes);

const EXTREME: &[Overload] = &[
    member(&[INTS], T::Int),
    member(&[UINTS], T::Uint),
    member(&[DOUBLES], T::Double),
    member(&[BOOLS], T::Bool),
    member(&[DURATIONS], T::Duration),
    member(&[TIMES], T::Timestamp),
    member(&[TEXTS], T::String),
    member(&[BYTES], T::Bytes),
];

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "isSorted",
        overloads: &[
            member(&[INTS], T::Bool),
            member(&[UINTS], T::Bool),
            member(&[DOUBLES], T::Bool),
            member(&[BOOLS], T::Bool),
            member(&[DURATIONS], T::Bool),
            member(&[TIMES], T::Bool),
            member(&[TEXTS], T::Bool),
            member(&[BYTES], T::Bool),
        ],
        cost: Cost::Fold,
        call: |args, _| match args {
            [Value::List(of)] => {
                let items = of.to_vec()?;
                for pair in items.windows(2) {
                    if pair[0].compare(&pair[1])? == Some(Ordering::Greater) {
                        return Ok(Value::Bool(false));
                    }
                }
                Ok(Value::Bool(true))
            }
            _ => no_overload("isSorted", args),
        },
    },
    Function {
        name: "sum",
        overloads: &[
            member(&[INTS], T::Int),
            member(&[UINTS], T::Uint),
            member(&[DOUBLES], T::Double),
            member(&[DURATIONS], T::Duration),
        ],
        cost: Cost::Fold,
        call: |args, with| match args {
            [Value::List(of)] => sum(of, with.meter),
            _ => no_overload("sum", args),
        },
    },
    Function {
        name: "min",
        overloads: EXTREME,
        cost: Cost::Fold,
        call: |args, _| match args {
            [Value::List(of)] => extreme("min", of, Ordering::Greater),
            _ => no_overload("min", args),
        },
    },
    Function {
        name: "max",
        overloads: EXTREME,
        cost: Cost::Fold,
        call: |args, _| match args {
            [Value::List(of)] => extreme("max", of, Ordering::Less),
            _ => no_overload("max", args),
        },
    },
    Function {
        name: "slice",
        overloads: &[member(&[LIST, T::Int, T::Int], LIST)],
        cost: Cost::Slice,
        call: |args, _| match args {
            [Value::List(of), Value::Int(from), Value::Int(to)] => slice(of, *from, *to),
            _ => no_overload("slice", args),
        },
    },
    Function {
        name: "flatten",
        overloads: &[member(&[T::List(&LIST)], LIST), member(&[T::List(&T::Dyn), T::Int], T::List(&T::Dyn))],
        cost: Cost::Flatten,
        call: |args, with| match args {
            [Value::List(of)] => flat(of, 1, with.meter).map(Value::list),
            [Value::List(_), Value::Int(depth)] if *depth < 0 => fail("level must be non-negative"),
            [Value::List(of), Value::Int(depth)] => flat(of, *depth, with.meter).map(Value::list),
            _ => no_overload("flatten", args),
        },
    },
    Function {
        name: "sort",
        overloads: &[
            member(&[INTS], INTS),
            member(&[UINTS], UINTS),
            member(&[DOUBLES], DOUBLES),
            member(&[BOOLS], BOOLS),
            member(&[DURATIONS], DURATIONS),
            member(&[TIMES], TIMES),
            member(&[TEXTS], TEXTS),
            member(&[BYTES], BYTES),
        ],
        cost: Cost::SelfCompare(0),
        call: |args, _| match args {
            [Value::List(of)] => sorted(of, of),
            _ => no_overload("sort", args),
        },
    },
    Function {
        name: "@sortByAssociatedKeys",
        overloads: &[
            member(&[LIST, INTS], LIST),
            member(&[LIST, UINTS], LIST),
            member(&[LIST, DOUBLES], LIST),
            member(&[LIST, BOOLS], LIST),
            member(&[LIST, DURATIONS], LIST),
            member(&[LIST, TIMES], LIST),
            member(&[LIST, TEXTS], LIST),
            member(&[LIST, BYTES], LIST),
        ],
        cost: Cost::SelfCompare(1),
        call: |args, _| match args {
            [Value::List(of), Value::List(keys)] => sorted(of, keys),
            _ => no_overload("@sortByAssociatedKeys", args),
        },
    },
    Function {
        name: "lists.range",
        overloads: &[global(&[T::Int], INTS)],
        cost: Cost::Range,
        call: |args, _| match args {
            [Value::Int(count)] if *count > RANGE_MAX => fail(format!("lists.range({count}) is too long")),
            [Value::Int(count)] => Ok(Value::list((0..*count).map(Value::Int).collect())),
            _ => no_overload("lists.range", args),
        },
    },
    Function {
        name: "reverse",
        overloads: &[member(&[LIST], LIST)],
        cost: Cost::Reverse,
        call: |args, _| match args {
            [Value::List(of)] => {
                let mut items = of.to_vec()?;
                items.reverse();
                Ok(Value::list(items))
            }
            _ => no_overload("reverse", args),
        },
    },
    Function {
        name: "distinct",
        overloads: &[member(&[LIST], LIST)],
        cost: Cost::SelfCompare(0),
        call: |args, with| match args {
            [Value::List(of)] => distinct(of, with.meter),
            _ => no_overload("distinct", args),
        },
    },
];

fn sum<'a>(of: &List<'a>, meter: &Meter) -> Made<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in of.iter() {
        let item = item?;
        total = Some(match total {
            None => item,
            Some(total) => operators::add(&total, &item, meter)?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(name: &str, of: &List<'a>, worse: Ordering) -> Made<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in of.iter() {
        let item = item?;
        best = match best {
            Some(best) if best.compare(&item)? != Some(worse) => Some(best),
            _ => Some(item),
        };
    }
    best.map_or_else(|| fail(format!("{name} called on empty list")), Ok)
}

fn slice<'a>(of: &List<'a>, from: i64, to: i64) -> Made<'a> {
    if from < 0 || to < 0 {
        return fail(format!("cannot slice({from}, {to}), negative indexes not supported"));
    }
    if from > to {
        return fail(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"));
    }
    if of.len() < to as usize {
        return fail(format!("cannot slice({from}, {to}), list is length {}", of.len()));
    }
    (from as usize..to as usize).map(|at| of.get(at)).collect::<Result<_, _>>().map(Value::list)
}

fn flat<'a>(of: &List<'a>, depth: i64, meter: &Meter) -> Result<Vec<Value<'a>>, EvalError> {
    meter.steps(of.len())?;
    let mut items = Vec::new();
    for item in of.iter() {
        match item? {
            Value::List(inner) if depth > 0 => items.extend(flat(&inner, depth - 1, meter)?),
            other => items.push(other),
        }
    }
    Ok(items)
}

fn sorted<'a>(of: &List<'a>, keys: &List<'a>) -> Made<'a> {
    if of.len() != keys.len() {
        return fail(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            of.len(),
            keys.len()
        ));
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> =
        keys.iter().zip(of.iter()).map(|(key, item)| Ok((key?, item?))).collect::<Result<_, EvalError>>()?;
    if pairs.first().is_some_and(|(key, _)| key.compare(key).is_err()) {
        return fail("list elements must be comparable");
    }
    if pairs.iter().any(|(key, _)| key.type_name() != pairs[0].0.type_name()) {
        return fail("list elements must have the same type");
    }
    pairs.sort_by(|(one, _), (other, _)| one.compare(other).ok().flatten().unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

fn distinct<'a>(of: &List<'a>, meter: &Meter) -> Made<'a> {
    /// What each of so many is compared with all others takes seconds; the cost is only known when it is done.
    const ITEMS_MAX: usize = 1000;
    if of.len() > ITEMS_MAX {
        return Err(EvalError::limit());
    }
    let mut items: Vec<Value<'a>> = Vec::new();
    for item in of.iter() {
        let item = item?;
        let mut known = false;
        for other in &items {
            known = known || other.same(&item, meter)?;
        }
        if !known {
            items.push(item);
        }
    }
    Ok(Value::list(items))
}
