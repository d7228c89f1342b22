//! Claims and volumes find each other, part, and are found again, undisturbed and with every write failing.

use control::harness::{Api, Step, check_converges};
use serde_json::{Value, json};

use super::*;
use crate::fixtures::settings;
use crate::volume_claims::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE};
use api::resources;

#[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
fn volume(name: &str, over: Value) -> Value {
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
            "persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Available"}});
    machinery::patch::merge(&mut volume, &over);
    volume
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
fn claim(name: &str, over: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    machinery::patch::merge(&mut claim, &over);
    claim
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": mode})
}

fn the_claim(api: &Api, name: &str) -> Value {
    api.get(resources::PERSISTENT_VOLUME_CLAIMS, "n", name).expect("the claim")
}

fn the_volume(api: &Api, name: &str) -> Value {
    api.get(resources::PERSISTENT_VOLUMES, "", name).expect("the volume")
}

#[tokio::test(start_paused = true)]
async fn a_claim_gets_the_volume_that_comes_later() {
    let steps = [Step::Do(&|api| {
        api.put(volume("large", json!({"spec": {"capacity": {"storage": "5Gi"}}})));
        api.put(volume("v", json!({})));
    })];
    let end = check_converges(&claim::CONTROLLER, settings(), &[claim("c", json!({}))], &steps).await;
    // The first that came fits: a better one that came with it may or may not have been seen.
    let bound = the_claim(&end, "c");
    let volume = the_volume(&end, bound["spec"]["volumeName"].as_str().expect("bound"));
    assert_eq!((&bound["status"]["phase"], &volume["status"]["phase"]), (&json!("Bound"), &json!("Bound")));
    assert_eq!(bound["status"]["capacity"], volume["spec"]["capacity"]);
    assert_eq!(bound["metadata"]["annotations"], json!({BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"}));
    assert_eq!(volume["metadata"]["annotations"], json!({BOUND_BY_CONTROLLER: "yes"}));
    assert_eq!(volume["spec"]["claimRef"]["uid"], bound["metadata"]["uid"]);
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_was_asked_for_is_not_marked_as_found() {
    let reserved = volume("v", json!({"spec": {"claimRef": {"name": "c", "namespace": "n"}}}));
    let objects = [reserved, claim("c", json!({"spec": {"volumeName": "v"}}))];
    let end = check_converges(&claim::CONTROLLER, settings(), &objects, &[]).await;
    assert_eq!(the_claim(&end, "c")["metadata"]["annotations"], json!({BIND_COMPLETED: "yes"}));
    assert_eq!(the_volume(&end, "v")["metadata"].get("annotations"), None);
    assert_eq!(the_volume(&end, "v")["status"]["phase"], "Bound");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_loses_its_volume_is_lost() {
    let bound = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    let end = check_converges(&claim::CONTROLLER, settings(), &[claim("c", bound)], &[]).await;
    assert_eq!(the_claim(&end, "c")["status"], json!({"phase": "Lost"}));
}

#[tokio::test(start_paused = true)]
async fn a_provisioner_is_told_and_the_default_class_is_given_later() {
    let mut default = class("disk", "csi.example.com", "WaitForFirstConsumer");
    default["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] = "true".into();
    let default = &default;
    let steps = [
        Step::Do(&|api| assert!(the_claim(api, "c")["spec"].get("storageClassName").is_none())),
        Step::Do(&|api| drop(api.put(default.clone()))),
        Step::Do(&|api| {
            let claim = the_claim(api, "c");
            assert_eq!(claim["spec"]["storageClassName"], "disk");
            assert_eq!(claim["metadata"].get("annotations"), None, "nobody uses it yet");
            api.change_each(resources::PERSISTENT_VOLUME_CLAIMS, |claim| {
                claim["metadata"]["annotations"][SELECTED_NODE] = "node".into();
                true
            });
        }),
    ];
    let objects = [claim("c", json!({"spec": {"storageClassName": null}}))];
    let end = check_converges(&claim::CONTROLLER, settings(), &objects, &steps).await;
    let told = the_claim(&end, "c")["metadata"]["annotations"].clone();
    assert_eq!(told["volume.kubernetes.io/storage-provisioner"], "csi.example.com");
    assert_eq!(told["volume.beta.kubernetes.io/storage-provisioner"], "csi.example.com");
}

#[tokio::test(start_paused = true)]
async fn phases_follow_the_claim_and_then_the_policy() {
    let of = |name: &str, policy: &str, over: Value| {
        let mut made = volume(
            name,
            json!({"spec": {"persistentVolumeReclaimPolicy": policy,
            "claimRef": {"name": name, "namespace": "n", "uid": format!("uid-{name}")}}, "status": {"phase": "Bound"}}),
        );
        machinery::patch::merge(&mut made, &over);
        made
    };
    let ours = json!({"metadata": {"annotations": {PROVISIONED_BY: "csi.example.com"}}});
    let objects = [
        volume("new", json!({"status": null})),
        of("kept", "Retain", json!({})),
        of("external", "Delete", ours.clone()),
        of("stranger", "Delete", json!({})),
        of("recycled", "Recycle", json!({})),
        of("used", "Retain", json!({"status": {"phase": "Pending"}})),
        claim("used", json!({"spec": {"volumeName": "used"}})),
        of("elsewhere", "Retain", json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}})),
        claim("elsewhere", json!({"spec": {"volumeName": "other"}})),
    ];
    let end = check_converges(&super::volume::CONTROLLER, settings(), &objects, &[]).await;
    for (name, phase) in [
        ("new", "Available"),
        ("kept", "Released"),
        ("external", "Released"),
        ("stranger", "Failed"),
        ("recycled", "Failed"),
        ("used", "Bound"),
        ("elsewhere", "Available"),
    ] {
        assert_eq!(the_volume(&end, name)["status"]["phase"], phase, "{name}");
    }
    assert_eq!(the_volume(&end, "elsewhere")["spec"].get("claimRef"), None);
}

#[test]
fn what_a_claim_waits_for_is_said() {
    let waits = |over: Value, classes: Option<Value>, pods: &[&str]| {
        let view = claim::View {
            claim: &claim("c", over),
            named: None,
            candidates: vec![],
            class: classes,
            default_class: None,
            waiting_pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
        };
        match claim::plan(&view) {
            claim::Plan::Wait(Some(report)) | claim::Plan::Tell(report) => {
                format!("{}: {}", report.reason, report.message)
            }
            other => format!("{other:?}"),
        }
    };
    let later = class("disk", "csi.example.com", "WaitForFirstConsumer");
    let first = "WaitForFirstConsumer: waiting for first consumer to be created before binding";
    assert_eq!(waits(json!({}), Some(later.clone()), &[]), first);
    assert_eq!(waits(json!({}), Some(later), &["p"]), "WaitForPodScheduled: waiting for pod p to be scheduled");
    let none = "FailedBinding: no persistent volumes available for this claim and no storage class is set";
    assert_eq!(waits(json!({"spec": {"storageClassName": ""}}), None, &[]), none);
    let missing = "ProvisioningFailed: storageclass.storage.k8s.io \"disk\" not found";
    assert_eq!(waits(json!({}), None, &[]), missing);
    let no = class("disk", "kubernetes.io/no-provisioner", "Immediate");
    let plugin = "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner";
    assert_eq!(waits(json!({}), Some(no), &[]), plugin);
}
