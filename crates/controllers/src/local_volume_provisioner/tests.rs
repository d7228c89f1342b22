//! A claim's volume is made on its node and goes when the node has removed its data.

use control::harness::{Api, Step, check_converges};
use serde_json::{Value, json};

use super::*;
use crate::fixtures::settings;
use api::resources;

fn class() -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"})
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "host-a"},
        "annotations": {VOLUMES_DIRECTORY: "/data/volumes"}}})
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
fn claim(over: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": {
            "volume.kubernetes.io/selected-node": "a", "volume.kubernetes.io/storage-provisioner": PROVISIONER}},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    machinery::patch::merge(&mut claim, &over);
    claim
}

fn the_volume(api: &Api) -> Option<Value> {
    api.list(resources::PERSISTENT_VOLUMES).into_iter().next()
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_on_the_chosen_node() {
    let end = check_converges(&provision::CONTROLLER, settings(), &[class(), node(), claim(json!({}))], &[]).await;
    let volume = the_volume(&end).expect("made");
    let name = volume["metadata"]["name"].as_str().expect("a name");
    assert_eq!(volume["spec"]["local"]["path"], format!("/data/volumes/{name}"));
    let affinity = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0].clone();
    assert_eq!(affinity, json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["host-a"]}));
    assert_eq!(volume["spec"]["claimRef"]["name"], "c");
    assert_eq!(volume["metadata"]["finalizers"], json!([FINALIZER]));
}

#[test]
fn what_a_directory_cannot_be_is_refused() {
    let refused = |over: Value| match provision::plan(&claim(over), Some(&class()), Some(&node())) {
        provision::Plan::Refuse(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(json!({"spec": {"accessModes": ["ReadWriteMany"]}})).starts_with("only ReadWriteOnce"));
    assert!(refused(json!({"spec": {"volumeMode": "Block"}})).starts_with("block volume"));
    assert!(refused(json!({"spec": {"selector": {}}})).contains("Selector"));
    assert!(refused(json!({"spec": {"dataSource": {}}})).contains("dataSource"));
    let no_node = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": null}}});
    assert!(refused(no_node).contains("WaitForFirstConsumer"));
    let plan = |over: Value, node: Option<&Value>| provision::plan(&claim(over), Some(&class()), node);
    assert_eq!(plan(json!({}), None), provision::Plan::ChooseAgain);
    assert_eq!(plan(json!({"spec": {"volumeName": "v"}}), Some(&node())), provision::Plan::Nothing);
    let bare = json!({"metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "a"}}});
    assert!(matches!(plan(json!({}), Some(&bare)), provision::Plan::Refuse(_)));
}

fn volume(name: &str, policy: &str, phase: &str) -> Value {
    let term = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["host-a"]});
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": [FINALIZER], "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {"persistentVolumeReclaimPolicy": policy,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}},
        "status": {"phase": phase}})
}

fn names(api: &Api) -> Vec<String> {
    let volumes = api.list(resources::PERSISTENT_VOLUMES).into_iter();
    volumes.map(|volume| volume["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_released_volume_goes_once_its_node_has_removed_the_data() {
    let on_node = |api: &Api| {
        let node = api.get(resources::NODES, "", "a").expect("the node");
        node["metadata"]["annotations"][format!("{REMOVAL_PREFIX}gone")].clone()
    };
    let steps = [
        Step::Do(&|api| {
            assert_eq!((names(api).len(), on_node(api)), (4, json!(REMOVE)));
            api.change_each(resources::NODES, |node| {
                node["metadata"]["annotations"][format!("{REMOVAL_PREFIX}gone")] = REMOVED.into();
                true
            });
        }),
        Step::Do(&|api| {
            assert_eq!(
                (names(api), on_node(api)),
                (vec!["bound".into(), "foreign".into(), "kept".into()], json!(null))
            );
            api.delete(resources::PERSISTENT_VOLUMES, "", "kept");
        }),
    ];
    let mut foreign = volume("foreign", "Delete", "Released");
    foreign["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = "csi.example.com".into();
    let objects = [
        node(),
        volume("bound", "Delete", "Bound"),
        volume("gone", "Delete", "Released"),
        volume("kept", "Retain", "Released"),
        foreign,
    ];
    let end = check_converges(&remove::CONTROLLER, settings(), &objects, &steps).await;
    assert_eq!(names(&end), ["bound", "foreign"]);
    assert_eq!(on_node(&end), json!(null));
}
