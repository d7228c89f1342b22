//! What a policy says of one write: pure.

use machinery::cel::{OBJECT_COST_MAX, Value as Cel};

use super::policy::{Compiled, Validation};
use crate::admission::policies::scope::{Given, Scope};

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

impl Action {
    pub(super) fn of(action: &serde_json::Value) -> Option<Self> {
        match action.as_str()? {
            "Deny" => Some(Self::Deny),
            "Warn" => Some(Self::Warn),
            "Audit" => Some(Self::Audit),
            _ => None,
        }
    }
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
    let mut scope = Scope::new(&policy.variables, given);
    if let Some((.., why)) = policy.errors.first() {
        outcome.error(policy, 0, why.clone());
        return outcome;
    }
    match scope.conditions(&policy.conditions) {
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
                let message = message(&mut scope, validation);
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

fn message<'v>(scope: &mut Scope<'v>, validation: &'v Validation) -> String {
    let computed = validation.message_expression.as_ref().and_then(|expression| scope.expression(expression).ok());
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
