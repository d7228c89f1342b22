//! What calls cost: before a rule is taken, at most, and while it runs, in fact. The unit is cel-go's, about 50 ns.
//!
//! The numbers are part of the API: they decide which rules a definition may have. They are cel-go's and, for the libraries
//! of Kubernetes, those of its cost estimator.

use super::ast::{Expr, Kind};
use super::eval::{EvalError, Meter};
use super::functions::{self, Overload, T};
use super::types::Type;
use super::value::{List, Opaque, Table, Value};

pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;
pub(super) const MESSAGE: u64 = 40;
const CHECK: u64 = 350_000;
const TRAVERSAL: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// How long the pattern of a named format is at most.
const FORMAT_PATTERN: f64 = 128.0;
/// How long the name of a format is at most.
const FORMAT_LENGTH: u64 = 64;

/// How the cost of a function goes with what it is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cost {
    /// One, whatever it is given.
    One,
    /// The length of what it is called on.
    Traverse,
    /// The length of its text; the result is of no known length.
    Parse,
    ParseTwice,
    /// As `Parse`; the result is as large as the text.
    Url,
    /// `ip`: of a text its length, of a network one.
    Ip,
    /// `startsWith`, `endsWith`
    StartsWith,
    Bytes,
    String,
    Format,
    Contains,
    Regex,
    Find,
    Replace,
    Split,
    Join,
    Equal,
    Compare,
    Add,
    In,
    /// One look at each element.
    Fold,
    Sets(u64),
    Slice,
    Range,
    Reverse,
    Flatten,
    /// Each element of that argument against each other.
    SelfCompare(usize),
    ContainsIp,
    ContainsCidr,
    Validate,
    /// One question about what somebody may do: an expression has two.
    Check,
    Selector,
}

/// At least and at most: of a size or a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Range {
    pub(super) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(super) const fn of(value: u64) -> Self {
        Self { min: value, max: value }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(super) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub(super) fn scaled(self, factor: f64) -> Self {
        let scaled = |value: u64| (value as f64 * factor).ceil() as u64;
        Self { min: scaled(self.min), max: scaled(self.max) }
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

fn scaled(size: f64, factor: f64) -> u64 {
    (size * factor).ceil() as u64
}

fn traversal(value: &Value<'_>) -> u64 {
    scaled(value.size() as f64, TRAVERSAL)
}

/// The cost of a call by its arguments. It is known before the call is made, so that one that costs too much is not.
pub(super) fn actual(cost: Cost, args: &[Value<'_>], meter: &Meter) -> Result<u64, EvalError> {
    let size = |at: usize| args.get(at).map_or(0, Value::size);
    Ok(match cost {
        Cost::One => 1,
        Cost::Traverse | Cost::Parse | Cost::Url | Cost::StartsWith | Cost::Format => traversal(&args[0]),
        Cost::Replace | Cost::Split | Cost::ParseTwice => scaled(size(0) as f64 * 2.0, TRAVERSAL),
        Cost::Ip if matches!(args[0], Value::String(_)) => traversal(&args[0]),
        Cost::Bytes if matches!(args[0], Value::String(_)) => traversal(&args[0]),
        Cost::String if matches!(args[0], Value::Bytes(_)) => traversal(&args[0]),
        Cost::Ip | Cost::Bytes | Cost::String => 1,
        Cost::Contains => traversal(&args[0]).saturating_mul(traversal(&args[1])),
        Cost::Regex | Cost::Find => {
            scaled(1.0 + size(0) as f64, TRAVERSAL).saturating_mul(scaled(size(1) as f64, PATTERN))
        }
        // By its result, which is charged when it is there.
        Cost::Join => 0,
        Cost::Equal if matches!(args[0], Value::Opaque(_)) => 1,
        Cost::Equal => scaled(size(0).min(size(1)) as f64, TRAVERSAL),
        Cost::Compare if matches!(args[0], Value::String(_) | Value::Bytes(_)) => {
            scaled(size(0).min(size(1)) as f64, TRAVERSAL)
        }
        Cost::Compare => 1,
        Cost::Add if matches!(args[0], Value::String(_) | Value::Bytes(_)) => {
            scaled((size(0) + size(1)) as f64, TRAVERSAL)
        }
        Cost::Add => 1,
        Cost::In if matches!(args[1], Value::List(_)) => size(1),
        Cost::In => 1,
        Cost::Fold => traversed(&args[0], meter)?,
        Cost::Sets(factor) => size(0).saturating_mul(size(1)).saturating_mul(factor) + 1,
        Cost::Slice => match args {
            [_, Value::Int(from), Value::Int(to)] => to.saturating_sub(*from).max(0) as u64 + 1 + LIST,
            _ => 1 + LIST,
        },
        Cost::Range => match args {
            [Value::Int(count)] => (*count).max(0) as u64 + 1 + LIST,
            _ => 1 + LIST,
        },
        Cost::Reverse => size(0) + 1 + LIST,
        Cost::Flatten => {
            let depth = if let Some(Value::Int(depth)) = args.get(1) { (*depth).max(0) as u64 } else { 1 };
            size(0).saturating_mul(depth).saturating_add(1 + LIST)
        }
        Cost::SelfCompare(at) => {
            let long = matches!(&args[at], Value::List(of) if is_long(of));
            let factor = if long { 2.0 + TRAVERSAL } else { 2.0 };
            ((size(at) as f64 * size(at) as f64 * factor) as u64).saturating_add(1 + LIST)
        }
        Cost::ContainsIp => {
            let text = if matches!(args[1], Value::String(_)) { traversal(&args[1]) } else { 0 };
            scaled((2 * size(0)) as f64, TRAVERSAL) + text
        }
        Cost::ContainsCidr => {
            let text = if matches!(args[1], Value::String(_)) { traversal(&args[1]) } else { 0 };
            scaled((2 * size(0)) as f64, TRAVERSAL) + traversal(&args[0]) + 1 + text
        }
        Cost::Validate => {
            let pattern = functions::pattern_length(&args[0]);
            scaled(1.0 + size(1) as f64, TRAVERSAL).saturating_mul(scaled(pattern as f64, PATTERN))
        }
        Cost::Check => CHECK,
        Cost::Selector => selector(Range::of(size(1))).max,
    })
}

/// What is charged when the result is there.
pub(super) fn of_result(cost: Cost, result: &Value<'_>) -> u64 {
    if cost == Cost::Join { scaled(result.size() as f64 * 2.0, TRAVERSAL) } else { 0 }
}

fn is_long(list: &List<'_>) -> bool {
    list.len() > 0 && matches!(list.get(0), Ok(Value::String(_) | Value::Bytes(_)))
}

/// What it costs to look at all of a value.
fn traversed(value: &Value<'_>, meter: &Meter) -> Result<u64, EvalError> {
    meter.steps(1)?;
    let mut cost = 0u64;
    match value {
        Value::String(text) => return Ok((text.len() as f64 * TRAVERSAL) as u64),
        Value::Bytes(bytes) => return Ok((bytes.len() as f64 * TRAVERSAL) as u64),
        Value::List(list) => {
            for item in list.iter() {
                cost += traversed(&item?, meter)?;
            }
        }
        Value::Map(table @ (Table::Json(..) | Table::Object(..) | Table::Made(_))) => {
            for key in table.keys() {
                let inner = table.find(&key)?;
                cost += traversed(&key, meter)? + inner.map_or(Ok(0), |inner| traversed(&inner, meter))?;
            }
        }
        Value::Opaque(of) if matches!(**of, Opaque::Format(_)) => return Ok(1),
        _ => return Ok(1),
    }
    Ok(cost)
}

/// What the estimator knows of a call's parts.
pub(super) struct Parts<'p> {
    pub(super) target: Option<(Range, &'p Type)>,
    pub(super) args: &'p [(Range, &'p Type, &'p Expr)],
    /// The size of the elements of what it is called on, and whether they are texts.
    pub(super) element: Option<(Range, bool)>,
}

/// The cost of a call, without its arguments', at least and at most, and the size of its result where it is known.
pub(super) fn estimate(cost: Cost, overload: &Overload, parts: &Parts<'_>) -> (Range, Option<Range>) {
    let target = || parts.target.map_or(Range::UNKNOWN, |(size, _)| size);
    let arg = |at: usize| parts.args.get(at).map_or(Range::UNKNOWN, |(size, ..)| *size);
    let list = |factor: f64, size: Range| (size.scaled(factor).plus(Range::of(1 + LIST)), Some(size));
    let one = (Range::of(1), None);
    match cost {
        Cost::One => one,
        Cost::Traverse if parts.target.is_some() => (target().scaled(TRAVERSAL), Some(target())),
        // `strings.quote`
        Cost::Traverse => {
            let size = arg(0);
            let quoted = Range { min: size.min.saturating_add(2), max: size.max.saturating_mul(2).saturating_add(2) };
            (size.scaled(TRAVERSAL), Some(quoted))
        }
        Cost::Format => (target().scaled(TRAVERSAL), None),
        Cost::Parse | Cost::StartsWith => (arg(0).scaled(TRAVERSAL), None),
        Cost::ParseTwice => (arg(0).scaled(2.0 * TRAVERSAL), None),
        Cost::Url => (arg(0).scaled(TRAVERSAL), Some(arg(0))),
        Cost::Ip if overload.member => one,
        Cost::Ip => (arg(0).scaled(TRAVERSAL), None),
        Cost::Bytes if matches!(overload.params, [T::String]) => {
            let size = arg(0);
            (size.scaled(TRAVERSAL), Some(Range { min: size.min, max: size.max.saturating_mul(4) }))
        }
        Cost::String if matches!(overload.params, [T::Bytes]) => {
            let size = arg(0);
            (size.scaled(TRAVERSAL), Some(Range { min: size.min / 4, max: size.max }))
        }
        Cost::Bytes | Cost::String => one,
        Cost::Contains => (target().scaled(TRAVERSAL).times(arg(0).scaled(TRAVERSAL)), None),
        Cost::Regex | Cost::Find => {
            let (of, pattern) = if overload.member { (target(), arg(0)) } else { (arg(0), arg(1)) };
            let cost = of.plus(Range::of(1)).scaled(TRAVERSAL).times(pattern.scaled(PATTERN));
            (cost, (cost_is_find(overload)).then_some(Range { min: 0, max: of.max }))
        }
        Cost::Replace => (target().scaled(2.0 * TRAVERSAL), Some(replaced(target(), arg(0), arg(1)))),
        Cost::Split => {
            let count = match parts.args.get(1).map(|(_, _, expr)| &expr.kind) {
                Some(Kind::Literal(Value::Int(count))) => *count as u64,
                _ => target().max,
            };
            (target().scaled(2.0 * TRAVERSAL), Some(Range { min: 0, max: count }))
        }
        Cost::Join => {
            let (count, item) = (target(), parts.element.map_or(Range::of(0), |(size, _)| size));
            let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
            let separators = if parts.args.is_empty() { Range::of(0) } else { arg(0).times(between) };
            let size = count.times(item).plus(separators);
            (size.scaled(TRAVERSAL), Some(size))
        }
        Cost::Equal => (equal(parts), None),
        Cost::Compare if matches!(overload.params, [T::String | T::Bytes, ..]) => (smaller(arg(0), arg(1)), None),
        Cost::Compare => one,
        Cost::Add => match overload.params {
            [T::String | T::Bytes, ..] => {
                let size = arg(0).plus(arg(1));
                (size.scaled(TRAVERSAL), Some(size))
            }
            [T::List(_), ..] => (Range::of(1), Some(arg(0).plus(arg(1)))),
            _ => one,
        },
        Cost::In if matches!(overload.params, [_, T::List(_)]) => (arg(1).scaled(1.0), None),
        Cost::In => one,
        Cost::Fold => match parts.element {
            Some((size, is_text)) => {
                let each = if is_text { Range::of(1).plus(size.scaled(TRAVERSAL)) } else { Range::of(1) };
                (target().times(each), None)
            }
            None => (target().scaled(TRAVERSAL), None),
        },
        Cost::Sets(factor) => (arg(0).times(arg(1)).scaled(factor as f64).plus(Range::of(1)), None),
        Cost::Slice => {
            let (from, to) = (whole(parts, 0).unwrap_or(0), whole(parts, 1).unwrap_or(target().max));
            list(1.0, Range::of(to.wrapping_sub(from)))
        }
        Cost::Range => list(1.0, Range::of(whole(parts, 0).unwrap_or(u64::MAX))),
        Cost::Reverse => list(1.0, target()),
        Cost::Flatten => {
            let depth = if parts.args.is_empty() { 1 } else { whole(parts, 0).unwrap_or(u64::MAX) };
            list(depth as f64, target())
        }
        Cost::SelfCompare(at) => {
            let size = if at == 0 { target() } else { arg(0) };
            let of_texts = matches!(overload.params[at], T::List(T::String | T::Bytes));
            list(if of_texts { 2.0 + TRAVERSAL } else { 2.0 }, size.times(size))
        }
        Cost::ContainsIp => (contains_ip(overload, arg(0)), None),
        Cost::ContainsCidr => {
            let masked = Range { min: 4, max: 16 }.scaled(TRAVERSAL).plus(Range::of(1));
            (contains_ip(overload, arg(0)).plus(masked), None)
        }
        Cost::Check => (Range::of(CHECK), None),
        Cost::Selector => (selector(arg(0)), None),
        Cost::Validate => (arg(0).scaled(TRAVERSAL).scaled(FORMAT_PATTERN * PATTERN), None),
    }
}

/// What it costs to read a selector of a length: a requirement takes two characters at least.
fn selector(length: Range) -> Range {
    let requirements = length.scaled(0.5).scaled((LIST + MESSAGE) as f64);
    Range::of(LIST).plus(length.scaled(TRAVERSAL)).plus(requirements)
}

fn cost_is_find(overload: &Overload) -> bool {
    !matches!(overload.result, T::Bool)
}

/// An argument that is spelled out as a whole number.
fn whole(parts: &Parts<'_>, at: usize) -> Option<u64> {
    match &parts.args.get(at)?.2.kind {
        Kind::Literal(Value::Int(value)) => Some((*value).max(0) as u64),
        _ => None,
    }
}

fn smaller(one: Range, other: Range) -> Range {
    let max = one.max.min(other.max);
    Range { min: u64::from(max > 0), max }.scaled(TRAVERSAL)
}

fn equal(parts: &Parts<'_>) -> Range {
    let [(one, kind, _), (other, other_kind, _)] = parts.args else { return Range::of(1) };
    match kind {
        Type::Opaque(name) if kind.same(other_kind) => match *name {
            functions::FORMAT => Range { min: 1, max: FORMAT_LENGTH }.scaled(TRAVERSAL),
            functions::URL => Range { min: 1, max: other.max.max(1) }.scaled(TRAVERSAL),
            _ => Range::of(1),
        },
        _ => smaller(*one, *other),
    }
}

fn contains_ip(overload: &Overload, other: Range) -> Range {
    let address = Range { min: 4, max: 16 };
    let compared = address.plus(address).scaled(TRAVERSAL);
    match overload.params {
        [_, T::String] => compared.plus(other.scaled(TRAVERSAL)),
        _ => compared,
    }
}

/// How long a text can be when parts of it are replaced.
fn replaced(size: Range, old: Range, new: Range) -> Range {
    let share = |size: u64, part: u64| (size as f64 / part as f64).ceil() as u64;
    let (count_max, kept_max) = match old.min {
        0 => (size.max.saturating_add(1), size.max),
        part if new.max <= part => (0, size.max),
        part => (share(size.max, part), 0),
    };
    let (count_min, kept_min) = match old.max {
        0 => (size.min.saturating_add(1), size.min),
        part if part <= new.min => (0, size.min),
        part => (share(size.min, part), 0),
    };
    Range { min: count_min, max: count_max }.times(new).plus(Range { min: kept_min, max: kept_max })
}
