//! What placement knows of storage: claims, volumes, classes, and what storage drivers say of nodes.
//!
//! Kept by events, compact. Volumes that nobody has are found by class, the smallest first; a volume that is reserved by the
//! name of its claim. A pod that was placed reserves what it needs before the API knows of it: what is [assumed](Assumed) lies
//! over what was seen until it is seen, or given back.

mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api::{Key, Object};
use machinery::Quantity;
use machinery::Selector;
use machinery::labels::SelectorError;

use crate::pod::NodeSelectorTerm;
use crate::wire::decode;
use wire::{Annotations, WireAttachment, WireCapacity, WireClaim, WireClass, WireCsiDriver, WireCsiNode, WireVolume};

/// On claims: the node that their volume is wanted for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On claims: bound once.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The class of a claim or volume, before there was a field for it.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes are all made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of volumes and nodes that say where they are.
pub const TOPOLOGY_LABELS: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// An object of storage cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It has another shape.
    #[error("it has another shape")]
    Shape(#[from] serde_json::Error),
    /// A label selector in it is none.
    #[error("its label selector is wrong")]
    Selector(#[from] SelectorError),
}

/// A claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Its uid.
    pub uid: Box<str>,
    /// The uid of the object that controls it: the pod of an ephemeral volume.
    pub controller: Option<Box<str>>,
    /// Its class; empty for none.
    pub class: Box<str>,
    /// The volume that it has or asks for.
    pub volume: Option<Box<str>>,
    /// Whether volume and claim were bound.
    pub bound: bool,
    /// Whether its volume is gone.
    pub lost: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The node that was chosen for a new volume.
    pub selected_node: Option<Box<str>>,
    /// What it asks of a volume.
    pub wants: Wants,
    /// Selects among volumes that are there.
    pub selector: Selector,
}

/// What has to be the same, or enough, in claim and volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Wants {
    /// Bytes.
    pub size: Quantity,
    /// Access modes.
    pub modes: Box<[Box<str>]>,
    /// A device, not a filesystem.
    pub block: bool,
    /// The class of attributes; empty for none.
    pub attributes: Box<str>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Its class; empty for none.
    pub class: Box<str>,
    /// The claim that it is for, and that one's uid, which is empty while only the name is reserved.
    pub claim: Option<(Key, Box<str>)>,
    /// Whether its phase is `Available`.
    pub available: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it offers.
    pub offers: Wants,
    /// The nodes that can reach it; `None`: all.
    pub affinity: Option<Vec<NodeSelectorTerm>>,
    /// Labels, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The storage driver and the volume's name there.
    pub csi: Option<(Box<str>, Box<str>)>,
}

/// A storage class.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Who makes volumes; `None`: nobody.
    pub provisioner: Option<Box<str>>,
    /// Whether a claim waits for a pod's node.
    pub waits: bool,
    /// Where volumes can be made: one of these must hold; none means anywhere.
    pub topologies: Vec<Topology>,
}

/// Labels, each with the values that it may have.
pub type Topology = Vec<(Box<str>, Vec<Box<str>>)>;

/// What a driver still has room for.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    class: Box<str>,
    limit: Quantity,
    nodes: Selector,
}

/// What was reserved for pods and is not yet seen in the API.
#[derive(Debug, Default)]
struct Assumed {
    /// Volumes, with the claim that gets them.
    volumes: HashMap<Box<str>, (Key, Box<str>)>,
    /// Claims, with the node that a volume is wanted for.
    claims: HashMap<Key, Box<str>>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Storage {
    claims: HashMap<Key, Claim>,
    volumes: HashMap<Box<str>, Volume>,
    /// Volumes that nobody has, by class and size.
    free: HashMap<Box<str>, BTreeSet<(Quantity, Box<str>)>>,
    /// Volumes that are for a claim.
    reserved: HashMap<Key, BTreeSet<Box<str>>>,
    classes: HashMap<Box<str>, Class>,
    /// How many volumes of each driver a node can have.
    limits: HashMap<Box<str>, BTreeMap<Box<str>, i64>>,
    /// Drivers that tell what they have room for.
    drivers: BTreeSet<Box<str>>,
    capacities: BTreeMap<Key, Capacity>,
    /// Volumes that are attached to a node, used or not: node and volume, by attachment.
    attachments: HashMap<Box<str>, (Box<str>, Box<str>)>,
    assumed: Assumed,
}

impl Storage {
    /// A claim, as it will be once what is assumed is written.
    pub fn claim(&self, key: &Key) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// The node for which a claim's volume is made.
    pub fn selected_node<'a>(&'a self, key: &Key, claim: &'a Claim) -> Option<&'a str> {
        self.assumed.claims.get(key).or(claim.selected_node.as_ref()).map(|node| &**node)
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// A storage class.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    /// The volumes that are for a claim.
    pub fn reserved_for(&self, key: &Key, uid: &str) -> impl Iterator<Item = (&str, &Volume)> {
        let names = self.reserved.get(key).into_iter().flatten();
        names.filter_map(|name| Some((&**name, self.volumes.get(name)?))).filter(move |(name, volume)| {
            let of = self.assumed.volumes.get(*name).or(volume.claim.as_ref());
            of.is_some_and(|(_, of)| of.is_empty() || **of == *uid)
        })
    }

    /// The volumes of a class that nobody has, the smallest first.
    pub fn free(&self, class: &str) -> impl Iterator<Item = (&str, &Volume)> {
        let names = self.free.get(class).into_iter().flatten();
        let names = names.filter(|(_, name)| !self.assumed.volumes.contains_key(name));
        names.filter_map(|(_, name)| Some((&**name, self.volumes.get(name)?)))
    }

    /// How many volumes of a driver a node can have.
    pub fn limit(&self, node: &str, driver: &str) -> Option<i64> {
        self.limits.get(node)?.get(driver).copied()
    }

    /// Whether any node has a limit.
    pub fn has_limits(&self) -> bool {
        self.limits.values().any(|drivers| !drivers.is_empty())
    }

    /// The volumes of a driver that are attached to a node.
    pub fn attached<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a str> {
        self.attachments.values().filter(move |(on, _)| **on == *node).map(|(_, volume)| &**volume)
    }

    /// Whether a driver has room for so much in a class where `label` tells a node's labels.
    pub fn has_room<'a>(
        &self,
        driver: &str,
        class: &str,
        size: Quantity,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        let fits = |room: &&Capacity| *room.class == *class && room.limit >= size && room.nodes.matches(&label);
        !self.drivers.contains(driver) || self.capacities.values().any(|room| fits(&room))
    }

    /// Reserves volumes and nodes for the claims of a pod that was placed.
    pub fn assume(&mut self, decision: &Decision) {
        for (volume, key) in &decision.bindings {
            let uid = self.claims.get(key).map(|claim| claim.uid.clone()).unwrap_or_default();
            self.reserved.entry(key.clone()).or_default().insert(volume.clone());
            self.assumed.volumes.insert(volume.clone(), (key.clone(), uid));
        }
        for key in &decision.provisions {
            self.assumed.claims.insert(key.clone(), (&*decision.node).into());
        }
    }

    /// Gives back what was reserved and is not yet in the API.
    pub fn revert(&mut self, decision: &Decision) {
        for (name, key) in &decision.bindings {
            self.assumed.volumes.remove(name);
            let taken =
                self.volumes.get(name).and_then(|volume| volume.claim.as_ref()).is_some_and(|(of, _)| of == key);
            if !taken {
                self.unreserve(key, name);
            }
        }
        for key in &decision.provisions {
            self.assumed.claims.remove(key);
        }
    }

    /// How the volumes of a pod that waits for them stand.
    pub fn progress(&self, decision: &Decision) -> Progress {
        for (name, key) in &decision.bindings {
            match self.volumes.get(name).map(|volume| &volume.claim) {
                None => return Progress::Failed(format!("could not find v1.PersistentVolume {name:?}")),
                Some(None) if self.assumed.volumes.contains_key(name) => return Progress::Waiting,
                Some(None) => return Progress::Failed(format!("ClaimRef got reset for pv {name:?}")),
                Some(Some(_)) => {}
            }
            if let Some(progress) = self.claim_progress(key) {
                return progress;
            }
        }
        for key in &decision.provisions {
            if self.assumed.claims.contains_key(key) {
                return Progress::Waiting;
            }
            let selected = self.claims.get(key).and_then(|claim| claim.selected_node.as_deref());
            if selected != Some(&*decision.node) && self.claims.contains_key(key) {
                return Progress::Failed(format!("provisioning failed for PVC {:?}", key.name));
            }
            if let Some(progress) = self.claim_progress(key) {
                return progress;
            }
        }
        Progress::Bound
    }

    fn claim_progress(&self, key: &Key) -> Option<Progress> {
        match self.claims.get(key) {
            None => Some(Progress::Failed(format!("persistentvolumeclaim {:?} not found", key.name))),
            Some(claim) if claim.bound && claim.volume.is_some() => None,
            Some(_) => Some(Progress::Waiting),
        }
    }

    fn unreserve(&mut self, key: &Key, volume: &str) {
        let Some(names) = self.reserved.get_mut(key) else { return };
        names.remove(volume);
        if names.is_empty() {
            self.reserved.remove(key);
        }
    }

    /// How much is still held: nothing once all is gone.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> usize {
        let found = self.claims.len() + self.volumes.len() + self.free.len() + self.reserved.len() + self.classes.len();
        found + self.limits.len() + self.assumed.volumes.len() + self.assumed.claims.len() + self.attachments.len()
    }
}

/// What a pod's volumes need on the node where it was placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// The node.
    pub node: Arc<str>,
    /// Volumes that are there, each with the claim that gets it.
    pub bindings: Vec<(Box<str>, Key)>,
    /// Claims for which volumes are to be made.
    pub provisions: Vec<Key>,
}

impl Decision {
    /// Whether all is bound already.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.provisions.is_empty()
    }
}

/// How far volumes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// All are bound.
    Bound,
    /// Some are not yet.
    Waiting,
    /// It will not come to pass.
    Failed(String),
}

impl Storage {
    /// Takes in a claim.
    pub fn apply_claim(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireClaim = decode(object)?;
        let annotations = &wire.metadata.annotations;
        let spec = wire.spec;
        let selector = if spec.selector.is_null() {
            Selector::everything()
        } else {
            Selector::from_label_selector(&spec.selector)?
        };
        let claim = Claim {
            uid: object.uid().into(),
            controller: object.controller().map(|owner| owner.uid.clone()),
            class: class_of(annotations, &spec.storage_class_name),
            volume: (!spec.volume_name.is_empty()).then_some(spec.volume_name),
            bound: annotations.contains_key(BIND_COMPLETED),
            lost: &*wire.status.phase == "Lost",
            deleting: object.is_deleting(),
            selected_node: annotations.get(SELECTED_NODE).cloned(),
            wants: Wants {
                size: size(&spec.resources.requests),
                modes: spec.access_modes.into(),
                block: &*spec.volume_mode == "Block",
                attributes: spec.volume_attributes_class_name,
            },
            selector,
        };
        if claim.selected_node.is_some() {
            self.assumed.claims.remove(object.key());
        }
        self.claims.insert(object.key().clone(), claim);
        Ok(())
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, key: &Key) {
        self.claims.remove(key);
        self.assumed.claims.remove(key);
    }

    /// Takes in a volume.
    pub fn apply_volume(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireVolume = decode(object)?;
        let spec = wire.spec;
        let claim = spec.claim_ref.map(|of| (Key::new(&*of.namespace, &*of.name), of.uid));
        let required = spec.node_affinity.and_then(|affinity| affinity.required);
        let volume = Volume {
            class: class_of(&wire.metadata.annotations, &spec.storage_class_name),
            claim,
            available: &*wire.status.phase == "Available",
            deleting: object.is_deleting(),
            offers: Wants {
                size: size(&spec.capacity),
                modes: spec.access_modes.into(),
                block: &*spec.volume_mode == "Block",
                attributes: spec.volume_attributes_class_name,
            },
            affinity: required.map(|required| required.node_selector_terms),
            labels: object.index().labels.clone(),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        };
        let name: Box<str> = (&*object.key().name).into();
        self.drop_volume(&name);
        match &volume.claim {
            Some((key, _)) => {
                // What was assumed is written now, or somebody else was first.
                if let Some((other, _)) = self.assumed.volumes.remove(&name).filter(|(of, _)| of != key) {
                    self.unreserve(&other, &name);
                }
                self.reserved.entry(key.clone()).or_default().insert(name.clone());
            }
            None => {
                let size = volume.offers.size;
                self.free.entry(volume.class.clone()).or_default().insert((size, name.clone()));
            }
        }
        self.volumes.insert(name, volume);
        Ok(())
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, key: &Key) {
        self.drop_volume(&key.name);
        if let Some((of, _)) = self.assumed.volumes.remove(&*key.name) {
            self.unreserve(&of, &key.name);
        }
    }

    fn drop_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        match &volume.claim {
            Some((key, _)) => self.unreserve(key, name),
            None => {
                let Some(of_class) = self.free.get_mut(&volume.class) else { return };
                of_class.remove(&(volume.offers.size, name.into()));
                if of_class.is_empty() {
                    self.free.remove(&volume.class);
                }
            }
        }
    }

    /// Takes in a storage class.
    pub fn apply_class(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireClass = decode(object)?;
        let provisioner = Some(wire.provisioner).filter(|name| !name.is_empty() && &**name != NO_PROVISIONER);
        let terms = wire.allowed_topologies.into_iter().map(|term| {
            let labels = term.match_label_expressions.into_iter();
            labels.map(|label| (label.key, label.values)).collect()
        });
        let class = Class {
            provisioner,
            waits: &*wire.volume_binding_mode == "WaitForFirstConsumer",
            topologies: terms.collect(),
        };
        self.classes.insert((&*object.key().name).into(), class);
        Ok(())
    }

    /// Forgets a storage class.
    pub fn remove_class(&mut self, key: &Key) {
        self.classes.remove(&*key.name);
    }

    /// Takes in what drivers say of a node.
    pub fn apply_csi_node(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireCsiNode = decode(object)?;
        let limits = wire.spec.drivers.into_iter();
        let limits = limits.filter_map(|driver| Some((driver.name, driver.allocatable.and_then(|limit| limit.count)?)));
        self.limits.insert((&*object.key().name).into(), limits.collect());
        Ok(())
    }

    /// Forgets what drivers say of a node.
    pub fn remove_csi_node(&mut self, key: &Key) {
        self.limits.remove(&*key.name);
    }

    /// Takes in a driver.
    pub fn apply_csi_driver(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireCsiDriver = decode(object)?;
        self.drivers.remove(&*object.key().name);
        if wire.spec.storage_capacity {
            self.drivers.insert((&*object.key().name).into());
        }
        Ok(())
    }

    /// Forgets a driver.
    pub fn remove_csi_driver(&mut self, key: &Key) {
        self.drivers.remove(&*key.name);
    }

    /// Takes in what a driver has room for. One that nobody can reach counts for nothing.
    pub fn apply_capacity(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireCapacity = decode(object)?;
        self.capacities.remove(object.key());
        let limit = wire.maximum_volume_size.or(wire.capacity).and_then(|text| Quantity::parse(&text).ok());
        if let Some(limit) = limit.filter(|_| !wire.node_topology.is_null()) {
            let nodes = Selector::from_label_selector(&wire.node_topology)?;
            let capacity = Capacity { class: wire.storage_class_name, limit, nodes };
            self.capacities.insert(object.key().clone(), capacity);
        }
        Ok(())
    }

    /// Forgets what a driver had room for.
    pub fn remove_capacity(&mut self, key: &Key) {
        self.capacities.remove(key);
    }

    /// Takes in an attachment.
    pub fn apply_attachment(&mut self, object: &Object) -> Result<(), StorageError> {
        let wire: WireAttachment = decode(object)?;
        let of = (wire.spec.node_name, wire.spec.source.persistent_volume_name);
        self.attachments.insert((&*object.key().name).into(), of);
        Ok(())
    }

    /// Forgets an attachment.
    pub fn remove_attachment(&mut self, key: &Key) {
        self.attachments.remove(&*key.name);
    }
}

fn class_of(annotations: &Annotations, field: &str) -> Box<str> {
    annotations.get(CLASS_BETA).cloned().unwrap_or_else(|| field.into())
}

fn size(list: &BTreeMap<Box<str>, Box<str>>) -> Quantity {
    list.get("storage").and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO)
}
