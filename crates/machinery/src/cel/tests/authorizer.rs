//! The variable `authorizer`.

use std::sync::Arc;

use super::super::{
    AUTHORIZER_TYPE, Authority, CALL_COST_MAX, Program, Question, REQUEST_RESOURCE_TYPE, Value, Verdict,
};
use super::shown;

/// Tells what it was asked, and allows what is about `default`.
#[derive(Debug)]
struct Echo;

impl Authority for Echo {
    fn decide(&self, question: &Question) -> Verdict {
        let Question { service_account, verb, path, group, resource, subresource, namespace, name, .. } = question;
        let who = service_account.as_ref().map_or_else(String::new, |(namespace, name)| format!("{namespace}:{name} "));
        let what =
            if path.is_empty() { format!("{group}/{resource}/{subresource} {namespace}/{name}") } else { path.clone() };
        let selectors = format!("{} {}", question.field_selector, question.label_selector);
        Verdict {
            allowed: namespace == "default",
            reason: format!("{who}{verb} {what} {selectors}").trim_end().to_owned(),
            error: if verb == "fail" { "out of order".to_owned() } else { String::new() },
        }
    }
}

fn evaluated(source: &str) -> (String, u64) {
    let names = [("authorizer", AUTHORIZER_TYPE), ("authorizer.requestResource", REQUEST_RESOURCE_TYPE)];
    let program = match Program::compile(source, &names) {
        Ok(program) => program,
        Err(issues) => return (issues.to_string().lines().next().unwrap_or_default().to_owned(), 0),
    };
    let own = Question { resource: "pods".to_owned(), namespace: "default".to_owned(), ..Question::default() };
    let values = vec![Value::authorizer(Arc::new(Echo)), Value::request_resource(Arc::new(Echo), own)];
    let (made, cost) = program.evaluate(values, CALL_COST_MAX);
    (made.map_or_else(|error| format!("error: {error}"), |value| shown(&value)), cost)
}

#[test]
fn a_question_is_put_together_and_answered() {
    for (source, expected) in [
        ("authorizer.path('/healthz').check('get').reason()", r#""get /healthz""#),
        ("authorizer.path(' ').check('get').allowed()", "error: path must not be empty"),
        (
            "authorizer.group('apps').resource('deployments').subresource('scale').namespace('default').name('web')\
             .check('update').reason()",
            r#""update apps/deployments/scale default/web""#,
        ),
        ("authorizer.group('').resource('pods').namespace('default').check('list').allowed()", "true"),
        ("authorizer.group('').resource('pods').check('list').allowed()", "false"),
        ("authorizer.group('').resource('').check('list').allowed()", "error: resource must not be empty"),
        (
            "authorizer.group('').resource('pods').fieldSelector('a=b').labelSelector('c').check('list').reason()",
            r#""list /pods/ / a=b c""#,
        ),
        (
            "authorizer.serviceAccount('n', 'bot').group('').resource('pods').check('get').reason()",
            r#""n:bot get /pods/ /""#,
        ),
        (
            "authorizer.serviceAccount('N', 'bot').path('/x').check('get').allowed()",
            "error: Invalid service account namespace",
        ),
        (
            "authorizer.serviceAccount('n', 'b@t').path('/x').check('get').allowed()",
            "error: Invalid service account name",
        ),
        ("authorizer.path('/x').check('fail').errored()", "true"),
        (
            "authorizer.path('/x').check('fail').error() + authorizer.path('/x').check('get').error()",
            r#""out of order""#,
        ),
        ("authorizer.requestResource.check('delete').allowed()", "true"),
        ("authorizer.requestResource.name('x').check('delete').reason()", r#""delete /pods/ default/x""#),
        (
            "authorizer.check('get')",
            "ERROR: <input>:1:17: found no matching overload for 'check' applied to \
             'kubernetes.authorization.Authorizer.(string)'",
        ),
        ("type(authorizer) == type(authorizer.requestResource)", "false"),
    ] {
        assert_eq!(evaluated(source).0, expected, "{source}");
    }
}

#[test]
fn an_expression_may_ask_twice() {
    let ask = "authorizer.path('/x').check('get').allowed()";
    assert_eq!(evaluated(ask), ("false".to_owned(), 350_003));
    assert_eq!(evaluated(&format!("{ask} || {ask}")).0, "false");
    assert_eq!(
        evaluated(&format!("{ask} || {ask} || {ask}")).0,
        "error: operation cancelled: actual cost limit exceeded"
    );
    let select = "authorizer.requestResource.labelSelector('a,b').check('get').allowed()";
    assert_eq!(evaluated(select).1, 350_000 + 2 + (10 + 1 + 100));
}
