//! The cluster as placement needs it: nodes in an array with integer resources and interned labels, and what the pods on
//! them hold.
//!
//! It is changed by events and never rebuilt. Each pod is counted on exactly one node, from the moment it is placed (assumed)
//! until it is gone or has ended; what it added is what is taken away, since the image keeps the pod as it was counted. A pod
//! may arrive before its node: the node's slot is then held without being a place to go. Slots are used again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::Key;

use crate::budgets::Budgets;
use crate::companions::Companions;
use crate::intern::{Interner, Symbol};
use crate::node::NodeInfo;
use crate::pod::{AffinityTerm, HostPort, Needs, PodInfo, PodTerms};
use crate::volumes::Storage;

/// A label's key and value.
pub type Label = (Box<str>, Box<str>);

/// Pods of a namespace that have the same labels, by node.
#[derive(Debug, Default)]
pub struct Crowd {
    nodes: HashMap<NodeIndex, Number>,
}

/// How many pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Number {
    /// All of them.
    pub pods: usize,
    /// Those of them that are being deleted.
    pub deleting: usize,
}

impl Crowd {
    /// On which nodes how many are.
    pub fn nodes<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = (&'a Node, Number)> {
        self.nodes.iter().map(|(index, number)| (image.node(*index), *number))
    }

    /// How many are on one node.
    pub fn on(&self, node: NodeIndex) -> Number {
        self.nodes.get(&node).copied().unwrap_or_default()
    }
}

/// A term by which pods keep others away, or draw them near.
struct Keeper {
    term: AffinityTerm,
    nodes: HashMap<NodeIndex, usize>,
}

/// What a required affinity term of a pod that runs weighs for pods that it is about: upstream's default.
const REQUIRED_WEIGHT: i64 = 1;

/// A node's place in the image. Used again once the node and its pods are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(u32);

/// What of a node changed, for queueing hints: a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct What(u8);

impl What {
    /// Nothing that matters.
    pub const NOTHING: What = What(0);
    /// There is more of some resource.
    pub const RESOURCES: What = What(1);
    /// Host ports became free.
    pub const PORTS: What = What(2);
    /// Labels.
    pub const LABELS: What = What(4);
    /// Taints, or whether pods may be scheduled at all.
    pub const TAINTS: What = What(8);
    /// Which pods there are, or their labels.
    pub const PODS: What = What(16);
    /// The node is new.
    pub const ALL: What = What(31);
    /// Claims, volumes, and what storage drivers say. Never of one node.
    pub const VOLUMES: What = What(32);
    /// Claims that pods here had are free.
    pub const CLAIMS: What = What(64);

    /// Both.
    #[must_use]
    pub const fn and(self, other: What) -> What {
        What(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub fn contains(self, other: What) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether they have something in common.
    pub fn meets(self, other: What) -> bool {
        self.0 & other.0 != 0
    }
}

/// What pods hold of a node or may hold of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Pods.
    pub pods: i64,
}

/// An interned taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeTaint {
    /// Its key.
    pub key: Symbol,
    /// Its value.
    pub value: Symbol,
    /// What it does.
    pub effect: Effect,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

/// An extended resource of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// Its name.
    pub name: Symbol,
    /// What the node has.
    pub allocatable: i64,
    /// What its pods ask for.
    pub requested: i64,
}

/// A pod that was promised room on a node, which other pods are being removed to make.
#[derive(Debug, Clone)]
pub struct Nominated {
    /// The pod.
    pub key: Key,
    /// What it asks for, its priority included: only pods of a higher one may take its room.
    pub needs: Arc<Needs>,
}

/// A pod that is counted.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Namespace and name.
    pub key: Key,
    /// The uid.
    pub uid: Box<str>,
    /// What it asks for.
    pub needs: Arc<Needs>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Since when it is there, in seconds since 1970.
    pub since: i64,
}

/// One slot of the image.
#[derive(Debug, Clone)]
pub struct Node {
    /// What the node has.
    pub allocatable: Room,
    /// What its pods ask for.
    pub requested: Room,
    /// CPU and memory that its pods ask for, as scores count them.
    pub nonzero: (i64, i64),
    /// Whether the node object exists. Only then pods may go there.
    pub present: bool,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Box<[NodeTaint]>,
    /// Extended resources.
    pub extended: Vec<Extended>,
    /// Host ports in use.
    pub ports: Vec<HostPort>,
    /// Claims that its pods use; one as often as there are pods.
    pub claims: Vec<Key>,
    /// Pods that were promised room here.
    pub nominated: Vec<Nominated>,
    /// Labels, sorted by key.
    pub labels: Box<[(Symbol, Symbol)]>,
    /// Images present with their sizes, sorted.
    pub images: Box<[(Symbol, i64)]>,
    /// The name.
    pub name: Arc<str>,
    /// The pods counted here.
    pods: Vec<Key>,
    /// Where it stands in the order of present nodes.
    at: usize,
    /// The node as it came, to find out what changed.
    info: Option<NodeInfo>,
}

struct Held {
    node: NodeIndex,
    uid: Box<str>,
    generation: i64,
    needs: Arc<Needs>,
    assumed: bool,
    deleting: bool,
    since: i64,
}

/// The cluster image.
#[derive(Default)]
pub struct Image {
    nodes: Vec<Node>,
    free: Vec<NodeIndex>,
    by_name: HashMap<Arc<str>, NodeIndex>,
    /// The present nodes. Placement goes round in this order.
    order: Vec<NodeIndex>,
    pods: HashMap<Key, Held>,
    /// How many pods with the same labels are on each node, by namespace and labels: pods that look for others look at
    /// their labels, which all pods of a controller share.
    crowds: BTreeMap<Arc<str>, HashMap<Box<[Label]>, Crowd>>,
    /// Anti-affinity terms of counted pods, by namespace and text, with how many pods on each node have it.
    keepers: BTreeMap<(Arc<str>, String), Keeper>,
    /// Terms of counted pods that only weigh, and the required ones of affinity, which weigh [`REQUIRED_WEIGHT`]: by
    /// namespace, text and weight.
    drawers: BTreeMap<(Arc<str>, String, i64), Keeper>,
    /// Labels of namespaces.
    namespaces: HashMap<Box<str>, Vec<Label>>,
    /// Where the pods are that were promised room.
    nominated: HashMap<Key, NodeIndex>,
    /// The nodes with pods that use a claim; one as often as there are pods.
    claim_users: HashMap<Key, Vec<NodeIndex>>,
    /// On how many nodes each image is.
    images: HashMap<Symbol, usize>,
    /// How many taints there are that only weigh: without any, nobody looks for them.
    soft_taints: usize,
    interner: Interner,
    /// Disruption budgets.
    pub budgets: Budgets,
    /// Which pods belong together.
    pub companions: Companions,
    /// Claims, volumes and what makes them.
    pub storage: Storage,
}

impl Image {
    /// The present nodes, in the order in which placement goes round.
    pub fn order(&self) -> &[NodeIndex] {
        &self.order
    }

    /// One node.
    pub fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.0 as usize]
    }

    /// The place of a present node.
    pub fn index_of(&self, node: &Node) -> NodeIndex {
        self.order[node.at]
    }

    /// A present node by name.
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.by_name.get(name).copied().filter(|index| self.node(*index).present)
    }

    /// The interned texts.
    pub fn interner(&self) -> &Interner {
        &self.interner
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: Symbol) -> usize {
        self.images.get(&image).copied().unwrap_or(0)
    }

    /// Whether any node has a taint that only weighs.
    pub fn has_soft_taints(&self) -> bool {
        self.soft_taints > 0
    }

    /// The uid and node of a pod that is counted, and whether it is only assumed.
    pub fn pod(&self, key: &Key) -> Option<(&str, NodeIndex, bool)> {
        self.pods.get(key).map(|held| (&*held.uid, held.node, held.assumed))
    }

    /// Whether a pod was counted at this generation and with these labels, so that it need not be read again.
    pub fn is_current(&self, key: &Key, generation: i64, labels: &[Label]) -> bool {
        self.pods.get(key).is_some_and(|held| held.generation == generation && *held.needs.labels == *labels)
    }

    /// The counted pods of a namespace or of all: namespace, labels, and how many pods have them on which nodes.
    pub fn crowds(&self, namespace: Option<&str>) -> impl Iterator<Item = (&str, &[Label], &Crowd)> {
        let one = namespace.map(|namespace| self.crowds.get_key_value(namespace).into_iter());
        let all = namespace.is_none().then(|| self.crowds.iter());
        let namespaces = one.into_iter().flatten().chain(all.into_iter().flatten());
        namespaces.flat_map(|(namespace, by_labels)| {
            by_labels.iter().map(move |(labels, crowd)| (&**namespace, &**labels, crowd))
        })
    }

    /// The anti-affinity terms of counted pods, with the namespace of these and the nodes where they are.
    pub fn keepers(&self) -> impl Iterator<Item = (&str, &AffinityTerm, impl Iterator<Item = &Node>)> {
        self.keepers.iter().map(|((namespace, _), keeper)| {
            (&**namespace, &keeper.term, keeper.nodes.keys().map(|index| self.node(*index)))
        })
    }

    /// The terms of counted pods that weigh, with their weights, the namespace of these pods and how many of them are on
    /// which nodes.
    pub fn drawers(&self) -> impl Iterator<Item = (&str, &AffinityTerm, i64, impl Iterator<Item = (&Node, usize)>)> {
        self.drawers.iter().map(|((namespace, _, weight), drawer)| {
            let nodes = drawer.nodes.iter().map(|(index, pods)| (self.node(*index), *pods));
            (&**namespace, &drawer.term, *weight, nodes)
        })
    }

    /// A label of a namespace.
    pub fn namespace_label(&self, namespace: &str, label: &str) -> Option<&str> {
        let labels = self.namespaces.get(namespace)?;
        labels.iter().find(|(key, _)| **key == *label).map(|(_, value)| &**value)
    }

    /// Takes in a namespace's labels. Whether they changed.
    pub fn apply_namespace(&mut self, name: &str, labels: &[Label]) -> bool {
        let before = self.namespaces.insert(name.into(), labels.to_vec());
        before.as_deref() != Some(labels)
    }

    /// Takes a namespace out.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// The pods counted on a node.
    pub fn pods_on(&self, node: NodeIndex) -> impl Iterator<Item = Counted> {
        self.node(node).pods.iter().filter_map(|key| {
            let Held { uid, needs, deleting, since, .. } = self.pods.get(key)?;
            let (uid, needs) = (uid.clone(), needs.clone());
            Some(Counted { key: key.clone(), uid, needs, deleting: *deleting, since: *since })
        })
    }

    /// Where a pod was promised room.
    pub fn nominated_node(&self, key: &Key) -> Option<NodeIndex> {
        self.nominated.get(key).copied()
    }

    /// Promises a pod room on a node, and nowhere else any more.
    pub fn nominate(&mut self, pod: &PodInfo, node: NodeIndex) {
        self.withdraw(&pod.key);
        let nominated = Nominated { key: pod.key.clone(), needs: pod.needs.clone() };
        self.nodes[node.0 as usize].nominated.push(nominated);
        self.nominated.insert(pod.key.clone(), node);
    }

    /// Takes a promise back. The node where it was.
    pub fn withdraw(&mut self, key: &Key) -> Option<NodeIndex> {
        let node = self.nominated.remove(key)?;
        self.nodes[node.0 as usize].nominated.retain(|nominated| nominated.key != *key);
        self.free_if_empty(node);
        Some(node)
    }

    /// The nodes with pods that use a claim.
    pub fn claim_users(&self, claim: &Key) -> &[NodeIndex] {
        self.claim_users.get(claim).map_or(&[], Vec::as_slice)
    }

    /// How many pods are counted.
    pub fn pods_len(&self) -> usize {
        self.pods.len()
    }

    /// How much is still held: nothing once all nodes and pods are gone.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> usize {
        let counted = self.pods.len() + self.crowds.len() + self.keepers.len() + self.nominated.len();
        let counted = counted + self.drawers.len() + self.claim_users.len() + self.storage.leftovers();
        counted + self.by_name.len() + self.images.len() + self.soft_taints + self.interner.len()
    }

    /// Takes in a node's state and says what of it changed for the better of pods that wait.
    pub fn apply_node(&mut self, info: NodeInfo) -> (NodeIndex, What) {
        let index = self.slot(&info.name);
        let node = &mut self.nodes[index.0 as usize];
        if node.info.as_ref() == Some(&info) {
            return (index, What::NOTHING);
        }
        let what = node.info.as_ref().map_or(What::ALL, |old| difference(old, &info));
        if !node.present {
            node.present = true;
            node.at = self.order.len();
            self.order.push(index);
        }
        self.give_up_symbols(index);
        self.describe(index, info);
        (index, what)
    }

    /// Takes a node out. Its pods stay counted until they go.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.find(name) else { return };
        self.give_up_symbols(index);
        let node = &mut self.nodes[index.0 as usize];
        (node.present, node.info, node.allocatable) = (false, None, Room::default());
        let at = node.at;
        self.order.swap_remove(at);
        if let Some(moved) = self.order.get(at) {
            self.nodes[moved.0 as usize].at = at;
        }
        self.free_if_empty(index);
    }

    /// Counts a pod on the node that it is bound to. Takes the place of what was counted under its name.
    pub fn add_pod(&mut self, pod: &PodInfo, node: &str) -> Option<NodeIndex> {
        let freed = self.remove_pod(&pod.key);
        let index = self.slot(node);
        self.count(pod, index, false);
        freed.filter(|freed| *freed != index)
    }

    /// Counts a pod on the node that was chosen for it, before it is bound.
    pub fn assume(&mut self, pod: &PodInfo, node: NodeIndex) {
        self.remove_pod(&pod.key);
        self.count(pod, node, true);
    }

    /// Whether this very pod is counted on that node already. It is then no longer only assumed.
    pub fn confirm(&mut self, key: &Key, uid: &str, node: &str, deleting: bool) -> bool {
        let Some(held) = self.pods.get_mut(key) else { return false };
        let same = &*held.uid == uid && *self.nodes[held.node.0 as usize].name == *node;
        held.assumed &= !same;
        let changed = held.deleting != deleting;
        held.deleting = deleting;
        if changed {
            let (needs, node) = (held.needs.clone(), held.node);
            self.gather(key, &needs, node, |number| {
                number.deleting = if deleting { number.deleting + 1 } else { number.deleting - 1 };
            });
        }
        same
    }

    /// Counts a pod no longer. The node that it was on.
    pub fn remove_pod(&mut self, key: &Key) -> Option<NodeIndex> {
        let held = self.pods.remove(key)?;
        self.gather(key, &held.needs, held.node, |number| {
            number.pods -= 1;
            number.deleting -= usize::from(held.deleting);
        });
        for term in &held.needs.pods.anti {
            leave(&mut self.keepers, &(key.namespace.clone(), format!("{term:?}")), held.node);
        }
        for (weight, term) in drawing(&held.needs.pods) {
            leave(&mut self.drawers, &(key.namespace.clone(), format!("{term:?}"), weight), held.node);
        }
        for claim in &held.needs.claims {
            let users = self.claim_users.get_mut(&claim.key).expect("a counted pod's claims are counted");
            if let Some(at) = users.iter().position(|user| *user == held.node) {
                users.swap_remove(at);
            }
            if users.is_empty() {
                self.claim_users.remove(&claim.key);
            }
        }
        let node = &mut self.nodes[held.node.0 as usize];
        node.release(&held.needs, &self.interner);
        if let Some(at) = node.pods.iter().position(|counted| counted == key) {
            node.pods.swap_remove(at);
        }
        for (name, _) in &held.needs.requests.extended {
            let symbol = self.interner.find(name).expect("a counted pod holds its resources' names");
            node.extended.retain(|row| row.name != symbol || row.requested != 0 || row.allocatable != 0);
            self.interner.release(symbol);
        }
        self.free_if_empty(held.node);
        Some(held.node)
    }

    fn count(&mut self, pod: &PodInfo, index: NodeIndex, assumed: bool) {
        self.withdraw(&pod.key);
        for (name, _) in &pod.needs.requests.extended {
            self.interner.acquire(name);
        }
        for claim in &pod.needs.claims {
            self.claim_users.entry(claim.key.clone()).or_default().push(index);
        }
        let node = &mut self.nodes[index.0 as usize];
        node.hold(&pod.needs, &self.interner);
        node.pods.push(pod.key.clone());
        self.gather(&pod.key, &pod.needs, index, |number| {
            number.pods += 1;
            number.deleting += usize::from(pod.deleting);
        });
        for term in &pod.needs.pods.anti {
            join(&mut self.keepers, (pod.key.namespace.clone(), format!("{term:?}")), term, index);
        }
        for (weight, term) in drawing(&pod.needs.pods) {
            join(&mut self.drawers, (pod.key.namespace.clone(), format!("{term:?}"), weight), term, index);
        }
        let (uid, generation, needs) = (pod.uid.clone(), pod.generation, pod.needs.clone());
        let (deleting, since) = (pod.deleting, pod.since);
        let held = Held { node: index, uid, generation, needs, assumed, deleting, since };
        self.pods.insert(pod.key.clone(), held);
    }

    /// Changes the number of a pod's like on a node.
    fn gather(&mut self, key: &Key, needs: &Needs, node: NodeIndex, change: impl FnOnce(&mut Number)) {
        let by_labels = self.crowds.entry(key.namespace.clone()).or_default();
        if !by_labels.contains_key(&needs.labels) {
            by_labels.insert(needs.labels.clone(), Crowd::default());
        }
        let crowd = by_labels.get_mut(&needs.labels).expect("it was put in if it was not there");
        let number = crowd.nodes.entry(node).or_default();
        change(number);
        if number.pods == 0 {
            crowd.nodes.remove(&node);
            if crowd.nodes.is_empty() {
                by_labels.remove(&needs.labels);
            }
            if by_labels.is_empty() {
                self.crowds.remove(&key.namespace);
            }
        }
    }

    fn slot(&mut self, name: &str) -> NodeIndex {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let name: Arc<str> = name.into();
        let node = Node::empty(name.clone());
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index.0 as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                NodeIndex(self.nodes.len() as u32 - 1)
            }
        };
        self.by_name.insert(name, index);
        index
    }

    fn free_if_empty(&mut self, index: NodeIndex) {
        let node = &self.nodes[index.0 as usize];
        if !node.present && node.pods.is_empty() && node.nominated.is_empty() {
            self.by_name.remove(&node.name);
            self.free.push(index);
        }
    }

    /// Interns what the node carries.
    fn describe(&mut self, index: NodeIndex, info: NodeInfo) {
        let interner = &mut self.interner;
        let node = &mut self.nodes[index.0 as usize];
        node.allocatable = Room {
            milli_cpu: info.allocatable.milli_cpu,
            memory: info.allocatable.memory,
            ephemeral: info.allocatable.ephemeral,
            pods: info.pods_max,
        };
        node.unschedulable = info.unschedulable;
        let labels = info.labels.iter().map(|(key, value)| (interner.acquire(key), interner.acquire(value)));
        let mut labels: Vec<_> = labels.collect();
        labels.sort_unstable();
        node.labels = labels.into();
        let taints = info.taints.iter().filter_map(|taint| {
            let effect = Effect::read(&taint.effect)?;
            Some(NodeTaint { key: interner.acquire(&taint.key), value: interner.acquire(&taint.value), effect })
        });
        node.taints = taints.collect();
        self.soft_taints += node.soft_taints();
        let mut images: Vec<_> = info.images.iter().map(|(name, size)| (interner.acquire(name), *size)).collect();
        images.sort_unstable();
        images.dedup_by(|a, b| {
            let twice = a.0 == b.0;
            if twice {
                interner.release(a.0);
            }
            twice
        });
        for (image, _) in &images {
            *self.images.entry(*image).or_default() += 1;
        }
        node.images = images.into();
        for (name, amount) in &info.allocatable.extended {
            let name = interner.acquire(name);
            match node.extended.iter_mut().find(|extended| extended.name == name) {
                Some(extended) => extended.allocatable = *amount,
                None => node.extended.push(Extended { name, allocatable: *amount, requested: 0 }),
            }
        }
        node.info = Some(info);
    }

    /// Releases what [`Image::describe`] interned.
    fn give_up_symbols(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index.0 as usize];
        self.soft_taints -= node.soft_taints();
        for (key, value) in std::mem::take(&mut node.labels) {
            self.interner.release(key);
            self.interner.release(value);
        }
        for taint in std::mem::take(&mut node.taints) {
            self.interner.release(taint.key);
            self.interner.release(taint.value);
        }
        for (image, _) in std::mem::take(&mut node.images) {
            let nodes = self.images.get_mut(&image).expect("an image of a node is counted");
            *nodes -= 1;
            if *nodes == 0 {
                self.images.remove(&image);
            }
            self.interner.release(image);
        }
        let Some(info) = &node.info else { return };
        for (name, _) in &info.allocatable.extended {
            let symbol = self.interner.find(name).expect("a node holds its resources' names");
            // One of which the node has none went with the last pod that asked for it.
            if let Some(at) = node.extended.iter().position(|extended| extended.name == symbol) {
                node.extended[at].allocatable = 0;
                if node.extended[at].requested == 0 {
                    node.extended.swap_remove(at);
                }
            }
            self.interner.release(symbol);
        }
    }
}

/// The terms of a pod that weigh for others.
fn drawing(terms: &PodTerms) -> impl Iterator<Item = (i64, &AffinityTerm)> {
    let required = terms.required.iter().map(|term| (REQUIRED_WEIGHT, term));
    required.chain(terms.preferred.iter().map(|(weight, term)| (*weight, term)))
}

fn join<N: Ord>(keepers: &mut BTreeMap<N, Keeper>, name: N, term: &AffinityTerm, node: NodeIndex) {
    let keeper = keepers.entry(name).or_insert_with(|| Keeper { term: term.clone(), nodes: HashMap::new() });
    *keeper.nodes.entry(node).or_default() += 1;
}

fn leave<N: Ord>(keepers: &mut BTreeMap<N, Keeper>, name: &N, node: NodeIndex) {
    let keeper = keepers.get_mut(name).expect("a counted pod's terms are kept");
    let pods = keeper.nodes.get_mut(&node).expect("on the node where it was counted");
    *pods -= 1;
    if *pods == 0 {
        keeper.nodes.remove(&node);
    }
    if keeper.nodes.is_empty() {
        keepers.remove(name);
    }
}

impl Node {
    fn empty(name: Arc<str>) -> Self {
        Self {
            allocatable: Room::default(),
            requested: Room::default(),
            nonzero: (0, 0),
            present: false,
            unschedulable: false,
            taints: Box::default(),
            extended: Vec::new(),
            ports: Vec::new(),
            claims: Vec::new(),
            nominated: Vec::new(),
            pods: Vec::new(),
            labels: Box::default(),
            images: Box::default(),
            name,
            at: 0,
            info: None,
        }
    }

    /// The value of a label, by their texts.
    pub fn label_text<'a>(&self, interner: &'a Interner, key: &str) -> Option<&'a str> {
        self.label(interner.find(key)?).map(|value| interner.text(value))
    }

    /// The value of a label.
    pub fn label(&self, key: Symbol) -> Option<Symbol> {
        self.labels.binary_search_by_key(&key, |label| label.0).ok().map(|at| self.labels[at].1)
    }

    /// Counts what a pod asks for. A resource that no node has and no counted pod asks for has no number, and no row.
    pub fn hold(&mut self, needs: &Needs, interner: &Interner) {
        self.add(needs, 1);
        self.ports.extend(needs.ports.iter().cloned());
        self.claims.extend(needs.claims.iter().map(|claim| claim.key.clone()));
        for (name, amount) in &needs.requests.extended {
            let Some(name) = interner.find(name) else { continue };
            match self.extended.iter_mut().find(|row| row.name == name) {
                Some(row) => row.requested += amount,
                None => self.extended.push(Extended { name, allocatable: 0, requested: *amount }),
            }
        }
    }

    /// Takes back what [`Node::hold`] counted.
    pub fn release(&mut self, needs: &Needs, interner: &Interner) {
        self.add(needs, -1);
        for port in &needs.ports {
            if let Some(at) = self.ports.iter().position(|held| held == port) {
                self.ports.swap_remove(at);
            }
        }
        for claim in &needs.claims {
            if let Some(at) = self.claims.iter().position(|held| *held == claim.key) {
                self.claims.swap_remove(at);
            }
        }
        for (name, amount) in &needs.requests.extended {
            let name = interner.find(name);
            if let Some(row) = self.extended.iter_mut().find(|row| Some(row.name) == name) {
                row.requested -= amount;
            }
        }
    }

    fn add(&mut self, needs: &Needs, sign: i64) {
        self.requested.milli_cpu += sign * needs.requests.milli_cpu;
        self.requested.memory += sign * needs.requests.memory;
        self.requested.ephemeral += sign * needs.requests.ephemeral;
        self.requested.pods += sign;
        self.nonzero.0 += sign * needs.nonzero.milli_cpu;
        self.nonzero.1 += sign * needs.nonzero.memory;
    }

    fn soft_taints(&self) -> usize {
        self.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule).count()
    }
}

impl Effect {
    fn read(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }

    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// What of a node changed so that a pod that was rejected may now go there.
fn difference(old: &NodeInfo, new: &NodeInfo) -> What {
    let mut what = What::NOTHING;
    let (had, has) = (&old.allocatable, &new.allocatable);
    let more = has.milli_cpu > had.milli_cpu || has.memory > had.memory || has.ephemeral > had.ephemeral;
    if more || new.pods_max > old.pods_max || has.extended != had.extended {
        what = what.and(What::RESOURCES);
    }
    if old.labels != new.labels {
        what = what.and(What::LABELS);
    }
    if old.taints != new.taints || (old.unschedulable && !new.unschedulable) {
        what = what.and(What::TAINTS);
    }
    what
}
