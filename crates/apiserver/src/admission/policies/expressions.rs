//! The expressions of policies: which variables they have and what they must come to.

use machinery::cel::{AUTHORIZER_TYPE, Program, REQUEST_RESOURCE_TYPE, Type};
use serde_json::Value;

use crate::registry::tree::{list, text};

/// The variables that every expression has, by their places; those of the policy stand behind them.
pub(in crate::admission) const NAMES: [&str; 7] =
    ["object", "oldObject", "request", "namespaceObject", "params", "authorizer", "authorizer.requestResource"];
const PARAMS: usize = 4;
const AUTHORIZER: usize = 5;

/// A name that no expression can say.
const HIDDEN: &str = "hidden/";

/// An expression and what it says.
#[derive(Debug)]
pub(in crate::admission) struct Expression {
    pub(in crate::admission) source: String,
    pub(in crate::admission) program: Program,
}

/// What an expression may use, and what it must come to.
#[derive(Debug, Clone, Copy)]
pub(in crate::admission) struct Wants {
    /// Any of these types; any type at all, where there is none.
    pub(in crate::admission) types: &'static [&'static str],
    pub(in crate::admission) authorizer: bool,
    pub(in crate::admission) makes_patches: bool,
}

impl Wants {
    pub(in crate::admission) const ANYTHING: Self = Self { types: &[], authorizer: true, makes_patches: false };
    pub(in crate::admission) const TRUTH: Self = Self { types: &["bool"], ..Self::ANYTHING };
}

/// Where an expression stands, what it says, and why it cannot be read.
pub(crate) type Wrong = (String, Value, String);

pub(in crate::admission) struct Compiler {
    names: Vec<(String, Type)>,
    pub(in crate::admission) errors: Vec<Wrong>,
}

impl Compiler {
    /// For the expressions of a policy. Variables are in the order of their places.
    pub(in crate::admission) fn new(spec: &Value) -> (Self, Vec<Expression>) {
        let mut names: Vec<(String, Type)> = NAMES.iter().map(|name| ((*name).to_owned(), Type::Dyn)).collect();
        names[AUTHORIZER].1 = AUTHORIZER_TYPE;
        names[AUTHORIZER + 1].1 = REQUEST_RESOURCE_TYPE;
        if spec["paramKind"].is_null() {
            // Without parameters there is no such name.
            HIDDEN.clone_into(&mut names[PARAMS].0);
        }
        let mut compiler = Self { names, errors: Vec::new() };
        let mut variables = Vec::new();
        for (at, variable) in list(&spec["variables"]).iter().enumerate() {
            let path = format!("spec.variables[{at}].expression");
            let made = compiler.expression(&variable["expression"], &path, Wants::ANYTHING);
            // A variable that cannot be read is not known: what uses it cannot be read either.
            let Some(made) = made else { continue };
            let name = format!("variables.{}", text(&variable["name"]));
            compiler.names.push((name, made.program.result().clone()));
            variables.push(made);
        }
        (compiler, variables)
    }

    pub(in crate::admission) fn expression(&mut self, source: &Value, path: &str, wants: Wants) -> Option<Expression> {
        let shown = |at: usize, name: &'_ str| match at {
            AUTHORIZER | 6 if !wants.authorizer => HIDDEN.to_owned(),
            _ => name.to_owned(),
        };
        let names: Vec<(String, Type)> =
            self.names.iter().enumerate().map(|(at, (name, of))| (shown(at, name), of.clone())).collect();
        let names: Vec<(&str, Type)> = names.iter().map(|(name, of)| (&**name, of.clone())).collect();
        let given = text(source);
        let compile = if wants.makes_patches { Program::compile_making } else { Program::compile };
        let made = compile(given, &names).map_err(|issues| format!("compilation failed: {issues}"));
        match made.and_then(|program| fitting(program, wants.types)) {
            Ok(program) => Some(Expression { source: given.trim().to_owned(), program }),
            Err(why) => {
                self.errors.push((path.to_owned(), source.clone(), why));
                None
            }
        }
    }

    /// `matchConditions`
    pub(in crate::admission) fn conditions(&mut self, spec: &Value) -> Vec<Expression> {
        let given = list(&spec["matchConditions"]).iter().enumerate();
        let path = |at: usize| format!("spec.matchConditions[{at}].expression");
        given.filter_map(|(at, one)| self.expression(&one["expression"], &path(at), Wants::TRUTH)).collect()
    }
}

/// The program, where it comes to one of the types.
fn fitting(program: Program, wanted: &[&str]) -> Result<Program, String> {
    let found = match program.result() {
        Type::Null => "null_type".to_owned(),
        found => found.to_string(),
    };
    // What is only known when it is evaluated is not enough.
    if wanted.is_empty() || wanted.contains(&&*found) {
        return Ok(program);
    }
    Err(match wanted {
        [one] => format!("must evaluate to {one} but got {found}"),
        all => format!("must evaluate to one of [{}] but got {found}", all.join(" ")),
    })
}

/// `apiVersion` and `kind` of the parameters.
pub(in crate::admission) fn param_kind(spec: &Value) -> Option<(String, String)> {
    let kind = &spec["paramKind"];
    (!kind.is_null()).then(|| (text(&kind["apiVersion"]).to_owned(), text(&kind["kind"]).to_owned()))
}
