//! From a checked expression to what is evaluated: names are places, calls are functions, what is constant is computed.

use std::sync::Arc;

use super::ast::{Entry, Expr, Fold, Kind};
use super::check::{Checked, Meaning};
use super::eval::Meter;
use super::functions::{Function, With};
use super::value::{List, MapKey, Table, Text, Value};
use crate::pattern::Pattern;

/// A step of an evaluation. Costs are charged by it as cel-go's tracker does.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    /// The value at a place.
    Variable(usize),
    Select(Box<Node>, Box<str>),
    /// Whether there is a field.
    Has(Box<Node>, Box<str>),
    OptionalSelect(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    OptionalIndex(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Condition(Box<[Node; 3]>),
    NotStrictlyFalse(Box<Node>),
    Call(Box<Call>),
    /// Whether a value is in a constant list.
    InConstant(Box<Node>, List<'static>),
    /// `optional.or(optional)`
    OptionalOr(Box<[Node; 2]>),
    /// `optional.orValue(value)`
    OptionalOrValue(Box<[Node; 2]>),
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    /// What is made: the name of its type, and its fields.
    Message(Arc<str>, Box<[(Box<str>, Node, bool)]>),
    /// `result`, with a value put at the next place.
    Bind(Box<[Node; 2]>),
    Fold(Box<Loop>),
    /// Puts an element behind the accumulator at a place.
    Append(usize, Box<Node>),
    /// Puts a key and a value, or all of a map, into the accumulator at a place.
    Insert(usize, Box<[Node]>),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) function: &'static Function,
    pub(super) args: Box<[Node]>,
    pub(super) pattern: Option<Pattern>,
}

/// A loop: the accumulator is at the next place, the variables behind it.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) range: Node,
    pub(super) two: bool,
    pub(super) init: Node,
    pub(super) condition: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}

/// The steps of an expression, and which of its variables it uses.
pub(super) fn plan(checked: &Checked, variables: usize) -> (Node, Box<[bool]>) {
    let mut planner = Planner { checked, used: vec![false; variables].into() };
    let node = planner.node(&checked.expr);
    (node, planner.used)
}

struct Planner<'c> {
    checked: &'c Checked,
    used: Box<[bool]>,
}

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Node {
        if let Some(meaning) = self.checked.meaning(expr) {
            match meaning {
                Meaning::Variable(at) => return self.variable(*at),
                Meaning::Type(name) => return Node::Constant(Value::Type(Text::Borrowed(name))),
                Meaning::Call(..) => {}
            }
        }
        match &expr.kind {
            Kind::Literal(value) => Node::Constant(value.clone()),
            Kind::Select { operand, field, test: false } => Node::Select(self.boxed(operand), field.clone()),
            Kind::Select { operand, field, test: true } => Node::Has(self.boxed(operand), field.clone()),
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List { items, optional } => {
                let items: Box<[_]> = items.iter().zip(optional).map(|(item, of)| (self.node(item), *of)).collect();
                constant_list(&items).unwrap_or(Node::List(items))
            }
            Kind::Map(entries) => {
                let entries: Box<[_]> = entries
                    .iter()
                    .map(|entry| (self.node(&entry.key), self.node(&entry.value), entry.optional))
                    .collect();
                constant_map(&entries).unwrap_or(Node::Map(entries))
            }
            Kind::Fold(fold) if fold.is_bind() => {
                Node::Bind(Box::new([self.node(&fold.init), self.node(&fold.result)]))
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Message { name, fields } => {
                let field = |(name, entry): &(Box<str>, Entry)| (name.clone(), self.node(&entry.value), entry.optional);
                Node::Message(name.trim_start_matches('.').into(), fields.iter().map(field).collect())
            }
            // Nothing that is refused by the checker comes here.
            Kind::Ident(_) => Node::Constant(Value::Null),
        }
    }

    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    fn variable(&mut self, at: usize) -> Node {
        if let Some(used) = self.used.get_mut(at) {
            *used = true;
        }
        Node::Variable(at)
    }

    fn fold(&mut self, fold: &Fold) -> Node {
        Node::Fold(Box::new(Loop {
            range: self.node(&fold.range),
            two: fold.var2.is_some(),
            init: self.node(&fold.init),
            condition: self.node(&fold.condition),
            step: self.node(&fold.step),
            result: self.node(&fold.result),
        }))
    }

    /// The place of an accumulator, where the expression is one.
    fn accumulator(&self, of: &Expr) -> Option<usize> {
        match (&of.kind, self.checked.meaning(of)) {
            (Kind::Ident(name), Some(Meaning::Variable(at))) if **name == *super::macros::ACCUMULATOR => Some(*at),
            _ => None,
        }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Node {
        match (function, target, args) {
            ("_?._", None, [operand, Expr { kind: Kind::Literal(Value::String(field)), .. }]) => {
                return Node::OptionalSelect(self.boxed(operand), (**field).into());
            }
            ("_[_]", None, [of, at]) => return Node::Index(Box::new([self.node(of), self.node(at)])),
            ("_[?_]", None, [of, at]) => return Node::OptionalIndex(Box::new([self.node(of), self.node(at)])),
            ("_&&_", None, [one, other]) => return Node::And(Box::new([self.node(one), self.node(other)])),
            ("_||_", None, [one, other]) => return Node::Or(Box::new([self.node(one), self.node(other)])),
            ("_?_:_", None, [of, yes, no]) => {
                return Node::Condition(Box::new([self.node(of), self.node(yes), self.node(no)]));
            }
            ("@not_strictly_false", None, [of]) => return Node::NotStrictlyFalse(self.boxed(of)),
            ("or", Some(of), [other]) => return Node::OptionalOr(Box::new([self.node(of), self.node(other)])),
            ("orValue", Some(of), [other]) => {
                return Node::OptionalOrValue(Box::new([self.node(of), self.node(other)]));
            }
            ("_+_", None, [accu, Expr { kind: Kind::List { items, .. }, .. }]) if items.len() == 1 => {
                if let Some(at) = self.accumulator(accu) {
                    return Node::Append(at, self.boxed(&items[0]));
                }
            }
            ("cel.@mapInsert", None, [accu, given @ ..]) => {
                if let Some(at) = self.accumulator(accu) {
                    return Node::Insert(at, given.iter().map(|given| self.node(given)).collect());
                }
            }
            _ => {}
        }
        let Some(Meaning::Call(found, _)) = self.checked.meaning(expr) else { return Node::Constant(Value::Null) };
        let args: Box<[Node]> = target.into_iter().chain(args).map(|arg| self.node(arg)).collect();
        called(found, args)
    }
}

/// A call, or what it comes to where that is known.
fn called(function: &'static Function, args: Box<[Node]>) -> Node {
    const CONVERSIONS: [&str; 8] = ["bool", "bytes", "double", "duration", "int", "string", "timestamp", "uint"];
    if let ("@in", [_, Node::Constant(Value::List(_))]) = (function.name, &args[..]) {
        let mut args = args.into_vec();
        if let (Some(Node::Constant(Value::List(list))), Some(item)) = (args.pop(), args.pop()) {
            return Node::InConstant(Box::new(item), list);
        }
        return Node::Constant(Value::Null);
    }
    if let (true, [Node::Constant(value)]) = (CONVERSIONS.contains(&function.name), &args[..]) {
        let with = With { pattern: None, meter: &Meter::default() };
        if let Ok(value) = (function.call)(std::slice::from_ref(value), &with) {
            return Node::Constant(value);
        }
    }
    let spelled = match (function.name, &args[..]) {
        ("matches" | "find" | "findAll", [_, Node::Constant(Value::String(pattern)), ..]) => Some(&**pattern),
        _ => None,
    };
    let pattern = spelled.filter(|pattern| Pattern::check(pattern).is_none()).map(Pattern::new);
    Node::Call(Box::new(Call { function, args, pattern }))
}

fn constant_list(items: &[(Node, bool)]) -> Option<Node> {
    let constant = |(node, optional): &(Node, bool)| match node {
        Node::Constant(value) if !optional => Some(value.clone()),
        _ => None,
    };
    // An empty list is where accumulators begin.
    let values = items.iter().map(constant).collect::<Option<Vec<_>>>()?;
    Some(Node::Constant(Value::list(values)))
}

fn constant_map(entries: &[(Node, Node, bool)]) -> Option<Node> {
    let mut made = std::collections::BTreeMap::new();
    for (key, value, optional) in entries {
        let (Node::Constant(key), Node::Constant(value), false) = (key, value, optional) else { return None };
        if made.insert(MapKey::of(key)?, value.clone()).is_some() {
            return None;
        }
    }
    Some(Node::Constant(Value::Map(Table::Made(Arc::new(made)))))
}
