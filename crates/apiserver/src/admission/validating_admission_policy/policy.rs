//! Policies and bindings as they are followed; a policy is compiled when it is first needed.

use std::sync::OnceLock;

use api::Object;
use machinery::cel::{Program, Type};
use serde_json::Value;

use super::evaluate::Action;
use super::matching::Matches;
use crate::registry::tree::{list, text};

/// The variables that every expression has, by their places; those of the policy stand behind them.
pub(super) const NAMES: [&str; 5] = ["object", "oldObject", "request", "namespaceObject", "params"];

/// A policy.
#[derive(Debug)]
pub(super) struct Policy {
    object: Object,
    compiled: OnceLock<Compiled>,
}

impl Policy {
    pub(super) fn new(object: Object) -> Self {
        Self { object, compiled: OnceLock::new() }
    }

    pub(super) fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| Compiled::of(&self.object.to_value()))
    }
}

/// An expression and what it says.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    pub(super) program: Program,
}

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
    pub(crate) errors: Vec<(String, Value, String)>,
}

impl Compiled {
    /// Compiles a policy. What cannot be read is noted with its path and left out.
    pub(crate) fn of(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let kind = &spec["paramKind"];
        let mut compiler =
            Compiler { names: NAMES.iter().map(|name| ((*name).to_owned(), Type::Dyn)).collect(), errors: Vec::new() };
        if kind.is_null() {
            // Without parameters there is no such name.
            "params/none".clone_into(&mut compiler.names[NAMES.len() - 1].0);
        }
        let mut variables = Vec::new();
        for (at, variable) in list(&spec["variables"]).iter().enumerate() {
            let path = format!("spec.variables[{at}].expression");
            let made = compiler.expression(&variable["expression"], &path, &[]);
            // A variable that cannot be read is not known: what uses it cannot be read either.
            let Some(made) = made else { continue };
            let name = format!("variables.{}", text(&variable["name"]));
            compiler.names.push((name, made.program.result().clone()));
            variables.push(made);
        }
        let conditions = compiler.all(&spec["matchConditions"], "matchConditions", "expression", &[Type::Bool]);
        let validations = list(&spec["validations"]).iter().enumerate();
        let validations = validations.filter_map(|(at, validation)| {
            let path = |field: &str| format!("spec.validations[{at}].{field}");
            let message = &validation["messageExpression"];
            let message_expression = (!text(message).is_empty())
                .then(|| compiler.expression(message, &path("messageExpression"), &[Type::String]))
                .flatten();
            Some(Validation {
                expression: compiler.expression(&validation["expression"], &path("expression"), &[Type::Bool])?,
                message: text(&validation["message"]).trim().to_owned(),
                message_expression,
                reason: text(&validation["reason"]).to_owned(),
            })
        });
        let validations = validations.collect();
        let annotations = list(&spec["auditAnnotations"]).iter().enumerate();
        let annotations = annotations.filter_map(|(at, annotation)| {
            let path = format!("spec.auditAnnotations[{at}].valueExpression");
            let made = compiler.expression(&annotation["valueExpression"], &path, &[Type::String, Type::Null])?;
            Some((text(&annotation["key"]).to_owned(), made))
        });
        let annotations = annotations.collect();
        Self {
            name: text(&policy["metadata"]["name"]).to_owned(),
            matches: Matches::of(&spec["matchConstraints"]),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            param_kind: (!kind.is_null())
                .then(|| (text(&kind["apiVersion"]).to_owned(), text(&kind["kind"]).to_owned())),
            variables,
            conditions,
            validations,
            annotations,
            errors: compiler.errors,
        }
    }
}

struct Compiler {
    names: Vec<(String, Type)>,
    errors: Vec<(String, Value, String)>,
}

impl Compiler {
    /// Compiles an expression that comes to one of those types; to any, where none is given.
    fn expression(&mut self, source: &Value, path: &str, wanted: &[Type]) -> Option<Expression> {
        let names: Vec<(&str, Type)> = self.names.iter().map(|(name, of)| (&**name, of.clone())).collect();
        let given = text(source);
        let made = Program::compile(given, &names).map_err(|issues| format!("compilation failed: {issues}"));
        let made = made.and_then(|program| {
            let found = program.result();
            let same = |wanted: &Type| std::mem::discriminant(wanted) == std::mem::discriminant(found);
            if wanted.is_empty() || matches!(found, Type::Dyn) || wanted.iter().any(same) {
                return Ok(program);
            }
            let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            Err(format!("must evaluate to {}", names.join(" or ")))
        });
        match made {
            Ok(program) => Some(Expression { source: given.trim().to_owned(), program }),
            Err(why) => {
                self.errors.push((path.to_owned(), source.clone(), why));
                None
            }
        }
    }

    fn all(&mut self, given: &Value, name: &str, field: &str, wanted: &[Type]) -> Vec<Expression> {
        let given = list(given).iter().enumerate();
        given
            .filter_map(|(at, one)| self.expression(&one[field], &format!("spec.{name}[{at}].{field}"), wanted))
            .collect()
    }
}

/// A binding.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) matches: Matches,
    pub(super) actions: Vec<Action>,
    pub(super) params: Option<Value>,
    pub(super) spec: Value,
}

impl Binding {
    pub(super) fn new(object: &Object) -> Self {
        let spec = object.to_value()["spec"].take();
        let action = |action: &Value| match text(action) {
            "Deny" => Some(Action::Deny),
            "Warn" => Some(Action::Warn),
            "Audit" => Some(Action::Audit),
            _ => None,
        };
        Self {
            name: object.key().name.to_string(),
            policy: text(&spec["policyName"]).to_owned(),
            matches: Matches::of(&spec["matchResources"]),
            actions: list(&spec["validationActions"]).iter().filter_map(action).collect(),
            params: spec.get("paramRef").filter(|params| !params.is_null()).cloned(),
            spec,
        }
    }
}
