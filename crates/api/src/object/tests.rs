//! What the index holds, and that encoding and the splice agree with it.

use serde_json::json;

use super::*;
use crate::resources::{self, EVENTS, JOBS, NODES, PODS, REPLICA_SETS};

fn parse(resource: &Resource, value: &Value) -> Object {
    Object::parse(resource, value.to_string().into()).unwrap()
}

#[test]
fn the_index_holds_what_servers_look_at() {
    let pod = parse(
        PODS,
        &json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n1", "containers": []}, "metadata": {
            "name": "a\u{301}", "namespace": "default", "uid": "u1", "resourceVersion": "12", "generation": 3,
            "labels": {"tier": "back", "app": "web"}, "finalizers": ["f/1"],
            "deletionTimestamp": "2026-01-02T03:04:05Z", "annotations": {"x": "y"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "u2"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u3", "controller": true}]}}),
    );
    assert_eq!(*pod.key(), Key::new("default", "a\u{301}"));
    assert_eq!((pod.uid(), pod.revision(), pod.index().generation), ("u1", 12, 3));
    assert_eq!((pod.label("app"), pod.label("tier"), pod.label("x")), (Some("web"), Some("back"), None));
    assert_eq!(pod.controller().map(|owner| &*owner.uid), Some("u3"));
    assert_eq!(pod.index().finalizers, ["f/1".into()].into());
    assert!(pod.is_deleting());
    assert_eq!(pod.field(PODS, "spec.nodeName"), Some("n1"));
    assert_eq!(pod.field(PODS, "metadata.name"), Some("a\u{301}"));
    assert_eq!(pod.field(PODS, "spec.hostname"), None, "not selectable");
}

#[test]
fn selectable_fields_have_upstreams_values() {
    let named = |rest: Value| {
        let mut object = json!({"metadata": {"name": "x"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    };
    let cases = [
        (PODS, json!({}), "spec.hostNetwork", "false"),
        (PODS, json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork", "true"),
        (PODS, json!({"status": null}), "status.phase", ""),
        (PODS, json!({"status": "odd"}), "status.phase", ""),
        (PODS, json!({"status": [{"phase": "Running"}]}), "status.phase", ""),
        (NODES, json!({"spec": {}}), "spec.unschedulable", "false"),
        (JOBS, json!({"status": {"succeeded": 3}}), "status.successful", "3"),
        (JOBS, json!({}), "status.successful", "0"),
        (REPLICA_SETS, json!({}), "status.replicas", "0"),
        (EVENTS, json!({"source": {"component": "kubelet"}}), "source", "kubelet"),
        (EVENTS, json!({"reportingComponent": "scheduler", "source": {}}), "source", "scheduler"),
        (EVENTS, json!({"involvedObject": {"name": "p", "kind": "Pod"}}), "involvedObject.kind", "Pod"),
    ];
    for (resource, rest, path, expected) in cases {
        let object = parse(resource, &named(rest.clone()));
        assert_eq!(object.field(resource, path), Some(expected), "{path} of {rest}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for text in ["", "[]", "\"x\"", "{\"metadata\":[]}", "{\"metadata\":{\"name\":1}}", "{\"metadata\":{}"] {
        assert!(Object::parse(PODS, Bytes::from_static(text.as_bytes())).is_err(), "{text}");
    }
}

#[test]
fn encoding_puts_the_head_first_and_the_splice_finds_it() {
    let value = json!({"spec": {"metadata": {"resourceVersion": "1"}}, "metadata": {"name": "a"}, "kind": "Pod",
        "apiVersion": "v1", "status": {}});
    let stored = encode(&value);
    let expected = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"metadata":{"resourceVersion":"1"}},"status":{}}"#;
    assert_eq!(String::from_utf8(stored.clone()).unwrap(), expected);

    let mut out = b"before".to_vec();
    with_revision(&stored, 7, &mut out);
    let spliced = Object::parse(PODS, Bytes::from(out).slice(6..)).unwrap();
    assert_eq!(spliced.revision(), 7);
    let mut back = spliced.to_value();
    back["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(back, value);
}

#[test]
fn every_resource_indexes_an_empty_object() {
    for resource in resources::RESOURCES {
        let object = parse(resource, &json!({"metadata": {}}));
        for field in &*resource.selectable_fields {
            let value = object.field(resource, field).unwrap();
            assert!(["", "0", "false"].contains(&value), "{field} of {}", resource.plural);
        }
    }
}

#[test]
fn managed_fields_are_read_and_written_apart() {
    let whole = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"managedFields": "x"},
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]}, "spec": {"managedFields": 1}});
    let tree = parse(PODS, &whole).to_tree();
    let mut rest = whole.clone();
    rest["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
    assert_eq!(tree.object, rest);
    let managed_fields = tree.managed_fields.unwrap();
    assert_eq!(managed_fields.get(), whole["metadata"]["managedFields"].to_string());
    let encoded = encode_managed(&tree.object, managed_fields.get().as_bytes());
    assert_eq!(String::from_utf8(encoded).unwrap(), whole.to_string());
    assert!(parse(PODS, &rest).to_tree().managed_fields.is_none());
}
