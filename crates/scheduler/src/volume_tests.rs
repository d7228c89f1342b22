//! Placement of pods with claims, by tables, and the way from a claim to a bound pod over an API in memory.

use api::resources::{
    CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES,
};
use api::{Key, Object, Resource};
use serde_json::{Value, json};

use crate::api_tests::{Running, condition, has_event, node_of};
use crate::cycle::{Turn, place};
use crate::facts::FACTS;
use crate::image::Image;
use crate::pod::tests::pod;
use crate::preemption::preempt;
use crate::tests::node;
use crate::volumes::Decision;

fn merged(mut object: Value, over: &Value) -> Value {
    machinery::patch::merge(&mut object, over);
    object
}

fn claim(name: &str, over: &Value) -> Value {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    merged(claim, over)
}

fn bound(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume},
        "status": {"phase": "Bound"}})
}

fn volume(name: &str, host: Option<&str>, over: &Value) -> Value {
    let term = host.map(|host| json!({"key": "host", "operator": "In", "values": [host]}));
    let affinity = term.map(|term| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}));
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"storageClassName": "late", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
            "nodeAffinity": affinity}, "status": {"phase": "Available"}});
    merged(volume, over)
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": mode})
}

fn late() -> Value {
    class("late", "kubernetes.io/no-provisioner", "WaitForFirstConsumer")
}

fn spec(claims: &[&str]) -> Value {
    let volumes = claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
    json!({"containers": [{"name": "c"}], "volumes": volumes.collect::<Vec<_>>()})
}

fn take_in(image: &mut Image, objects: &[(&'static Resource, Value)]) {
    for (resource, object) in objects {
        let object = Object::parse(resource, object.to_string().into_bytes().into()).expect("an object");
        let fact = FACTS.iter().find(|fact| fact.resource == *resource).expect("placement follows it");
        (fact.apply)(image, &object).expect("it can be read");
    }
}

/// Two nodes, `a` and `b`, with a label `host`, each in the zone of its name.
fn image(objects: &[(&'static Resource, Value)]) -> Image {
    let mut image = Image::default();
    for name in ["a", "b"] {
        let labels = json!({"host": name, "topology.kubernetes.io/zone": name});
        image.apply_node(node(name, &json!({"labels": labels})));
    }
    take_in(&mut image, objects);
    image
}

fn placed(image: &Image, spec: &Value) -> String {
    match place(image, &pod("new", spec), &mut Turn::new(7)) {
        Ok(index) => image.node(index).name.to_string(),
        Err(rejections) => rejections.to_string(),
    }
}

#[test]
fn a_pod_follows_its_volumes() {
    let on = |host| volume("v", Some(host), &json!({"spec": {"claimRef": {"name": "c", "namespace": "default"}}}));
    let with = |objects: Vec<(&'static Resource, Value)>| placed(&image(&objects), &spec(&["c"]));
    let mine = || (PERSISTENT_VOLUME_CLAIMS, claim("c", &bound("v")));
    assert_eq!(with(vec![mine(), (PERSISTENT_VOLUMES, on("b"))]), "b");
    assert_eq!(
        with(vec![mine(), (PERSISTENT_VOLUMES, on("c"))]),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
    );
    assert_eq!(
        with(vec![mine()]),
        "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."
    );
    let zoned = volume("v", None, &json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b__c"}}}));
    assert_eq!(with(vec![mine(), (PERSISTENT_VOLUMES, zoned)]), "b");
    let nowhere = volume("v", None, &json!({"metadata": {"labels": {"failure-domain.beta.kubernetes.io/zone": "c"}}}));
    assert_eq!(
        with(vec![mine(), (PERSISTENT_VOLUMES, nowhere)]),
        "0/2 nodes are available: 2 node(s) had no available volume zone."
    );
}

#[test]
fn claims_that_cannot_be_used_are_told_before_any_node() {
    let refused = |over: &Value, expected: &str| {
        let image = image(&[
            (PERSISTENT_VOLUME_CLAIMS, claim("c", over)),
            (STORAGE_CLASSES, late()),
            (STORAGE_CLASSES, class("now", "csi.example.com", "Immediate")),
        ]);
        assert_eq!(placed(&image, &spec(&["c"])), format!("0/2 nodes are available: {expected}."));
        let why = preempt(&image, &pod("new", &spec(&["c"])), &Turn::new(1)).expect_err("nobody is in the way");
        assert_eq!(why, "0/2 nodes are available: 2 Preemption is not helpful for scheduling.");
    };
    refused(&json!({"spec": {"storageClassName": "now"}}), "pod has unbound immediate PersistentVolumeClaims");
    refused(&json!({"spec": {"volumeName": "v"}}), "pod has unbound immediate PersistentVolumeClaims");
    refused(&json!({"spec": {"storageClassName": "none"}}), "pod has unbound immediate PersistentVolumeClaims");
    refused(&json!({"metadata": {"name": "other"}}), "persistentvolumeclaim \"c\" not found");
    refused(
        &json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}}),
        "persistentvolumeclaim \"c\" is being deleted",
    );
    refused(
        &json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}}),
        "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"",
    );
    let ephemeral = json!({"containers": [], "volumes": [{"name": "s", "ephemeral": {"volumeClaimTemplate": {}}}]});
    let waits = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"new-s\"";
    assert_eq!(placed(&image(&[]), &ephemeral), format!("0/2 nodes are available: {waits}."));
    let foreign = (PERSISTENT_VOLUME_CLAIMS, claim("new-s", &json!({})));
    let why = "PVC default/new-s was not created for pod default/new (pod is not owner)";
    assert_eq!(placed(&image(&[foreign]), &ephemeral), format!("0/2 nodes are available: {why}."));
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "new", "uid": "uid-new", "controller": true}]);
    let own = claim("new-s", &json!({"metadata": {"ownerReferences": owner}}));
    let made = class("late", "csi.example.com", "WaitForFirstConsumer");
    let image = image(&[(PERSISTENT_VOLUME_CLAIMS, own), (STORAGE_CLASSES, made)]);
    assert_ne!(placed(&image, &ephemeral), format!("0/2 nodes are available: {why}."));
}

#[test]
fn free_volumes_are_found_and_taken_once() {
    let two = [
        (STORAGE_CLASSES, late()),
        (PERSISTENT_VOLUME_CLAIMS, claim("c", &json!({}))),
        (PERSISTENT_VOLUME_CLAIMS, claim("d", &json!({}))),
        (PERSISTENT_VOLUMES, volume("on-a", Some("a"), &json!({}))),
        (PERSISTENT_VOLUMES, volume("on-b", Some("b"), &json!({}))),
    ];
    let none = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    let mut image = image(&two);
    assert_eq!(placed(&image, &spec(&["c", "d"])), none, "each node has but one");
    take_in(
        &mut image,
        &[(PERSISTENT_VOLUMES, volume("more", Some("b"), &json!({"spec": {"capacity": {"storage": "9Gi"}}})))],
    );
    assert_eq!(placed(&image, &spec(&["c", "d"])), "b");

    let c = Key::new("default", "c");
    let taken = Decision { node: "a".into(), bindings: vec![("on-a".into(), c)], provisions: vec![] };
    image.storage.assume(&taken);
    assert_eq!(placed(&image, &spec(&["d"])), "b", "it is reserved");
    assert_eq!(placed(&image, &spec(&["c"])), "a", "by name");
    image.storage.revert(&taken);
    assert_eq!(image.storage.free("late").count(), 3);

    for (over, fits) in [
        (json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}}), false),
        (json!({"spec": {"accessModes": ["ReadWriteMany"]}}), false),
        (json!({"spec": {"volumeMode": "Block"}}), false),
        (json!({"spec": {"resources": {"requests": {"storage": "9Gi"}}}}), true),
        (json!({"spec": {"resources": {"requests": {"storage": "10Gi"}}}}), false),
    ] {
        take_in(&mut image, &[(PERSISTENT_VOLUME_CLAIMS, claim("c", &over))]);
        assert_eq!(placed(&image, &spec(&["c"])) != none, fits, "{over}");
    }
}

#[test]
fn volumes_are_made_where_there_is_room() {
    let made = || class("late", "csi.example.com", "WaitForFirstConsumer");
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "b"}}});
    let objects = [(STORAGE_CLASSES, made()), (PERSISTENT_VOLUME_CLAIMS, claim("c", &selected))];
    assert_eq!(placed(&image(&objects), &spec(&["c"])), "b");
    let only_b = json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "host", "values": ["b"]}]}]});
    let plain = || (PERSISTENT_VOLUME_CLAIMS, claim("c", &json!({})));
    assert_eq!(placed(&image(&[(STORAGE_CLASSES, merged(made(), &only_b)), plain()]), &spec(&["c"])), "b");

    let driver = json!({"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}});
    let room = |size: &str| {
        json!({"metadata": {"name": "r", "namespace": "s"}, "storageClassName": "late", "capacity": size,
            "nodeTopology": {"matchLabels": {"host": "a"}}})
    };
    let mut image = image(&[(STORAGE_CLASSES, made()), plain(), (CSI_DRIVERS, driver)]);
    let full = "0/2 nodes are available: 2 node(s) did not have enough free storage.";
    assert_eq!(placed(&image, &spec(&["c"])), full);
    take_in(&mut image, &[(CSI_STORAGE_CAPACITIES, room("1Mi"))]);
    assert_eq!(placed(&image, &spec(&["c"])), full);
    take_in(&mut image, &[(CSI_STORAGE_CAPACITIES, room("1Gi"))]);
    assert_eq!(placed(&image, &spec(&["c"])), "a");
}

#[test]
fn a_claim_for_one_pod_is_used_by_one_and_may_be_taken_from_a_lesser() {
    let over = merged(bound("v"), &json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
    let objects = [(PERSISTENT_VOLUME_CLAIMS, claim("c", &over)), (PERSISTENT_VOLUMES, volume("v", None, &json!({})))];
    let mut image = image(&objects);
    image.add_pod(&pod("first", &spec(&["c"])), "a");
    let why = "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access \
               mode already in-use by another pod.";
    assert_eq!(placed(&image, &spec(&["c"])), why);
    let important = pod("new", &merged(spec(&["c"]), &json!({"priority": 10})));
    let preemption = preempt(&image, &important, &Turn::new(1)).expect("the first may go");
    assert_eq!((&*image.node(preemption.node).name, preemption.victims.len()), ("a", 1));
    image.remove_pod(&Key::new("default", "first"));
    assert_ne!(placed(&image, &spec(&["c"])), why);
}

#[test]
fn a_node_has_only_so_many_volumes_of_a_driver() {
    let csi = |name: &str| volume(name, None, &json!({"spec": {"csi": {"driver": "d", "volumeHandle": name}}}));
    let mut objects = vec![(
        CSI_NODES,
        json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "d", "nodeID": "a", "allocatable": {"count": 1}}]}}),
    )];
    for name in ["one", "two"] {
        objects.push((PERSISTENT_VOLUME_CLAIMS, claim(name, &bound(name))));
        objects.push((PERSISTENT_VOLUMES, csi(name)));
    }
    let mut image = image(&objects);
    image.add_pod(&pod("first", &spec(&["one"])), "a");
    assert_eq!(placed(&image, &spec(&["two"])), "b");
    image.remove_node("b");
    assert_eq!(placed(&image, &spec(&["two"])), "0/1 nodes are available: 1 node(s) exceed max volume count.");
    assert_eq!(placed(&image, &spec(&["one"])), "a", "it is there already");
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let objects = [
        (STORAGE_CLASSES, late()),
        (PERSISTENT_VOLUME_CLAIMS, claim("c", &json!({}))),
        (PERSISTENT_VOLUMES, volume("v", Some("a"), &json!({}))),
        (PERSISTENT_VOLUMES, volume("w", None, &json!({"spec": {"claimRef": {"name": "c", "namespace": "default"}}}))),
    ];
    let mut image = image(&objects);
    image.add_pod(&pod("p", &spec(&["c"])), "a");
    let taken = Decision {
        node: "a".into(),
        bindings: vec![("v".into(), Key::new("default", "c"))],
        provisions: vec![Key::new("default", "c")],
    };
    image.storage.assume(&taken);
    for (resource, object) in objects {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let key = Key::new(namespace, object["metadata"]["name"].as_str().expect("a name"));
        let fact = FACTS.iter().find(|fact| fact.resource == resource).expect("placement follows it");
        (fact.remove)(&mut image, &key);
    }
    image.remove_pod(&Key::new("default", "p"));
    image.remove_node("a");
    image.remove_node("b");
    assert_eq!(image.leftovers(), 0);
}

fn api_pod(claims: &[&str]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": merged(spec(claims), &json!({"schedulerName": "default-scheduler"})), "status": {"phase": "Pending"}})
}

fn api_node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"host": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}})
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_when_its_volumes_are() {
    let objects = [
        api_node("a"),
        api_node("b"),
        late(),
        class("made", "csi.example.com", "WaitForFirstConsumer"),
        claim("found", &json!({})),
        claim("made", &json!({"spec": {"storageClassName": "made"}})),
        volume("v", Some("b"), &json!({})),
        api_pod(&["found", "made"]),
    ];
    let running = Running::start(&objects, |_| {});
    let selected = |api: &control::harness::Api| {
        let claim = api.get(PERSISTENT_VOLUME_CLAIMS, "default", "made").expect("the claim");
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"].clone()
    };
    running.until("a volume is asked for", |api| selected(api) == "b").await;
    let reserved = running.api.get(PERSISTENT_VOLUMES, "", "v").expect("the volume");
    assert_eq!((&reserved["spec"]["claimRef"]["name"], node_of(&running.api, "p")), (&json!("found"), None));
    running.api.change_each(PERSISTENT_VOLUME_CLAIMS, |claim| {
        let name = claim["metadata"]["name"].as_str().expect("a name").to_owned();
        claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
        claim["spec"]["volumeName"] = if name == "found" { "v" } else { "w" }.into();
        true
    });
    running.until("the pod is bound", |api| node_of(api, "p").as_deref() == Some("b")).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_no_volume_can_be_made_another_node_is_tried() {
    let objects = [
        api_node("a"),
        class("late", "csi.example.com", "WaitForFirstConsumer"),
        claim("c", &json!({})),
        api_pod(&["c"]),
    ];
    let running = Running::start(&objects, |_| {});
    let selected = |api: &control::harness::Api| {
        let claim = api.get(PERSISTENT_VOLUME_CLAIMS, "default", "c").expect("the claim");
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"].as_str().map(str::to_owned)
    };
    running.until("a volume is asked for", |api| selected(api).as_deref() == Some("a")).await;
    running.api.put(api_node("b"));
    running.api.change_each(api::resources::NODES, |node| {
        node["spec"]["unschedulable"] = (node["metadata"]["name"] == "a").into();
        true
    });
    running.api.change_each(PERSISTENT_VOLUME_CLAIMS, |claim| {
        claim["metadata"]["annotations"] = json!({});
        true
    });
    running.until("another is asked for", |api| selected(api).as_deref() == Some("b")).await;
    let why = "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"c\"";
    assert!(has_event(&running.api, "FailedScheduling", why));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_claim_and_is_placed_when_it_comes() {
    let running = Running::start(&[api_node("a"), api_pod(&["c"])], |_| {});
    running.until("it is told", |api| condition(api, "p").is_some()).await;
    let message = condition(&running.api, "p").expect("the condition")["message"].clone();
    let expected = "0/1 nodes are available: persistentvolumeclaim \"c\" not found. preemption: 0/1 nodes are available: \
                    1 Preemption is not helpful for scheduling.";
    assert_eq!(message, expected);
    running.api.put(volume("v", None, &json!({})));
    running.api.put(claim("c", &bound("v")));
    running.until("the pod is bound", |api| node_of(api, "p").is_some()).await;
    running.end().await;
}
