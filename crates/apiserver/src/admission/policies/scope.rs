//! What expressions see of one write: pure. Variables are evaluated once, when an expression first needs them.

use std::sync::Arc;

use machinery::cel::{ANY, Authority, CALL_COST_MAX, EvalError, Program, Question, Value as Cel};
use serde_json::Value;

use super::expressions::{Expression, NAMES};

/// What the conditions of a policy may cost: about a quarter of a second.
const CONDITIONS_COST_MAX: u64 = 2_500_000;

/// What expressions are about.
pub(in crate::admission) struct Given<'v> {
    pub(in crate::admission) object: &'v Value,
    pub(in crate::admission) old: Option<&'v Value>,
    pub(in crate::admission) request: &'v Value,
    pub(in crate::admission) namespace: Option<&'v Value>,
    pub(in crate::admission) params: &'v Value,
    /// Who answers what the writer may do.
    pub(in crate::admission) authority: &'v Arc<dyn Authority>,
    /// The question about what the write is about.
    pub(in crate::admission) asked: &'v Question,
}

type Made<'v> = Result<Cel<'v>, EvalError>;

/// What the expressions of one policy see of one write, and what they may still cost.
pub(in crate::admission) struct Scope<'v> {
    variables: &'v [Expression],
    /// The fixed variables, then the policy's: `None` while they are not evaluated.
    places: Vec<Option<Made<'v>>>,
    pub(in crate::admission) budget: u64,
}

impl<'v> Scope<'v> {
    pub(in crate::admission) fn new(variables: &'v [Expression], given: &Given<'v>) -> Self {
        let fixed = [Some(given.object), given.old, Some(given.request), given.namespace, Some(given.params)];
        let mut places: Vec<Option<Made<'v>>> =
            fixed.into_iter().map(|value| Some(value.map_or(Ok(Cel::Null), |value| ANY.value(value)))).collect();
        places.push(Some(Ok(Cel::authorizer(given.authority.clone()))));
        places.push(Some(Ok(Cel::request_resource(given.authority.clone(), given.asked.clone()))));
        places.resize(NAMES.len() + variables.len(), None);
        Self { variables, places, budget: CONDITIONS_COST_MAX }
    }

    /// Whether all conditions hold.
    pub(in crate::admission) fn conditions(&mut self, conditions: &'v [Expression]) -> Result<bool, String> {
        for condition in conditions {
            match self.expression(condition)? {
                Cel::Bool(true) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What an expression comes to.
    pub(in crate::admission) fn expression(&mut self, expression: &'v Expression) -> Result<Cel<'v>, String> {
        self.need(&expression.program);
        let made = self.run(&expression.program)?;
        made.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.source))
    }

    /// Evaluates the variables that a program names, and those that these name.
    fn need(&mut self, program: &Program) {
        let first = NAMES.len();
        let mut needed: Vec<bool> = (first..self.places.len()).map(|at| program.uses(at)).collect();
        let variables = self.variables;
        for at in (0..needed.len()).rev().filter(|at| self.places[first + at].is_none()).collect::<Vec<_>>() {
            if needed[at] {
                let uses = |other: &usize| variables[at].program.uses(first + other);
                (0..at).filter(uses).for_each(|other| needed[other] = true);
            }
        }
        for (at, needed) in needed.into_iter().enumerate() {
            if needed && self.places[first + at].is_none() {
                let made = self.run(&variables[at].program);
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
}
