//! Placement by tables, and what must hold whatever happens.

use std::collections::HashMap;

use api::Object;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cycle::{Turn, place};
use crate::image::{Image, What};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::pod::tests::pod;
use crate::preemption::preempt;

/// A node with 4 CPUs, 8 GiB and 10 pods, changed by `over`: `labels`, `taints`, `unschedulable`, `allocatable`, `images`.
pub(crate) fn node(name: &str, over: &Value) -> NodeInfo {
    let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
    machinery::patch::merge(&mut allocatable, &over.get("allocatable").cloned().unwrap_or_else(|| json!({})));
    let get = |field: &str| over.get(field).cloned();
    let object = json!({
        "metadata": {"name": name, "labels": get("labels").unwrap_or_else(|| json!({}))},
        "spec": {"taints": get("taints").unwrap_or_else(|| json!([])), "unschedulable": get("unschedulable") == Some(json!(true))},
        "status": {"allocatable": allocatable, "images": get("images").unwrap_or_else(|| json!([]))}});
    NodeInfo::read(&Object::parse(api::resources::NODES, object.to_string().into_bytes().into()).unwrap()).unwrap()
}

fn image(nodes: &[(&str, Value)]) -> Image {
    let mut image = Image::default();
    for (name, over) in nodes {
        image.apply_node(node(name, over));
    }
    image
}

/// The nodes where the pod may end up, or why it cannot go anywhere.
fn check(nodes: &[(&str, Value)], placed: &[(&str, Value)], spec: &Value, expected: &str) {
    let mut image = image(nodes);
    for (at, (node, spec)) in placed.iter().enumerate() {
        image.add_pod(&pod(&format!("placed-{at}"), spec), node);
    }
    let mut chosen = Vec::new();
    for seed in 1..30 {
        match place(&image, &pod("new", spec), &mut Turn::new(seed * 7919)) {
            Ok(index) => chosen.push(image.node(index).name.to_string()),
            Err(rejections) => return assert_eq!(rejections.to_string(), expected, "{spec}"),
        }
    }
    chosen.sort();
    chosen.dedup();
    assert_eq!(chosen.join(" "), expected, "{spec}");
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

#[test]
fn resources() {
    let two = [("a", json!({})), ("b", json!({}))];
    check(&two, &[], &asks("1", "1Gi"), "a b");
    check(&two, &[("a", asks("2", "2Gi"))], &asks("1", "1Gi"), "b");
    check(&two, &[("a", asks("1", "0"))], &asks("4", "1Gi"), "b");
    check(
        &two,
        &[("a", asks("1", "0"))],
        &asks("5", "9Gi"),
        "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory.",
    );
    check(
        &[("a", json!({})), ("b", json!({"allocatable": {"pods": "0"}}))],
        &[],
        &asks("5", "0"),
        "0/2 nodes are available: 1 Too many pods, 2 Insufficient cpu.",
    );
    let gpu = json!({"containers": [{"resources": {"requests": {"a.io/gpu": "2"}}}]});
    let with_gpu = [("a", json!({})), ("g", json!({"allocatable": {"a.io/gpu": "3"}}))];
    check(&with_gpu, &[], &gpu, "g");
    check(&with_gpu, &[("g", gpu.clone())], &gpu, "0/2 nodes are available: 2 Insufficient a.io/gpu.");
    check(&[], &[], &gpu, "no nodes available to schedule pods");
}

#[test]
fn taints_and_cordons() {
    let taint = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
    let nodes = [("a", taint("NoSchedule")), ("b", taint("NoExecute")), ("c", json!({"unschedulable": true}))];
    let none = "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had untolerated taint {k: v}.";
    check(&nodes, &[], &json!({"containers": []}), none);
    let tolerates = |toleration: Value| json!({"containers": [], "tolerations": [toleration]});
    check(&nodes, &[], &tolerates(json!({"key": "k", "value": "v", "effect": "NoSchedule"})), "a");
    check(&nodes, &[], &tolerates(json!({"key": "k", "operator": "Exists"})), "a b");
    check(&nodes, &[], &tolerates(json!({"key": "k", "value": "w"})), none);
    check(&nodes, &[], &tolerates(json!({"operator": "Exists"})), "a b c");
    let soft = [("a", taint("PreferNoSchedule")), ("b", json!({}))];
    check(&soft, &[], &json!({"containers": []}), "b");
    check(&soft, &[("b", asks("4", "8Gi"))], &asks("1", "1"), "a");
}

#[test]
fn affinity_and_selectors() {
    let zone = |zone: &str, size: &str| json!({"labels": {"zone": zone, "size": size}});
    let nodes = [("a", zone("x", "1")), ("b", zone("y", "5")), ("c", json!({}))];
    let none = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    check(&nodes, &[], &json!({"containers": [], "nodeSelector": {"zone": "y"}}), "b");
    check(&nodes, &[], &json!({"containers": [], "nodeSelector": {"zone": "unheard-of"}}), none);
    let required = |terms: Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        json!({"containers": [], "affinity": {"nodeAffinity": required}})
    };
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (terms, expected) in [
        (json!([expression("zone", "In", json!(["x", "q"]))]), "a"),
        (json!([expression("zone", "NotIn", json!(["x"]))]), "b c"),
        (json!([expression("zone", "Exists", json!([]))]), "a b"),
        (json!([expression("zone", "DoesNotExist", json!([]))]), "c"),
        (json!([expression("size", "Gt", json!(["3"]))]), "b"),
        (json!([expression("size", "Lt", json!(["3"]))]), "a"),
        (json!([expression("zone", "In", json!(["x"])), expression("zone", "In", json!(["y"]))]), "a b"),
        (json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c", "z"]}]}]), "c"),
        (json!([{}]), none),
    ] {
        check(&nodes, &[], &required(terms), expected);
    }
    let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": expression("zone", "In", json!(["x"]))},
        {"weight": 30, "preference": expression("zone", "In", json!(["y"]))}]});
    check(&nodes, &[], &json!({"containers": [], "affinity": {"nodeAffinity": preferred}}), "b");
}

fn labelled(name: &str, app: &str, spec: &Value) -> PodInfo {
    let object =
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}}, "spec": spec});
    PodInfo::read(&Object::parse(api::resources::PODS, object.to_string().into_bytes().into()).unwrap()).unwrap()
}

/// Three nodes in two zones; the pods that are there by node and app, the new one's app and spec, and where it can go.
fn check_near(placed: &[(&str, &str, &Value)], app: &str, spec: &Value, expected: &str) {
    let zone = |zone: &str| json!({"labels": {"zone": zone}});
    let mut image = image(&[("a1", zone("a")), ("a2", zone("a")), ("b1", zone("b")), ("none", json!({}))]);
    for (at, (node, app, spec)) in placed.iter().enumerate() {
        image.add_pod(&labelled(&format!("placed-{at}"), app, spec), node);
    }
    let new = labelled("new", app, spec);
    let cycle = crate::cycle::Cycle::new(&image, &new);
    let mut fits: Vec<&str> = image
        .order()
        .iter()
        .map(|index| image.node(*index))
        .filter(|node| cycle.fits(node))
        .map(|node| &*node.name)
        .collect();
    fits.sort_unstable();
    let text = match place(&image, &new, &mut Turn::new(1)) {
        Ok(_) => fits.join(" "),
        Err(rejections) => rejections.to_string(),
    };
    assert_eq!(text, expected, "{spec}");
}

#[test]
fn affinity_to_other_pods() {
    let plain = json!({"containers": []});
    let terms = |kind: &str, app: &str| {
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}});
        json!({"containers": [], "affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    };
    let near = |app: &str| terms("podAffinity", app);
    let far = |app: &str| terms("podAntiAffinity", app);
    check_near(&[("a1", "db", &plain)], "web", &near("db"), "a1 a2");
    check_near(
        &[],
        "web",
        &near("db"),
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules. ".trim_end(),
    );
    check_near(&[], "web", &near("web"), "a1 a2 b1");
    check_near(&[("a1", "db", &plain)], "web", &far("db"), "b1 none");
    check_near(&[("b1", "web", &far("db"))], "db", &plain, "a1 a2 none");
    check_near(&[("b1", "db", &plain), ("a1", "web", &far("web"))], "web", &far("db"), "none");
    let mut elsewhere = near("db");
    elsewhere["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["namespaces"] =
        json!(["other"]);
    check_near(
        &[("a1", "db", &plain)],
        "web",
        &elsewhere,
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules.",
    );
}

#[test]
fn preferences_for_other_pods() {
    let plain = json!({"containers": []});
    let mut image = image(&[("a", json!({"labels": {"zone": "a"}})), ("b", json!({"labels": {"zone": "b"}}))]);
    image.add_pod(&labelled("db", "db", &plain), "a");
    for (kind, expected) in [("podAffinity", "a"), ("podAntiAffinity", "b")] {
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}});
        let preferred = json!([{"weight": 100, "podAffinityTerm": term}]);
        let spec = json!({"containers": [], "affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}});
        let chosen = place(&image, &labelled("new", "web", &spec), &mut Turn::new(1)).unwrap();
        assert_eq!(&*image.node(chosen).name, expected);
    }
}

#[test]
fn spread_over_zones() {
    let plain = json!({"containers": []});
    let spread = |skew: i64, min_domains: i64| {
        json!({"containers": [], "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": skew,
            "minDomains": min_domains, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]})
    };
    let (one, two) = ([("a1", "web", &plain)], [("a1", "web", &plain), ("a2", "web", &plain)]);
    check_near(&[], "web", &spread(1, 1), "a1 a2 b1");
    check_near(&one, "web", &spread(1, 1), "b1");
    check_near(&one, "web", &spread(2, 1), "a1 a2 b1");
    check_near(&two, "web", &spread(2, 1), "b1");
    check_near(&one, "other", &spread(1, 1), "a1 a2 b1");
    check_near(&[("a1", "other", &plain)], "web", &spread(1, 1), "a1 a2 b1");
    let both = [("a1", "web", &plain), ("b1", "web", &plain)];
    check_near(
        &both,
        "web",
        &spread(1, 3),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), 3 \
         node(s) didn't match pod topology spread constraints.",
    );
}

#[test]
fn ports_and_images() {
    let port = |ip: &str, protocol: &str| json!({"containers": [{"ports": [{"hostPort": 80, "hostIP": ip, "protocol": protocol}]}]});
    let one = [("a", json!({}))];
    let none = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    check(&one, &[("a", port("", "TCP"))], &port("10.0.0.1", "TCP"), none);
    check(&one, &[("a", port("10.0.0.2", "TCP"))], &port("10.0.0.1", "TCP"), "a");
    check(&one, &[("a", port("", "UDP"))], &port("", "TCP"), "a");
    let big = json!({"images": [{"names": ["img:latest"], "sizeBytes": 900 << 20}]});
    check(&[("a", json!({})), ("b", big)], &[], &json!({"containers": [{"image": "img"}]}), "b");
}

#[test]
fn a_removed_node_takes_no_pod_and_comes_back_with_those_that_stayed() {
    let mut image = image(&[("a", json!({}))]);
    image.add_pod(&pod("p", &asks("3", "1Gi")), "a");
    image.remove_node("a");
    assert!(place(&image, &pod("new", &asks("1", "0")), &mut Turn::new(1)).is_err());
    let (_, what) = image.apply_node(node("a", &json!({})));
    assert_eq!(what, What::ALL);
    assert!(place(&image, &pod("new", &asks("2", "0")), &mut Turn::new(1)).is_err(), "p is still counted");
    image.remove_pod(&pod("p", &asks("3", "1Gi")).key);
    assert!(place(&image, &pod("new", &asks("2", "0")), &mut Turn::new(1)).is_ok());
}

#[test]
fn forgets_what_is_gone() {
    let over = json!({"labels": {"zone": "z"}, "taints": [{"key": "k", "effect": "PreferNoSchedule"}],
        "images": [{"names": ["i:1", "i:1"], "sizeBytes": 1}], "allocatable": {"a.io/gpu": "1"}});
    let mut image = image(&[("a", over)]);
    let anti =
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {}}]});
    let spec = json!({"containers": [{"resources": {"requests": {"a.io/gpu": "1", "a.io/other": "1"}}}],
        "affinity": {"podAntiAffinity": anti}});
    let (one, two) = (labelled("one", "x", &spec), labelled("two", "x", &spec));
    image.add_pod(&one, "a");
    image.add_pod(&two, "elsewhere");
    assert!(image.confirm(&one.key, &one.uid, "a", true), "it is being deleted now");
    image.nominate(&labelled("three", "x", &spec), image.find("a").unwrap());
    image.add_pod(&one, "elsewhere");
    image.remove_node("a");
    image.remove_pod(&one.key);
    image.remove_pod(&two.key);
    image.withdraw(&labelled("three", "x", &spec).key);
    assert_eq!(image.leftovers(), 0);
}

#[test]
fn says_what_of_a_node_changed() {
    let mut image = image(&[("a", json!({"labels": {"x": "1"}}))]);
    let mut apply = |over: Value| image.apply_node(node("a", &over)).1;
    assert_eq!(apply(json!({"labels": {"x": "1"}})), What::NOTHING);
    assert_eq!(apply(json!({"labels": {"x": "2"}, "allocatable": {"cpu": "3"}})), What::LABELS, "less makes no room");
    assert_eq!(apply(json!({"labels": {"x": "2"}})), What::RESOURCES);
    assert_eq!(apply(json!({"labels": {"x": "2"}, "unschedulable": true})), What::NOTHING);
    assert_eq!(apply(json!({"labels": {"x": "2"}})), What::TAINTS);
}

#[test]
fn removes_as_few_and_as_unimportant_pods_as_it_can() {
    let bound = |cpu: &str, priority: i32| json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]});
    let check = |placed: &[(&str, &str, Value)], wanted: Value, expected: Result<&[&str], &str>| {
        let mut image = image(&[("a", json!({})), ("b", json!({}))]);
        for (name, node, spec) in placed {
            image.add_pod(&pod(name, spec), node);
        }
        let found = preempt(&image, &pod("new", &wanted), &Turn::new(1));
        let names =
            found.map(|found| found.victims.iter().map(|victim| victim.key.name.to_string()).collect::<Vec<_>>());
        assert_eq!(
            names,
            expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect()).map_err(str::to_owned)
        );
    };
    let full = [("a1", "a", bound("4", 3)), ("b1", "b", bound("2", 1)), ("b2", "b", bound("2", 2))];
    check(&full, bound("2", 5), Ok(&["b1"]));
    check(&full, bound("4", 5), Ok(&["b2", "b1"]));
    check(&full, bound("2", 1), Err("0/2 nodes are available: 2 No preemption victims found for incoming pod."));
    check(&full, bound("5", 5), Err("0/2 nodes are available: 2 Insufficient cpu."));
    let mut elsewhere = bound("2", 5);
    elsewhere["nodeSelector"] = json!({"x": "y"});
    check(&full, elsewhere, Err("0/2 nodes are available: 2 Preemption is not helpful for scheduling."));
    let mut never = bound("2", 5);
    never["preemptionPolicy"] = json!("Never");
    check(&full, never, Err("not eligible due to preemptionPolicy=Never."));
}

#[test]
fn leaves_promised_room_to_the_pod_that_it_was_promised_to() {
    let mut image = image(&[("a", json!({}))]);
    let asks = |priority: i32| json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": "3"}}}]});
    let promised = pod("promised", &asks(5));
    image.nominate(&promised, image.find("a").unwrap());
    let fits = |image: &Image, pod: &PodInfo| place(image, pod, &mut Turn::new(1)).is_ok();
    assert!(fits(&image, &promised) && fits(&image, &pod("higher", &asks(6))));
    assert!(!fits(&image, &pod("equal", &asks(5))) && !fits(&image, &pod("lower", &asks(1))));
    image.withdraw(&promised.key);
    assert!(fits(&image, &pod("lower", &asks(1))));
}

#[derive(Debug, Clone)]
enum Step {
    Node { name: u8, cpu: i64, pods: i64, gpus: i64 },
    RemoveNode(u8),
    Place { name: u8, cpu: i64, gpus: i64 },
    RemovePod(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4_u8, 0..6_i64, 0..5_i64, 0..3_i64).prop_map(|(name, cpu, pods, gpus)| Step::Node { name, cpu, pods, gpus }),
        1 => (0..4_u8).prop_map(Step::RemoveNode),
        6 => (0..12_u8, 0..4_i64, 0..3_i64).prop_map(|(name, cpu, gpus)| Step::Place { name, cpu, gpus }),
        2 => (0..12_u8).prop_map(Step::RemovePod),
    ]
}

proptest! {
    /// A model that adds up anew after each step: placement never gives what a node has not, and the image never miscounts.
    #[test]
    fn never_over_commits_a_node(steps in prop::collection::vec(step(), 0..60), seed: u64) {
        let (mut image, mut turn) = (Image::default(), Turn::new(seed));
        let mut nodes: HashMap<String, [i64; 3]> = HashMap::new();
        let mut pods: HashMap<u8, (PodInfo, String, [i64; 3])> = HashMap::new();
        let used = |pods: &HashMap<u8, (PodInfo, String, [i64; 3])>, node: &str| {
            let here = pods.values().filter(|pod| pod.1 == node);
            here.fold([0; 3], |sum: [i64; 3], pod| std::array::from_fn(|at| sum[at] + pod.2[at]))
        };
        for step in steps {
            match step {
                Step::Node { name, cpu, pods, gpus } => {
                    let name = format!("n{name}");
                    let allocatable = json!({"cpu": cpu.to_string(), "pods": pods.to_string(), "a.io/gpu": gpus.to_string()});
                    image.apply_node(node(&name, &json!({"allocatable": allocatable})));
                    nodes.insert(name, [cpu, gpus, pods]);
                }
                Step::RemoveNode(name) => {
                    image.remove_node(&format!("n{name}"));
                    nodes.remove(&format!("n{name}"));
                }
                Step::Place { name, cpu, gpus } => {
                    if pods.contains_key(&name) {
                        continue;
                    }
                    let asks = [cpu, gpus, 1];
                    let requests = json!({"cpu": cpu.to_string(), "a.io/gpu": gpus.to_string()});
                    let new = pod(&format!("p{name}"), &json!({"containers": [{"resources": {"requests": requests}}]}));
                    let fits = |node: &str, has: &[i64; 3]| {
                        let used = used(&pods, node);
                        (0..3).all(|at| asks[at] == 0 || used[at] + asks[at] <= has[at])
                    };
                    match place(&image, &new, &mut turn) {
                        Ok(index) => {
                            let chosen = image.node(index).name.to_string();
                            prop_assert!(nodes.get(&chosen).is_some_and(|has| fits(&chosen, has)), "{} on {}", name, chosen);
                            image.assume(&new, index);
                            pods.insert(name, (new, chosen, asks));
                        }
                        Err(_) => prop_assert!(!nodes.iter().any(|(node, has)| fits(node, has)), "p{} fits somewhere", name),
                    }
                }
                Step::RemovePod(name) => {
                    let key = pod(&format!("p{name}"), &json!({})).key;
                    prop_assert_eq!(image.remove_pod(&key).is_some(), pods.remove(&name).is_some());
                }
            }
            prop_assert_eq!(image.pods_len(), pods.len());
            for name in nodes.keys() {
                let counted = image.node(image.find(name).unwrap()).requested;
                let expected = used(&pods, name);
                prop_assert_eq!([counted.milli_cpu / 1000, counted.pods], [expected[0], expected[2]]);
            }
        }
        // In whatever order things go, nothing stays behind.
        nodes.keys().for_each(|name| image.remove_node(name));
        for (pod, _, _) in pods.values() {
            prop_assert!(image.remove_pod(&pod.key).is_some());
        }
        prop_assert_eq!(image.leftovers(), 0);
    }
}
