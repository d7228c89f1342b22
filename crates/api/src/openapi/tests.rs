//! The documents have what clients look for, and refer to nothing that they do not have.

use serde_json::{Value, json};

use super::*;
use crate::resources::{DEPLOYMENTS, PODS};

const VERSION: &str = "v1.36.0";

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

/// All texts below `$ref`, and all operation identifiers.
fn collect(value: &Value, references: &mut Vec<String>, identifiers: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (&**name, value) {
                    ("$ref", Value::String(text)) => references.push(text.clone()),
                    ("operationId", Value::String(text)) => identifiers.push(text.clone()),
                    _ => collect(value, references, identifiers),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references, identifiers)),
        _ => {}
    }
}

fn check_whole(document: &Value) {
    let (mut references, mut identifiers) = (Vec::new(), Vec::new());
    collect(document, &mut references, &mut identifiers);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} is nowhere");
    }
    let count = identifiers.len();
    identifiers.sort();
    identifiers.dedup();
    assert_eq!(identifiers.len(), count, "an operation identifier is there twice");
}

#[test]
fn v2_is_whole_and_has_what_kubectl_validates_by() {
    let document = parse(&v2(VERSION, &[]));
    check_whole(&document);
    let deployment = &document["definitions"]["io.k8s.api.apps.v1.Deployment"];
    let kind = json!({"group": "apps", "kind": "Deployment", "version": "v1"});
    assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([kind]));
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = &document["paths"][path]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
    let named = |name: &str| patch["parameters"].as_array().unwrap().iter().any(|it| it["name"] == name);
    assert!(named("fieldValidation") && named("dryRun"));
    let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
}

#[test]
fn v3_documents_are_whole_and_indexed_by_their_content() {
    let paths = v3_paths(&[]);
    for path in ["api", "api/v1", "apis", "apis/apps", "apis/apps/v1", "apis/rbac.authorization.k8s.io/v1", "version"] {
        assert!(paths.iter().any(|it| it == path), "{path}");
    }
    let documents: Vec<Document> = v3_documents(paths.clone(), VERSION, &[]).collect();
    assert!(documents.iter().map(|document| &document.path).eq(&paths));
    documents.iter().for_each(|document| check_whole(&parse(&document.json)));
    let index = parse(&v3_index(documents.iter().map(|it| (&*it.path, &*it.hash))));
    let apps = documents.iter().find(|document| document.path == "apis/apps/v1").unwrap();
    let url = format!("/openapi/v3/apis/apps/v1?hash={}", apps.hash);
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], url);

    let apps = parse(&apps.json);
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert!(patch["parameters"].as_array().unwrap().iter().any(|it| it["name"] == "fieldValidation"));
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    let spec = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert_eq!(spec["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]));
    assert!(v3("apis/apps/v2", VERSION, &[]).is_none());
}

#[test]
fn subresources_have_their_own_bodies() {
    let document = parse(&v2(VERSION, &[]));
    let body = |path: &str, method: &str| document["paths"][path][method]["parameters"][0]["schema"]["$ref"].clone();
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    assert_eq!(body(&format!("{pod}/eviction"), "post"), "#/definitions/io.k8s.api.policy.v1.Eviction");
    let scale = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale";
    assert_eq!(body(scale, "put"), "#/definitions/io.k8s.api.autoscaling.v1.Scale");
    let exec = &document["paths"][format!("{pod}/exec")]["get"];
    assert_eq!(
        (&exec["x-kubernetes-action"], &exec["operationId"]),
        (&json!("connect"), &json!("connectCoreV1GetNamespacedPodExec"))
    );
    assert!(document["paths"]["/api/v1/namespaces/{namespace}/bindings"].get("get").is_none());
}

#[test]
fn custom_resources_are_described_beside_the_built_in_ones() {
    let resource = Resource {
        group: "stable.example.com".into(),
        kind: "CronTab".into(),
        plural: "crontabs".into(),
        singular: "crontab".into(),
        subresources: DEPLOYMENTS.subresources.clone(),
        stored_as: None,
        ..PODS.clone()
    };
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "any": {"x-kubernetes-preserve-unknown-fields": true, "type": "object"},
        "when": {"type": "string", "nullable": true, "description": "When it runs."}}}}});
    let custom = [Custom { resource: &resource, schema: &schema }];
    let three = parse(&v3("apis/stable.example.com/v1", VERSION, &custom).unwrap().json);
    check_whole(&three);
    let crontab = &three["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(crontab["properties"]["spec"], schema["properties"]["spec"]);
    assert_eq!(crontab["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    // `kubectl explain crontab` once had words of ours, and none for the metadata.
    for (field, about) in
        [("apiVersion", "APIVersion defines"), ("kind", "Kind is"), ("metadata", "Standard object's metadata")]
    {
        let said = crontab["properties"][field]["description"].as_str().unwrap_or_default();
        assert!(said.starts_with(about), "{field}: {said}");
    }
    let two = parse(&v2(VERSION, &custom));
    check_whole(&two);
    let spec = &two["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"];
    assert_eq!(spec["when"], json!({"description": "When it runs."}), "v2 cannot say that it may be null");
    // One that takes everything names nothing: kubectl refused each field that was not named.
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {"type": "object"}}});
    let two = parse(&v2(VERSION, &[Custom { resource: &resource, schema: &open }]));
    let crontab = two["definitions"]["com.example.stable.v1.CronTab"].as_object().unwrap();
    assert_eq!(crontab.keys().collect::<Vec<_>>(), ["type", "x-kubernetes-group-version-kind"]);
}
