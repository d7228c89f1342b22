//! Custom resources, from their definition to their end.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Cluster, Events};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

/// The definition of the documentation's CronTab, with one of everything.
fn crontab() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
            "image": {"type": "string"},
            "suspend": {"type": "boolean", "default": false},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "policy": {"type": "string", "enum": ["Allow", "Forbid"]},
            "port": {"x-kubernetes-int-or-string": true},
            "steps": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "command": {"type": "string", "nullable": true}}}},
            "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"}},
                "selectableFields": [{"jsonPath": ".spec.image"}],
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec", "description": "The cron spec."},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]}]}})
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the spec in place")]
fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

/// Creates a definition and waits until it says that it is established: from then on its resource is served.
async fn define(cluster: &Cluster, definition: Value) {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    let mut events = cluster.watch(&format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name%3D{name}")).await;
    cluster.post(DEFINITIONS, definition).await;
    while !holds(&events.next().await.unwrap()["object"], "Established") {}
}

fn holds(definition: &Value, kind: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().unwrap();
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

async fn ended(events: &mut Events) {
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn a_defined_resource_is_served_like_any_other() {
    let cluster = Cluster::start().await;
    define(&cluster, crontab()).await;
    let made =
        cluster.post(TABS, tab("a", json!({"cronSpec": "* * * * */5", "unknown": 1, "anything": {"x": 1}}))).await;
    assert_eq!(made["spec"], json!({"cronSpec": "* * * * */5", "anything": {"x": 1}, "suspend": false, "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    let mut events = cluster.watch(&format!("{TABS}?watch=1")).await;
    assert_eq!(events.short().await, "ADDED a");
    let patch = json!({"spec": {"image": "i"}, "status": {"replicas": 7}});
    let (status, changed) = cluster.call(Method::PATCH, &format!("{TABS}/a"), &patch).await;
    assert_eq!((status, &changed["metadata"]["generation"]), (StatusCode::OK, &json!(2)), "{changed}");
    assert!(changed.get("status").is_none(), "status has its own path: {changed}");
    assert_eq!(events.short().await, "MODIFIED a");
    let (_, changed) = cluster.call(Method::PATCH, &format!("{TABS}/a/status"), &patch).await;
    assert_eq!((&changed["status"]["replicas"], &changed["metadata"]["generation"]), (&json!(7), &json!(2)));
    let list = cluster.get(&format!("{TABS}?fieldSelector=spec.image%3Di")).await;
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("CronTabList"), Some(1)));
    assert_eq!(list["items"][0]["kind"], "CronTab", "items of custom resources say what they are");
    let none = cluster.get(&format!("{TABS}?fieldSelector=spec.image%3Dother")).await;
    assert_eq!(none["items"], json!([]));
    let (status, _) = cluster.call(Method::DELETE, &format!("{TABS}/a"), &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    define(&cluster, crontab()).await;
    let good = "* * * * *";
    let table = [
        (json!({}), "spec.cronSpec: Required value"),
        (
            json!({"cronSpec": 1}),
            r#"spec.cronSpec: Invalid value: "integer": spec.cronSpec in body must be of type string: "integer""#,
        ),
        (json!({"cronSpec": "x"}), r"spec.cronSpec in body should match '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$'"),
        (
            json!({"cronSpec": good, "replicas": 11}),
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (json!({"cronSpec": good, "replicas": 0}), "spec.replicas in body should be greater than or equal to 1"),
        (
            json!({"cronSpec": good, "policy": "x"}),
            r#"spec.policy: Unsupported value: "x": supported values: "Allow", "Forbid""#,
        ),
        (json!({"cronSpec": good, "port": true}), r#"spec.port in body must be of type integer,string: "boolean""#),
        (
            json!({"cronSpec": good, "steps": [{"name": "a"}, {"name": "a"}]}),
            r#"spec.steps[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            json!({"cronSpec": good, "image": null}),
            r#"spec.image: Invalid value: "null": spec.image in body must be of type string: "null""#,
        ),
    ];
    for (spec, message) in table {
        let (status, answer) = cluster.call(Method::POST, TABS, &tab("a", spec.clone())).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{spec}: {answer}");
        let said = answer["message"].as_str().unwrap();
        assert!(said.starts_with(r#"CronTab.stable.example.com "a" is invalid: "#) && said.contains(message), "{said}");
    }
    // Nulls that are allowed stay, and those that have a default become it.
    let spec = json!({"cronSpec": good, "replicas": null, "steps": [{"name": "a", "command": null}]});
    let made = cluster.post(TABS, tab("a", spec)).await;
    assert_eq!(
        (&made["spec"]["replicas"], &made["spec"]["steps"][0]),
        (&json!(1), &json!({"name": "a", "command": null}))
    );
    let (status, answer) = cluster
        .call_as(Method::PATCH, &format!("{TABS}/a"), "application/strategic-merge-patch+json", &json!({"spec": {}}))
        .await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{answer}");
}

#[tokio::test]
async fn fields_are_judged_as_the_writer_asks() {
    let cluster = Cluster::start().await;
    define(&cluster, crontab()).await;
    let mut object = tab("a", json!({"cronSpec": "* * * * *", "unknown": 1}));
    object["metadata"]["strange"] = json!(1);
    let strict = format!("{TABS}?fieldValidation=Strict");
    let (status, answer) = cluster.call(Method::POST, &strict, &object).await;
    let message = r#"CronTab in version "stable.example.com/v1" cannot be handled as a CronTab: strict decoding error: unknown field "metadata.strange", unknown field "spec.unknown""#;
    assert_eq!((status, answer["message"].as_str()), (StatusCode::BAD_REQUEST, Some(message)));
    let twice = r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"a"},"spec":{"cronSpec":"* * * * *","image":"a","image":"b"}}"#;
    let request = |query: &str| {
        let uri = format!("{TABS}?{query}");
        http::Request::post(uri).header("content-type", "application/json").body(twice.into()).unwrap()
    };
    let answer = cluster.send(request("fieldValidation=Strict")).await;
    let body = super::read(answer.into_body()).await;
    assert!(String::from_utf8_lossy(&body).contains(r#"duplicate field \"spec.image\""#), "{body:?}");
    let answer = cluster.send(request("fieldValidation=Warn")).await;
    assert_eq!(answer.headers()["warning"], r#"299 - "duplicate field \"spec.image\"""#);
    let object = tab("b", json!({"cronSpec": "* * * * *", "unknown": 1}));
    let (status, _) = cluster.call(Method::POST, &format!("{TABS}?fieldValidation=Ignore"), &object).await;
    assert_eq!(status, StatusCode::CREATED);
}

#[tokio::test]
async fn tables_show_the_columns_of_the_definition() {
    use bytes::Bytes;
    let cluster = Cluster::start().await;
    define(&cluster, crontab()).await;
    cluster.post(TABS, tab("a", json!({"cronSpec": "* * * * *"}))).await;
    let request = http::Request::get(TABS).header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1");
    let answer = cluster.send(request.body(Bytes::new()).unwrap()).await;
    let table: Value = serde_json::from_slice(&super::read(answer.into_body()).await).unwrap();
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "Spec", "Replicas", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * * * *", 1, "0s"]));
}

#[tokio::test]
async fn scale_is_where_the_definition_says() {
    let cluster = Cluster::start().await;
    define(&cluster, crontab()).await;
    cluster.post(TABS, tab("a", json!({"cronSpec": "* * * * *"}))).await;
    let status = json!({"status": {"replicas": 2, "labelSelector": "app=a"}});
    cluster.call(Method::PATCH, &format!("{TABS}/a/status"), &status).await;
    let scale = cluster.get(&format!("{TABS}/a/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"], &scale["status"]),
        (&json!("Scale"), &json!({"replicas": 1}), &json!({"replicas": 2, "selector": "app=a"}))
    );
    let (code, scale) =
        cluster.call(Method::PATCH, &format!("{TABS}/a/scale"), &json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (StatusCode::OK, &json!(4)), "{scale}");
    assert_eq!(cluster.get(&format!("{TABS}/a")).await["spec"]["replicas"], 4);
}

#[tokio::test]
async fn discovery_and_the_published_schemas_follow_the_definitions() {
    let cluster = Cluster::start().await;
    assert!(!cluster.get("/apis").await.to_string().contains("stable.example.com"));
    let before = cluster.get("/openapi/v3").await;
    define(&cluster, crontab()).await;
    assert!(cluster.get("/apis").await.to_string().contains("stable.example.com/v1"));
    let list = cluster.get("/apis/stable.example.com/v1").await;
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let after = cluster.get("/openapi/v3").await;
    assert_eq!(before["paths"]["apis/apps/v1"], after["paths"]["apis/apps/v1"]);
    assert!(after["paths"]["apis/stable.example.com/v1"].is_object());
    let document = cluster.get("/openapi/v3/apis/stable.example.com/v1").await;
    let published = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(published["properties"]["spec"]["properties"]["suspend"]["default"], false);
    let two = cluster.get("/openapi/v2").await;
    assert!(two["definitions"]["com.example.stable.v1.CronTab"].is_object());
    let mut definitions = cluster.watch(&format!("{DEFINITIONS}?watch=1")).await;
    cluster.call(Method::DELETE, &format!("{DEFINITIONS}/crontabs.stable.example.com"), &Value::Null).await;
    while definitions.next().await.unwrap()["type"] != "DELETED" {}
    assert!(!cluster.get("/apis").await.to_string().contains("stable.example.com"));
    assert_eq!(cluster.get("/openapi/v3").await, before);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_with_it() {
    let cluster = Cluster::start().await;
    define(&cluster, crontab()).await;
    for name in ["a", "b", "held"] {
        cluster.post(TABS, tab(name, json!({"cronSpec": "* * * * *"}))).await;
    }
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    cluster.call(Method::PATCH, &format!("{TABS}/held"), &hold).await;
    let mut tabs = cluster.watch(&format!("{TABS}?watch=1&labelSelector=none")).await;
    let mut definitions = cluster.watch(&format!("{DEFINITIONS}?watch=1")).await;
    cluster.call(Method::DELETE, &format!("{DEFINITIONS}/crontabs.stable.example.com"), &Value::Null).await;
    loop {
        let definition = &definitions.next().await.unwrap()["object"];
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        if conditions.iter().any(|it| it["reason"] == "InstanceDeletionInProgress") {
            break;
        }
    }
    let (status, answer) = cluster.call(Method::POST, TABS, &tab("late", json!({"cronSpec": "* * * * *"}))).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{answer}");
    // The one that is held keeps the definition; the others go.
    loop {
        let left = cluster.get(TABS).await;
        if left["items"].as_array().map(Vec::len) == Some(1) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let free = json!({"metadata": {"finalizers": null}});
    cluster.call(Method::PATCH, &format!("{TABS}/held"), &free).await;
    while definitions.next().await.unwrap()["type"] != "DELETED" {}
    ended(&mut tabs).await;
    let (status, _) = cluster.call(Method::GET, TABS, &Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Another schema under the same name begins with nothing.
    let mut other = crontab();
    other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "properties": {"count": {"type": "integer"}}});
    other["spec"]["versions"][0]
        .as_object_mut()
        .unwrap()
        .retain(|name, _| name != "selectableFields" && name != "subresources");
    define(&cluster, other).await;
    assert_eq!(cluster.get(TABS).await["items"], json!([]));
    let made = cluster.post(TABS, tab("a", json!({"count": 3, "cronSpec": "pruned"}))).await;
    assert_eq!(made["spec"], json!({"count": 3}));
}

#[tokio::test]
async fn versions_show_the_same_objects_and_defaults_reach_what_is_stored() {
    let cluster = Cluster::start().await;
    let mut definition = crontab();
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    definition["spec"]["versions"].as_array_mut().unwrap().push(second);
    define(&cluster, definition.clone()).await;
    cluster.post(TABS, tab("a", json!({"cronSpec": "* * * * *"}))).await;
    let seconds = TABS.replace("/v1/", "/v2/");
    let shown = cluster.get(&format!("{seconds}/a")).await;
    assert_eq!((&shown["apiVersion"], &shown["spec"]["replicas"]), (&json!("stable.example.com/v2"), &json!(1)));
    assert_eq!(cluster.get(&seconds).await["items"][0]["apiVersion"], "stable.example.com/v2");
    let mut events = cluster.watch(&format!("{seconds}?watch=1")).await;
    assert_eq!(events.next().await.unwrap()["object"]["apiVersion"], "stable.example.com/v2");
    // A default that comes later holds for what is stored already, and the watch ends so that its reader finds out.
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let mut current = cluster.get(&path).await;
    for version in current["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["image"]["default"] = "late".into();
        version["storage"] = (version["name"] == "v2").into();
    }
    let (status, answer) = cluster.call(Method::PUT, &path, &current).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    ended(&mut events).await;
    let shown = cluster.get(&format!("{TABS}/a")).await;
    assert_eq!((&shown["apiVersion"], &shown["spec"]["image"]), (&json!("stable.example.com/v1"), &json!("late")));
    assert_eq!(cluster.get(&path).await["status"]["storedVersions"], json!(["v1", "v2"]));
}

#[tokio::test]
async fn a_restart_at_any_point_goes_on_where_it_was() {
    use std::sync::Arc;
    let store: Arc<dyn store::Store> = Arc::new(store::memory::MemoryStore::default());
    let first = Cluster::over(store.clone()).await;
    define(&first, crontab()).await;
    let mut held = tab("held", json!({"cronSpec": "* * * * *"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    first.post(TABS, held).await;
    first.stop.stop();
    let second = Cluster::over(store.clone()).await;
    assert_eq!(second.get(&format!("{TABS}/held")).await["spec"]["replicas"], 1);
    // Deleted, and cut off before anything was done about it.
    second.call(Method::DELETE, &format!("{DEFINITIONS}/crontabs.stable.example.com"), &Value::Null).await;
    second.stop.stop();
    let third = Cluster::over(store).await;
    let mut definitions = third.watch(&format!("{DEFINITIONS}?watch=1")).await;
    let free = json!({"metadata": {"finalizers": null}});
    let (status, answer) = third.call(Method::PATCH, &format!("{TABS}/held"), &free).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    while definitions.next().await.unwrap()["type"] != "DELETED" {}
}

/// The behaviour that upstream tests of `x-kubernetes-validations`: what is created, patched, applied and what is written to
/// `/status` is judged, transitions when something is changed, and what failed before and stays is only warned of.
#[tokio::test]
async fn rules_are_kept_by_every_write() {
    let cluster = Cluster::start().await;
    let mut definition = crontab();
    let properties = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    properties["spec"]["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 5", "messageExpression": "'at most 5 replicas, not ' + (self.replicas > 6 ? '7 or more' : '6')", "fieldPath": ".replicas"},
        {"rule": "!has(oldSelf.image) || has(self.image)", "message": "image cannot be removed"}]);
    properties["status"]["x-kubernetes-validations"] = json!([{"rule": "!has(self.replicas) || self.replicas >= 0"}]);
    define(&cluster, definition).await;
    let spec = |replicas: u32| json!({"cronSpec": "* * * * *", "image": "i", "replicas": replicas});
    let (status, answer) = cluster.call(Method::POST, TABS, &tab("a", spec(6))).await;
    let expected =
        "CronTab.stable.example.com \"a\" is invalid: spec.replicas: Invalid value: at most 5 replicas, not 6";
    assert_eq!((status, &answer["message"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(expected)));
    cluster.post(TABS, tab("a", spec(5))).await;
    let path = format!("{TABS}/a");
    let (_, answer) = cluster.call(Method::PATCH, &path, &json!({"spec": {"replicas": 7}})).await;
    assert!(answer["message"].as_str().unwrap().contains("not 7"), "{answer}");
    let (_, answer) = cluster.call(Method::PATCH, &path, &json!({"spec": {"image": null}})).await;
    assert!(answer["message"].as_str().unwrap().contains("spec: Invalid value: image cannot be removed"), "{answer}");
    let (_, answer) =
        cluster.call(Method::PATCH, &format!("{path}/status"), &json!({"status": {"replicas": -1}})).await;
    assert!(answer["message"].as_str().unwrap().contains("status: Invalid value: failed rule"), "{answer}");
    let (status, _) = cluster.call(Method::PATCH, &format!("{path}/status"), &json!({"status": {"replicas": 1}})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, answer) = cluster.call(Method::PATCH, &path, &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
