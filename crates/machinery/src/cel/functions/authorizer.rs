//! What a user may do: the library of the variables `authorizer` and `authorizer.requestResource`.
//!
//! A question is put together step by step and answered by whoever made the variable: an [`Authority`].

use std::fmt;
use std::sync::Arc;

use super::super::cost::Cost;
use super::super::value::{Made, Opaque, Value};
use super::{AUTHORIZER, DECISION, Function, GROUP_CHECK, PATH_CHECK, RESOURCE_CHECK, T, fail, member, no_overload};
use crate::names;

/// Answers questions.
pub trait Authority: fmt::Debug + Send + Sync {
    /// What the user, or the service account that the question names, may do.
    fn decide(&self, question: &Question) -> Verdict;
}

/// What is asked. A path is one that is no resource's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Another than the one who sent the request: namespace and name of a service account.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// Empty where it is about a resource.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The resource's plural.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// As it was given; not checked.
    pub field_selector: String,
    /// As it was given; not checked.
    pub label_selector: String,
}

/// What is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// Why it could not be found out; empty where it could.
    pub error: String,
}

/// A question on its way: who is asked, and how much of it is said.
#[derive(Debug, Clone)]
pub struct Asking {
    authority: Arc<dyn Authority>,
    step: Step,
    question: Question,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begun,
    Path,
    Group,
    Resource,
}

impl Asking {
    pub(in super::super) fn type_name(&self) -> &'static str {
        match self.step {
            Step::Begun => AUTHORIZER,
            Step::Path => PATH_CHECK,
            Step::Group => GROUP_CHECK,
            Step::Resource => RESOURCE_CHECK,
        }
    }
}

impl<'a> Value<'a> {
    /// The variable `authorizer`.
    pub fn authorizer(authority: Arc<dyn Authority>) -> Self {
        Self::asking(Asking { authority, step: Step::Begun, question: Question::default() })
    }

    /// The variable `authorizer.requestResource`: the question about what a request is about, but for its verb.
    pub fn request_resource(authority: Arc<dyn Authority>, question: Question) -> Self {
        Self::asking(Asking { authority, step: Step::Resource, question })
    }

    fn asking(asking: Asking) -> Self {
        Self::opaque(Opaque::Asking(asking))
    }
}

/// A function that says one thing more of a question: its name, and what becomes of the question.
macro_rules! step {
    ($name:literal, $from:ident => $to:ident, $say:expr) => {
        Function {
            name: $name,
            overloads: &[member(&[T::Opaque($from), T::String], T::Opaque($to))],
            cost: Cost::One,
            call: |args, _| said($name, args, $from, $say),
        }
    };
}

type Say = fn(Asking, &str) -> Result<Asking, &'static str>;

fn said<'a>(name: &str, args: &[Value<'a>], from: &str, say: Say) -> Made<'a> {
    match args {
        [of, Value::String(text)] => match asking(of).filter(|asking| asking.type_name() == from) {
            Some(asking) => say(asking.clone(), text).map_or_else(fail, |asking| Ok(Value::asking(asking))),
            None => no_overload(name, args),
        },
        _ => no_overload(name, args),
    }
}

fn asking<'v>(value: &'v Value<'_>) -> Option<&'v Asking> {
    let Value::Opaque(of) = value else { return None };
    if let Opaque::Asking(asking) = &**of { Some(asking) } else { None }
}

fn verdict<'v>(value: &'v Value<'_>) -> Option<&'v Verdict> {
    let Value::Opaque(of) = value else { return None };
    if let Opaque::Verdict(verdict) = &**of { Some(verdict) } else { None }
}

const SELECTOR: Cost = Cost::Selector;

pub(super) static FUNCTIONS: &[Function] = &[
    step!("path", AUTHORIZER => PATH_CHECK, |mut asking, path| {
        if path.trim().is_empty() {
            return Err("path must not be empty");
        }
        asking.step = Step::Path;
        path.clone_into(&mut asking.question.path);
        Ok(asking)
    }),
    step!("group", AUTHORIZER => GROUP_CHECK, |mut asking, group| {
        asking.step = Step::Group;
        group.clone_into(&mut asking.question.group);
        Ok(asking)
    }),
    step!("resource", GROUP_CHECK => RESOURCE_CHECK, |mut asking, resource| {
        if resource.trim().is_empty() {
            return Err("resource must not be empty");
        }
        asking.step = Step::Resource;
        resource.clone_into(&mut asking.question.resource);
        Ok(asking)
    }),
    step!("subresource", RESOURCE_CHECK => RESOURCE_CHECK, |mut asking, subresource| {
        subresource.clone_into(&mut asking.question.subresource);
        Ok(asking)
    }),
    step!("namespace", RESOURCE_CHECK => RESOURCE_CHECK, |mut asking, namespace| {
        namespace.clone_into(&mut asking.question.namespace);
        Ok(asking)
    }),
    step!("name", RESOURCE_CHECK => RESOURCE_CHECK, |mut asking, name| {
        name.clone_into(&mut asking.question.name);
        Ok(asking)
    }),
    Function {
        cost: SELECTOR,
        ..step!("fieldSelector", RESOURCE_CHECK => RESOURCE_CHECK, |mut asking, selector| {
            selector.clone_into(&mut asking.question.field_selector);
            Ok(asking)
        })
    },
    Function {
        cost: SELECTOR,
        ..step!("labelSelector", RESOURCE_CHECK => RESOURCE_CHECK, |mut asking, selector| {
            selector.clone_into(&mut asking.question.label_selector);
            Ok(asking)
        })
    },
    Function {
        name: "serviceAccount",
        overloads: &[member(&[T::Opaque(AUTHORIZER), T::String, T::String], T::Opaque(AUTHORIZER))],
        cost: Cost::One,
        call: |args, _| match args {
            [of, Value::String(namespace), Value::String(name)] => match asking(of) {
                Some(asking) if asking.step == Step::Begun => service_account(asking.clone(), namespace, name),
                _ => no_overload("serviceAccount", args),
            },
            _ => no_overload("serviceAccount", args),
        },
    },
    Function {
        name: "check",
        overloads: &[
            member(&[T::Opaque(PATH_CHECK), T::String], T::Opaque(DECISION)),
            member(&[T::Opaque(RESOURCE_CHECK), T::String], T::Opaque(DECISION)),
        ],
        cost: Cost::Check,
        call: |args, _| match args {
            [of, Value::String(verb)] => match asking(of) {
                Some(asking) if matches!(asking.step, Step::Path | Step::Resource) => {
                    let question = Question { verb: verb.to_string(), ..asking.question.clone() };
                    Ok(Value::opaque(Opaque::Verdict(asking.authority.decide(&question))))
                }
                _ => no_overload("check", args),
            },
            _ => no_overload("check", args),
        },
    },
    Function {
        name: "allowed",
        overloads: &[member(&[T::Opaque(DECISION)], T::Bool)],
        cost: Cost::One,
        call: |args, _| told("allowed", args, |verdict| Value::Bool(verdict.allowed)),
    },
    Function {
        name: "errored",
        overloads: &[member(&[T::Opaque(DECISION)], T::Bool)],
        cost: Cost::One,
        call: |args, _| told("errored", args, |verdict| Value::Bool(!verdict.error.is_empty())),
    },
    Function {
        name: "error",
        overloads: &[member(&[T::Opaque(DECISION)], T::String)],
        cost: Cost::One,
        call: |args, _| told("error", args, |verdict| Value::String(verdict.error.as_str().into())),
    },
    Function {
        name: "reason",
        overloads: &[member(&[T::Opaque(DECISION)], T::String)],
        cost: Cost::One,
        call: |args, _| told("reason", args, |verdict| Value::String(verdict.reason.as_str().into())),
    },
];

fn told<'a>(name: &str, args: &[Value<'a>], tell: fn(&Verdict) -> Value<'static>) -> Made<'a> {
    args.first().and_then(verdict).map_or_else(|| no_overload(name, args), |verdict| Ok(tell(verdict)))
}

fn service_account<'a>(mut asking: Asking, namespace: &str, name: &str) -> Made<'a> {
    if !names::dns1123_subdomain(name).is_empty() {
        return fail("Invalid service account name");
    }
    if !names::dns1123_label(namespace).is_empty() {
        return fail("Invalid service account namespace");
    }
    asking.question.service_account = Some((namespace.to_owned(), name.to_owned()));
    Ok(Value::asking(asking))
}
