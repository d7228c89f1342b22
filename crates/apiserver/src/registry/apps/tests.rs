//! Defaults and complaints of the workloads, by table.

use api::Resource;
use serde_json::{Value, json};

use crate::registry::tests::Bench;

fn workload(kind: &Resource, change: impl Fn(&mut Value)) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": *kind.kind, "metadata": {"name": "web", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    change(&mut object["spec"]);
    object
}

#[tokio::test]
async fn defaults_are_upstreams() {
    let bench = Bench::new().await;
    use api::resources::{DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS};
    let of = |kind: &Resource| bench.defaulted(kind, workload(kind, |_| {}))["spec"].clone();
    let deployment = of(DEPLOYMENTS);
    assert_eq!(
        deployment["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    let set = of(DAEMON_SETS);
    assert_eq!(
        set["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let set = of(STATEFUL_SETS);
    assert_eq!(set["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(set["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    let bare = workload(STATEFUL_SETS, |spec| spec["updateStrategy"] = json!({"type": "RollingUpdate"}));
    assert_eq!(bench.defaulted(STATEFUL_SETS, bare)["spec"]["updateStrategy"], json!({"type": "RollingUpdate"}));
}

#[tokio::test]
async fn complaints_are_upstreams() {
    let bench = Bench::new().await;
    use api::resources::{DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS};
    type Row = (&'static Resource, &'static str, Value, &'static str);
    let percent = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                   regex used for validation is '[0-9]+%')";
    let malformed = format!(r#"spec.strategy.rollingUpdate.maxSurge: Invalid value: "many": {percent}"#);
    let malformed: &'static str = malformed.leak();
    let table: Vec<Row> = vec![
        (
            DEPLOYMENTS,
            "strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            DEPLOYMENTS,
            "strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": "many"}}),
            malformed,
        ),
        (
            DEPLOYMENTS,
            "strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "101%"}}),
            r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#,
        ),
        (
            DAEMON_SETS,
            "updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}),
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
             non-zero",
        ),
        (
            DAEMON_SETS,
            "selector",
            json!({}),
            "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
        ),
        (
            STATEFUL_SETS,
            "podManagementPolicy",
            json!("Random"),
            r#"spec.podManagementPolicy: Invalid value: "Random": must be 'OrderedReady' or 'Parallel'"#,
        ),
        (
            STATEFUL_SETS,
            "updateStrategy",
            json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}}),
            r#"spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy 'RollingUpdate'"#,
        ),
    ];
    for (kind, field, value, complaint) in table {
        let object = bench.defaulted(kind, workload(kind, |spec| spec[field] = value.clone()));
        assert_eq!(bench.complaints(kind, &object), [complaint]);
    }
}

#[tokio::test]
async fn what_is_fixed_stays() {
    let bench = Bench::new().await;
    use api::resources::{CONTROLLER_REVISIONS, DEPLOYMENTS, STATEFUL_SETS};
    let old = bench.defaulted(DEPLOYMENTS, workload(DEPLOYMENTS, |_| {}));
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["tier"] = "x".into();
    new["spec"]["template"]["metadata"]["labels"]["tier"] = "x".into();
    assert_eq!(
        bench.complaints_of_update(DEPLOYMENTS, &new, &old),
        [r#"spec.selector: Invalid value: {"matchLabels":{"app":"web","tier":"x"}}: field is immutable"#]
    );
    let old = bench.defaulted(STATEFUL_SETS, workload(STATEFUL_SETS, |_| {}));
    let mut new = old.clone();
    new["spec"]["replicas"] = 3.into();
    assert!(bench.complaints_of_update(STATEFUL_SETS, &new, &old).is_empty());
    new["spec"]["serviceName"] = "other".into();
    assert!(
        bench.complaints_of_update(STATEFUL_SETS, &new, &old)[0].starts_with("spec: Forbidden: updates to statefulset")
    );
    let revision = |data: Value| json!({"metadata": {"name": "r"}, "revision": 1, "data": data});
    assert_eq!(
        bench.complaints(CONTROLLER_REVISIONS, &revision(Value::Null)),
        ["data: Required value: data is mandatory"]
    );
    let complaint = r#"data: Invalid value: {"b":1}: field is immutable"#;
    let (new, old) = (revision(json!({"b": 1})), revision(json!({"a": 1})));
    assert_eq!(bench.complaints_of_update(CONTROLLER_REVISIONS, &new, &old), [complaint]);
}

#[tokio::test]
async fn counts_fit_together() {
    let bench = Bench::new().await;
    use api::resources::STATEFUL_SETS;
    let with = |status: Value| json!({"metadata": {"name": "web"}, "spec": {}, "status": status});
    let old = with(json!({"replicas": 1, "collisionCount": 2}));
    assert_eq!(
        bench.complaints_of_status(STATEFUL_SETS, &with(json!({"replicas": 1, "readyReplicas": 2})), &old),
        [
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.collisionCount: Invalid value: 0: cannot be decremented"
        ]
    );
    let old = with(json!({"replicas": 1}));
    assert_eq!(
        bench.complaints_of_status(
            api::resources::REPLICATION_CONTROLLERS,
            &with(json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2})),
            &old
        ),
        ["status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"]
    );
}
