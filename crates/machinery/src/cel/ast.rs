//! What the parser makes and the checker looks at: a tree whose nodes carry numbers, so that types and positions lie beside it.

use super::value::Value;

/// A place in the tree. What is known of it lies in tables that its number leads into.
#[derive(Debug, Clone)]
pub(super) struct Expr {
    pub(super) id: u32,
    pub(super) kind: Kind,
}

/// An entry of a map or message: key, value, and whether it is left out where the value is an empty optional.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The number of the entry itself: its colon's place.
    pub(super) id: u32,
    pub(super) key: Expr,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Literal(Value<'static>),
    Ident(Box<str>),
    Select { operand: Box<Expr>, field: Box<str>, test: bool },
    Call { target: Option<Box<Expr>>, function: Box<str>, args: Vec<Expr> },
    List { items: Vec<Expr>, optional: Vec<bool> },
    Map(Vec<Entry>),
    Message { name: Box<str>, fields: Vec<(Box<str>, Entry)> },
    Fold(Box<Fold>),
}

/// What all macros over lists and maps come to: a loop with an accumulator.
#[derive(Debug, Clone)]
pub(super) struct Fold {
    pub(super) range: Expr,
    pub(super) var: Box<str>,
    pub(super) var2: Option<Box<str>>,
    pub(super) accu: Box<str>,
    pub(super) init: Expr,
    pub(super) condition: Expr,
    pub(super) step: Expr,
    pub(super) result: Expr,
}

impl Fold {
    /// Whether this only names a value for use in `result`.
    pub(super) fn is_bind(&self) -> bool {
        let empty = matches!(&self.range.kind, Kind::List { items, .. } if items.is_empty());
        empty && matches!(self.condition.kind, Kind::Literal(Value::Bool(false)))
    }
}

impl Expr {
    /// The name that a chain of plain selections spells: `a.b.c`.
    pub(super) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test: false } => {
                let mut name = operand.qualified_name()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }
}
