//! What an expression costs at most, before there is a value: by the sizes that are declared.
//!
//! Follows cel-go's estimator also where that is coarse, since its answers decide which rules a definition may have.

use std::collections::HashMap;

use super::ast::{Expr, Fold, Kind};
use super::check::{Checked, Meaning};
use super::cost::{self, Parts, Range};
use super::declared::{Declared, Kind as Place};
use super::functions::{Function, Overload, T};
use super::types::Type;
use super::value::Value;

/// Where a value comes from: nowhere that is declared, or a place; the place may have no declaration.
type Path<'d> = Option<Option<&'d Declared>>;

/// The sizes of a collection's keys and elements.
#[derive(Debug, Clone, Copy)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

#[derive(Clone)]
struct Local<'d> {
    name: Box<str>,
    path: Path<'d>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// The cost of a checked expression about values that `root` declares.
pub(super) fn estimate(checked: &Checked, root: &Declared) -> u64 {
    let mut estimator = Estimator {
        checked,
        root,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    estimator.cost(&checked.expr).max
}

struct Estimator<'c, 'd> {
    checked: &'c Checked,
    root: &'d Declared,
    paths: HashMap<u32, Path<'d>>,
    sizes: HashMap<u32, Range>,
    entries: HashMap<u32, Entries>,
    locals: Vec<Local<'d>>,
}

/// A step into a place.
enum Step<'s> {
    Field(&'s str),
    /// An element or an entry.
    Inner,
    Key,
    Index,
}

static KEY: Declared = Declared { kind: Place::String, nullable: false, elements_max: 0, size_min: 2 };

impl<'d> Estimator<'_, 'd> {
    fn local(&self, name: &str) -> Option<&Local<'d>> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn path(&self, of: &Expr) -> Path<'d> {
        if let Kind::Ident(name) = &of.kind
            && let Some(local) = self.local(name)
        {
            return local.path;
        }
        self.paths.get(&of.id).copied().flatten()
    }

    /// A path one step on. Whatever a path begins with, upstream takes it for the root.
    fn step(&self, path: Path<'d>, step: &Step<'_>) -> Path<'d> {
        let Some(place) = path else { return Some(Some(self.root)) };
        Some(place.and_then(|place| match step {
            Step::Field(name) => match &place.kind {
                Place::Object(of) => of.escaped(name),
                _ => None,
            },
            Step::Inner => place.inner(),
            Step::Key => matches!(place.kind, Place::Map(_)).then_some(&KEY),
            Step::Index => None,
        }))
    }

    fn size(&mut self, of: &Expr) -> Option<Range> {
        if let Some(known) = self.sizes.get(&of.id) {
            return Some(*known);
        }
        if let Some(size) = literal_size(of) {
            return Some(Range::of(size));
        }
        if let Some(Some(place)) = self.path(of) {
            let size = Range { min: 0, max: place.elements_max };
            self.sizes.insert(of.id, size);
            return Some(size);
        }
        if self.checked.kind(of).is_scalar() {
            return Some(Range::of(1));
        }
        if let Kind::Ident(name) = &of.kind {
            return self.local(name).and_then(|local| local.size);
        }
        None
    }

    fn size_or_unknown(&mut self, of: &Expr) -> Range {
        self.size(of).unwrap_or(Range::UNKNOWN)
    }

    fn entries(&self, of: &Expr) -> Option<Entries> {
        if let Some(known) = self.entries.get(&of.id) {
            return Some(*known);
        }
        match &of.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    fn set_size(&mut self, of: &Expr, size: Option<Range>) {
        if let Some(size) = size {
            self.sizes.insert(of.id, size);
        }
    }

    fn set_entries(&mut self, of: &Expr, entries: Option<Entries>) {
        if let Some(entries) = entries {
            self.entries.insert(of.id, entries);
        }
    }

    fn cost(&mut self, of: &Expr) -> Range {
        match &of.kind {
            Kind::Literal(_) => Range::of(0),
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path,
                    None => Some(Some(self.root)),
                };
                self.paths.insert(of.id, path);
                Range::of(1)
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let below = self.cost(operand);
                let path = self.step(self.path(operand), &Step::Field(field));
                self.paths.insert(of.id, path);
                match self.checked.kind(operand) {
                    Type::Map(_) | Type::Object(_) | Type::Param(_) => below.plus(Range::of(1)),
                    _ => below,
                }
            }
            Kind::Call { target, function, args } => self.call(of, target.as_deref(), function, args),
            Kind::List { items, .. } => self.list(of, items),
            Kind::Map(entries) => {
                let (mut cost, mut keys, mut values) = (Range::of(cost::MAP), None, None);
                for entry in entries {
                    cost = cost.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    keys = Some(joined(keys, self.size_or_unknown(&entry.key)));
                    values = Some(joined(values, self.size_or_unknown(&entry.value)));
                }
                let (key, value) = (keys.unwrap_or(Range::of(0)), values.unwrap_or(Range::of(0)));
                self.set_entries(of, Some(Entries { list: false, key, value }));
                cost
            }
            Kind::Message { fields, .. } => {
                fields.iter().fold(Range::of(cost::MESSAGE), |cost, (_, entry)| cost.plus(self.cost(&entry.value)))
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(of, fold),
            Kind::Fold(fold) => self.fold(of, fold),
        }
    }

    fn list(&mut self, of: &Expr, items: &[Expr]) -> Range {
        let (mut cost, mut sizes) = (Range::of(cost::LIST), None);
        for item in items {
            cost = cost.plus(self.cost(item));
            sizes = Some(joined(sizes, self.size_or_unknown(item)));
        }
        let value = sizes.unwrap_or(Range::of(0));
        self.set_entries(of, Some(Entries { list: true, key: Range::of(1), value }));
        cost
    }

    fn bind(&mut self, of: &Expr, fold: &Fold) -> Range {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_value(&fold.accu, &fold.init);
        cost = cost.plus(self.cost(&fold.result));
        let (size, entries) = (self.size(&fold.result), self.entries(&fold.result));
        self.locals.pop();
        self.set_size(of, size);
        self.set_entries(of, entries);
        cost
    }

    fn push_value(&mut self, name: &str, of: &Expr) {
        let (path, size, entries) = (self.path(of), self.size(of), self.entries(of));
        self.locals.push(Local { name: name.into(), path, size, entries });
    }

    fn push_part(&mut self, name: &str, range: &Expr, value: bool) {
        let entries = self.entries(range);
        let list = entries.map_or(matches!(self.checked.kind(range), Type::List(_)), |entries| entries.list);
        let step = match (value, list) {
            (true, _) => Step::Inner,
            (false, true) => Step::Index,
            (false, false) => Step::Key,
        };
        let size = entries.map(|entries| if value { entries.value } else { entries.key });
        let path = self.step(self.path(range), &step);
        self.locals.push(Local { name: name.into(), path, size, entries: None });
    }

    fn fold(&mut self, of: &Expr, fold: &Fold) -> Range {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_value(&fold.accu, &fold.init);
        let outside = self.locals.len();
        match &fold.var2 {
            Some(second) => {
                self.push_part(&fold.var, &fold.range, false);
                self.push_part(second, &fold.range, true);
            }
            None => {
                let entries = self.entries(&fold.range);
                let of_list = matches!(self.checked.kind(&fold.range), Type::List(_));
                let list = entries.map_or(of_list, |entries| entries.list);
                self.push_part(&fold.var, &fold.range, list);
            }
        }
        let each = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(outside);
        cost = cost.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size_or_unknown(&fold.range);
        cost = cost.plus(count.times(each));
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.set_size(of, size);
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.set_size(of, Some(count));
                let entries = self.entries(&fold.step);
                self.set_entries(of, entries);
            }
            _ => {}
        }
        cost
    }

    fn call(&mut self, of: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Range {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg);
            let (size, entries) = (self.size(arg), self.entries(arg));
            self.set_size(of, size);
            self.set_entries(of, entries);
            return cost.plus(Range::of(1));
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let target_cost = target.map_or(Range::of(0), |target| self.cost(target));
        let sum = costs.iter().fold(target_cost, |sum, cost| sum.plus(*cost));
        match (function, args) {
            ("_&&_" | "_||_", _) => {
                // What is on the right may not be needed.
                return Range { min: costs[0].min, max: sum.max };
            }
            ("_?_:_", [_, yes, no]) => {
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                let entries = both(self.entries(yes), self.entries(no));
                self.set_entries(of, entries);
                self.set_size(of, Some(size));
                return costs[0].plus(costs[1].union(costs[2]));
            }
            ("_?._", _) => {
                let size = self.size(of);
                self.set_size(of, size);
                return sum.plus(Range::of(1));
            }
            _ => {}
        }
        let Some(Meaning::Call(found, fitting)) = self.checked.meaning(of) else { return Range::of(0) };
        let (found, fitting) = (*found, *fitting);
        sum.plus(self.overloads(of, target, args, found, fitting))
    }

    /// What the call itself costs under each signature that may be meant.
    fn overloads(&mut self, of: &Expr, target: Option<&Expr>, args: &[Expr], found: &Function, fitting: u64) -> Range {
        let (mut cost, mut result): (Option<Range>, Option<Range>) = (None, None);
        let overloads = found.overloads.iter().enumerate();
        for (_, overload) in overloads.filter(|(at, _)| fitting & (1 << at) != 0) {
            let (one, size) = self.overload(target, args, found, overload);
            cost = Some(cost.map_or(one, |cost| cost.union(one)));
            if let Some(size) = size {
                result = Some(result.map_or(size, |result| result.union(size)));
            }
            match (found.name, args) {
                ("_[_]", [list, _]) if matches!(overload.params[0], T::List(_) | T::Map(..)) => {
                    result = self.entries(list).map(|entries| entries.value);
                    let path = self.step(self.path(list), &Step::Inner);
                    self.paths.insert(of.id, path);
                }
                ("_+_", [one, other]) => {
                    let entries = both(self.entries(one), self.entries(other));
                    self.set_entries(of, entries);
                }
                _ => {}
            }
            if result.is_none() {
                result = self.size(of);
            }
        }
        self.set_size(of, result);
        cost.unwrap_or(Range::of(0))
    }

    fn overload(
        &mut self,
        target: Option<&Expr>,
        args: &[Expr],
        found: &Function,
        overload: &Overload,
    ) -> (Range, Option<Range>) {
        let sizes: Vec<Range> = args.iter().map(|arg| self.size_or_unknown(arg)).collect();
        let args: Vec<_> = args.iter().zip(sizes).map(|(arg, size)| (size, self.checked.kind(arg), arg)).collect();
        let target_size = target.map(|target| self.size_or_unknown(target));
        let element = target.and_then(|target| self.element(target));
        let target = target.zip(target_size).map(|(target, size)| (size, self.checked.kind(target)));
        cost::estimate(found.cost, overload, &Parts { target, args: &args, element })
    }

    /// The size of the elements of a list, and whether they are texts.
    fn element(&self, of: &Expr) -> Option<(Range, bool)> {
        let element = match self.checked.kind(of) {
            Type::List(element) | Type::Optional(element) => element,
            _ => return None,
        };
        let place = self.path(of).and_then(|path| self.step(Some(path), &Step::Inner)).flatten();
        let size = place.map_or(Range::UNKNOWN, |place| Range { min: 0, max: place.elements_max });
        Some((size, matches!(**element, Type::String | Type::Bytes)))
    }
}

fn joined(before: Option<Range>, next: Range) -> Range {
    before.map_or(next, |before| before.union(next))
}

fn both(one: Option<Entries>, other: Option<Entries>) -> Option<Entries> {
    let (one, other) = one.zip(other)?;
    Some(Entries { list: one.list, key: one.key.union(other.key), value: one.value.union(other.value) })
}

fn literal_size(of: &Expr) -> Option<u64> {
    match &of.kind {
        Kind::Literal(value @ (Value::String(_) | Value::Bytes(_))) => Some(value.size()),
        Kind::Literal(_) => Some(1),
        Kind::List { items, .. } => Some(items.len() as u64),
        Kind::Map(entries) => Some(entries.len() as u64),
        _ => None,
    }
}
