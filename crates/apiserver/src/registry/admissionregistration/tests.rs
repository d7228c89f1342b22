//! Defaults and complaints, by table.

use api::Resource;
use api::resources::{
    MUTATING_WEBHOOK_CONFIGURATIONS, VALIDATING_ADMISSION_POLICIES, VALIDATING_ADMISSION_POLICY_BINDINGS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
};
use serde_json::{Value, json};

use crate::registry::tests::Bench;

fn webhooks(change: impl Fn(&mut Value)) -> Value {
    let mut object = json!({"metadata": {"name": "c"}, "webhooks": [{"name": "a.example.com", "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"name": "s", "namespace": "n"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]}]});
    change(&mut object["webhooks"][0]);
    object
}

fn policy(change: impl Fn(&mut Value)) -> Value {
    let mut object = json!({"metadata": {"name": "p"}, "spec": {"validations": [{"expression": "true"}],
        "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": ["deployments"], "operations": ["CREATE", "UPDATE"]}]}}});
    change(&mut object["spec"]);
    object
}

fn binding(change: impl Fn(&mut Value)) -> Value {
    let mut object = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    change(&mut object["spec"]);
    object
}

#[tokio::test]
async fn defaults_are_upstreams() {
    let bench = Bench::new().await;
    let hook = bench.defaulted(VALIDATING_WEBHOOK_CONFIGURATIONS, webhooks(|_| {}))["webhooks"][0].clone();
    assert_eq!(
        (&hook["failurePolicy"], &hook["matchPolicy"], &hook["timeoutSeconds"]),
        (&json!("Fail"), &json!("Equivalent"), &json!(10))
    );
    assert_eq!((&hook["namespaceSelector"], &hook["objectSelector"]), (&json!({}), &json!({})));
    assert_eq!((&hook["rules"][0]["scope"], &hook["clientConfig"]["service"]["port"]), (&json!("*"), &json!(443)));
    assert!(hook.get("reinvocationPolicy").is_none());
    let spec = bench.defaulted(VALIDATING_ADMISSION_POLICIES, policy(|_| {}))["spec"].clone();
    let matching = &spec["matchConstraints"];
    assert_eq!((&spec["failurePolicy"], &matching["matchPolicy"]), (&json!("Fail"), &json!("Equivalent")));
    assert_eq!((&matching["resourceRules"][0]["scope"], &matching["objectSelector"]), (&json!("*"), &json!({})));
    let hook = bench.defaulted(MUTATING_WEBHOOK_CONFIGURATIONS, webhooks(|_| {}))["webhooks"][0].clone();
    assert_eq!(hook["reinvocationPolicy"], "Never");
    // Where a binding says nothing of resources, nothing is said for it: then the policy alone decides.
    let bound = bench.defaulted(VALIDATING_ADMISSION_POLICY_BINDINGS, binding(|_| {}));
    assert!(bound["spec"].get("matchResources").is_none());
    let chosen = binding(|spec| spec["matchResources"] = json!({"excludeResourceRules": [{}]}));
    let chosen = bench.defaulted(VALIDATING_ADMISSION_POLICY_BINDINGS, chosen)["spec"]["matchResources"].clone();
    assert_eq!((&chosen["matchPolicy"], &chosen["namespaceSelector"]), (&json!("Equivalent"), &json!({})));
    assert_eq!(chosen["excludeResourceRules"][0]["scope"], "*");
}

#[tokio::test]
async fn complaints_are_upstreams() {
    let bench = Bench::new().await;
    type Row = (&'static Resource, Value, &'static str);
    let hook = |change: &dyn Fn(&mut Value)| (VALIDATING_WEBHOOK_CONFIGURATIONS, webhooks(change));
    let of_policy = |change: &dyn Fn(&mut Value)| (VALIDATING_ADMISSION_POLICIES, policy(change));
    let of_binding = |change: &dyn Fn(&mut Value)| (VALIDATING_ADMISSION_POLICY_BINDINGS, binding(change));
    let row = |(resource, object), complaint| -> Row { (resource, object, complaint) };
    let table = [
        row(hook(&|_| {}), ""),
        row(
            hook(&|hook| hook["name"] = "a.b".into()),
            r#"webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots"#,
        ),
        row(
            hook(&|hook| hook["sideEffects"] = Value::Null),
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
        ),
        row(
            hook(&|hook| hook["sideEffects"] = "Some".into()),
            r#"webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#,
        ),
        row(
            hook(&|hook| hook["timeoutSeconds"] = 31.into()),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        row(
            hook(&|hook| hook["clientConfig"] = json!({})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        row(
            hook(&|hook| hook["clientConfig"] = json!({"url": "http://a.example.com"})),
            r#"webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
        ),
        row(
            hook(&|hook| hook["clientConfig"]["service"]["path"] = "ab".into()),
            r#"webhooks[0].clientConfig.service.path: Invalid value: "ab": must start with a '/'"#,
        ),
        row(
            hook(&|hook| hook["admissionReviewVersions"] = json!(["v2"])),
            r#"webhooks[0].admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#,
        ),
        row(
            hook(&|hook| hook["rules"][0]["operations"] = json!(["*", "CREATE"])),
            r#"webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations"#,
        ),
        row(
            hook(&|hook| hook["rules"][0]["resources"] = json!(["pods/*", "pods/status"])),
            r#"webhooks[0].rules[0].resources[1]: Invalid value: "pods/status": if 'pods/*' is present, must not specify pods/status"#,
        ),
        row(
            hook(&|hook| hook["matchConditions"] = json!([{"name": "", "expression": "true"}])),
            "webhooks[0].matchConditions[0].name: Required value",
        ),
        row(of_policy(&|_| {}), ""),
        row(of_policy(&|spec| spec["matchConstraints"] = Value::Null), "spec.matchConstraints: Required value"),
        row(
            of_policy(&|spec| spec["variables"] = json!([{"name": "1a", "expression": "1"}])),
            r#"spec.variables[0].name: Invalid value: "1a": must be a valid CEL identifier"#,
        ),
        row(
            of_policy(&|spec| spec["variables"] = json!([{"name": "in", "expression": "1"}])),
            r#"spec.variables[0].name: Invalid value: "in": must be a valid CEL identifier"#,
        ),
        row(
            of_policy(&|spec| spec["variables"] = json!([{"name": "a__b", "expression": ""}])),
            "spec.variables[0].expression: Required value: expression is not specified",
        ),
        row(
            of_policy(&|spec| spec["matchConditions"] = json!([{"name": "a b", "expression": "true"}])),
            r#"spec.matchConditions[0].name: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
        ),
        row(
            of_policy(&|spec| spec["matchConstraints"]["resourceRules"][0]["resourceNames"] = json!(["a", "a"])),
            r#"spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: "a""#,
        ),
        row(
            of_policy(&|spec| spec["matchConstraints"]["matchPolicy"] = "Some".into()),
            r#"spec.matchConstraints.matchPolicy: Unsupported value: "Some": supported values: "Equivalent", "Exact""#,
        ),
        row(
            of_policy(&|spec| {
                let annotation = json!({"key": "k", "valueExpression": "'v'"});
                spec["auditAnnotations"] = json!([annotation, annotation]);
            }),
            r#"spec.auditAnnotations[1].key: Duplicate value: "k""#,
        ),
        row(
            of_policy(&|spec| spec["paramKind"] = json!({"apiVersion": "a/b/c", "kind": "K"})),
            r#"spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
        ),
        row(
            of_policy(&|spec| spec["validations"][0]["expression"] = "'text'".into()),
            r#"spec.validations[0].expression: Invalid value: "'text'": must evaluate to bool but got string"#,
        ),
        row(
            of_policy(&|spec| spec["validations"][0]["message"] = "a\nb".into()),
            "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
        ),
        row(
            of_policy(&|spec| spec["validations"][0]["reason"] = "Why".into()),
            r#"spec.validations[0].reason: Unsupported value: "Why": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge""#,
        ),
        row(of_policy(&|spec| spec["paramKind"] = json!({"apiVersion": "v1"})), "spec.paramKind.kind: Required value"),
        row(of_binding(&|_| {}), ""),
        row(
            of_binding(&|spec| {
                spec["matchResources"] = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"], "operations": ["READ"]}]});
            }),
            r#"spec.matchResources.resourceRules[0].operations[0]: Unsupported value: "READ": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE""#,
        ),
        row(
            of_binding(&|spec| spec["paramRef"] = json!({"name": "a/b", "parameterNotFoundAction": "Deny"})),
            r#"spec.paramRef.name: Invalid value: "a/b": may not contain '/'"#,
        ),
        row(of_binding(&|spec| spec["policyName"] = Value::Null), "spec.policyName: Required value"),
        row(
            of_binding(&|spec| spec["validationActions"] = json!([])),
            "spec.validationActions: Required value: at least one validation action is required",
        ),
        row(
            of_binding(&|spec| spec["paramRef"] = json!({"parameterNotFoundAction": "Deny"})),
            "spec.paramRef: Required value: one of name or selector must be specified",
        ),
    ];
    for (resource, object, complaint) in table {
        let found = bench.complaints(resource, &bench.defaulted(resource, object.clone()));
        assert_eq!(found, Vec::from_iter((!complaint.is_empty()).then_some(complaint)), "{object}");
    }
    // What was wrong before does not keep anybody from changing something else.
    let old = webhooks(|hook| hook["sideEffects"] = "Some".into());
    let new = webhooks(|hook| (hook["sideEffects"], hook["failurePolicy"]) = ("Some".into(), "Ignore".into()));
    let [old, new] = [old, new].map(|object| bench.defaulted(VALIDATING_WEBHOOK_CONFIGURATIONS, object));
    assert!(bench.complaints_of_update(VALIDATING_WEBHOOK_CONFIGURATIONS, &new, &old).is_empty());
}
