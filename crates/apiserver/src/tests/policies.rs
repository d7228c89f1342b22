//! Admission policies: what bindings make them refuse, warn of and let pass.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Cluster;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Creates a policy about resources and a binding for it, and waits until both count.
async fn bind(cluster: &Cluster, (group, resource): (&str, &str), mut spec: Value, binding: Value) {
    spec["matchConstraints"] = json!({"resourceRules": [
        {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": [resource]}]});
    cluster.post(POLICIES, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let mut made = json!({"policyName": "p", "validationActions": ["Deny"]});
    made.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    cluster.post(BINDINGS, json!({"metadata": {"name": "b"}, "spec": made})).await;
    // A read shows all that was written before, and so do those who follow.
    cluster.get(&format!("{BINDINGS}/b")).await;
    cluster.get(&format!("{POLICIES}/p")).await;
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn map(name: &str, data: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "x"}}, "data": data})
}

#[tokio::test]
async fn a_deployment_is_judged() {
    let cluster = Cluster::start().await;
    let spec = json!({"validations": [
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": "namespaceObject.metadata.name == 'default'", "message": "no other namespace"}]});
    bind(&cluster, ("apps", "deployments"), spec, json!({})).await;
    let (status, answer) = cluster.call(Method::POST, DEPLOYMENTS, &deployment("one", 1)).await;
    let expected = "deployments.apps \"one\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: wants \
                    replicas > 1, got 1";
    assert_eq!((status, &answer["message"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(expected)));
    assert_eq!(answer["reason"], "Invalid");
    cluster.post(DEPLOYMENTS, deployment("two", 2)).await;
    let mut set = deployment("set", 1);
    set["spec"].as_object_mut().unwrap().remove("strategy");
    cluster.post("/apis/apps/v1/namespaces/default/replicasets", set).await;
    let patch = json!({"spec": {"replicas": 1}});
    let (status, _) = cluster.call(Method::PATCH, &format!("{DEPLOYMENTS}/two"), &patch).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, _) = cluster.call(Method::DELETE, &format!("{BINDINGS}/b"), &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    cluster.get(&format!("{BINDINGS}?limit=1")).await;
    cluster.post(DEPLOYMENTS, deployment("one", 1)).await;
}

#[tokio::test]
async fn variables_conditions_and_parameters_are_seen() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, map("limits", &json!({"max": "3"}))).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-limits", "expression": "request.operation == 'CREATE' && object.metadata.name != 'limits'"}],
        "variables": [
            {"name": "keys", "expression": "has(object.data) ? object.data.map(k, k) : []"},
            {"name": "count", "expression": "size(variables.keys)"},
            {"name": "broken", "expression": "object.nowhere.at.all"}],
        "validations": [
            {"expression": "variables.count <= int(params.data.max)", "reason": "Forbidden",
                "messageExpression": "'more than ' + params.data.max + ' keys: ' + string(variables.count)"},
            {"expression": "oldObject == null && request.userInfo.username != '' && (true || variables.broken)"}]});
    let binding = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"},
        "matchResources": {"objectSelector": {"matchLabels": {"app": "x"}}}});
    bind(&cluster, ("", "configmaps"), spec, binding).await;
    cluster.post(MAPS, map("few", &json!({"a": "1"}))).await;
    let many = json!({"a": "1", "b": "2", "c": "3", "d": "4"});
    let (status, answer) = cluster.call(Method::POST, MAPS, &map("many", &many)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert!(answer["message"].as_str().unwrap().ends_with("denied request: more than 3 keys: 4"), "{answer}");
    let mut other = map("other", &many);
    other["metadata"]["labels"] = json!({"app": "y"});
    cluster.post(MAPS, other).await;
    // Its parameters may be changed and removed: a condition lets that pass.
    let (status, _) = cluster.call(Method::DELETE, &format!("{MAPS}/limits"), &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    cluster.get(&format!("{MAPS}?limit=1")).await;
    let (_, answer) = cluster.call(Method::POST, MAPS, &map("more", &json!({}))).await;
    let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(answer["message"].as_str().unwrap().ends_with(why), "{answer}");
}

#[tokio::test]
async fn failures_count_as_the_policy_says_and_may_only_warn() {
    let table = [
        (json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nowhere == 1"}]}), json!({}), None),
        (
            json!({"validations": [{"expression": "object.nowhere == 1"}]}),
            json!({}),
            Some("expression 'object.nowhere == 1' resulted in error: no such key: nowhere"),
        ),
        (
            json!({"validations": [{"expression": "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, a == b || c != d || d == c || b != a))))"}]}),
            json!({}),
            Some("actual cost limit exceeded"),
        ),
        (json!({"validations": [{"expression": "false"}]}), json!({"validationActions": ["Warn", "Audit"]}), None),
        (
            json!({"validations": [{"expression": "false"}]}),
            json!({"validationActions": ["Deny"]}),
            Some("failed expression: false"),
        ),
        (
            json!({"validations": [{"expression": "false"}]}),
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"no": "such"}}}}),
            None,
        ),
    ];
    for (spec, binding, expected) in table {
        let cluster = Cluster::start().await;
        bind(&cluster, ("", "configmaps"), spec.clone(), binding).await;
        let data: serde_json::Map<String, Value> = (0..40).map(|at| (format!("k{at}"), "v".into())).collect();
        let (status, answer) = cluster.call(Method::POST, MAPS, &map("m", &data.into())).await;
        match expected {
            None => assert_eq!(status, StatusCode::CREATED, "{spec} {answer}"),
            Some(why) => {
                assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{spec} {answer}");
                assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn policies_that_cannot_be_read_are_refused() {
    let cluster = Cluster::start().await;
    let constraints = json!({"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["*"]}]});
    let policy = |rest: &Value| {
        let mut spec = json!({"matchConstraints": constraints});
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({"metadata": {"name": "p"}, "spec": spec})
    };
    let table = [
        (json!({}), "spec.validations: Required value: validations or auditAnnotations must contain at least one item"),
        (
            json!({"validations": [{"expression": "object.x >"}]}),
            r#"spec.validations[0].expression: Invalid value: "object.x >": compilation failed: ERROR: <input>:1:11: Syntax error"#,
        ),
        (json!({"validations": [{"expression": "'text'"}]}), "must evaluate to bool"),
        (json!({"validations": [{"expression": "params.x == 1"}]}), "undeclared reference to 'params'"),
        (json!({"validations": [{"expression": "true", "messageExpression": "1"}]}), "must evaluate to string"),
        (
            json!({"variables": [{"name": "a-b", "expression": "1"}], "validations": [{"expression": "true"}]}),
            "must be a valid CEL identifier",
        ),
        (json!({"validations": [{"expression": "variables.later"}]}), "undeclared reference to 'variables'"),
    ];
    for (spec, expected) in table {
        let (status, answer) = cluster.call(Method::POST, POLICIES, &policy(&spec)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(expected), "{answer}");
    }
    let made = cluster.post(POLICIES, policy(&json!({"validations": [{"expression": "true"}]}))).await;
    assert_eq!(made["spec"]["failurePolicy"], "Fail");
    assert_eq!(made["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
    assert_eq!(made["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
    let binding =
        json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny", "Warn"]}});
    let (_, answer) = cluster.call(Method::POST, BINDINGS, &binding).await;
    assert!(answer["message"].as_str().unwrap().contains("must not contain both Deny and Warn"), "{answer}");
}

/// What the writer may do decides: each user's own rights, and those of a service account.
#[tokio::test]
async fn the_authorizer_is_asked() {
    let cluster = Cluster::start().await;
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('secrets').namespace(request.namespace).check('create').allowed()",
            "messageExpression": "request.userInfo.username + ' may not'"},
        {"expression": "authorizer.requestResource.check('create').allowed() && authorizer.path('/metrics').check('get').allowed()"},
        {"expression": "!authorizer.serviceAccount('default', 'bot').requestless()"}]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"]}]},
        "validations": spec["validations"]}});
    let (status, answer) = cluster.call(Method::POST, POLICIES, &policy).await;
    let said = answer["message"].as_str().unwrap_or_default();
    assert!(
        status == StatusCode::UNPROCESSABLE_ENTITY && said.contains("undeclared reference to 'requestless'"),
        "{said}"
    );
    let message = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": policy["spec"]["matchConstraints"],
        "validations": [{"expression": "true", "messageExpression": "authorizer.path('/x').check('get').reason()"}]}});
    let (_, answer) = cluster.call(Method::POST, POLICIES, &message).await;
    let said = answer["message"].as_str().unwrap_or_default();
    assert!(said.contains("undeclared reference to 'authorizer'"), "messages cannot ask: {said}");
    let mut spec = spec;
    spec["validations"][2] = json!({"expression": "!authorizer.serviceAccount('default', 'bot').group('').resource('pods').check('list').allowed()"});
    bind(&cluster, ("", "configmaps"), spec, json!({})).await;
    let rules = json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    cluster.post(roles, json!({"metadata": {"name": "maps"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "maps"}, "subjects": [{"kind": "User", "name": "eve"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    cluster.post(MAPS, map("by-admin", &json!({}))).await;
    let eve = crate::authentication::UserInfo::new("eve", &[]);
    let (status, answer) = cluster.as_user(&eve, Method::POST, MAPS, map("by-eve", &json!({}))).await;
    let expected = "configmaps \"by-eve\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: eve may not";
    assert_eq!((status, &answer["message"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(expected)));
}

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";

/// Creates a policy that changes resources and a binding for it, and waits until both count.
async fn mutate(cluster: &Cluster, name: &str, (group, resource): (&str, &str), spec: Value, binding: Value) {
    let mut made = json!({"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [
        {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]}});
    made.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cluster.post(MUTATING, json!({"metadata": {"name": name}, "spec": made})).await;
    let mut bound = json!({"policyName": name});
    bound.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    cluster.post(MUTATING_BINDINGS, json!({"metadata": {"name": name}, "spec": bound})).await;
    // A read shows all that was written before, and so do those who follow.
    cluster.get(&format!("{MUTATING_BINDINGS}/{name}")).await;
    cluster.get(&format!("{MUTATING}/{name}")).await;
}

#[tokio::test]
async fn policies_change_what_is_written() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, json!({"metadata": {"name": "sidecar"}, "data": {"image": "proxy"}})).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "new", "expression": "request.operation == 'CREATE'"}],
        "variables": [{"name": "image", "expression": "params.data.image + ':' + string(object.spec.replicas)"}],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [
                    Object.spec.template.spec.containers{name: 'proxy', image: variables.image}]}}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'by': request.userInfo.username}}]"}}]});
    mutate(
        &cluster,
        "sidecar",
        ("apps", "deployments"),
        spec,
        json!({"paramRef": {"name": "sidecar", "namespace": "default",
        "parameterNotFoundAction": "Deny"}}),
    )
    .await;
    let made = cluster.post(DEPLOYMENTS, deployment("one", 2)).await;
    let containers = &made["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["name"], &containers[1]["image"]), (&json!("c"), &json!("proxy:2")));
    // What is added is defaulted as what is sent.
    assert_eq!(containers[1]["terminationMessagePolicy"], "File");
    assert_eq!(made["metadata"]["annotations"], json!({"by": "admin"}));
    let patch = json!({"spec": {"replicas": 3}});
    let (_, changed) = cluster.call(Method::PATCH, &format!("{DEPLOYMENTS}/one"), &patch).await;
    assert_eq!(changed["spec"]["template"]["spec"]["containers"][1]["image"], "proxy:2", "only what is new");
    cluster.call(Method::DELETE, &format!("{MAPS}/sidecar"), &Value::Null).await;
    let (status, answer) = cluster.call(Method::POST, DEPLOYMENTS, &deployment("two", 2)).await;
    let expected = "policy 'sidecar' with binding 'sidecar' denied request: failed to configure binding: no params found for \
                    policy binding with `Deny` parameterNotFoundAction";
    assert_eq!(
        (status, &answer["message"], &answer["reason"]),
        (StatusCode::FORBIDDEN, &json!(expected), &json!("Invalid"))
    );
}

/// One policy sees what another that comes after it did, if it wants to.
#[tokio::test]
async fn policies_are_asked_again_where_another_changed_the_object() {
    let cluster = Cluster::start().await;
    let label = |key: &str, value: &str| {
        let expression = format!("Object{{metadata: Object.metadata{{labels: {{'{key}': {value}}}}}}}");
        json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}])
    };
    let seen = "has(object.metadata.labels) && 'late' in object.metadata.labels ? 'yes' : 'no'";
    let maps = ("", "configmaps");
    let again = json!({"reinvocationPolicy": "IfNeeded", "mutations": label("a-again", seen)});
    mutate(&cluster, "a", maps, again, json!({})).await;
    mutate(&cluster, "b", maps, json!({"mutations": label("b-once", seen)}), json!({})).await;
    mutate(&cluster, "c", maps, json!({"mutations": label("late", "'x'")}), json!({})).await;
    let made = cluster.post(MAPS, json!({"metadata": {"name": "m"}})).await;
    assert_eq!(made["metadata"]["labels"], json!({"a-again": "yes", "b-once": "no", "late": "x"}));
    let broken = json!({"failurePolicy": "Ignore", "mutations": label("d", "object.nowhere.at.all")});
    mutate(&cluster, "d", maps, broken, json!({})).await;
    cluster.post(MAPS, json!({"metadata": {"name": "n"}})).await;
}

#[tokio::test]
async fn wrong_mutations_are_refused_when_they_are_written() {
    let cluster = Cluster::start().await;
    let rules = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"],
        "resources": ["pods"]}]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": rules, "mutations": [
        {"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}, {}]}});
    let (status, answer) = cluster.call(Method::POST, MUTATING, &policy).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let causes = answer["details"]["causes"].as_array().unwrap();
    let said: Vec<String> = causes
        .iter()
        .map(|cause| format!("{}: {}", cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            r#"spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE""#,
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            r#"spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch"#,
            "spec.mutations[1].patchType: Required value",
            "spec.reinvocationPolicy: Required value",
        ]
    );
}
