//! CEL, the Common Expression Language, as Kubernetes 1.36 has it: rules about JSON values.
//!
//! An expression is parsed, checked against the types of its variables, its cost estimated by the sizes that are declared,
//! and planned once; the [`Program`] is shared and evaluated over borrowed JSON, step by step up to a cost limit. Nothing
//! here takes more than its limits, whatever a stranger writes: length, depth, copies by macros, cost.
//!
//! Public behaviour: the CEL specification; its messages, costs and extensions are those of cel-go as Kubernetes uses it
//! (`k8s.io/apiserver/pkg/cel`). Left out: making messages of declared types (`Type{field: value}`), since
//! objects come from JSON; what a mutation makes is in [`message`].

mod ast;
mod check;
mod cost;
mod declared;
mod error;
pub mod escape;
mod estimate;
mod eval;
mod functions;
mod lexer;
mod lists;
mod macros;
mod message;
mod parser;
mod plan;
mod time;
mod types;
mod unify;
mod validate;
mod value;

#[cfg(test)]
mod tests;

pub use self::declared::{ANY, Declared, REQUEST_BYTES_MAX};
pub use self::error::Issues;
pub use self::eval::EvalError;
pub use self::functions::authorizer::{Authority, Question, Verdict};
pub use self::message::Message;
pub use self::types::Type;
pub use self::value::{List, Text, Value};

/// The type of the variable `authorizer`.
pub const AUTHORIZER_TYPE: Type = Type::Opaque(functions::AUTHORIZER);
/// The type of the variable `authorizer.requestResource`.
pub const REQUEST_RESOURCE_TYPE: Type = Type::Opaque(functions::RESOURCE_CHECK);

/// What one evaluation of one expression may cost: about a tenth of a second.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// What all expressions about one object may cost: about a second.
pub const OBJECT_COST_MAX: u64 = 10_000_000;

/// An expression that can be evaluated.
#[derive(Debug)]
pub struct Program {
    plan: plan::Node,
    used: Box<[bool]>,
    result: Type,
}

/// A variable: its name and type.
pub type Variable<'v> = (&'v str, Type);

impl Program {
    /// Compiles an expression about variables.
    pub fn compile(source: &str, variables: &[Variable<'_>]) -> Result<Self, Issues> {
        let checked = checked(source, variables)?;
        Ok(Self::planned(&checked, variables.len()))
    }

    /// As [`compile`](Self::compile), of an expression that may make objects and patches.
    pub fn compile_making(source: &str, variables: &[Variable<'_>]) -> Result<Self, Issues> {
        let checked = check::check(source, parser::parse(source)?, variables, Makes::Patches)?;
        Ok(Self::planned(&checked, variables.len()))
    }

    /// Compiles an expression about variables that `root` declares, and says what it costs at most.
    pub fn compile_with_cost(source: &str, variables: &[Variable<'_>], root: &Declared) -> Result<(Self, u64), Issues> {
        let checked = checked(source, variables)?;
        let cost = estimate::estimate(&checked, root);
        Ok((Self::planned(&checked, variables.len()), cost))
    }

    fn planned(checked: &check::Checked, variables: usize) -> Self {
        let (plan, used) = plan::plan(checked, variables);
        Self { plan, used, result: checked.kind(&checked.expr).clone() }
    }

    /// Whether the expression names the variable at that place.
    pub fn uses(&self, at: usize) -> bool {
        self.used.get(at).copied().unwrap_or(false)
    }

    /// The type of what it evaluates to.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Evaluates it with a value for each variable, in their order, up to a cost. Gives the cost in each case.
    pub fn evaluate<'a>(&'a self, values: Vec<Value<'a>>, limit: u64) -> (Result<Value<'a>, EvalError>, u64) {
        self.evaluate_results(values.into_iter().map(Ok).collect(), limit)
    }

    /// As [`evaluate`](Self::evaluate), with variables that may have no value: why, is said where they are used.
    pub fn evaluate_results<'a>(
        &'a self,
        mut values: Vec<Result<Value<'a>, EvalError>>,
        limit: u64,
    ) -> (Result<Value<'a>, EvalError>, u64) {
        // The places of loops begin right behind the variables that there were when it was compiled.
        values.resize(self.used.len(), Ok(Value::Null));
        eval::run(&self.plan, values, limit)
    }
}

fn checked(source: &str, variables: &[Variable<'_>]) -> Result<check::Checked, Issues> {
    check::check(source, parser::parse(source)?, variables, Makes::Nothing)
}

/// What an expression may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    Nothing,
    /// `Object...{}` and `JSONPatch{}`
    Patches,
}
