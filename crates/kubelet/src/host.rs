//! What the parts of the kubelet share: the node's identity, its clients, and its directories.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use api::Typed;
use api::typed::core::v1::Pod;
use base::{Random, SharedClock, Tasks};
use control::{Cache, Client, EventType, Informers, ObjectReference, Recorder};
use cri::{ContainerChange, Runtime};
use tokio::sync::{Notify, broadcast, watch};

use crate::admission::Demand;
use crate::identity::Identity;
use crate::images::Images;
use crate::inbox::Inbox;
use crate::node::facts::Pressure;
use crate::probe::Tallies;
use crate::resources::Capacity;
use crate::settings::Settings;
use crate::volumes::local::LocalVolumes;

/// Pods' workers, by uid.
pub(crate) type Workers = Arc<Mutex<BTreeMap<String, (api::Key, Arc<Inbox>)>>>;

/// The node, as its pod workers see it.
pub(crate) struct Host {
    pub(crate) node_name: String,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The runtime's name, before `://` in container ids.
    pub(crate) runtime_name: String,
    pub(crate) recorder: Recorder,
    pub(crate) clock: SharedClock,
    pub(crate) random: Random,
    pub(crate) root_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    /// The volumes on this node's disk.
    pub(crate) local_volumes: LocalVolumes,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    pub(crate) capacity: Capacity,
    /// What of it pods may ask for.
    pub(crate) allocatable: Capacity,
    pub(crate) settings: Settings,
    pub(crate) images: Images,
    /// All services, for the variables that name them.
    pub(crate) services: Cache,
    /// This node's object.
    pub(crate) node: Cache,
    /// The pods of this node.
    pub(crate) pods: Cache,
    pub(crate) tasks: Tasks,
    /// The runtime's events, for those who wait for a container's end.
    pub(crate) changes: broadcast::Sender<ContainerChange>,
    /// What the pods that were let in ask for, by uid.
    pub(crate) admitted: Mutex<BTreeMap<String, Demand>>,
    /// What runs short on the node.
    pub(crate) pressure: watch::Sender<Pressure>,
    /// The workers of its pods, by uid.
    pub(crate) workers: Workers,
    /// How its probes were answered.
    pub(crate) probes: Arc<Tallies>,
    /// The uids of its pods that came from files.
    pub(crate) statics: Mutex<BTreeSet<String>>,
    /// Told when some of that was given back, or a pod's worker ended.
    pub(crate) released: Notify,
}

impl Host {
    /// Records an event about a pod, or about one of its containers.
    pub(crate) fn event(&self, pod: &Identity, field_path: String, kind: EventType, reason: &str, message: &str) {
        let about = ObjectReference {
            api_version: "v1".into(),
            kind: Pod::resource().kind.to_string(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            resource_version: String::new(),
            field_path,
        };
        self.recorder.event(&about, kind, reason, message);
    }

    /// Records an event about the node.
    pub(crate) fn node_event(&self, kind: EventType, reason: &str, message: &str) {
        let about = ObjectReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            namespace: String::new(),
            name: self.node_name.clone(),
            uid: self.node_name.clone(),
            resource_version: String::new(),
            field_path: String::new(),
        };
        self.recorder.event(&about, kind, reason, message);
    }

    /// A name that no directory of this node has yet.
    pub(crate) fn stamp(&self) -> String {
        format!("{}.{}", self.clock.now().strftime("%Y_%m_%d_%H_%M_%S"), self.random.name_suffix(10))
    }
}
