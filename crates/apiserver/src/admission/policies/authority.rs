//! Who answers the questions of expressions about what the writer may do.

use std::sync::Arc;

use machinery::FieldSelector;
use machinery::cel::{Authority, Question, Verdict};

use crate::admission::Attempt;
use crate::authentication::UserInfo;
use crate::authorization::{Attributes, Authorization, Decision};

/// Answers for one user.
struct Asked {
    authorization: Arc<Authorization>,
    user: UserInfo,
}

/// Answers for who writes.
pub(in crate::admission) fn of_writer(authorization: &Arc<Authorization>, attempt: &Attempt<'_>) -> Arc<dyn Authority> {
    Arc::new(Asked { authorization: authorization.clone(), user: attempt.context.user.clone() })
}

/// The question about what a write is about, but for its verb.
pub(in crate::admission) fn request_resource(attempt: &Attempt<'_>) -> Question {
    Question {
        group: attempt.resource.group.to_string(),
        resource: attempt.resource.plural.to_string(),
        subresource: attempt.subresource.to_owned(),
        namespace: attempt.key.namespace.to_string(),
        name: attempt.key.name.to_string(),
        ..Question::default()
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.user.name)
    }
}

impl Authority for Asked {
    fn decide(&self, question: &Question) -> Verdict {
        let attributes = attributes(question);
        let account = question.service_account.as_ref();
        let account = account.map(|(namespace, name)| UserInfo::service_account(namespace, name));
        let (allowed, reason) = match self.authorization.decide(account.as_ref().unwrap_or(&self.user), &attributes) {
            Decision::Allow { reason } => (true, reason),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => (false, reason),
        };
        Verdict { allowed, reason, error: String::new() }
    }
}

fn attributes(question: &Question) -> Attributes {
    if !question.path.is_empty() {
        return Attributes { verb: question.verb.clone(), path: question.path.clone(), ..Attributes::default() };
    }
    // A selector that cannot be read narrows nothing down.
    let selector = Some(&question.field_selector).filter(|text| !text.is_empty());
    let selector = selector.and_then(|text| FieldSelector::parse(text).ok());
    let exact = selector.iter().flat_map(|selector| selector.requirements()).filter(|requirement| !requirement.negated);
    Attributes {
        verb: question.verb.clone(),
        group: question.group.clone(),
        version: "*".to_owned(),
        resource: question.resource.clone(),
        subresource: question.subresource.clone(),
        namespace: question.namespace.clone(),
        name: question.name.clone(),
        path: String::new(),
        fields: exact.map(|requirement| (requirement.field.clone(), requirement.value.clone())).collect(),
    }
}
