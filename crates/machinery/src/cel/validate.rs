//! What can be said of literals before anything is evaluated: times and patterns that cannot be read, mixed lists, formats
//! that do not fit what they are given.

use super::ast::{Expr, Kind};
use super::check::{Checked, Meaning};
use super::error::Issues;
use super::eval::Meter;
use super::functions::{Clause, Function, Piece, With, pieces, refused};
use super::types::Type;
use super::value::Value;
use crate::pattern::Pattern;

/// Notes what is wrong.
pub(super) fn validate(checked: &Checked, offsets: &[u32], issues: &mut Issues) {
    let mut validator = Validator { checked, offsets, issues };
    validator.expr(&checked.expr, false);
}

struct Validator<'c> {
    checked: &'c Checked,
    offsets: &'c [u32],
    issues: &'c mut Issues,
}

impl Validator<'_> {
    fn complain(&mut self, id: u32, message: impl Into<String>) {
        self.issues.add(Some(self.offsets[id as usize]), message);
    }

    /// `mixed` is whether lists and maps may hold different types: within the arguments of `format` they may.
    fn expr(&mut self, expr: &Expr, mixed: bool) {
        match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.expr(operand, mixed),
            Kind::Call { target, function, args } => {
                if let Some(Meaning::Call(found, _)) = self.checked.meaning(expr) {
                    self.call(expr.id, found, target.as_deref(), args);
                }
                let mixed = mixed || &**function == "format";
                target.iter().for_each(|target| self.expr(target, mixed));
                args.iter().for_each(|arg| self.expr(arg, mixed));
            }
            Kind::List { items, optional } => {
                if !mixed {
                    let kinds =
                        items.iter().zip(optional).map(|(item, optional)| (item.id, self.kind(item, *optional)));
                    let kinds: Vec<_> = kinds.collect();
                    self.same(&kinds);
                }
                items.iter().for_each(|item| self.expr(item, mixed));
            }
            Kind::Map(entries) => {
                if !mixed {
                    let keys: Vec<_> = entries.iter().map(|of| (of.key.id, self.kind(&of.key, false))).collect();
                    self.same(&keys);
                    let values = entries.iter().map(|of| (of.value.id, self.kind(&of.value, of.optional)));
                    let values: Vec<_> = values.collect();
                    self.same(&values);
                }
                for entry in entries {
                    self.expr(&entry.key, mixed);
                    self.expr(&entry.value, mixed);
                }
            }
            Kind::Message { fields, .. } => fields.iter().for_each(|(_, entry)| self.expr(&entry.value, mixed)),
            Kind::Fold(fold) => {
                for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                    self.expr(part, mixed);
                }
            }
        }
    }

    fn kind(&self, of: &Expr, optional: bool) -> Type {
        match self.checked.kind(of) {
            Type::Optional(inner) if optional => (**inner).clone(),
            found => found.clone(),
        }
    }

    fn same(&mut self, kinds: &[(u32, Type)]) {
        let Some((_, first)) = kinds.first() else { return };
        if let Some((id, other)) = kinds.iter().find(|(_, other)| !first.same(other)) {
            let message = format!("expected type '{first}' but found '{other}'");
            self.complain(*id, message);
        }
    }

    fn call(&mut self, id: u32, function: &Function, target: Option<&Expr>, args: &[Expr]) {
        let Some(arg) = args.first() else { return };
        match (function.name, &arg.kind) {
            (name @ ("duration" | "timestamp"), Kind::Literal(value)) => {
                let with = With { pattern: None, meter: &Meter::default() };
                if (function.call)(std::slice::from_ref(value), &with).is_err() {
                    self.complain(arg.id, format!("invalid {name} argument"));
                }
            }
            ("matches", Kind::Literal(Value::String(pattern)))
                if target.is_some() && Pattern::check(pattern).is_some() =>
            {
                self.complain(arg.id, "invalid matches argument");
            }
            ("format", Kind::List { items, .. }) => {
                if let Some(Kind::Literal(Value::String(format))) = target.map(|target| &target.kind) {
                    self.format(id, format, items);
                }
            }
            _ => {}
        }
    }

    fn format(&mut self, id: u32, format: &str, items: &[Expr]) {
        let found = match pieces(format) {
            Ok(found) => found,
            Err(why) => return self.complain(id, why),
        };
        let mut next = 0;
        for piece in found {
            let Piece::Clause(clause) = piece else { continue };
            let Some(item) = items.get(next) else { return self.complain(id, format!("index {next} out of range")) };
            if !takes(clause, self.checked.kind(item)) {
                let message = refused(clause, type_name(self.checked.kind(item)));
                self.complain(item.id, message);
            }
            next += 1;
        }
        if items.len() > next {
            let message =
                format!("too many arguments supplied to string.format (expected {next}, got {})", items.len());
            self.complain(id, message);
        }
    }
}

fn takes(clause: Clause, of: &Type) -> bool {
    match (clause, of) {
        (_, Type::Dyn) => true,
        (Clause::String, of) => !matches!(of, Type::Object(_) | Type::Opaque(_) | Type::Optional(_)),
        (Clause::Decimal | Clause::Octal, of) => matches!(of, Type::Int | Type::Uint),
        (Clause::Fixed(_) | Clause::Scientific(_), of) => matches!(of, Type::Double | Type::String),
        (Clause::Binary, of) => matches!(of, Type::Int | Type::Uint | Type::Bool),
        (Clause::Hex | Clause::UpperHex, of) => matches!(of, Type::Int | Type::Uint | Type::String | Type::Bytes),
    }
}

fn type_name(of: &Type) -> &str {
    match of {
        Type::List(_) => "list",
        Type::Map(_) => "map",
        Type::Duration => "google.protobuf.Duration",
        Type::Timestamp => "google.protobuf.Timestamp",
        Type::Null => "null_type",
        Type::Bool => "bool",
        Type::Int => "int",
        Type::Uint => "uint",
        Type::Double => "double",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Optional(_) => "optional_type",
        Type::Type(_) => "type",
        Type::Object(of) => of.name(),
        Type::Opaque(name) => name,
        Type::Made(_) => super::message::OBJECT,
        Type::Dyn | Type::Error | Type::Param(_) => "dyn",
    }
}
