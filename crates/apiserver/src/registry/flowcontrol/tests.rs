//! Defaults and complaints of flow control objects, by table.

use api::resources::{FLOW_SCHEMAS, PRIORITY_LEVEL_CONFIGURATIONS};
use serde_json::{Value, json};

use crate::flow::defaults;
use crate::registry::tests::Bench;
use crate::registry::tree::set;

fn schema(change: impl Fn(&mut Value)) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": "p"}, "rules": [{
        "subjects": [{"kind": "User", "user": {"name": "eve"}}],
        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["n"]}]}]});
    change(&mut spec);
    json!({"metadata": {"name": "s"}, "spec": spec})
}

fn level(limited: &Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"type": "Limited", "limited": limited}})
}

#[tokio::test]
async fn defaults_are_upstreams() {
    let bench = Bench::new().await;
    let schema = bench.defaulted(FLOW_SCHEMAS, schema(|_| {}));
    assert_eq!(schema["spec"]["matchingPrecedence"], 1000);
    let queued = level(&json!({"limitResponse": {"type": "Queue", "queuing": {"queues": 0}}}));
    assert_eq!(
        bench.defaulted(PRIORITY_LEVEL_CONFIGURATIONS, queued)["spec"]["limited"],
        json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse": {"type": "Queue",
            "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
    );
}

#[tokio::test]
async fn what_every_cluster_has_is_valid_and_fixed() {
    let bench = Bench::new().await;
    for (resource, objects) in
        [(FLOW_SCHEMAS, defaults::schemas()), (PRIORITY_LEVEL_CONFIGURATIONS, defaults::levels())]
    {
        for object in objects {
            let object = bench.defaulted(resource, object);
            assert_eq!(bench.complaints(resource, &object), [""; 0], "{object}");
        }
    }
    let named = |objects: Vec<Value>, name: &str| objects.into_iter().find(|object| object["metadata"]["name"] == name);
    let mut exempt = bench.defaulted(PRIORITY_LEVEL_CONFIGURATIONS, named(defaults::levels(), "exempt").unwrap());
    set(&mut exempt["spec"]["exempt"], "lendablePercent", 10);
    assert_eq!(bench.complaints(PRIORITY_LEVEL_CONFIGURATIONS, &exempt), [""; 0]);
    let mut last = bench.defaulted(PRIORITY_LEVEL_CONFIGURATIONS, named(defaults::levels(), "catch-all").unwrap());
    set(&mut last["spec"]["limited"], "lendablePercent", 10);
    let said = bench.complaints(PRIORITY_LEVEL_CONFIGURATIONS, &last);
    assert!(said[0].ends_with("spec of 'catch-all' must equal the fixed value"), "{said:?}");
    let mut schema = bench.defaulted(FLOW_SCHEMAS, named(defaults::schemas(), "catch-all").unwrap());
    set(&mut schema["spec"], "matchingPrecedence", 9999);
    let said = bench.complaints(FLOW_SCHEMAS, &schema);
    assert!(said[0].ends_with("spec of 'catch-all' must equal the fixed value"), "{said:?}");
}

#[tokio::test]
async fn complaints_about_schemas_are_upstreams() {
    let bench = Bench::new().await;
    type Row = (fn(&mut Value), &'static [&'static str]);
    let table: &[Row] = &[
        (|_| {}, &[]),
        (
            |spec| set(spec, "matchingPrecedence", 1),
            &[
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            ],
        ),
        (
            |spec| set(spec, "matchingPrecedence", 10_001),
            &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
        ),
        (
            |spec| set(spec, "priorityLevelConfiguration", json!({})),
            &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"],
        ),
        (
            |spec| set(spec, "distinguisherMethod", json!({"type": "ByName"})),
            &[
                r#"spec.distinguisherMethod.type: Unsupported value: {"Type":"ByName"}: supported values: "ByNamespace", "ByUser""#,
            ],
        ),
        (
            |spec| set(spec, "rules", json!([{}])),
            &[
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        ),
        (
            |spec| {
                let subject = json!({"kind": "ServiceAccount", "user": {"name": "eve"}});
                set(&mut spec["rules"][0], "subjects", json!([subject, {"kind": "Robot"}]));
            },
            &[
                "spec.rules[0].subjects[0].serviceAccount: Required value: serviceAccount is required when subject kind is \
                 'ServiceAccount'",
                "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                r#"spec.rules[0].subjects[1].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User""#,
            ],
        ),
        (
            |spec| {
                let rule = json!({"verbs": ["*", "get"], "apiGroups": [], "resources": ["*", "pods"]});
                set(&mut spec["rules"][0], "resourceRules", json!([rule]));
            },
            &[
                r#"spec.rules[0].resourceRules[0].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs"#,
                "spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                r#"spec.rules[0].resourceRules[0].resources: Invalid value: ["*","pods"]: if '*' is present, must not specify other resources"#,
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must \
                 supply at least one namespace",
            ],
        ),
        (
            |spec| {
                let rule = json!({"verbs": ["get"], "nonResourceURLs": ["/a//b", "x", "/a*", "/a/*", "/"]});
                set(&mut spec["rules"][0], "nonResourceRules", json!([rule]));
            },
            &[
                r#"spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: "/a//b": must not contain double slash"#,
                r#"spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: "x": must start with slash"#,
                r#"spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: "/a*": wildcard can only do suffix matching"#,
            ],
        ),
    ];
    for (change, expected) in table {
        let object = bench.defaulted(FLOW_SCHEMAS, schema(change));
        assert_eq!(bench.complaints(FLOW_SCHEMAS, &object), *expected);
    }
    let twice = json!({"status": {"conditions": [{"type": "a"}, {"type": "a"}, {}]}});
    assert_eq!(
        bench.complaints_of_status(FLOW_SCHEMAS, &twice, &json!({})),
        [r#"status.conditions[1].type: Duplicate value: "a""#, "status.conditions[2].type: Required value"]
    );
}

#[tokio::test]
async fn complaints_about_levels_are_upstreams() {
    let bench = Bench::new().await;
    let queued = |queuing: Value| level(&json!({"limitResponse": {"type": "Queue", "queuing": queuing}}));
    let at = "spec.limited.limitResponse";
    let table = [
        (level(&Value::Null), vec!["spec.limited: Required value: must not be empty when type is Limited".to_owned()]),
        (
            json!({"metadata": {"name": "p"}, "spec": {"type": "Exempt"}}),
            vec![
                r#"spec.type: Invalid value: "Exempt": must be 'Exempt' if and only if `name` is 'exempt'"#.to_owned(),
            ],
        ),
        (
            level(&json!({"nominalConcurrencyShares": -1, "lendablePercent": 101, "borrowingLimitPercent": -1,
                "limitResponse": {"type": "Reject", "queuing": {}}})),
            vec![
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer".to_owned(),
                format!("{at}.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited"),
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive".to_owned(),
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer"
                    .to_owned(),
            ],
        ),
        (
            level(&json!({"limitResponse": {"type": "Queue"}})),
            vec![format!("{at}.queuing: Required value: must not be empty if limited.limitResponse.type is Limited")],
        ),
        (
            queued(json!({"queues": 4, "handSize": 5})),
            vec![format!("{at}.queuing.handSize: Invalid value: 5: should not be greater than queues (4)")],
        ),
        (
            queued(json!({"queues": 128, "handSize": 9, "queueLengthLimit": -1})),
            vec![
                format!("{at}.queuing.queueLengthLimit: Invalid value: -1: must be positive"),
                format!(
                    "{at}.queuing.handSize: Invalid value: 9: required entropy bits of deckSize 128 and handSize 9 should \
                     not be greater than 60"
                ),
            ],
        ),
    ];
    for (object, expected) in table {
        let object = bench.defaulted(PRIORITY_LEVEL_CONFIGURATIONS, object);
        assert_eq!(bench.complaints(PRIORITY_LEVEL_CONFIGURATIONS, &object), expected);
    }
}
