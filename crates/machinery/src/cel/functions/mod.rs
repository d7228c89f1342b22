//! The functions that expressions may call: one file a library, each a table of names, signatures, costs and code.
//!
//! Which there are, and under which signatures, is what Kubernetes 1.36 puts into its environment. To add a library, write
//! its table and one line in [`LIBRARIES`].

pub(super) mod authorizer;
mod conversions;
mod format;
mod ip;
mod json_patch;
mod lists;
mod operators;
mod optionals;
mod quantity;
mod regex;
pub(super) mod semver;
mod sets;
mod standard;
mod strings;
mod text_format;
mod times;
pub(super) mod urls;

use std::sync::Arc;

use super::cost::Cost;
use super::eval::{EvalError, Meter};
use super::types::Type;
use super::value::{Made, Value};
use crate::pattern::Pattern;

pub(super) const QUANTITY: &str = "kubernetes.Quantity";
pub(super) const IP: &str = "net.IP";
pub(super) const CIDR: &str = "net.CIDR";
pub(super) const URL: &str = "kubernetes.URL";
pub(super) const SEMVER: &str = "kubernetes.Semver";
pub(super) const FORMAT: &str = "kubernetes.NamedFormat";
pub(super) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub(super) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
/// The function that is there only where patches are made.
pub(super) const ESCAPE_KEY: &str = "jsonpatch.escapeKey";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

pub(super) use self::format::pattern_length;
pub(super) use self::operators::{insert, shown};
pub(super) use self::text_format::{Clause, Piece, pieces, refused};

/// All functions.
static LIBRARIES: &[&[Function]] = &[
    operators::FUNCTIONS,
    standard::FUNCTIONS,
    conversions::FUNCTIONS,
    times::FUNCTIONS,
    optionals::FUNCTIONS,
    strings::FUNCTIONS,
    lists::FUNCTIONS,
    sets::FUNCTIONS,
    regex::FUNCTIONS,
    urls::FUNCTIONS,
    quantity::FUNCTIONS,
    ip::FUNCTIONS,
    format::FUNCTIONS,
    semver::FUNCTIONS,
    authorizer::FUNCTIONS,
    json_patch::FUNCTIONS,
];

/// The function of that name.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    LIBRARIES.iter().flat_map(|library| library.iter()).find(|function| function.name == name)
}

/// A type in a signature.
#[derive(Debug)]
pub(super) enum T {
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(&'static T),
    Map(&'static T, &'static T),
    Optional(&'static T),
    Type(&'static T),
    Opaque(&'static str),
    /// Any type, the same wherever it is named in the signature.
    A,
    /// Another such.
    B,
}

impl T {
    /// The type, its variables numbered from `base`.
    pub(super) fn instance(&self, base: u32) -> Type {
        match self {
            Self::Dyn => Type::Dyn,
            Self::Bool => Type::Bool,
            Self::Int => Type::Int,
            Self::Uint => Type::Uint,
            Self::Double => Type::Double,
            Self::String => Type::String,
            Self::Bytes => Type::Bytes,
            Self::Duration => Type::Duration,
            Self::Timestamp => Type::Timestamp,
            Self::List(of) => Type::list(of.instance(base)),
            Self::Map(key, value) => Type::map(key.instance(base), value.instance(base)),
            Self::Optional(of) => Type::optional(of.instance(base)),
            Self::Type(of) => Type::Type(Arc::new(of.instance(base))),
            Self::Opaque(name) => Type::Opaque(name),
            Self::A => Type::Param(base),
            Self::B => Type::Param(base + 1),
        }
    }
}

/// How many variables a signature has at most.
pub(super) const VARIABLES: u32 = 2;

/// One signature of a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) member: bool,
    pub(super) params: &'static [T],
    pub(super) result: T,
}

pub(super) type Call = for<'a> fn(&[Value<'a>], &With<'_>) -> Made<'a>;

/// What a call has besides its arguments.
pub(super) struct With<'w> {
    /// Its pattern, compiled, where the expression spells it out.
    pub(super) pattern: Option<&'w Pattern>,
    pub(super) meter: &'w Meter,
}

/// A function: one name, all its signatures. The code looks at what it is given itself, since what is dynamic is not
/// checked before; a receiver is the first argument.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) overloads: &'static [Overload],
    pub(super) cost: Cost,
    pub(super) call: Call,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn global(params: &'static [T], result: T) -> Overload {
    Overload { member: false, params, result }
}

const fn member(params: &'static [T], result: T) -> Overload {
    Overload { member: true, params, result }
}

/// No signature fits what was given.
fn no_overload<'a>(name: &str, args: &[Value<'a>]) -> Made<'a> {
    let types: Vec<&str> = args.iter().map(Value::type_name).collect();
    Err(EvalError::new(format!("no such overload: {name}({})", types.join(", "))))
}

fn fail<'a>(why: impl Into<String>) -> Made<'a> {
    Err(EvalError::new(why))
}
