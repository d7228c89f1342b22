//! A policy, ready to be evaluated.

use serde_json::Value;

use crate::admission::policies::Compile;
use crate::admission::policies::expressions::{Compiler, Expression, Wants, Wrong, param_kind};
use crate::admission::policies::matching::Matches;
use crate::registry::tree::{list, text};

const CONFIGURATION: Wants = Wants { types: &["Object"], makes_patches: true, ..Wants::ANYTHING };
const PATCH: Wants = Wants { types: &["list(JSONPatch)"], makes_patches: true, ..Wants::ANYTHING };

/// A change.
#[derive(Debug)]
pub(super) enum Mutation {
    /// What is merged into the object.
    Apply(Expression),
    /// A JSON patch.
    Patch(Expression),
}

/// A policy, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(super) name: String,
    pub(super) matches: Matches,
    pub(super) ignores_failures: bool,
    /// Whether it wants to be asked again where the object is changed after it.
    pub(super) reinvokes: bool,
    pub(super) param_kind: Option<(String, String)>,
    pub(super) variables: Vec<Expression>,
    pub(super) conditions: Vec<Expression>,
    pub(super) mutations: Vec<Mutation>,
    /// Where expressions cannot be read, and why.
    pub(crate) errors: Vec<Wrong>,
}

impl Compile for Compiled {
    fn of(policy: &Value) -> Self {
        Self::of(policy)
    }
}

impl Compiled {
    /// Compiles a policy. What cannot be read is noted with its path and left out.
    pub(crate) fn of(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let (mut compiler, variables) = Compiler::new(spec);
        let conditions = compiler.conditions(spec);
        let mutations = list(&spec["mutations"]).iter().enumerate();
        let mutations = mutations.filter_map(|(at, mutation)| {
            let (field, wants, made): (_, _, fn(Expression) -> Mutation) = match text(&mutation["patchType"]) {
                "ApplyConfiguration" => ("applyConfiguration", CONFIGURATION, Mutation::Apply),
                "JSONPatch" => ("jsonPatch", PATCH, Mutation::Patch),
                _ => return None,
            };
            let path = format!("spec.mutations[{at}].{field}.expression");
            compiler.expression(&mutation[field]["expression"], &path, wants).map(made)
        });
        let mutations = mutations.collect();
        Self {
            name: text(&policy["metadata"]["name"]).to_owned(),
            matches: Matches::of(&spec["matchConstraints"]),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            reinvokes: spec["reinvocationPolicy"] == "IfNeeded",
            param_kind: param_kind(spec),
            variables,
            conditions,
            mutations,
            errors: compiler.errors,
        }
    }
}
