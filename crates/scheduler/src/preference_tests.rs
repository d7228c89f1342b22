//! What only weighs: disruption budgets when pods are removed, companions and the wishes of pods that run; and how all of
//! it is explained.

use api::resources::{NODES, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, SERVICES};
use api::{Object, Resource};
use expect_test::{Expect, expect};
use serde_json::{Value, json};

use crate::cycle::{Turn, place};
use crate::explain::Cluster;
use crate::facts::FACTS;
use crate::image::Image;
use crate::pod::PodInfo;
use crate::preemption::preempt;
use crate::tests::node;

fn object(resource: &Resource, value: &Value) -> Object {
    Object::parse(resource, value.to_string().into_bytes().into()).unwrap()
}

/// A pod that asks for one CPU, changed by `over`: `labels`, `owner` (a ReplicaSet), and fields of its spec.
fn pod_object(name: &str, over: &Value) -> Object {
    let mut spec = over.clone();
    let (labels, owner) = {
        let spec = spec.as_object_mut().unwrap();
        (spec.remove("labels").unwrap_or_else(|| json!({})), spec.remove("owner"))
    };
    let created = spec.as_object_mut().unwrap().remove("created");
    spec["schedulerName"] = "default-scheduler".into();
    spec["containers"] = json!([{"resources": {"requests": {"cpu": "1"}}}]);
    let owners: Vec<_> = owner
        .into_iter()
        .map(|name| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "1",
        "controller": true})
        })
        .collect();
    object(
        PODS,
        &json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": labels,
        "ownerReferences": owners, "creationTimestamp": created}, "spec": spec}),
    )
}

fn pod(name: &str, over: &Value) -> PodInfo {
    PodInfo::read(&pod_object(name, over)).unwrap()
}

fn learn(image: &mut Image, resource: &Resource, value: &Value) {
    let fact = FACTS.iter().find(|fact| fact.resource == resource).unwrap();
    (fact.apply)(image, &object(resource, value)).unwrap();
}

fn budget(name: &str, selector: &Value, status: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": selector}, "status": status})
}

#[test]
fn spares_what_disruption_budgets_protect_where_it_can() {
    let app = |app: &str| json!({"matchLabels": {"app": app}});
    // On each of two full nodes there is one pod of priority 1 for each of four CPUs; `x` only on node a.
    let check = |budgets: &[Value], wanted: usize, expected: (&str, &[&str], usize)| {
        let mut image = Image::default();
        for name in ["a", "b"] {
            image.apply_node(node(name, &json!({})));
            for at in 0..4 {
                let label = if name == "a" && at < 2 { "x" } else { "y" };
                image.add_pod(&pod(&format!("{name}{at}"), &json!({"priority": 1, "labels": {"app": label}})), name);
            }
        }
        budgets.iter().for_each(|budget| learn(&mut image, POD_DISRUPTION_BUDGETS, budget));
        let mut new = json!({"priority": 5});
        new["resources"] = json!({"requests": {"cpu": wanted.to_string()}});
        let found = preempt(&image, &pod("new", &new), &Turn::new(1)).unwrap();
        let names: Vec<_> = found.victims.iter().map(|victim| victim.key.name.to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!((&*image.node(found.node).name, &*names, found.violations), expected, "{budgets:?}");
    };
    check(&[], 1, ("a", &["a3"], 0));
    check(&[budget("y", &app("y"), &json!({"disruptionsAllowed": 0}))], 1, ("a", &["a1"], 0));
    check(&[budget("y", &app("y"), &json!({"disruptionsAllowed": 1}))], 2, ("a", &["a1", "a2"], 0));
    let both = [
        budget("x", &app("x"), &json!({"disruptionsAllowed": 0})),
        budget("y", &app("y"), &json!({"disruptionsAllowed": 0})),
    ];
    check(&both, 1, ("a", &["a3"], 1));
    let b = json!({"b0": "t", "b1": "t", "b2": "t", "b3": "t"});
    let leaving = [both[0].clone(), budget("y", &app("y"), &json!({"disruptionsAllowed": 0, "disruptedPods": b}))];
    check(&leaving, 1, ("b", &["b3"], 0));
    check(&[budget("all", &json!({}), &json!({"disruptionsAllowed": 0}))], 1, ("a", &["a3"], 0));
}

#[test]
fn of_equal_pods_the_youngest_goes() {
    let mut image = Image::default();
    image.apply_node(node("a", &json!({})));
    for (name, second) in [("p", 4), ("q", 9), ("r", 1), ("s", 2)] {
        image.add_pod(&pod(name, &json!({"created": format!("2026-01-01T00:00:0{second}Z")})), "a");
    }
    let found = preempt(&image, &pod("new", &json!({"priority": 1})), &Turn::new(1)).unwrap();
    assert_eq!(&*found.victims[0].key.name, "q");
}

#[test]
fn spreads_companions_that_ask_for_nothing() {
    let hosts = |image: &mut Image| {
        for name in ["a", "b", "c"] {
            let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": if name == "c" { "z" } else { "y" }});
            // The largest is the emptiest whatever happens, so that without companions all pods would go there.
            let (cpu, memory) = if name == "a" { ("4000", "4000Gi") } else { ("40", "40Gi") };
            let allocatable = json!({"cpu": cpu, "memory": memory, "pods": "50"});
            image.apply_node(node(name, &json!({"labels": labels, "allocatable": allocatable})));
        }
    };
    let place_three = |image: &mut Image, over: &Value| {
        let mut nodes = Vec::new();
        for at in 0..3 {
            let pod = pod(&format!("p{at}"), over);
            let chosen = place(image, &pod, &mut Turn::new(1)).unwrap();
            image.assume(&pod, chosen);
            nodes.push(image.node(chosen).name.to_string());
        }
        nodes.sort();
        nodes.join(" ")
    };
    let labelled = json!({"labels": {"app": "x"}, "owner": "r"});
    let mut image = Image::default();
    hosts(&mut image);
    assert_eq!(place_three(&mut image, &labelled), "a a a", "nobody says that they belong together");
    let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "x"}}});
    let replica_set =
        json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "x"}}}});
    for (resource, companion) in [(SERVICES, service), (REPLICA_SETS, replica_set)] {
        let mut image = Image::default();
        hosts(&mut image);
        learn(&mut image, resource, &companion);
        assert_eq!(place_three(&mut image, &labelled), "a b c", "{companion}");
        let fact = FACTS.iter().find(|fact| fact.resource == resource).unwrap();
        (fact.remove)(&mut image, object(resource, &companion).key());
        assert_eq!(image.companions.of(&pod("p", &labelled)), None);
    }
}

#[test]
fn weighs_the_wishes_of_pods_that_run() {
    let term = json!({"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "x"}}});
    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let weighed = |kind: &str| json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": term}]}});
    for (affinity, expected) in [(near, "a"), (weighed("podAffinity"), "a"), (weighed("podAntiAffinity"), "b")] {
        let mut image = Image::default();
        // By room alone the pod would go to the other node.
        let cpu = |name: &str| if name == expected { "40" } else { "44" };
        for name in ["a", "b"] {
            image.apply_node(node(name, &json!({"labels": {"host": name}, "allocatable": {"cpu": cpu(name)}})));
        }
        let runs = pod("runs", &json!({"affinity": affinity, "labels": {"app": "y"}}));
        image.add_pod(&runs, "a");
        let chosen = place(&image, &pod("new", &json!({"labels": {"app": "x"}})), &mut Turn::new(1)).unwrap();
        assert_eq!(&*image.node(chosen).name, expected, "{affinity}");
        image.remove_pod(&runs.key);
        image.remove_node("a");
        image.remove_node("b");
        assert_eq!(image.leftovers(), 0);
    }
}

#[test]
fn explains_every_node() {
    let check = |over: &Value, expected: Expect| {
        let mut cluster = Cluster::default();
        for (name, spec, cpu) in [
            ("a", json!({}), "4"),
            ("b", json!({"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]}), "4"),
            ("c", json!({}), "1"),
        ] {
            let node = json!({"metadata": {"name": name}, "spec": spec,
                "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}}});
            cluster.add(NODES, &object(NODES, &node)).unwrap();
        }
        cluster.add(PODS, &pod_object("low", &json!({"nodeName": "c", "priority": -1}))).unwrap();
        let pod = pod_object("p", over);
        cluster.add(PODS, &pod).unwrap();
        let found = cluster.explain(&pod).unwrap();
        let mut text = format!("now on {:?}, gates {:?}\n", found.node, found.gates);
        for verdict in &found.verdicts {
            text += &format!("{} {:?} {:?}\n", verdict.node, verdict.refusals, verdict.scores);
        }
        expected.assert_eq(&(text + &format!("{:?}\n", found.preemption)));
    };
    check(
        &json!({"nodeName": "a"}),
        expect![[r#"
        now on Some("a"), gates []
        a [] {"NodeResourcesBalancedAllocation": 87, "NodeResourcesFit": 86}
        b [("NodeUnschedulable", ["node(s) were unschedulable"]), ("TaintToleration", ["node(s) had untolerated taint {k: }"])] {}
        c [("NodeResourcesFit", ["Insufficient cpu"])] {}
        None
    "#]],
    );
    check(
        &json!({"resources": {"requests": {"cpu": "9"}}, "schedulingGates": [{"name": "g"}]}),
        expect![[r#"
        now on None, gates ["g"]
        a [("NodeResourcesFit", ["Insufficient cpu"])] {}
        b [("NodeUnschedulable", ["node(s) were unschedulable"]), ("TaintToleration", ["node(s) had untolerated taint {k: }"]), ("NodeResourcesFit", ["Insufficient cpu"])] {}
        c [("NodeResourcesFit", ["Insufficient cpu"])] {}
        Some(Err("0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."))
    "#]],
    );
    check(
        &json!({"nodeSelector": {"x": "y"}}),
        expect![[r#"
        now on None, gates []
        a [("NodeAffinity", ["node(s) didn't match Pod's node affinity/selector"])] {}
        b [("NodeUnschedulable", ["node(s) were unschedulable"]), ("TaintToleration", ["node(s) had untolerated taint {k: }"]), ("NodeAffinity", ["node(s) didn't match Pod's node affinity/selector"])] {}
        c [("NodeAffinity", ["node(s) didn't match Pod's node affinity/selector"]), ("NodeResourcesFit", ["Insufficient cpu"])] {}
        Some(Err("0/3 nodes are available: 3 Preemption is not helpful for scheduling."))
    "#]],
    );
}
