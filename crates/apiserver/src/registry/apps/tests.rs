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
    let claims: Vec<Row> = vec![
        (
            STATEFUL_SETS,
            "volumeClaimTemplates",
            json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]),
            "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
        ),
        (
            STATEFUL_SETS,
            "volumeClaimTemplates",
            json!([{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]),
            "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
        ),
    ];
    for (kind, field, value, complaint) in table.into_iter().chain(claims) {
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
async fn claim_templates_are_defaulted_and_what_was_wrong_may_stay() {
    let bench = Bench::new().await;
    use api::resources::STATEFUL_SETS;
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources":
        {"requests": {"storage": "100.5m"}}}}]);
    let set =
        bench.defaulted(STATEFUL_SETS, workload(STATEFUL_SETS, |spec| spec["volumeClaimTemplates"] = claims.clone()));
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!((&claim["kind"], &claim["spec"]["volumeMode"]), (&json!("PersistentVolumeClaim"), &json!("Filesystem")));
    assert_eq!(claim["status"], json!({"phase": "Pending"}));
    assert_eq!(
        bench.warnings(STATEFUL_SETS, &set, None),
        [
            r#"spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value "101m" is invalid, must be an integer"#
        ]
    );
    assert!(
        bench.warnings(STATEFUL_SETS, &set, Some(&set))[0].starts_with("spec.volumeClaimTemplates[0].Spec.resources")
    );
    // A template that an older server let through does not keep its set from being scaled.
    let mut old = set.clone();
    old["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes".into();
    let mut new = old.clone();
    new["spec"]["replicas"] = 3.into();
    assert_eq!(bench.complaints_of_update(STATEFUL_SETS, &new, &old), [""; 0]);
    assert_eq!(bench.complaints_of_update(STATEFUL_SETS, &new, &set).len(), 1);
}

#[tokio::test]
async fn replication_controllers_are_checked_as_replica_sets_are() {
    let bench = Bench::new().await;
    use api::resources::REPLICATION_CONTROLLERS;
    let controller = |change: &dyn Fn(&mut Value)| {
        let mut object = json!({"metadata": {"name": "Web.x"}, "spec": {"selector": {"app": "web"}, "template":
            {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i",
            "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}]}}}});
        change(&mut object["spec"]);
        bench.defaulted(REPLICATION_CONTROLLERS, object)
    };
    type Row = (fn(&mut Value), &'static [&'static str]);
    let table: &[Row] = &[
        (|_| {}, &[]),
        (|spec| spec["template"] = Value::Null, &["spec.template: Required value"]),
        (
            |spec| spec["template"]["spec"]["restartPolicy"] = "Never".into(),
            &[r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#],
        ),
        (
            |spec| spec["template"]["spec"]["activeDeadlineSeconds"] = 5.into(),
            &[
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not \
               Supported",
            ],
        ),
        (
            |spec| spec["selector"] = json!({"app": "db"}),
            &[
                r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#,
            ],
        ),
        (
            |spec| spec["template"]["metadata"]["labels"]["a b"] = "x".into(),
            &[
                r#"spec.template.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
            ],
        ),
        (
            |spec| spec["minReadySeconds"] = json!(-1),
            &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
    ];
    for (change, expected) in table {
        assert_eq!(bench.complaints(REPLICATION_CONTROLLERS, &controller(change)), *expected);
    }
    let warnings = bench.warnings(REPLICATION_CONTROLLERS, &controller(&|_| {}), None);
    assert!(warnings[0].starts_with("metadata.name: this is used in Pod names and hostnames"), "{warnings:?}");
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
