//! The type of every part of an expression, and which function each call means. Messages are cel-go's.

use std::sync::Arc;

use super::Makes;
use super::ast::{Entry, Expr, Fold, Kind};
use super::error::Issues;
use super::functions::{self, Function, VARIABLES};
use super::message;
use super::parser::Parsed;
use super::types::Type;
use super::unify::{Bindings, Rest, is_less_specific};
use super::value::{Text, Value};

/// What a name or a call means.
#[derive(Debug, Clone)]
pub(super) enum Meaning {
    /// The value of a variable, by its place.
    Variable(usize),
    /// A type as a value.
    Type(&'static str),
    /// A function, and which of its signatures fit.
    Call(&'static Function, u64),
}

/// A checked expression: the tree, and by the numbers of its nodes their types and meanings.
pub(super) struct Checked {
    pub(super) expr: Expr,
    pub(super) types: Vec<Type>,
    pub(super) meanings: Vec<Option<Meaning>>,
}

impl Checked {
    pub(super) fn kind(&self, of: &Expr) -> &Type {
        &self.types[of.id as usize]
    }

    pub(super) fn meaning(&self, of: &Expr) -> Option<&Meaning> {
        self.meanings[of.id as usize].as_ref()
    }
}

/// Finds types and meanings, with variables as they are declared.
pub(super) fn check(source: &str, parsed: Parsed, variables: &[(&str, Type)], makes: Makes) -> Result<Checked, Issues> {
    let count = parsed.offsets.len();
    let mut checker = Checker {
        offsets: parsed.offsets,
        issues: Issues::new(source),
        types: vec![Type::Error; count],
        meanings: vec![None; count],
        bindings: Bindings::default(),
        makes,
        scope: variables.iter().map(|(name, of)| ((*name).into(), of.clone())).collect(),
    };
    let mut expr = parsed.expr;
    checker.expr(&mut expr);
    for at in 0..count {
        checker.types[at] = checker.bindings.resolved(&checker.types[at], Rest::Dyn);
    }
    let Checker { mut issues, types, meanings, offsets, .. } = checker;
    let checked = Checked { expr, types, meanings };
    if issues.is_empty() {
        super::validate::validate(&checked, &offsets, &mut issues);
    }
    if issues.is_empty() { Ok(checked) } else { Err(issues) }
}

struct Checker {
    offsets: Vec<u32>,
    issues: Issues,
    types: Vec<Type>,
    meanings: Vec<Option<Meaning>>,
    bindings: Bindings,
    makes: Makes,
    /// Names with their types, the innermost last. Their places are those of their values when it is evaluated.
    scope: Vec<(Box<str>, Type)>,
}

impl Checker {
    fn complain(&mut self, id: u32, message: impl Into<String>) {
        let offset = self.offsets[id as usize];
        self.issues.add(Some(offset), message);
    }

    fn kind(&self, of: &Expr) -> Type {
        self.types[of.id as usize].clone()
    }

    fn shown(&self, of: &Type) -> Type {
        self.bindings.resolved(of, Rest::Keep)
    }

    fn mismatch(&mut self, id: u32, wanted: &Type, found: &Type) {
        let message = format!("expected type '{}' but found '{}'", self.shown(wanted), self.shown(found));
        self.complain(id, message);
    }

    fn function(&self, name: &str) -> Option<&'static Function> {
        functions::find(name).filter(|found| self.makes == Makes::Patches || found.name != functions::ESCAPE_KEY)
    }

    fn undeclared(&mut self, id: u32, name: &str) {
        self.complain(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn expr(&mut self, expr: &mut Expr) {
        let found = match &mut expr.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(name) => self.ident(expr.id, name),
            Kind::Select { .. } => self.select(expr),
            Kind::Call { .. } => self.call(expr),
            Kind::List { items, optional } => self.list(items, optional),
            Kind::Map(entries) => self.map(entries),
            Kind::Message { name, fields } => self.message(expr.id, name, fields),
            Kind::Fold(fold) => self.fold(fold),
        };
        self.types[expr.id as usize] = found;
    }

    /// A variable or a type of that name.
    fn lookup(&mut self, id: u32, name: &str) -> Option<Type> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if let Some(at) = self.scope.iter().rposition(|(known, _)| **known == *plain) {
            self.meanings[id as usize] = Some(Meaning::Variable(at));
            return Some(self.scope[at].1.clone());
        }
        let (name, of) = type_named(plain)?;
        self.meanings[id as usize] = Some(Meaning::Type(name));
        Some(Type::Type(Arc::new(of)))
    }

    fn ident(&mut self, id: u32, name: &str) -> Type {
        match self.lookup(id, name) {
            Some(found) => found,
            None => {
                self.undeclared(id, name);
                Type::Error
            }
        }
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        if let Some(found) = expr.qualified_name().and_then(|name| self.lookup(expr.id, &name)) {
            return found;
        }
        let id = expr.id;
        let Kind::Select { operand, field, test } = &mut expr.kind else { return Type::Error };
        let found = self.field(id, operand, field, false);
        if *test { Type::Bool } else { self.shown(&found) }
    }

    fn field(&mut self, id: u32, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.expr(operand);
        let of = self.shown(&self.kind(operand));
        let (of, wrapped) = match of {
            Type::Optional(inner) => ((*inner).clone(), true),
            other => (other, false),
        };
        let found = match &of {
            Type::Map(entries) => entries.1.clone(),
            Type::Object(object) => match object.escaped(field) {
                Some(declared) => declared.to_type(),
                None => {
                    self.complain(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.bindings.fit(&Type::Dyn, &of);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.complain(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if wrapped || optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let id = expr.id;
        let Kind::Call { target, function, args } = &mut expr.kind else { return Type::Error };
        if &**function == "_?._" {
            return self.optional_field(id, args);
        }
        for arg in args.iter_mut() {
            self.expr(arg);
        }
        let Some(of) = target else {
            let plain = function.strip_prefix('.').unwrap_or(function);
            let Some(found) = self.function(plain) else {
                let name = function.clone();
                self.undeclared(id, &name);
                return Type::Error;
            };
            return self.resolve(id, found, None, args);
        };
        // `a.b.c()` may be the function `a.b.c`, unless `a` is something already.
        let qualified = of.qualified_name().map(|prefix| format!("{prefix}.{function}"));
        if let Some(found) = qualified.and_then(|name| self.function(name.trim_start_matches('.'))) {
            *target = None;
            return self.resolve(id, found, None, args);
        }
        self.expr(of);
        let Some(found) = self.function(function) else {
            let name = function.clone();
            self.undeclared(id, &name);
            return Type::Error;
        };
        self.resolve(id, found, Some(of), args)
    }

    fn optional_field(&mut self, id: u32, args: &mut [Expr]) -> Type {
        let [operand, field] = args else { return Type::Error };
        self.expr(field);
        let Kind::Literal(Value::String(name)) = &field.kind else { return Type::Error };
        let found = self.field(id, operand, name, true);
        self.shown(&found)
    }

    fn resolve(&mut self, id: u32, function: &'static Function, target: Option<&Expr>, args: &[Expr]) -> Type {
        let given: Vec<Type> = target.into_iter().chain(args).map(|arg| self.kind(arg)).collect();
        if matches!(function.name, "_&&_" | "_||_") {
            return self.logical(id, function, args, &given);
        }
        let (mut fitting, mut result) = (0u64, None);
        for (at, overload) in function.overloads.iter().enumerate() {
            if overload.member != target.is_some() {
                continue;
            }
            let base = self.bindings.fresh(VARIABLES);
            let wanted: Vec<Type> = overload.params.iter().map(|param| param.instance(base)).collect();
            if !self.bindings.all_fit(&given, &wanted) {
                continue;
            }
            fitting |= 1 << at;
            let found = self.shown(&overload.result.instance(base));
            result = match result {
                None => Some(found),
                Some(Type::Dyn) => Some(Type::Dyn),
                Some(before) if before.same(&found) => Some(before),
                Some(_) => Some(Type::Dyn),
            };
        }
        let Some(result) = result else {
            self.no_overload(id, function.name, &given, target.is_some());
            return Type::Error;
        };
        self.meanings[id as usize] = Some(Meaning::Call(function, fitting));
        result
    }

    fn logical(&mut self, id: u32, function: &'static Function, args: &[Expr], given: &[Type]) -> Type {
        let mut wrong = false;
        for (arg, found) in args.iter().zip(given) {
            if !self.bindings.fit(found, &Type::Bool) {
                self.mismatch(arg.id, &Type::Bool, found);
                wrong = true;
            }
        }
        self.meanings[id as usize] = Some(Meaning::Call(function, 1));
        if wrong { Type::Error } else { Type::Bool }
    }

    fn no_overload(&mut self, id: u32, name: &str, given: &[Type], member: bool) {
        let given: Vec<String> = given.iter().map(|of| self.bindings.resolved(of, Rest::Dyn).to_string()).collect();
        let signature = match &given[..] {
            [target, args @ ..] if member => format!("{target}.({})", args.join(", ")),
            args => format!("({})", args.join(", ")),
        };
        self.complain(id, format!("found no matching overload for '{name}' applied to '{signature}'"));
    }

    /// The type of both; `dyn` where they have none in common.
    fn joined(&mut self, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if !self.bindings.fit(&before, &next) {
            return Type::Dyn;
        }
        if is_less_specific(&before, &next) { before } else { next }
    }

    /// What an optional element or value holds.
    fn unwrapped(&mut self, of: &Expr) -> Type {
        match self.kind(of) {
            Type::Optional(inner) => (*inner).clone(),
            found => {
                if !matches!(found, Type::Dyn) {
                    self.mismatch(of.id, &Type::optional(found.clone()), &found);
                }
                found
            }
        }
    }

    fn list(&mut self, items: &mut [Expr], optional: &[bool]) -> Type {
        let mut of = None;
        for (item, optional) in items.iter_mut().zip(optional) {
            self.expr(item);
            let found = if *optional { self.unwrapped(item) } else { self.kind(item) };
            of = Some(self.joined(of, found));
        }
        Type::list(of.unwrap_or_else(|| Type::Param(self.bindings.fresh(1))))
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.expr(&mut entry.key);
            let key = self.kind(&entry.key);
            keys = Some(self.joined(keys, key));
            self.expr(&mut entry.value);
            let value = if entry.optional { self.unwrapped(&entry.value) } else { self.kind(&entry.value) };
            values = Some(self.joined(values, value));
        }
        let first = self.bindings.fresh(2);
        Type::map(keys.unwrap_or(Type::Param(first)), values.unwrap_or(Type::Param(first + 1)))
    }

    /// What is made, where something may be: most objects come from JSON.
    fn message(&mut self, id: u32, name: &str, fields: &mut [(Box<str>, Entry)]) -> Type {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if self.makes == Makes::Patches && message::can_make(plain) {
            return self.made(plain, fields);
        }
        match self.lookup(id, name) {
            None => self.undeclared(id, name),
            Some(_) => self.complain(id, format!("'{name}' is not a message type")),
        }
        for (_, entry) in fields {
            self.expr(&mut entry.value);
        }
        Type::Error
    }

    fn made(&mut self, name: &str, fields: &mut [(Box<str>, Entry)]) -> Type {
        for (field, entry) in fields {
            self.expr(&mut entry.value);
            let found = if entry.optional { self.unwrapped(&entry.value) } else { self.kind(&entry.value) };
            match message::field(name, field) {
                None => self.complain(entry.id, format!("undefined field '{field}'")),
                Some(wanted) if !self.bindings.fit(&found, &wanted) => {
                    let found = self.shown(&found);
                    let why = format!("expected type of field '{field}' is '{wanted}' but provided type is '{found}'");
                    self.complain(entry.id, why);
                }
                Some(_) => {}
            }
        }
        Type::Made(name.into())
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        self.expr(&mut fold.range);
        self.expr(&mut fold.init);
        let range = self.shown(&self.kind(&fold.range));
        let accu = self.kind(&fold.init);
        let (first, second) = match &range {
            Type::List(of) if fold.var2.is_some() => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Error),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.bindings.fit(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.complain(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scope.len();
        self.scope.push((fold.accu.clone(), accu.clone()));
        self.scope.push((fold.var.clone(), first));
        if let Some(var) = &fold.var2 {
            self.scope.push((var.clone(), second));
        }
        self.expr(&mut fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.expr(&mut fold.step);
        self.assert(&fold.step, &accu);
        self.scope.truncate(outside + 1);
        self.expr(&mut fold.result);
        self.scope.truncate(outside);
        self.shown(&self.kind(&fold.result))
    }

    fn assert(&mut self, of: &Expr, wanted: &Type) {
        let found = self.kind(of);
        if !self.bindings.fit(wanted, &found) {
            self.mismatch(of.id, wanted, &found);
        }
    }
}

fn literal(value: &Value<'_>) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(Text::Borrowed(_) | Text::Shared(_)) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Error,
    }
}

/// The types that have names in expressions.
fn type_named(name: &str) -> Option<(&'static str, Type)> {
    Some(match name {
        "bool" => ("bool", Type::Bool),
        "int" => ("int", Type::Int),
        "uint" => ("uint", Type::Uint),
        "double" => ("double", Type::Double),
        "string" => ("string", Type::String),
        "bytes" => ("bytes", Type::Bytes),
        "list" => ("list", Type::list(Type::Dyn)),
        "map" => ("map", Type::map(Type::Dyn, Type::Dyn)),
        "null_type" => ("null_type", Type::Null),
        "type" => ("type", Type::Type(Arc::new(Type::Dyn))),
        "google.protobuf.Duration" => ("google.protobuf.Duration", Type::Duration),
        "google.protobuf.Timestamp" => ("google.protobuf.Timestamp", Type::Timestamp),
        "optional_type" => ("optional_type", Type::optional(Type::Dyn)),
        functions::IP => (functions::IP, Type::Opaque(functions::IP)),
        functions::CIDR => (functions::CIDR, Type::Opaque(functions::CIDR)),
        _ => return None,
    })
}
