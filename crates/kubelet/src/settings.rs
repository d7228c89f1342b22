//! What an administrator may choose about a node, under the names of upstream's kubelet. The defaults are upstream's.

use std::path::PathBuf;
use std::time::Duration;

/// Choices about a node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Images that are pulled at once; 1 pulls one after the other.
    pub image_pulls_max: usize,
    /// When unused images go.
    pub image_gc: ImageGc,
    /// Which pods must show a credential for an image that is here.
    pub image_verification: ImageVerification,
    /// Pods that run here at most.
    pub pods_max: i64,
    /// What the system and the node's own processes keep for themselves.
    pub reserved: Reserved,
    /// What makes pods go.
    pub eviction: Eviction,
    /// A log over this size is begun anew.
    pub log_bytes_max: u64,
    /// Files of one log, the present one among them.
    pub log_files_max: usize,
    /// Kernel parameters that pods may set beside the safe ones; `net.core.*` stands for all with this beginning.
    pub unsafe_sysctls: Vec<String>,
    /// A folder of pods that run whether or not there is an API server.
    pub manifests: Option<PathBuf>,
}

/// Whether a pod must have credentials that a private image would be pulled with, also where it is on the node already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ImageVerification {
    /// It need not.
    Never,
    /// Not for images that came by another way than a pull.
    #[default]
    NotPreloaded,
    /// Not for those that are listed.
    NotListed(Vec<ImagePattern>),
    /// For every image.
    Always,
}

impl ImageVerification {
    /// What upstream calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Never => "NeverVerify",
            Self::NotPreloaded => "NeverVerifyPreloadedImages",
            Self::NotListed(_) => "NeverVerifyAllowlistedImages",
            Self::Always => "AlwaysVerify",
        }
    }
}

/// An image without tag and digest, or the beginning of many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern {
    /// Ends with a slash where it is a beginning.
    text: String,
}

impl ImagePattern {
    /// Understands `registry.example/team/app` and `registry.example/team/*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = match text.strip_suffix('*') {
            Some(beginning) if beginning.len() > 1 && beginning.ends_with('/') && !beginning.contains('*') => {
                beginning.to_owned()
            }
            Some(_) => return Err(format!("{text:?}: `*` stands at the end only, after a registry and a slash")),
            None => {
                let reference = cri::Reference::parse(text).map_err(|error| base::chain(&error))?;
                if text.contains('@') || text.rsplit('/').next().is_some_and(|name| name.contains(':')) {
                    return Err(format!("{text:?}: neither tag nor digest is part of a pattern"));
                }
                reference.repository
            }
        };
        Ok(Self { text: pattern })
    }

    /// Whether a repository such as `docker.io/library/busybox` is meant.
    pub(crate) fn matches(&self, repository: &str) -> bool {
        if self.text.ends_with('/') { repository.starts_with(&self.text) } else { repository == self.text }
    }
}

/// When unused images go.
#[derive(Debug, Clone, Copy)]
pub struct ImageGc {
    /// With more of the disk in use than this, in percent, images are removed.
    pub high_percent: u64,
    /// Until no more than this is in use.
    pub low_percent: u64,
    /// An image that came since is kept.
    pub age_min: Duration,
}

/// What pods may not ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_bytes: i64,
}

/// What may run short on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory.
    Memory,
    /// Space where the kubelet's files are.
    NodeDisk,
    /// Inodes there.
    NodeInodes,
    /// Space where the images are, if that is another disk.
    ImageDisk,
    /// Process ids.
    Pids,
}

impl Signal {
    /// In the order in which they are acted upon.
    pub const ALL: [Self; 5] = [Self::Memory, Self::NodeDisk, Self::NodeInodes, Self::ImageDisk, Self::Pids];

    /// As thresholds and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::NodeDisk => "nodefs.available",
            Self::NodeInodes => "nodefs.inodesFree",
            Self::ImageDisk => "imagefs.available",
            Self::Pids => "pid.available",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

/// A threshold that a node may be below for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soft {
    /// Of what.
    pub signal: Signal,
    /// With less than this.
    pub threshold: Threshold,
    /// For so long, before pods are evicted.
    pub grace: Duration,
}

/// When pods are evicted. What is no `soft` threshold is acted on at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// With less memory available.
    pub memory: Threshold,
    /// With less space free where the kubelet's files are.
    pub node_disk: Threshold,
    /// With fewer inodes free there, in percent.
    pub node_inodes: Threshold,
    /// With less space free where the images are, if that is another disk.
    pub image_disk: Threshold,
    /// With fewer process ids left.
    pub pids: Threshold,
    /// How long a condition such as `DiskPressure` lasts at least: without it a node at its limit would change its mind all the time.
    pub transition: Duration,
    /// Thresholds that are acted on only after a while, and gently.
    pub soft: Vec<Soft>,
    /// What containers get at most to end in, in seconds, when their pod is evicted by a soft threshold.
    pub pod_grace_seconds_max: i64,
    /// How much more than a threshold must be free before it counts as kept again.
    pub minimum_reclaim: Vec<(Signal, Threshold)>,
}

impl Eviction {
    /// The threshold that is acted on at once.
    pub(crate) fn hard(&self, signal: Signal) -> Threshold {
        match signal {
            Signal::Memory => self.memory,
            Signal::NodeDisk => self.node_disk,
            Signal::NodeInodes => self.node_inodes,
            Signal::ImageDisk => self.image_disk,
            Signal::Pids => self.pids,
        }
    }
}

/// An amount, or a share of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// So many bytes or things.
    Amount(i64),
    /// So much of a hundred.
    Percent(i64),
    /// Never.
    Off,
}

impl Threshold {
    /// What it amounts to of `capacity`; `None` where it is off.
    pub(crate) fn of(self, capacity: i64) -> Option<i64> {
        match self {
            Self::Amount(amount) => Some(amount),
            Self::Percent(percent) => {
                Some(i64::try_from(i128::from(capacity) * i128::from(percent) / 100).unwrap_or(0))
            }
            Self::Off => None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image_pulls_max: 4,
            image_gc: ImageGc { high_percent: 85, low_percent: 80, age_min: Duration::from_secs(120) },
            image_verification: ImageVerification::default(),
            pods_max: 110,
            reserved: Reserved::default(),
            eviction: Eviction {
                memory: Threshold::Amount(100 << 20),
                node_disk: Threshold::Percent(10),
                node_inodes: Threshold::Percent(5),
                image_disk: Threshold::Percent(15),
                pids: Threshold::Percent(1),
                transition: Duration::from_secs(300),
                soft: Vec::new(),
                pod_grace_seconds_max: 0,
                minimum_reclaim: Vec::new(),
            },
            log_bytes_max: 10 << 20,
            log_files_max: 5,
            unsafe_sysctls: Vec::new(),
            manifests: None,
        }
    }
}
