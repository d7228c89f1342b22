//! Server-side apply and managed fields, as clients see them. The engine has its own tests, in `machinery`.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, PODS, config_map, read};
use crate::authentication::UserInfo;

const APPLY: &str = "application/apply-patch+yaml";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Cluster {
    async fn apply(&self, uri: &str, config: &Value) -> (StatusCode, Value) {
        self.call_as(Method::PATCH, uri, APPLY, config).await
    }

    /// Applies YAML as it is written: status, `Warning` headers, answer.
    async fn apply_text(&self, uri: &str, text: &str) -> (StatusCode, Vec<String>, Value) {
        let request = Request::patch(uri).header("content-type", APPLY).body(Bytes::copy_from_slice(text.as_bytes()));
        let response = self.send(request.unwrap()).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let warnings = headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        (status, warnings, serde_json::from_slice(&read(response.into_body()).await).unwrap())
    }
}

/// `manager operation subresource: fields`, by name.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_owned();
    let line = |entry: &Value| {
        let (name, operation, subresource) =
            (text(entry, "manager"), text(entry, "operation"), text(entry, "subresource"));
        format!("{name} {operation} {subresource}: {}", entry["fieldsV1"])
    };
    let mut all: Vec<String> = entries.map(line).collect();
    all.sort();
    all
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "nginx", "ports": [{"containerPort": 80}]}]}}}})
}

#[tokio::test]
async fn a_configuration_creates_what_is_not_there_and_its_manager_owns_it() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web?fieldManager=one");
    let (status, created) = cluster.apply(&path, &deployment(3)).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!(
        *entry,
        json!({"manager": "one", "operation": "Apply", "apiVersion": "apps/v1", "time": "2030-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {
                "f:replicas": {}, "f:selector": {}, "f:template": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {
                    "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": {
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}}})
    );
    // To apply the same again changes nothing, not even a version.
    let (status, same) = cluster.apply(&path, &deployment(3)).await;
    assert_eq!((status, &same), (StatusCode::OK, &created));
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/web")).await, created);
    // What is left out goes; what was defaulted stays.
    let mut less = deployment(4);
    less["metadata"]["labels"] = json!({"tier": "front"});
    let (_, changed) = cluster.apply(&path, &less).await;
    assert_eq!(changed["metadata"]["labels"], json!({"tier": "front"}));
    assert_eq!(
        (&changed["spec"]["replicas"], &changed["spec"]["strategy"]["type"]),
        (&json!(4), &json!("RollingUpdate"))
    );
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn conflicts_are_told_and_taken_by_force() {
    let cluster = Cluster::start().await;
    cluster.apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), &deployment(1)).await;
    let path = format!("{DEPLOYMENTS}/web?fieldManager=two");
    let config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2}});
    let (status, conflict) = cluster.apply(&path, &config).await;
    assert_eq!(
        (status, conflict),
        (
            StatusCode::CONFLICT,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409,
                "message": "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas",
                "details": {"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"one\"",
                    "field": ".spec.replicas"}]}})
        )
    );
    let (status, forced) = cluster.apply(&format!("{path}&force=true"), &config).await;
    assert_eq!((status, &forced["spec"]["replicas"]), (StatusCode::OK, &json!(2)));
    assert_eq!(owners(&forced)[1], r#"two Apply -: {"f:spec":{"f:replicas":{}}}"#);
    // Who lost it may leave it out, and it stays.
    let mut config = deployment(1);
    config["spec"].as_object_mut().unwrap().shift_remove("replicas");
    let (_, after) = cluster.apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), &config).await;
    assert_eq!(after["spec"]["replicas"], 2);
}

#[tokio::test]
async fn refused_configurations_say_why() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    let with = |change: fn(&mut Value)| {
        let mut config = deployment(1);
        change(&mut config);
        config
    };
    let table = [
        (
            "",
            with(|_| {}),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            "?fieldManager=x",
            with(|config| config["spec"]["nope"] = 1.into()),
            500,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.nope: field not declared in schema",
        ),
        (
            "?fieldManager=x",
            with(|config| config["spec"]["replicas"] = "1".into()),
            500,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.replicas: expected numeric (int or \
             float), got string",
        ),
        (
            "?fieldManager=x",
            with(|config| config["metadata"]["managedFields"] = json!([])),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "?fieldManager=x",
            with(|config| config["kind"] = "Pod".into()),
            400,
            "invalid object type: apps/v1, Kind=Pod",
        ),
        (
            "?fieldManager=x",
            with(|config| config["metadata"]["uid"] = "u".into()),
            409,
            "Operation cannot be fulfilled on deployments.apps \"web\": uid mismatch: the provided object specified uid u, and no \
             existing object was found",
        ),
        (
            "?fieldManager=x",
            with(|config| config["metadata"]["name"] = "other".into()),
            400,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        (
            "?fieldManager=x%00&dryRun=Some&fieldValidation=Maybe",
            with(|_| {}),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: [fieldManager: Invalid value: \"x\\u0000\": invalid character U+0000 (at \
             position 1), dryRun: Unsupported value: []string{\"Some\"}: supported values: \"All\", fieldValidation: Unsupported \
             value: \"Maybe\": supported values: \"Ignore\", \"Strict\", \"Warn\"]",
        ),
    ];
    for (query, config, code, message) in table {
        let (status, answer) = cluster.apply(&format!("{path}{query}"), &config).await;
        assert_eq!((status.as_u16(), answer["message"].as_str().unwrap_or_default()), (code, message), "{query}");
    }
    let (status, answer) = cluster.call(Method::PATCH, &format!("{path}?force=true"), &json!({})).await;
    let message =
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
    assert_eq!((status.as_u16(), &answer["message"]), (422, &json!(message)));
}

#[tokio::test]
async fn keys_given_twice_are_told_or_refused() {
    let cluster = Cluster::start().await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: \"1\"\n  k: \"2\"\n";
    let complaint = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 7: key \"k\" already set in map";
    let path = format!("{CONFIG_MAPS}/a?fieldManager=x");
    let (status, _, answer) = cluster.apply_text(&format!("{path}&fieldValidation=Strict"), text).await;
    assert_eq!(
        (status, &answer["message"]),
        (StatusCode::BAD_REQUEST, &json!(format!("error strict decoding YAML: {complaint}")))
    );
    let (status, warnings, answer) = cluster.apply_text(&path, text).await;
    assert_eq!((status, &answer["data"]["k"]), (StatusCode::CREATED, &json!("2")), "{answer}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (_, warnings, _) = cluster.apply_text(&format!("{path}&fieldValidation=Ignore"), text).await;
    assert!(warnings.is_empty());
    let (status, _, answer) = cluster.apply_text(&path, "a: [").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["message"].as_str().unwrap().starts_with("error decoding YAML: "), "{answer}");
}

#[tokio::test]
async fn every_write_is_somebodys() {
    let cluster = Cluster::start().await;
    let created = cluster.post(&format!("{DEPLOYMENTS}?fieldManager=maker"), deployment(1)).await;
    let made = owners(&created);
    assert!(made[0].starts_with(r#"maker Update -: {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:progressDeadlineSeconds":{},"f:replicas":{},"#), "{made:?}");
    assert!(!made[0].contains("f:status"), "what the server sets back is nobody's: {made:?}");
    let path = format!("{DEPLOYMENTS}/web");
    // Without a name, the user agent's first word is the manager.
    let body = Bytes::from(json!({"spec": {"replicas": 2}}).to_string());
    let request = Request::patch(&path).header("content-type", "application/merge-patch+json");
    let request = request.header("user-agent", "kubectl-thing/v1.36 (linux)").body(body).unwrap();
    assert_eq!(cluster.send(request).await.status(), StatusCode::OK);
    let patched = cluster.get(&path).await;
    assert_eq!(owners(&patched)[0], r#"kubectl-thing Update -: {"f:spec":{"f:replicas":{}}}"#);
    assert!(!owners(&patched)[1].contains("f:replicas"));
    // Status belongs to who writes it there, and only there.
    let status = json!({"status": {"replicas": 2}, "spec": {"replicas": 9}, "metadata": {"annotations": {"a": "b"}}});
    let (_, written) = cluster.call(Method::PATCH, &format!("{path}/status?fieldManager=controller"), &status).await;
    assert_eq!(
        owners(&written)[0],
        r#"controller Update status: {"f:metadata":{"f:annotations":{".":{},"f:a":{}}},"f:status":{"f:replicas":{}}}"#
    );
    // A change of nothing leaves times and versions alone.
    let (_, same) =
        cluster.call(Method::PATCH, &format!("{path}?fieldManager=other"), &json!({"spec": {"replicas": 2}})).await;
    assert_eq!(same, written);
    // Who sends managed fields of his own, or none at all, changes nothing of theirs by it.
    let mut bare = written.clone();
    bare["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
    let (_, same) = cluster.call(Method::PUT, &format!("{path}?fieldManager=other"), &bare).await;
    assert_eq!(same, written);
}

#[tokio::test]
async fn managed_fields_can_be_dropped_and_edited() {
    let cluster = Cluster::start().await;
    cluster.post(&format!("{CONFIG_MAPS}?fieldManager=maker"), config_map("a", json!({"k": "1"}))).await;
    let path = format!("{CONFIG_MAPS}/a?fieldManager=other");
    for (kind, patch) in [
        ("application/merge-patch+json", json!({"metadata": {"managedFields": [{}]}})),
        ("application/json-patch+json", json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}])),
    ] {
        cluster.call_as(Method::DELETE, &format!("{CONFIG_MAPS}/a"), "application/json", &Value::Null).await;
        cluster.post(&format!("{CONFIG_MAPS}?fieldManager=maker"), config_map("a", json!({"k": "1"}))).await;
        let (status, dropped) = cluster.call_as(Method::PATCH, &path, kind, &patch).await;
        assert_eq!((status, owners(&dropped).len()), (StatusCode::OK, 0), "{dropped}");
        // From now on nobody keeps count, until a configuration is applied.
        let (_, changed) = cluster.call(Method::PATCH, &path, &json!({"data": {"k": "2"}})).await;
        assert_eq!(owners(&changed).len(), 0);
    }
    let config = config_map("a", json!({"l": "1"}));
    let (_, applied) = cluster.apply(&format!("{CONFIG_MAPS}/a?fieldManager=one"), &config).await;
    assert_eq!(
        owners(&applied),
        [r#"before-first-apply Update -: {"f:data":{".":{},"f:k":{}}}"#, r#"one Apply -: {"f:data":{"f:l":{}}}"#]
    );
    let mut edited = applied.clone();
    edited["metadata"]["managedFields"].as_array_mut().unwrap().remove(0);
    let (_, edited) = cluster.call(Method::PUT, &path, &edited).await;
    assert_eq!(owners(&edited), [r#"before-first-apply Update -: {"f:data":{".":{},"f:k":{}}}"#]);
    // What cannot be read is as good as not sent.
    let mut broken = edited.clone();
    broken["metadata"]["managedFields"][0]["operation"] = "Guess".into();
    let (_, same) = cluster.call(Method::PUT, &path, &broken).await;
    assert_eq!(same, edited);
}

#[tokio::test]
async fn a_scale_has_its_own_managers() {
    let cluster = Cluster::start().await;
    cluster.apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), &deployment(1)).await;
    let scale = format!("{DEPLOYMENTS}/web/scale?fieldManager=scaler");
    let (status, _) = cluster.call(Method::PATCH, &scale, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(status, StatusCode::OK);
    let scaled = cluster.get(&format!("{DEPLOYMENTS}/web")).await;
    assert_eq!(owners(&scaled)[1], r#"scaler Update scale: {"f:spec":{"f:replicas":{}}}"#);
    assert!(!owners(&scaled)[0].contains("replicas"));
    let (status, conflict) = cluster.apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), &deployment(1)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let message = conflict["message"].as_str().unwrap();
    assert!(message.contains("conflict with \"scaler\" with subresource \"scale\" using apps/v1"), "{message}");
    let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 7}});
    let (status, conflict) = cluster.apply(&format!("{DEPLOYMENTS}/web/scale?fieldManager=two"), &config).await;
    assert_eq!(status, StatusCode::CONFLICT, "{conflict}");
    let (status, scaled) =
        cluster.apply(&format!("{DEPLOYMENTS}/web/scale?fieldManager=two&force=true"), &config).await;
    assert_eq!((status, &scaled["spec"]["replicas"]), (StatusCode::OK, &json!(7)));
    let scaled = cluster.get(&format!("{DEPLOYMENTS}/web")).await;
    assert_eq!(owners(&scaled)[1], r#"two Apply scale: {"f:spec":{"f:replicas":{}}}"#);
}

#[tokio::test]
async fn status_is_applied_apart() {
    let cluster = Cluster::start().await;
    cluster.apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), &deployment(1)).await;
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 8}, "status": {"observedGeneration": 1, "conditions": [{"type": "Odd", "status": "True"}]}});
    let path = format!("{DEPLOYMENTS}/web/status?fieldManager=two");
    let (code, written) = cluster.apply(&format!("{path}&force=true"), &status).await;
    assert_eq!((code, &written["spec"]["replicas"]), (StatusCode::OK, &json!(1)), "{written}");
    assert_eq!(
        owners(&written)[1],
        r#"two Apply status: {"f:status":{"f:conditions":{"k:{\"type\":\"Odd\"}":{".":{},"f:status":{},"f:type":{}}},"f:observedGeneration":{}}}"#
    );
    let (code, answer) = cluster.apply(&format!("{DEPLOYMENTS}/none/status?fieldManager=two"), &status).await;
    assert_eq!(code, StatusCode::NOT_FOUND, "{answer}");
}

#[tokio::test]
async fn a_dry_run_shows_the_managers_and_writes_nothing() {
    let cluster = Cluster::start().await;
    let path = format!("{DEPLOYMENTS}/web?fieldManager=one&dryRun=All");
    let (status, created) = cluster.apply(&path, &deployment(1)).await;
    assert_eq!((status, owners(&created).len()), (StatusCode::CREATED, 1));
    assert_eq!(cluster.call(Method::GET, &format!("{DEPLOYMENTS}/web"), &Value::Null).await.0, StatusCode::NOT_FOUND);
    let (_, real) = cluster.apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), &deployment(1)).await;
    let (status, dry) = cluster.apply(&path, &deployment(2)).await;
    assert_eq!((status, &dry["spec"]["replicas"]), (StatusCode::OK, &json!(2)));
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/web")).await, real);
}

#[tokio::test]
async fn to_create_by_applying_takes_the_right_to_create() {
    let cluster = Cluster::start().await;
    let role = json!({"metadata": {"name": "patcher"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await;
    let binding = json!({"metadata": {"name": "patcher"}, "subjects": [{"kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "Role", "name": "patcher",
        "apiGroup": "rbac.authorization.k8s.io"}});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let jane = cluster.server.transport(UserInfo::new("jane", &[]));
    let apply = |name: &str| {
        let config = config_map(name, json!({"k": "1"})).to_string();
        let request = Request::patch(format!("{CONFIG_MAPS}/{name}?fieldManager=x")).header("content-type", APPLY);
        jane.send(request.body(Bytes::from(config)).unwrap())
    };
    cluster.post(CONFIG_MAPS, config_map("there", json!({}))).await;
    assert_eq!(apply("there").await.unwrap().status(), StatusCode::OK);
    let refused = apply("absent").await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let answer: Value = serde_json::from_slice(&read(refused.into_body()).await).unwrap();
    assert!(answer["message"].as_str().unwrap().contains("cannot create resource \"configmaps\""), "{answer}");
}

/// A binding is the server's own write: upstream counts it for nobody, and a scheduler that owned `nodeName` would stand in
/// the way of whoever applies the pod.
#[tokio::test]
async fn bindings_and_deletions_belong_to_nobody() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = cluster.post(&format!("{PODS}?fieldManager=maker"), pod).await;
    cluster.post(&format!("{PODS}/p/binding"), json!({"metadata": {"name": "p"}, "target": {"name": "n"}})).await;
    let bound = cluster.get(&format!("{PODS}/p")).await;
    assert_eq!((&bound["spec"]["nodeName"], owners(&bound)), (&json!("n"), owners(&created)));
    let (_, deleted) = cluster.call(Method::DELETE, &format!("{PODS}/p"), &Value::Null).await;
    assert!(!deleted["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(owners(&deleted), owners(&created));
}
