//! Evaluation: step by step, each step charged before it is taken, up to a limit.
//!
//! `&&` and `||` take in errors where the other side decides; so loops that quantify do as well, and an accumulator may be
//! an error for a while. An evaluation that costs too much ends at once, whatever is around it.

use std::cell::Cell;
use std::sync::Arc;

use super::cost::{self, Cost, actual, of_result};
use super::functions::{With, insert, shown};
use super::lists::position;
use super::message::Message;
use super::plan::{Call, Loop, Node};
use super::value::{List, Made, MapKey, Table, Value};

/// Looks at elements that no cost counts: comparisons of nested values, copies of lists. Without an end a short
/// expression could compare gigabytes.
const STEPS_MAX: u64 = 5_000_000;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    message: Arc<str>,
    limit: bool,
}

impl EvalError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into().into(), limit: false }
    }

    pub(super) fn no_overload() -> Self {
        Self::new("no such overload")
    }

    /// It cost more than it may.
    pub(super) fn limit() -> Self {
        Self { message: "operation cancelled: actual cost limit exceeded".into(), limit: true }
    }

    /// Whether it was ended because it cost too much.
    pub fn is_limit(&self) -> bool {
        self.limit
    }

    fn no_key(key: &str) -> Self {
        Self::new(format!("no such key: {key}"))
    }
}

/// Counts what has no cost of its own.
#[derive(Debug, Default)]
pub(super) struct Meter(Cell<u64>);

impl Meter {
    pub(super) fn steps(&self, count: usize) -> Result<(), EvalError> {
        let total = self.0.get().saturating_add(count as u64);
        self.0.set(total);
        if total > STEPS_MAX { Err(EvalError::limit()) } else { Ok(()) }
    }
}

/// Evaluates a plan with values for its variables, up to a cost. The cost is given back in each case.
pub(super) fn run<'a>(node: &'a Node, places: Vec<Made<'a>>, limit: u64) -> (Made<'a>, u64) {
    let mut run = Run { places, cost: 0, limit, meter: Meter::default() };
    let result = run.eval(node);
    (result, run.cost)
}

struct Run<'a> {
    /// The values of variables; those of loops behind the given ones.
    places: Vec<Made<'a>>,
    cost: u64,
    limit: u64,
    meter: Meter,
}

impl<'a> Run<'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::limit()) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> Made<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(at) => {
                self.charge(1)?;
                self.places[*at].clone()
            }
            Node::Select(of, field) => self.select(of, field),
            Node::Has(of, field) => self.has(of, field),
            Node::OptionalSelect(of, field) => self.optional_select(of, field),
            Node::Index(parts) => self.index(parts),
            Node::OptionalIndex(parts) => self.optional_index(parts),
            Node::And(parts) => self.logical(parts, false),
            Node::Or(parts) => self.logical(parts, true),
            Node::Condition(parts) => self.condition(parts),
            Node::NotStrictlyFalse(of) => self.not_strictly_false(of),
            Node::Call(call) => self.call(call),
            Node::InConstant(of, list) => {
                let item = self.eval(of)?;
                Ok(Value::Bool(position(list, &item, &self.meter)?.is_some()))
            }
            Node::OptionalOr(parts) => self.optional_or(parts, false),
            Node::OptionalOrValue(parts) => self.optional_or(parts, true),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message(name, fields) => self.message(name, fields),
            Node::Bind(parts) => self.bind(parts),
            Node::Fold(of) => self.fold(of),
            Node::Append(at, item) => self.append(*at, item),
            Node::Insert(at, given) => self.insert(*at, given),
        }
    }

    fn select(&mut self, of: &'a Node, field: &str) -> Made<'a> {
        let of = self.eval(of)?;
        self.charge(1)?;
        match of {
            Value::Map(table) => table.field(field)?.ok_or_else(|| EvalError::no_key(field)),
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => optional_field(&of, field),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn has(&mut self, of: &'a Node, field: &str) -> Made<'a> {
        match self.eval(of)? {
            Value::Map(table) => Ok(Value::Bool(table.field(field)?.is_some())),
            Value::Optional(None) => Ok(Value::Bool(false)),
            Value::Optional(Some(of)) => {
                Ok(Value::Bool(matches!(optional_field(&of, field)?, Value::Optional(Some(_)))))
            }
            _ => Err(EvalError::no_overload()),
        }
    }

    fn optional_select(&mut self, of: &'a Node, field: &str) -> Made<'a> {
        let of = self.eval(of)?;
        self.charge(1)?;
        match of {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => optional_field(&of, field),
            of => optional_field(&of, field),
        }
    }

    fn index(&mut self, parts: &'a [Node; 2]) -> Made<'a> {
        let (of, at) = (self.eval(&parts[0])?, self.eval(&parts[1])?);
        self.charge(index_cost(&parts[1]))?;
        match of {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => Ok(Value::Optional(element(&of, &at)?.map(Arc::new))),
            of => element(&of, &at)?.ok_or_else(|| match of {
                Value::List(_) => EvalError::new(format!("index out of bounds: {}", shown(&at))),
                _ => EvalError::no_key(&shown(&at)),
            }),
        }
    }

    fn optional_index(&mut self, parts: &'a [Node; 2]) -> Made<'a> {
        let (of, at) = (self.eval(&parts[0])?, self.eval(&parts[1])?);
        self.charge(index_cost(&parts[1]))?;
        match of {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(of)) => Ok(Value::Optional(element(&of, &at)?.map(Arc::new))),
            of => Ok(Value::Optional(element(&of, &at)?.map(Arc::new))),
        }
    }

    /// `decides` is the value that settles it, whatever the other side is.
    fn logical(&mut self, parts: &'a [Node; 2], decides: bool) -> Made<'a> {
        let mut failed = None;
        for part in parts {
            match self.eval(part) {
                Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(EvalError::no_overload())),
                Err(error) if error.limit => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn condition(&mut self, parts: &'a [Node; 3]) -> Made<'a> {
        let taken = match self.eval(&parts[0])? {
            Value::Bool(true) => &parts[1],
            Value::Bool(false) => &parts[2],
            _ => return Err(EvalError::no_overload()),
        };
        // A name that is chosen is not charged for, only what is done with it.
        match taken {
            Node::Variable(at) => self.places[*at].clone(),
            taken => self.eval(taken),
        }
    }

    fn not_strictly_false(&mut self, of: &'a Node) -> Made<'a> {
        let value = match self.eval(of) {
            Ok(value) => !matches!(value, Value::Bool(false)),
            Err(error) if error.limit => return Err(error),
            Err(_) => true,
        };
        self.charge(1)?;
        Ok(Value::Bool(value))
    }

    fn call(&mut self, call: &'a Call) -> Made<'a> {
        let function = call.function;
        let with = |run: &Self, args: &[Value<'a>]| {
            let with = With { pattern: call.pattern.as_ref(), meter: &run.meter };
            (function.call)(args, &with)
        };
        // Most calls have one argument or two: these need no memory of their own.
        let result = match &*call.args {
            [one] => {
                let args = [self.eval(one)];
                let args = self.charged(function.cost, args)?;
                with(self, &args)?
            }
            [one, other] => {
                let args = [self.eval(one), self.eval(other)];
                let args = self.charged(function.cost, args)?;
                with(self, &args)?
            }
            many => {
                let args = many.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                self.charge(actual(function.cost, &args, &self.meter)?)?;
                with(self, &args)?
            }
        };
        self.charge(of_result(function.cost, &result))?;
        Ok(result)
    }

    /// The arguments of a call, which is charged for even where one of them is an error.
    fn charged<const N: usize>(&mut self, cost: Cost, args: [Made<'a>; N]) -> Result<[Value<'a>; N], EvalError> {
        let failed = args.iter().find_map(|arg| arg.as_ref().err()).cloned();
        if failed.as_ref().is_some_and(EvalError::is_limit) {
            return Err(failed.unwrap_or_else(EvalError::limit));
        }
        let args = args.map(|arg| arg.unwrap_or(Value::Null));
        self.charge(actual(cost, &args, &self.meter)?)?;
        failed.map_or(Ok(args), Err)
    }

    fn optional_or(&mut self, parts: &'a [Node; 2], unwrapped: bool) -> Made<'a> {
        match self.eval(&parts[0])? {
            Value::Optional(None) => self.eval(&parts[1]),
            Value::Optional(Some(of)) if unwrapped => Ok((*of).clone()),
            other => Ok(other),
        }
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Made<'a> {
        let mut made = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (Value::Optional(of), true) => made.extend(of.map(|of| (*of).clone())),
                (_, true) => {
                    return Err(EvalError::new("cannot initialize optional list element from non-optional value"));
                }
                (item, false) => made.push(item),
            }
        }
        self.charge(cost::LIST)?;
        Ok(Value::list(made))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Made<'a> {
        let mut made = std::collections::BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let known =
                MapKey::of(&key).ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(of)), true) => (*of).clone(),
                (_, true) => {
                    return Err(EvalError::new("cannot initialize optional entry from non-optional value"));
                }
                (value, false) => value,
            };
            if made.insert(known, value).is_some() {
                return Err(EvalError::new(format!("Failed with repeated key: {}", shown(&key))));
            }
        }
        self.charge(cost::MAP)?;
        Ok(Value::Map(Table::Made(Arc::new(made))))
    }

    fn message(&mut self, name: &Arc<str>, fields: &'a [(Box<str>, Node, bool)]) -> Made<'a> {
        let mut made = std::collections::BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(of)), true) => (*of).clone(),
                (_, true) => {
                    return Err(EvalError::new("cannot initialize optional entry from non-optional value"));
                }
                (value, false) => value,
            };
            made.insert(field.clone(), value);
        }
        self.charge(cost::MESSAGE)?;
        Ok(Value::Message(Arc::new(Message { name: name.clone(), fields: made })))
    }

    fn bind(&mut self, parts: &'a [Node; 2]) -> Made<'a> {
        let value = self.eval(&parts[0]);
        if value.as_ref().is_err_and(EvalError::is_limit) {
            return value;
        }
        self.places.push(value);
        let result = self.eval(&parts[1]);
        self.places.pop();
        result
    }

    fn fold(&mut self, of: &'a Loop) -> Made<'a> {
        let range = self.eval(&of.range)?;
        let init = self.eval(&of.init)?;
        let at = self.places.len();
        self.places.push(Ok(init));
        let looped = match range {
            Value::List(list) => self.each_of_list(of, &list, at),
            Value::Map(table) => self.each_of_map(of, &table, at),
            _ => Err(EvalError::no_overload()),
        };
        let result = looped.and_then(|()| self.eval(&of.result));
        self.places.truncate(at);
        result
    }

    fn each_of_list(&mut self, of: &'a Loop, list: &List<'a>, at: usize) -> Result<(), EvalError> {
        for index in 0..list.len() {
            let vars = if of.two {
                [Some(Ok(Value::Int(index as i64))), Some(list.get(index))]
            } else {
                [Some(list.get(index)), None]
            };
            if !self.once(of, vars, at)? {
                break;
            }
        }
        Ok(())
    }

    fn each_of_map(&mut self, of: &'a Loop, table: &Table<'a>, at: usize) -> Result<(), EvalError> {
        self.meter.steps(table.len())?;
        for key in table.keys() {
            let second = of.two.then(|| table.find(&key).map(|value| value.unwrap_or(Value::Null)));
            if !self.once(of, [Some(Ok(key)), second], at)? {
                break;
            }
        }
        Ok(())
    }

    /// One round. Whether there is to be another.
    fn once(&mut self, of: &'a Loop, vars: [Option<Made<'a>>; 2], at: usize) -> Result<bool, EvalError> {
        self.places.truncate(at + 1);
        self.places.extend(vars.into_iter().flatten());
        if !matches!(self.eval(&of.condition)?, Value::Bool(true)) {
            self.places.truncate(at + 1);
            return Ok(false);
        }
        let next = self.eval(&of.step);
        self.places.truncate(at + 1);
        if next.as_ref().is_err_and(EvalError::is_limit) {
            return next.map(|_| false);
        }
        self.places[at] = next;
        Ok(true)
    }

    /// As `accumulator + [item]`, without making the list anew.
    fn append(&mut self, at: usize, item: &'a Node) -> Made<'a> {
        self.charge(1)?;
        if let Err(error) = &self.places[at] {
            return Err(error.clone());
        }
        let item = self.eval(item)?;
        self.charge(cost::LIST + 1)?;
        let accu = std::mem::replace(&mut self.places[at], Ok(Value::Null))?;
        let Value::List(list) = accu else { return Err(EvalError::no_overload()) };
        let mut items = match list {
            List::Made(items) => items,
            list => Arc::new(list.to_vec()?),
        };
        Arc::make_mut(&mut items).push(item);
        Ok(Value::List(List::Made(items)))
    }

    fn insert(&mut self, at: usize, given: &'a [Node]) -> Made<'a> {
        self.charge(1)?;
        if let Err(error) = &self.places[at] {
            return Err(error.clone());
        }
        let given = given.iter().map(|given| self.eval(given)).collect::<Result<Vec<_>, _>>()?;
        self.charge(1)?;
        let accu = std::mem::replace(&mut self.places[at], Ok(Value::Null))?;
        let Value::Map(Table::Made(mut entries)) = accu else { return Err(EvalError::no_overload()) };
        insert(&mut entries, &given)?;
        Ok(Value::Map(Table::Made(entries)))
    }
}

/// What a step into a collection costs. A name's own step is the step where a name is the index.
fn index_cost(index: &Node) -> u64 {
    u64::from(!matches!(index, Node::Variable(_) | Node::Select(..) | Node::Index(_)))
}

fn optional_field<'a>(of: &Value<'a>, field: &str) -> Made<'a> {
    match of {
        Value::Map(table) => Ok(Value::Optional(table.field(field)?.map(Arc::new))),
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(of)) => optional_field(of, field),
        _ => Err(EvalError::no_overload()),
    }
}

/// What stands at an index or under a key.
fn element<'a>(of: &Value<'a>, at: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
    match of {
        Value::List(list) => {
            let at = match at {
                Value::Int(at) => *at,
                Value::Uint(at) => i64::try_from(*at).unwrap_or(-1),
                Value::Double(at) if at.fract() == 0.0 => *at as i64,
                other => {
                    return Err(EvalError::new(format!("unsupported index type '{}' in list", other.type_name())));
                }
            };
            let at = usize::try_from(at).ok().filter(|at| *at < list.len());
            at.map(|at| list.get(at)).transpose()
        }
        Value::Map(table) => table.find(at),
        _ => Err(EvalError::no_overload()),
    }
}
