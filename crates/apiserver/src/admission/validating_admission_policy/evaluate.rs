//! What a policy says of one write: pure. Variables are evaluated once, when an expression first needs them.

use machinery::cel::{ANY, CALL_COST_MAX, EvalError, OBJECT_COST_MAX, Program, Value as Cel};
use serde_json::Value;

use super::policy::{Compiled, Expression, NAMES, Validation};

/// What the conditions of a policy may cost: about a quarter of a second.
const CONDITIONS_COST_MAX: u64 = 2_500_000;
/// A computed message that is longer is not shown.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// What a binding wants done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The write is refused.
    Deny,
    /// The writer is told.
    Warn,
    /// The audit log is told.
    Audit,
}

/// What expressions are about.
pub(super) struct Given<'v> {
    pub(super) object: &'v Value,
    pub(super) old: Option<&'v Value>,
    pub(super) request: &'v Value,
    pub(super) namespace: Option<&'v Value>,
    pub(super) params: &'v Value,
}

/// One rule that did not hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) index: usize,
    pub(super) message: String,
    pub(super) reason: String,
}

/// What a policy says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) failures: Vec<Failure>,
    /// Keys and values for the audit log.
    pub(super) annotations: Vec<(String, String)>,
    pub(super) annotation_errors: Vec<String>,
}

/// Evaluates a policy.
pub(super) fn evaluate(policy: &Compiled, given: &Given<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut scope = Scope::new(policy, given);
    if let Some((.., why)) = policy.errors.first() {
        outcome.error(policy, 0, why.clone());
        return outcome;
    }
    match scope.conditions() {
        Ok(true) => {}
        Ok(false) => return outcome,
        Err(why) => {
            outcome.error(policy, 0, why);
            return outcome;
        }
    }
    scope.budget = OBJECT_COST_MAX;
    for (index, validation) in policy.validations.iter().enumerate() {
        match scope.expression(&validation.expression) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let message = scope.message(validation);
                outcome.failures.push(Failure { index, message, reason: validation.reason.clone() });
            }
            Err(why) => outcome.error(policy, index, why),
        }
    }
    for (key, expression) in &policy.annotations {
        match scope.expression(expression) {
            Ok(Cel::String(value)) if !value.trim().is_empty() => {
                outcome.annotations.push((key.clone(), value.trim().to_owned()));
            }
            Ok(_) => {}
            Err(_) if policy.ignores_failures => {}
            Err(why) => outcome.annotation_errors.push(why),
        }
    }
    outcome
}

impl Outcome {
    /// What could not be evaluated, where that counts.
    fn error(&mut self, policy: &Compiled, index: usize, message: String) {
        if !policy.ignores_failures {
            self.failures.push(Failure { index, message, reason: String::new() });
        }
    }
}

type Made<'v> = Result<Cel<'v>, EvalError>;

struct Scope<'v> {
    policy: &'v Compiled,
    /// The fixed variables, then the policy's: `None` while they are not evaluated.
    places: Vec<Option<Made<'v>>>,
    budget: u64,
}

impl<'v> Scope<'v> {
    fn new(policy: &'v Compiled, given: &Given<'v>) -> Self {
        let fixed = [Some(given.object), given.old, Some(given.request), given.namespace, Some(given.params)];
        let mut places: Vec<Option<Made<'v>>> =
            fixed.into_iter().map(|value| Some(value.map_or(Ok(Cel::Null), |value| ANY.value(value)))).collect();
        places.resize(NAMES.len() + policy.variables.len(), None);
        Self { policy, places, budget: CONDITIONS_COST_MAX }
    }

    fn conditions(&mut self) -> Result<bool, String> {
        let policy = self.policy;
        for condition in &policy.conditions {
            match self.expression(condition)? {
                Cel::Bool(true) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn expression(&mut self, expression: &'v Expression) -> Result<Cel<'v>, String> {
        self.need(&expression.program);
        let made = self.run(&expression.program)?;
        made.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.source))
    }

    /// Evaluates the variables that a program names, and those that these name.
    fn need(&mut self, program: &Program) {
        let first = NAMES.len();
        let mut needed: Vec<bool> = (first..self.places.len()).map(|at| program.uses(at)).collect();
        let policy = self.policy;
        for at in (0..needed.len()).rev().filter(|at| self.places[first + at].is_none()).collect::<Vec<_>>() {
            if needed[at] {
                let uses = |other: &usize| policy.variables[at].program.uses(first + other);
                (0..at).filter(uses).for_each(|other| needed[other] = true);
            }
        }
        for (at, needed) in needed.into_iter().enumerate() {
            if needed && self.places[first + at].is_none() {
                let made = self.run(&policy.variables[at].program);
                // Where nothing is left to spend, what asks for the variable is not evaluated either.
                self.places[first + at] = Some(made.unwrap_or(Ok(Cel::Null)));
            }
        }
    }

    /// Evaluates a program whose variables have values. Costs more than is left: an error for all.
    fn run(&mut self, program: &'v Program) -> Result<Made<'v>, String> {
        const SPENT: &str =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        if self.budget == 0 {
            return Err(SPENT.to_owned());
        }
        let values = self.places.iter().map(|place| place.clone().unwrap_or(Ok(Cel::Null))).collect();
        let (made, cost) = program.evaluate_results(values, CALL_COST_MAX);
        if cost > self.budget {
            self.budget = 0;
            return Err(SPENT.to_owned());
        }
        self.budget -= cost;
        Ok(made)
    }

    fn message(&mut self, validation: &'v Validation) -> String {
        let computed = validation.message_expression.as_ref().and_then(|expression| self.expression(expression).ok());
        if let Some(Cel::String(text)) = computed {
            let text = text.trim();
            if !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n') {
                return text.to_owned();
            }
        }
        if validation.message.is_empty() {
            return format!("failed expression: {}", validation.expression.source);
        }
        validation.message.clone()
    }
}
