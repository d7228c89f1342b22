//! `VolumeBinding`: the volumes of a pod's claims can be reached from its node, and claims that have none yet get one there:
//! one that is free, or one that a provisioner can make.
//!
//! What a pod needs on its node is decided once more, by the same function, when it has been placed ([`decide`]): that is
//! reserved, written, and waited for before the pod is bound. Reasons and order are upstream's.

use api::Key;

use super::Plugin;
use super::node_affinity;
use crate::cycle::Cycle;
use crate::image::{Image, Node, NodeIndex, What};
use crate::pod::{NodeConstraints, PodClaim, PodInfo};
use crate::volumes::{Claim, Decision, Volume};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "VolumeBinding",
    relevant: |cycle| cycle.volumes.is_some(),
    filter: Some(|cycle, node| cycle.volumes.as_ref().is_none_or(|volumes| volumes.find(cycle.image, node).is_ok())),
    explain,
    score: None,
    hints: What::LABELS.and(What::VOLUMES),
    everywhere: false,
};

/// A pod's claims, sorted by what they need.
pub struct Compiled {
    refusal: Option<String>,
    /// Where the volumes that they have can be reached from; `None`: the volume is gone.
    bound: Vec<Option<node_affinity::Compiled>>,
    /// Those that wait for a node, the smallest first.
    waiting: Vec<Waiting>,
}

struct Waiting {
    key: Key,
    claim: Claim,
    /// The node for which a volume is being made.
    selected: Option<Box<str>>,
    /// The volumes that it may get, the best first, with where they can be reached from: just the one that is reserved for it,
    /// if one is.
    candidates: Vec<(Box<str>, node_affinity::Compiled)>,
}

/// Why a node does not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Refusal {
    affinity: bool,
    unbound: bool,
    space: bool,
    gone: bool,
}

/// What volumes a pod's claims have or may get. `None`: it has no claims.
pub fn compile(image: &Image, pod: &PodInfo) -> Option<Compiled> {
    if pod.needs.claims.is_empty() {
        return None;
    }
    let mut compiled = Compiled { refusal: None, bound: Vec::new(), waiting: Vec::new() };
    let mut immediate = false;
    for of in &pod.needs.claims {
        match check(image, pod, of) {
            Err(why) => {
                compiled.refusal = Some(why);
                return Some(compiled);
            }
            Ok(claim) if claim.bound && claim.volume.is_some() => {
                let volume = claim.volume.as_deref().and_then(|name| image.storage.volume(name));
                compiled.bound.push(volume.map(|volume| reach(image, volume)));
            }
            Ok(claim)
                if claim.volume.is_none() && image.storage.class(&claim.class).is_some_and(|class| class.waits) =>
            {
                compiled.waiting.push(waiting(image, &of.key, claim));
            }
            Ok(_) => immediate = true,
        }
    }
    compiled.waiting.sort_by_key(|waiting| waiting.claim.wants.size);
    compiled.refusal = immediate.then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned());
    Some(compiled)
}

/// The claim, if a pod can use it at all.
fn check<'a>(image: &'a Image, pod: &PodInfo, of: &PodClaim) -> Result<&'a Claim, String> {
    let name = &*of.key.name;
    let Some(claim) = image.storage.claim(&of.key) else {
        return Err(if of.ephemeral {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
        } else {
            format!("persistentvolumeclaim {name:?} not found")
        });
    };
    if claim.lost {
        let volume = claim.volume.as_deref().unwrap_or_default();
        return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
    }
    if claim.deleting {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if of.ephemeral && claim.controller.as_ref() != Some(&pod.uid) {
        return Err(format!("PVC {} was not created for pod {} (pod is not owner)", of.key, pod.key));
    }
    Ok(claim)
}

fn reach(image: &Image, volume: &Volume) -> node_affinity::Compiled {
    let constraints = NodeConstraints { required: volume.affinity.clone(), ..NodeConstraints::default() };
    node_affinity::Compiled::new(&constraints, image.interner())
}

fn waiting(image: &Image, key: &Key, claim: &Claim) -> Waiting {
    let storage = &image.storage;
    let selected = storage.selected_node(key, claim).map(Box::from);
    let wants = &claim.wants;
    let serves = |volume: &Volume| {
        let offers = &volume.offers;
        !volume.deleting
            && offers.size >= wants.size
            && offers.block == wants.block
            && offers.attributes == wants.attributes
    };
    let with_reach = |(name, volume): (&str, &Volume)| (name.into(), reach(image, volume));
    let reserved = storage.reserved_for(key, &claim.uid).find(|(_, volume)| serves(volume)).map(with_reach);
    let candidates = match reserved {
        Some(reserved) => vec![reserved],
        None => {
            let has_modes = |volume: &Volume| wants.modes.iter().all(|mode| volume.offers.modes.contains(mode));
            let selects = |volume: &Volume| claim.selector.matches_pairs(&volume.labels);
            let fits = |volume: &Volume| volume.available && serves(volume) && has_modes(volume) && selects(volume);
            storage.free(&claim.class).filter(|(_, volume)| fits(volume)).map(with_reach).collect()
        }
    };
    Waiting { key: key.clone(), claim: claim.clone(), selected, candidates }
}

impl Compiled {
    /// Why the pod can go nowhere as things stand.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// What the pod's volumes need on a node, or why it does not do.
    fn find(&self, image: &Image, node: &Node) -> Result<Decision, Refusal> {
        let mut decision = Decision { node: node.name.clone(), ..Decision::default() };
        let mut refusal = Refusal::default();
        if self.refusal.is_some() {
            return Err(refusal);
        }
        for reach in &self.bound {
            match reach {
                None => refusal.gone = true,
                Some(reach) if !reach.admits(image, node) => refusal.affinity = true,
                Some(_) => {}
            }
        }
        for waiting in &self.waiting {
            match waiting.find(image, node, &decision) {
                Ok(Some(volume)) => decision.bindings.push((volume, waiting.key.clone())),
                Ok(None) => decision.provisions.push(waiting.key.clone()),
                Err(Lack::Volume) => refusal.unbound = true,
                Err(Lack::Space) => refusal.space = true,
            }
        }
        if refusal == Refusal::default() { Ok(decision) } else { Err(refusal) }
    }
}

/// What there is none of.
enum Lack {
    Volume,
    Space,
}

impl Waiting {
    /// The volume that the claim gets on a node; `None`: one is made.
    fn find(&self, image: &Image, node: &Node, taken: &Decision) -> Result<Option<Box<str>>, Lack> {
        match &self.selected {
            Some(selected) if **selected != *node.name => return Err(Lack::Volume),
            Some(_) => {}
            None => {
                let free = |name: &str| taken.bindings.iter().all(|(other, _)| **other != *name);
                let found = self.candidates.iter().find(|(name, reach)| free(name) && reach.admits(image, node));
                if let Some((name, _)) = found {
                    return Ok(Some(name.clone()));
                }
            }
        }
        let label = |key: &str| node.label_text(image.interner(), key);
        let Some(class) = image.storage.class(&self.claim.class) else { return Err(Lack::Volume) };
        let Some(provisioner) = &class.provisioner else { return Err(Lack::Volume) };
        let holds = |(key, values): &(Box<str>, Vec<Box<str>>)| {
            label(key).is_some_and(|label| values.iter().any(|value| **value == *label))
        };
        if !class.topologies.is_empty() && !class.topologies.iter().any(|term| term.iter().all(holds)) {
            return Err(Lack::Volume);
        }
        let room = image.storage.has_room(provisioner, &self.claim.class, self.claim.wants.size, label);
        if room { Ok(None) } else { Err(Lack::Space) }
    }
}

fn explain(cycle: &Cycle<'_>, node: &Node, say: &mut dyn FnMut(&str)) {
    let Some(volumes) = &cycle.volumes else { return };
    if let Some(why) = volumes.refusal() {
        return say(why);
    }
    let Err(refusal) = volumes.find(cycle.image, node) else { return };
    let reasons = [
        (refusal.affinity, "node(s) didn't match PersistentVolume's node affinity"),
        (refusal.unbound, "node(s) didn't find available persistent volumes to bind"),
        (refusal.space, "node(s) did not have enough free storage"),
        (refusal.gone, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
    ];
    reasons.into_iter().filter(|(given, _)| *given).for_each(|(_, reason)| say(reason));
}

/// What the volumes of a pod need on the node where it was placed: nothing, for a pod whose claims all have theirs.
pub fn decide(image: &Image, pod: &PodInfo, node: NodeIndex) -> Option<Decision> {
    let decision = compile(image, pod)?.find(image, image.node(node)).ok()?;
    (!decision.is_empty()).then_some(decision)
}
