//! From policies, pods and namespaces to chains and elements, by the difference. Pure.
//!
//! What changed is marked; [`Planner::settle`] looks only at that: a pod that came, went or changed concerns its own
//! elements, a namespace's labels those of its pods, a policy the pods of this node in its namespace. Where that brings or
//! takes a pair of selectors that rules ask for, all pods are looked at once. Which policies hold is a function of the
//! objects alone: what was done by differences is what would be done from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::Key;
use linux::net::nft::{Change, Elements, Value};

use super::objects::{Labels, Peer, PeerPods, Pod, Policy, Rule};
use super::rules::{self, CLOSED, Chain, Direction, End, Id, Ports, SETS, element};
use crate::difference::{self, Difference};
use crate::sandboxes::Sandbox;

type ElementKey = difference::Key;

/// What is known of the cluster, and what follows from it for this node.
#[derive(Debug, Default)]
pub struct Planner {
    node: String,
    policies: BTreeMap<Key, Policy>,
    pods: BTreeMap<Key, Pod>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    /// Which pods say that they have an address.
    said: BTreeMap<Ipv4Addr, BTreeSet<Key>>,
    /// This node's sandboxes, and by their addresses whose those are.
    attached: BTreeMap<Key, Vec<Sandbox>>,
    held: BTreeMap<Ipv4Addr, Key>,

    /// The pods whose elements are to be computed again.
    dirty: BTreeSet<Key>,
    /// Whose turn it is where all of them are.
    all_dirty: bool,

    /// The chains in use, and by how many pods.
    chains: BTreeMap<String, (Chain, usize)>,
    /// The chains of each pod of this node.
    chains_of: BTreeMap<Key, [Option<String>; 2]>,
    /// The selectors and port names that rules of these chains ask for.
    peers: BTreeMap<Id, PeerPods>,
    names: BTreeSet<Id>,
    /// What each pod wants to have in the sets.
    wants: BTreeMap<Key, BTreeMap<ElementKey, Value>>,
    /// Who wants each element. Two pods may seem to have one address for a moment: the first by name gets it.
    claims: BTreeMap<ElementKey, BTreeMap<Key, Value>>,
    /// Elements since the last change was given out: before and after.
    difference: Difference,
    /// Chains since then: as they were before.
    touched: BTreeMap<String, bool>,
}

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

impl Planner {
    /// Knows nothing yet.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// Whether there is any policy.
    pub fn has_policies(&self) -> bool {
        !self.policies.is_empty()
    }

    /// A policy as it is now; `None` where it is gone.
    pub fn set_policy(&mut self, key: &Key, policy: Option<Policy>) {
        let was_without = self.policies.is_empty();
        let changed = match policy {
            Some(policy) => self.policies.insert(key.clone(), policy.clone()) != Some(policy),
            None => self.policies.remove(key).is_some(),
        };
        if changed {
            self.mark_namespace(&key.namespace);
            // Whether pods that are not known yet are shut off depends on whether there are policies.
            if was_without || self.policies.is_empty() {
                self.dirty.extend(self.attached.keys().cloned());
            }
        }
    }

    /// A pod as it is now; `None` where it is gone.
    pub fn set_pod(&mut self, key: &Key, pod: Option<Pod>) {
        let former = self.pods.remove(key);
        if former == pod {
            self.pods.extend(pod.map(|pod| (key.clone(), pod)));
            return;
        }
        for address in former.iter().flat_map(|pod| &pod.addresses) {
            if let Some(pods) = self.said.get_mut(address) {
                pods.remove(key);
                if pods.is_empty() {
                    self.said.remove(address);
                }
            }
        }
        for address in pod.iter().flat_map(|pod| &pod.addresses) {
            self.said.entry(*address).or_default().insert(key.clone());
        }
        self.pods.extend(pod.map(|pod| (key.clone(), pod)));
        self.dirty.insert(key.clone());
    }

    /// A namespace's labels; `None` where it is gone.
    pub fn set_namespace(&mut self, name: &Arc<str>, labels: Option<Labels>) {
        let changed = match labels {
            Some(labels) => self.namespaces.insert(name.clone(), labels.clone()) != Some(labels),
            None => self.namespaces.remove(name).is_some(),
        };
        if changed {
            self.mark_namespace(name);
        }
    }

    /// A sandbox of this node is about to have its address.
    pub fn attach(&mut self, sandbox: Sandbox) {
        let key = Key::new(sandbox.pod_namespace.as_str(), sandbox.pod_name.as_str());
        self.dirty.extend(self.held.insert(sandbox.address, key.clone()));
        // Whoever else still says that it has this address has it no more.
        self.dirty.extend(self.said.get(&sandbox.address).into_iter().flatten().cloned());
        let sandboxes = self.attached.entry(key.clone()).or_default();
        sandboxes.retain(|other| other.id != sandbox.id);
        sandboxes.push(sandbox);
        self.dirty.insert(key);
    }

    /// A sandbox has its address no more.
    pub fn detach(&mut self, id: &str) {
        let of_pod = self.attached.iter().find(|(_, sandboxes)| sandboxes.iter().any(|sandbox| sandbox.id == id));
        let Some(key) = of_pod.map(|(key, _)| key.clone()) else { return };
        if let Some(sandboxes) = self.attached.get_mut(&key) {
            for gone in sandboxes.extract_if(.., |sandbox| sandbox.id == id) {
                if self.held.get(&gone.address) == Some(&key) {
                    self.held.remove(&gone.address);
                    self.dirty.extend(self.said.get(&gone.address).into_iter().flatten().cloned());
                }
            }
            if sandboxes.is_empty() {
                self.attached.remove(&key);
            }
        }
        self.dirty.insert(key);
    }

    fn mark_namespace(&mut self, namespace: &Arc<str>) {
        let first = Key::new(namespace.clone(), "");
        let inside = |(key, _): &(&Key, &Pod)| key.namespace == *namespace;
        self.dirty.extend(self.pods.range(first..).take_while(inside).map(|(key, _)| key.clone()));
        self.dirty.extend(self.attached.keys().filter(|key| key.namespace == *namespace).cloned());
    }

    /// The changes from what was given out last to what should hold, for one transaction.
    pub fn settle(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        for key in &dirty {
            self.choose_chains(key);
        }
        if self.ask_again() {
            self.all_dirty = true;
        }
        let concerned: Vec<Key> = match std::mem::take(&mut self.all_dirty) {
            true => dirty.iter().chain(self.pods.keys()).chain(self.attached.keys()).cloned().collect(),
            false => dirty.into_iter().collect(),
        };
        for key in concerned {
            self.claim(&key);
        }
        let (mut changes, mut obsolete) = (Vec::new(), Vec::new());
        for (name, was_there) in std::mem::take(&mut self.touched) {
            match (was_there, self.chains.get(&name)) {
                (false, Some((chain, _))) => changes.extend(chain.create()),
                (true, None) => obsolete.push(Change::RemoveChain(name)),
                _ => {}
            }
        }
        changes.extend(difference::changes(std::mem::take(&mut self.difference), &SETS));
        changes.extend(obsolete);
        changes
    }

    /// The changes from whatever is there to what should hold, for one transaction.
    pub fn from_nothing(&mut self) -> Vec<Change> {
        self.settle();
        let mut changes = rules::create();
        changes.extend(self.chains.values().flat_map(|(chain, _)| chain.create()));
        let mut sets: BTreeMap<usize, Elements> = BTreeMap::new();
        for ((set, key), claims) in &self.claims {
            let value = claims.values().next().expect("a claim that nobody has is taken out");
            sets.entry(*set).or_default().insert(key.clone(), value.clone());
        }
        let add = |(set, elements): (usize, _)| Change::AddElements { set: SETS[set].clone(), elements };
        changes.extend(sets.into_iter().map(add));
        changes
    }

    /// Gives a pod of this node the chains of the policies that select it.
    fn choose_chains(&mut self, key: &Key) {
        let pod = self.pods.get(key).filter(|pod| self.is_here(key, pod));
        let chains = pod.map(|pod| DIRECTIONS.map(|direction| self.chain(key, pod, direction))).unwrap_or_default();
        let names = chains.each_ref().map(|chain| chain.as_ref().map(Chain::name));
        let former = self.chains_of.get(key).cloned().unwrap_or_default();
        if names == former {
            return;
        }
        for (name, chain) in names.iter().zip(chains).filter_map(|(name, chain)| Some((name.clone()?, chain?))) {
            self.touched.entry(name.clone()).or_insert(self.chains.contains_key(&name));
            self.chains.entry(name).or_insert((chain, 0)).1 += 1;
        }
        for name in former.into_iter().flatten() {
            self.touched.entry(name.clone()).or_insert(true);
            let (_, users) = self.chains.get_mut(&name).expect("a pod's chain is in use");
            *users -= 1;
            if *users == 0 {
                self.chains.remove(&name);
            }
        }
        if names.iter().all(Option::is_none) {
            self.chains_of.remove(key);
        } else {
            self.chains_of.insert(key.clone(), names);
        }
    }

    fn is_here(&self, key: &Key, pod: &Pod) -> bool {
        !pod.host_network && (pod.node == self.node || self.attached.contains_key(key))
    }

    /// What may pass; `None` where everything may, since no policy says anything.
    fn chain(&self, key: &Key, pod: &Pod, direction: Direction) -> Option<Chain> {
        let rules_of = |policy: &'_ Policy| -> Option<Vec<Rule>> {
            match direction {
                Direction::Ingress => policy.ingress.clone(),
                Direction::Egress => policy.egress.clone(),
            }
        };
        let first = Key::new(key.namespace.clone(), "");
        let policies = self.policies.range(first..).take_while(|(policy, _)| policy.namespace == key.namespace);
        let selecting = policies.filter(|(_, policy)| policy.selects.matches_pairs(&pod.labels));
        let rules: Vec<Vec<Rule>> = selecting.filter_map(|(_, policy)| rules_of(policy)).collect();
        (!rules.is_empty()).then(|| Chain::of(direction, rules.iter().flatten()))
    }

    /// Finds out which selectors and names the chains ask for; tells whether others than before.
    fn ask_again(&mut self) -> bool {
        if self.touched.is_empty() {
            return false;
        }
        let passes = || self.chains.values().flat_map(|(chain, _)| &chain.passes);
        let peers: BTreeSet<Id> =
            passes().filter_map(|(end, _)| if let End::Peers(id) = end { Some(*id) } else { None }).collect();
        let names: BTreeSet<Id> =
            passes().filter_map(|(_, ports)| if let Ports::Named(_, id) = ports { Some(*id) } else { None }).collect();
        if peers.iter().eq(self.peers.keys()) && names == self.names {
            return false;
        }
        let rules = self.policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress)).flatten();
        let all = rules.flat_map(|rule| rule.peers.iter().flatten());
        let pods = all.filter_map(|peer| if let Peer::Pods(pods) = peer { Some(pods) } else { None });
        self.peers = pods
            .map(|pods| (Id::of_peers(pods), pods))
            .filter(|(id, _)| peers.contains(id))
            .map(|(id, pods)| (id, pods.clone()))
            .collect();
        self.names = names;
        true
    }

    /// Brings a pod's elements up to date.
    fn claim(&mut self, key: &Key) {
        let wants = self.wanted(key);
        let before = self.wants.remove(key).unwrap_or_default();
        for (element, change) in difference::of_one(&before, &wants) {
            let claims = self.claims.entry(element.clone()).or_default();
            let was = claims.values().next().cloned();
            match change {
                Some(value) => drop(claims.insert(key.clone(), value)),
                None => drop(claims.remove(key)),
            }
            let is = claims.values().next().cloned();
            if claims.is_empty() {
                self.claims.remove(&element);
            }
            self.difference.entry(element).or_insert((was, None)).1 = is;
        }
        if !wants.is_empty() {
            self.wants.insert(key.clone(), wants);
        }
    }

    fn wanted(&self, key: &Key) -> BTreeMap<ElementKey, Value> {
        let mut wants = BTreeMap::new();
        let pod = self.pods.get(key);
        let is_of = |sandbox: &&Sandbox| pod.is_some_and(|pod| pod.uids.contains(&sandbox.pod_uid));
        let sandboxes = self.attached.get(key).map(Vec::as_slice).unwrap_or_default();
        if self.has_policies() {
            for sandbox in sandboxes.iter().filter(|sandbox| !is_of(sandbox)) {
                let closed = |direction| (element::pod(direction, sandbox.address), Value::Goto(CLOSED.to_owned()));
                wants.extend(DIRECTIONS.map(closed));
            }
        }
        let Some(pod) = pod.filter(|pod| !pod.host_network) else { return wants };
        let mut addresses: Vec<Ipv4Addr> = sandboxes.iter().filter(is_of).map(|sandbox| sandbox.address).collect();
        if addresses.is_empty() {
            addresses.extend(pod.addresses.iter().filter(|address| !self.held.contains_key(*address)));
        }
        for address in addresses {
            self.want_at(key, pod, address, &mut wants);
        }
        wants
    }

    /// What a pod wants for one of its addresses.
    fn want_at(&self, key: &Key, pod: &Pod, address: Ipv4Addr, wants: &mut BTreeMap<ElementKey, Value>) {
        if let Some(chains) = self.chains_of.get(key) {
            for (direction, chain) in DIRECTIONS.iter().zip(chains) {
                if let Some(chain) = chain {
                    wants.insert(element::pod(*direction, address), Value::Goto(chain.clone()));
                }
            }
            wants.insert(element::itself(address), Value::Nothing);
        }
        // What has ended talks to nobody, and its address may be another's soon.
        if pod.ended {
            return;
        }
        let labels = self.namespaces.get(&key.namespace);
        let as_peer = self.peers.iter().filter(|(_, peers)| peers.matches(pod, &key.namespace, labels));
        wants.extend(as_peer.map(|(id, _)| (element::peer(*id, address), Value::Nothing)));
        for (name, protocol, port) in &pod.ports {
            let id = Id::of_name(name);
            if self.names.contains(&id) {
                wants.insert(element::named(id, address, *protocol, *port), Value::Nothing);
            }
        }
    }
}
