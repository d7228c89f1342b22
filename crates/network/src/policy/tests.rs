//! Policies against the fake kernel, which is as strict as the real one about what exists and what is in use, and a judge of
//! a dozen lines that says from the objects alone what may pass.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::Key;
use linux::net::nft::{Change, Value};
use linux::net::{FakeNet, Net};
use proptest::prelude::*;
use serde_json::json;

use super::objects::{Labels, Peer, Pod, Policy, Port, Rule};
use super::plan::Planner;
use super::rules::{SETS, TABLE};
use crate::sandboxes::Sandbox;

const NODE: &str = "node-1";

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let mut labels: Labels = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    labels.sort();
    labels
}

fn pod(number: u8, node: &str, app: u8) -> Pod {
    Pod {
        uids: vec![format!("uid-{number}")],
        node: node.to_owned(),
        labels: labels(&[("app", &app.to_string())]),
        addresses: vec![Ipv4Addr::new(10, 42, 0, number)],
        ports: vec![("http".to_owned(), 6, 8000 + u16::from(app))],
        ..Pod::default()
    }
}

fn policy(spec: serde_json::Value) -> Policy {
    let mut object = json!({"metadata": {"name": "p", "namespace": "ns-0"}});
    object["spec"] = spec;
    Policy::read(&object).unwrap()
}

#[test]
fn policies_are_read_as_the_api_means_them() {
    let both = policy(json!({"podSelector": {}, "egress": [{}]}));
    assert_eq!(both.ingress, Some(vec![]), "nothing said of types: ingress always");
    assert_eq!(both.egress, Some(vec![Rule { peers: None, ports: None }]));
    assert_eq!(policy(json!({"podSelector": {}})).egress, None);
    let read = policy(json!({"podSelector": {"matchLabels": {"app": "1"}}, "policyTypes": ["Ingress"], "ingress": [{
        "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "fd00::/8"]}}, {"ipBlock": {"cidr": "fd00::/8"}},
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "2"}}}, {"podSelector": {}}],
        "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": "http"}]}]}));
    let rule = &read.ingress.unwrap()[0];
    let peers = rule.peers.as_ref().unwrap();
    assert_eq!(peers.len(), 3, "the block of the other family names nobody: {peers:?}");
    assert!(matches!(&peers[0], Peer::Block { except, .. } if except.len() == 1));
    let ports = [Port::Range(6, 80, 90), Port::All(17), Port::Named(132, "http".to_owned())];
    assert_eq!(rule.ports.as_ref().unwrap(), &ports);
    let nobody = policy(json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}]}));
    assert_eq!(nobody.ingress.unwrap()[0].peers, Some(vec![]), "nobody is not everybody");
}

/// What a step of the model test does.
#[derive(Debug, Clone)]
enum Step {
    Policy(u8, u8, Option<Policy>),
    Pod(u8, u8, Option<Pod>),
    Namespace(u8, Option<u8>),
    /// A pod's sandbox comes, with the uid that the pod has or another, or goes.
    Sandbox(u8, u8, Option<u8>),
    Settle,
}

fn any_selector() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!({})),
        (0u8..3).prop_map(|app| json!({"matchLabels": {"app": app.to_string()}})),
        (0u8..3).prop_map(
            |app| json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [app.to_string()]}]})
        ),
    ]
}

fn any_rules() -> impl Strategy<Value = serde_json::Value> {
    let peer = prop_oneof![
        any_selector().prop_map(|pods| json!({ "podSelector": pods })),
        any_selector().prop_map(|namespaces| json!({ "namespaceSelector": namespaces })),
        (any_selector(), any_selector())
            .prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        (0u8..4)
            .prop_map(|third| json!({"ipBlock": {"cidr": "10.42.0.0/16", "except": [format!("10.42.{third}.0/24")]}})),
    ];
    let port = prop_oneof![
        Just(json!({"port": "http"})),
        Just(json!({"port": 8000, "endPort": 8001})),
        Just(json!({"protocol": "UDP"})),
    ];
    let rule = (prop::collection::vec(peer, 0..3), prop::collection::vec(port, 0..3))
        .prop_map(|(peers, ports)| json!({"from": peers, "to": peers, "ports": ports}));
    prop::collection::vec(rule, 0..3).prop_map(Into::into)
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (any_selector(), any_rules(), any_rules(), 0u8..3).prop_map(|(pods, ingress, egress, types)| {
        let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])][usize::from(types)].clone();
        policy(json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}))
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let any_pod =
        (1u8..5, any::<bool>(), 0u8..3, any::<bool>(), any::<bool>()).prop_map(|(number, here, app, ended, host)| {
            let mut pod = pod(number, if here { NODE } else { "node-2" }, app);
            (pod.ended, pod.host_network) = (ended && host, host && !ended);
            if pod.ended || pod.host_network {
                pod.addresses.clear();
            }
            pod
        });
    prop_oneof![
        3 => (0u8..2, 0u8..3, prop::option::weighted(0.7, any_policy())).prop_map(|(namespace, number, policy)| Step::Policy(namespace, number, policy)),
        5 => (0u8..2, 1u8..5, prop::option::weighted(0.8, any_pod)).prop_map(|(namespace, number, pod)| Step::Pod(namespace, number, pod)),
        1 => (0u8..2, prop::option::weighted(0.8, 0u8..3)).prop_map(|(namespace, app)| Step::Namespace(namespace, app)),
        2 => (0u8..2, 1u8..5, prop::option::weighted(0.7, 1u8..5)).prop_map(|(namespace, pod, uid)| Step::Sandbox(namespace, pod, uid)),
        5 => Just(Step::Settle),
    ]
}

fn key(namespace: u8, name: u8) -> Key {
    Key::new(format!("ns-{namespace}"), format!("pod-{name}"))
}

fn sandbox(namespace: u8, pod: u8, uid: u8) -> Sandbox {
    Sandbox {
        id: format!("sandbox-{namespace}-{pod}"),
        pod_namespace: format!("ns-{namespace}"),
        pod_name: format!("pod-{pod}"),
        pod_uid: format!("uid-{uid}"),
        address: Ipv4Addr::new(10, 42, 0, pod + 10 * namespace),
        order: 0,
        ports: vec![],
    }
}

/// The last word of every object, to tell a planner that knows nothing.
#[derive(Default)]
struct World(BTreeMap<String, Step>);

impl World {
    fn remember(&mut self, step: &Step) {
        let what = match step {
            Step::Policy(namespace, number, _) => format!("policy {namespace} {number}"),
            Step::Pod(namespace, number, _) => format!("pod {namespace} {number}"),
            Step::Namespace(namespace, _) => format!("namespace {namespace}"),
            Step::Sandbox(namespace, pod, _) => format!("sandbox {namespace} {pod}"),
            Step::Settle => return,
        };
        self.0.insert(what, step.clone());
    }
}

fn tell(planner: &mut Planner, step: &Step) {
    match step {
        Step::Policy(namespace, number, policy) => planner.set_policy(&key(*namespace, *number), policy.clone()),
        Step::Pod(namespace, number, pod) => planner.set_pod(&key(*namespace, *number), pod.clone()),
        Step::Namespace(namespace, app) => {
            let labels = app.map(|app| labels(&[("app", &app.to_string())]));
            planner.set_namespace(&format!("ns-{namespace}").into(), labels);
        }
        Step::Sandbox(namespace, pod, Some(uid)) => planner.attach(sandbox(*namespace, *pod, *uid)),
        Step::Sandbox(namespace, pod, None) => planner.detach(&format!("sandbox-{namespace}-{pod}")),
        Step::Settle => {}
    }
}

async fn check(steps: Vec<Step>) {
    let (net, mut planner, mut world) = (FakeNet::new(), Planner::new(NODE), World::default());
    net.commit(TABLE, &planner.from_nothing()).await.unwrap();
    for step in steps.into_iter().chain([Step::Settle]) {
        world.remember(&step);
        tell(&mut planner, &step);
        if let Step::Settle = step {
            net.commit(TABLE, &planner.settle()).await.unwrap();
            assert!(planner.settle().is_empty(), "nothing changed, so nothing is written");
            let (fresh_net, mut fresh) = (FakeNet::new(), Planner::new(NODE));
            world.0.values().for_each(|step| tell(&mut fresh, step));
            fresh_net.commit(TABLE, &fresh.from_nothing()).await.unwrap();
            assert_eq!(net.state().tables, fresh_net.state().tables);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn policies_by_difference_equal_policies_from_nothing(steps in prop::collection::vec(any_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps));
    }
}

#[test]
fn a_pod_that_comes_or_goes_changes_elements_and_no_rules() {
    let mut planner = Planner::new(NODE);
    let spec = json!({"podSelector": {"matchLabels": {"app": "1"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "2"}}}]}]});
    planner.set_policy(&Key::new("ns-0", "p"), Some(policy(spec)));
    planner.set_pod(&key(0, 1), Some(pod(1, NODE, 1)));
    planner.from_nothing();
    for (name, pod) in [(2, Some(pod(2, "node-2", 2))), (3, Some(pod(3, NODE, 1))), (3, None), (2, None)] {
        planner.set_pod(&key(0, name), pod);
        let changes = planner.settle();
        let elements = |change: &Change| match change {
            Change::AddElements { elements, .. } => elements.len(),
            Change::RemoveElements { keys, .. } => keys.len(),
            other => panic!("{other:?}"),
        };
        let count: usize = changes.iter().map(elements).sum();
        assert!((1..=3).contains(&count), "{changes:?}");
    }
}

#[test]
fn a_sandbox_is_closed_until_its_pod_is_known() {
    let mut planner = Planner::new(NODE);
    let leads_to = |changes: &[Change]| -> Vec<String> {
        let values = changes.iter().filter_map(|change| match change {
            Change::AddElements { set, elements } if set.name == SETS[1].name => Some(elements.values()),
            _ => None,
        });
        values
            .flatten()
            .filter_map(|value| if let Value::Goto(chain) = value { Some(chain.clone()) } else { None })
            .collect()
    };
    planner.attach(sandbox(0, 1, 1));
    assert!(planner.settle().is_empty(), "without any policy nothing is closed");
    let only_others = json!({"podSelector": {"matchLabels": {"app": "9"}}});
    planner.set_policy(&Key::new("ns-0", "p"), Some(policy(only_others)));
    assert_eq!(leads_to(&planner.settle()), ["closed"]);
    // A former pod of the same name does not open it.
    planner.set_pod(&key(0, 1), Some(Pod { uids: vec!["former".to_owned()], ..pod(1, NODE, 1) }));
    assert_eq!(leads_to(&planner.settle()), Vec::<String>::new());
    planner.set_pod(&key(0, 1), Some(pod(1, NODE, 1)));
    let opened = planner.settle();
    assert!(opened.iter().all(|change| matches!(change, Change::RemoveElements { .. })), "{opened:?}");
    planner.set_policy(&Key::new("ns-0", "p"), Some(policy(json!({"podSelector": {}}))));
    let chains = leads_to(&planner.settle());
    assert!(chains.len() == 1 && chains[0].starts_with("pass-"), "{chains:?}");
}

#[tokio::test(start_paused = true)]
async fn the_gate_opens_when_the_kernel_has_the_policies() {
    use base::{Random, Stop, Tasks};
    use control::harness::Api;
    use control::{Client, Informers};

    let (api, net) = (Api::new(Random::from_seed(1)), FakeNet::new());
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    api.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "ns-0"}, "spec": spec}));
    api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns-0"}}));
    api.put(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod-1", "namespace": "ns-0", "uid": "uid-1"},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}}),
    );
    api.delay_watches(std::time::Duration::from_millis(50));
    let (tasks, stop) = (Tasks::new("policy"), Stop::new());
    let informers = Informers::new(Client::new(api.transport(), "timonier/test"), tasks.clone(), stop.clone());
    let config = super::Config { informers, net: Arc::new(net.clone()), node_name: NODE.to_owned(), attached: vec![] };
    let (gate, asks) = super::gate();
    let stopped = stop.clone();
    tasks.spawn("policy", async move { super::run(config, asks, stopped).await.unwrap() });
    let elements = || net.state().tables.get(TABLE).map_or(0, |table| table.sets["ingress-of"].1.len());
    gate.attach(sandbox(0, 1, 1)).await.unwrap();
    assert_eq!(elements(), 1, "under its policy before anybody can use the address");
    // Removed rules come back.
    net.with(|state| state.tables.clear());
    let back = async {
        while elements() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), back).await.expect("the rules come back");
    gate.detach("sandbox-0-1").await;
    gate.attach(sandbox(0, 2, 2)).await.unwrap();
    assert_eq!(elements(), 1, "the first is gone, the second closed: its pod is not known");
    stop.stop();
    tasks.join().await;
    assert!(gate.attach(sandbox(0, 3, 3)).await.is_err(), "nobody looks after policies: nobody gets in");
}
