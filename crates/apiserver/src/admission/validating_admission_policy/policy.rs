//! A policy, ready to be evaluated.

use serde_json::Value;

use crate::admission::policies::Compile;
use crate::admission::policies::expressions::{Compiler, Expression, Wants, Wrong, param_kind};
use crate::admission::policies::matching::Matches;
use crate::registry::tree::{list, text};

const TEXT: Wants = Wants { types: &["string"], ..Wants::ANYTHING };
/// Messages cannot ask what somebody may do.
const MESSAGE: Wants = Wants { authorizer: false, ..TEXT };
const ANNOTATION: Wants = Wants { types: &["string", "null_type"], ..Wants::ANYTHING };

#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: String,
}

/// A policy, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(super) name: String,
    pub(super) matches: Matches,
    pub(super) ignores_failures: bool,
    /// `apiVersion` and `kind` of the parameters.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) variables: Vec<Expression>,
    pub(super) conditions: Vec<Expression>,
    pub(super) validations: Vec<Validation>,
    /// Keys and what their values are made of.
    pub(super) annotations: Vec<(String, Expression)>,
    /// Where expressions cannot be read, and why.
    pub(crate) errors: Vec<Wrong>,
}

impl Compiled {
    /// Compiles a policy. What cannot be read is noted with its path and left out.
    pub(crate) fn of(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let (mut compiler, variables) = Compiler::new(spec);
        let conditions = compiler.conditions(spec);
        let validations = list(&spec["validations"]).iter().enumerate();
        let validations = validations.filter_map(|(at, validation)| {
            let path = |field: &str| format!("spec.validations[{at}].{field}");
            let message = &validation["messageExpression"];
            let message_expression = (!text(message).is_empty())
                .then(|| compiler.expression(message, &path("messageExpression"), MESSAGE))
                .flatten();
            Some(Validation {
                expression: compiler.expression(&validation["expression"], &path("expression"), Wants::TRUTH)?,
                message: text(&validation["message"]).trim().to_owned(),
                message_expression,
                reason: text(&validation["reason"]).to_owned(),
            })
        });
        let validations = validations.collect();
        let annotations = list(&spec["auditAnnotations"]).iter().enumerate();
        let annotations = annotations.filter_map(|(at, annotation)| {
            let path = format!("spec.auditAnnotations[{at}].valueExpression");
            let made = compiler.expression(&annotation["valueExpression"], &path, ANNOTATION)?;
            Some((text(&annotation["key"]).to_owned(), made))
        });
        let annotations = annotations.collect();
        Self {
            name: text(&policy["metadata"]["name"]).to_owned(),
            matches: Matches::of(&spec["matchConstraints"]),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            param_kind: param_kind(spec),
            variables,
            conditions,
            validations,
            annotations,
            errors: compiler.errors,
        }
    }
}

impl Compile for Compiled {
    fn of(policy: &Value) -> Self {
        Self::of(policy)
    }
}
