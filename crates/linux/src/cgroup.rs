//! Control groups under version 1, version 2 and both at once ("hybrid"), behind one set of calls.
//!
//! A group is named by an absolute path such as `/timonier/podUID/ID`, the same in every hierarchy. What each call writes is
//! decided here, over the [`Host`] trait, so that all three layouts are tested without a kernel. A controller belongs to
//! version 2 where the unified hierarchy offers it, else to its version 1 mount, else it is absent and its limits are
//! skipped with a warning (a machine without it cannot enforce them). The kernel's documents `cgroup-v1/` and
//! `cgroup-v2.rst` define the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;

use crate::process;

/// How often [`Cgroups::kill`] looks again for processes that were born while their siblings were killed. A fork bomb that
/// outruns this many rounds is left to the next call.
const KILL_ROUNDS_MAX: usize = 64;

/// How long one killed process may take to end before `kill` goes on: it hangs in the kernel then.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// The controllers that groups are made in under version 1. `cpuset` and `hugetlb` only where a limit names them: an empty
/// cpuset admits no process.
const V1_ALWAYS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// The controllers handed down under version 2.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// The files of the control group hierarchies.
pub trait Host: Debug + Send + Sync {
    /// The text of a file.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Writes to a file that exists.
    fn write(&self, path: &Path, value: &str) -> io::Result<()>;
    /// Makes one directory.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes one directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The names of the directories in a directory.
    fn directories(&self, path: &Path) -> io::Result<Vec<String>>;
}

/// The machine's own files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealHost;

impl Host for RealHost {
    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        use std::io::Write;
        std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn directories(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }
}

/// A file of a control group could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct CgroupError {
    /// `read`, `make`, `remove`, or `write VALUE to`.
    pub action: String,
    /// The file or directory.
    pub path: PathBuf,
    /// The kernel's answer. `EBUSY` on `cgroup.subtree_control` means that the group itself holds processes.
    #[source]
    pub source: io::Error,
}

/// Limits of a group. `None` leaves a limit as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight in version 1's terms (2 to 262144, 1024 for one processor).
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// Processors, such as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Bytes; -1 for no limit.
    pub memory_bytes: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit.
    pub memory_swap_bytes: Option<i64>,
    /// Processes and threads; -1 for no limit.
    pub pids_max: Option<i64>,
    /// Bytes for each size of huge pages (`2MB`).
    pub hugepage_bytes: Vec<(String, u64)>,
    /// Version 2 files to write as they stand.
    pub unified: BTreeMap<String, String>,
}

/// What a group uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time so far, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in use, page cache included.
    pub memory_usage_bytes: u64,
    /// Usage less the page cache that could go at once: what eviction looks at.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory.
    pub memory_rss_bytes: u64,
    /// The limit, where there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults so far.
    pub page_faults: u64,
    /// Those that read from a disk.
    pub major_page_faults: u64,
    /// Swap in use.
    pub swap_usage_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    V1(PathBuf),
    V2(PathBuf),
}

/// The machine's hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroups {
    host: Arc<dyn Host>,
    v1: BTreeMap<String, PathBuf>,
    /// Version 1 hierarchies without a controller that is used here: OCI runtimes make groups in them too.
    others: BTreeSet<PathBuf>,
    unified: Option<PathBuf>,
    v2: BTreeSet<String>,
}

impl Cgroups {
    /// Finds this machine's hierarchies.
    pub fn detect() -> Result<Self, CgroupError> {
        Self::with_host(Arc::new(RealHost))
    }

    /// Finds the hierarchies of a host, from its `/proc/self/mountinfo`.
    pub fn with_host(host: Arc<dyn Host>) -> Result<Self, CgroupError> {
        let mounts = Path::new("/proc/self/mountinfo");
        let mountinfo = host.read(mounts).map_err(failed("read", mounts))?;
        let (v1, others, unified) = parse_mountinfo(&mountinfo);
        let mut v2 = BTreeSet::new();
        if let Some(root) = &unified {
            let path = root.join("cgroup.controllers");
            let offered = host.read(&path).map_err(failed("read", &path))?;
            v2.extend(offered.split_whitespace().filter(|name| V2_CONTROLLERS.contains(name)).map(str::to_owned));
        }
        Ok(Self { host, v1, others, unified, v2 })
    }

    /// Whether every controller is version 2's.
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// Makes a group with all above it, and sets its limits.
    pub fn create(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        for root in self.v1_roots(limits) {
            self.make_dirs(&root, group, |_| Ok(()))?;
        }
        if let Some(cpuset) = self.v1.get("cpuset").filter(|_| wants_cpuset(limits)) {
            self.make_dirs(cpuset, group, |directory| self.inherit_cpuset(directory))?;
        }
        if let Some(root) = &self.unified {
            self.make_dirs(root, group, |directory| {
                // A group hands its controllers on before the next one below it is made.
                let parent = directory.parent().expect("a group made below the root has a parent");
                self.hand_down(parent)
            })?;
        }
        self.apply(group, limits)
    }

    /// Sets the limits of a group that exists.
    pub fn apply(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.apply_cpu(group, limits)?;
        self.apply_memory(group, limits)?;
        if let Some(max) = limits.pids_max {
            self.set("pids", group, "pids.max", &max_or(max))?;
        }
        for (file, value) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
            if let Some(value) = value {
                self.set("cpuset", group, file, value)?;
            }
        }
        for (size, bytes) in &limits.hugepage_bytes {
            let suffix = if self.v2.contains("hugetlb") { "max" } else { "limit_in_bytes" };
            self.set("hugetlb", group, &format!("hugetlb.{size}.{suffix}"), &bytes.to_string())?;
        }
        for (file, value) in limits.unified.iter().filter(|_| self.is_v2()) {
            if let Some(root) = &self.unified {
                self.write(&below(root, group).join(plain_file_name(file)), value)?;
            }
        }
        Ok(())
    }

    fn apply_cpu(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        match self.place("cpu", group) {
            None => self.absent("cpu", limits.cpu_shares.is_some() || limits.cpu_quota.is_some()),
            Some(Place::V2(directory)) => {
                if let Some(shares) = limits.cpu_shares {
                    self.write(&directory.join("cpu.weight"), &weight_of_shares(shares).to_string())?;
                }
                if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
                    let quota = limits.cpu_quota.map_or_else(|| "max".to_owned(), max_or);
                    let value = format!("{quota} {}", limits.cpu_period.unwrap_or(100_000));
                    self.write(&directory.join("cpu.max"), &value)?;
                }
            }
            Some(Place::V1(directory)) => {
                if let Some(shares) = limits.cpu_shares {
                    self.write(&directory.join("cpu.shares"), &shares.to_string())?;
                }
                if let Some(period) = limits.cpu_period {
                    self.write(&directory.join("cpu.cfs_period_us"), &period.to_string())?;
                }
                if let Some(quota) = limits.cpu_quota {
                    let quota = if quota <= 0 { -1 } else { quota };
                    self.write(&directory.join("cpu.cfs_quota_us"), &quota.to_string())?;
                }
            }
        }
        Ok(())
    }

    fn apply_memory(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        match self.place("memory", group) {
            None => self.absent("memory", limits.memory_bytes.is_some()),
            Some(Place::V2(directory)) => {
                if let Some(bytes) = limits.memory_bytes {
                    self.write(&directory.join("memory.max"), &max_or(bytes))?;
                }
                if let (Some(both), Some(memory)) = (limits.memory_swap_bytes, limits.memory_bytes) {
                    let swap = if both < 0 { -1 } else { both.saturating_sub(memory.max(0)).max(0) };
                    let value = if swap < 0 { "max".to_owned() } else { swap.to_string() };
                    self.write_if_there(&directory.join("memory.swap.max"), &value)?;
                }
            }
            Some(Place::V1(directory)) => {
                let memory = directory.join("memory.limit_in_bytes");
                let both = directory.join("memory.memsw.limit_in_bytes");
                let first = match limits.memory_bytes {
                    Some(bytes) => self.write(&memory, &bytes.to_string()),
                    None => Ok(()),
                };
                if let Some(bytes) = limits.memory_swap_bytes {
                    self.write_if_there(&both, &bytes.to_string())?;
                }
                // Memory may never exceed memory with swap: raising both needs the second one first.
                if let (Err(_), Some(bytes)) = (first, limits.memory_bytes) {
                    self.write(&memory, &bytes.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Moves this process into a group.
    pub fn join(&self, group: &str) -> Result<(), CgroupError> {
        for directory in self.directories_of(group) {
            match self.host.write(&directory.join("cgroup.procs"), "0") {
                Ok(()) => {}
                // A controller that no limit asked for has no such group.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("join", &directory)(error)),
            }
        }
        Ok(())
    }

    /// The processes in a group and all below it; none where the group is gone.
    pub fn processes(&self, group: &str) -> Result<Vec<Pid>, CgroupError> {
        let mut pids = BTreeSet::new();
        for directory in self.directories_of(group) {
            self.collect_processes(&directory, &mut pids)?;
        }
        Ok(pids.into_iter().filter_map(Pid::from_raw).collect())
    }

    fn collect_processes(&self, directory: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
        let path = directory.join("cgroup.procs");
        match self.host.read(&path) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(failed("read", &path)(error)),
        }
        for child in self.children(directory)? {
            self.collect_processes(&directory.join(child), pids)?;
        }
        Ok(())
    }

    /// Kills every process in a group and below it, and waits until they have ended.
    pub fn kill(&self, group: &str) -> Result<(), CgroupError> {
        for _ in 0..KILL_ROUNDS_MAX {
            let pids = self.processes(group)?;
            if pids.is_empty() {
                return Ok(());
            }
            let handles: Vec<_> = pids.iter().filter_map(|pid| process::pidfd(*pid).ok()).collect();
            if !self.kill_at_once(group) {
                for pid in &pids {
                    process::signal(*pid, 9).map_err(failed("kill the processes of", Path::new(group)))?;
                }
            }
            for handle in &handles {
                process::wait_ended(handle, KILL_WAIT).map_err(failed("wait for", Path::new(group)))?;
            }
        }
        Ok(())
    }

    /// Version 2's own kill, which no fork escapes.
    fn kill_at_once(&self, group: &str) -> bool {
        self.unified.as_ref().is_some_and(|root| self.host.write(&below(root, group).join("cgroup.kill"), "1").is_ok())
    }

    /// Removes a group with all below it, whose processes must have ended; no error where it is gone.
    pub fn remove(&self, group: &str) -> Result<(), CgroupError> {
        let others = self.others.iter().map(|root| below(root, group));
        for directory in self.directories_of(group).into_iter().chain(others) {
            self.remove_directory(&directory)?;
        }
        Ok(())
    }

    fn remove_directory(&self, directory: &Path) -> Result<(), CgroupError> {
        for child in self.children(directory)? {
            self.remove_directory(&directory.join(child))?;
        }
        match self.host.remove_dir(directory) {
            Err(error) if !is_gone(&error) => Err(failed("remove", directory)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a group exists anywhere.
    pub fn exists(&self, group: &str) -> bool {
        self.directories_of(group).iter().any(|directory| self.host.directories(directory).is_ok())
    }

    /// The name and directory of a group in each version 1 hierarchy, for a container that looks for its limits there.
    pub fn v1_directories(&self, group: &str) -> Vec<(String, PathBuf)> {
        let mounts: BTreeSet<_> = self.v1.values().collect();
        let named = mounts.into_iter().filter_map(|root| Some((root.file_name()?.to_str()?.to_owned(), root)));
        named.map(|(name, root)| (name, below(root, group))).collect()
    }

    /// The groups directly below one, in any hierarchy.
    pub fn groups_below(&self, group: &str) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for directory in self.directories_of(group) {
            names.extend(self.children(&directory)?);
        }
        Ok(names)
    }

    /// How many processes of a group the kernel killed for want of memory.
    pub fn oom_kills(&self, group: &str) -> u64 {
        let (path, key) = match self.place("memory", group) {
            Some(Place::V2(directory)) => (directory.join("memory.events"), "oom_kill"),
            Some(Place::V1(directory)) => (directory.join("memory.oom_control"), "oom_kill"),
            None => return 0,
        };
        self.host.read(&path).map(|text| field(&text, key)).unwrap_or(0)
    }

    /// What a group uses now.
    pub fn stats(&self, group: &str) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        match self.place("cpu", group) {
            Some(Place::V2(directory)) => {
                let text = self.text(&directory.join("cpu.stat"))?;
                stats.cpu_nanoseconds = field(&text, "usage_usec") * 1000;
            }
            _ => {
                if let Some(root) = self.v1.get("cpuacct") {
                    stats.cpu_nanoseconds = self.number(&below(root, group).join("cpuacct.usage"))?;
                }
            }
        }
        match self.place("memory", group) {
            Some(Place::V2(directory)) => self.memory_v2(&directory, &mut stats)?,
            Some(Place::V1(directory)) => self.memory_v1(&directory, &mut stats)?,
            None => {}
        }
        if let Some(Place::V1(directory) | Place::V2(directory)) = self.place("pids", group) {
            stats.pids = self.number(&directory.join("pids.current"))?;
        }
        Ok(stats)
    }

    fn memory_v2(&self, directory: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
        let text = self.text(&directory.join("memory.stat"))?;
        stats.memory_usage_bytes = self.number(&directory.join("memory.current"))?;
        stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(field(&text, "inactive_file"));
        stats.memory_rss_bytes = field(&text, "anon");
        (stats.page_faults, stats.major_page_faults) = (field(&text, "pgfault"), field(&text, "pgmajfault"));
        stats.memory_limit_bytes = self.text(&directory.join("memory.max"))?.trim().parse().ok();
        stats.swap_usage_bytes = self.number(&directory.join("memory.swap.current")).unwrap_or(0);
        Ok(())
    }

    fn memory_v1(&self, directory: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
        let text = self.text(&directory.join("memory.stat"))?;
        stats.memory_usage_bytes = self.number(&directory.join("memory.usage_in_bytes"))?;
        stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(field(&text, "total_inactive_file"));
        stats.memory_rss_bytes = field(&text, "total_rss");
        (stats.page_faults, stats.major_page_faults) =
            (field(&text, "total_pgfault"), field(&text, "total_pgmajfault"));
        // Version 1 says "no limit" with the largest multiple of a page.
        let limit = self.number(&directory.join("memory.limit_in_bytes"))?;
        stats.memory_limit_bytes = (limit < u64::MAX >> 2).then_some(limit);
        stats.swap_usage_bytes = field(&text, "total_swap");
        Ok(())
    }

    fn place(&self, controller: &str, group: &str) -> Option<Place> {
        if self.v2.contains(controller) {
            return self.unified.as_ref().map(|root| Place::V2(below(root, group)));
        }
        self.v1.get(controller).map(|root| Place::V1(below(root, group)))
    }

    fn set(&self, controller: &str, group: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        match self.place(controller, group) {
            Some(Place::V1(directory) | Place::V2(directory)) => self.write(&directory.join(file), value),
            None => {
                self.absent(controller, true);
                Ok(())
            }
        }
    }

    fn absent(&self, controller: &str, wanted: bool) {
        if wanted {
            tracing::warn!(controller, "this machine has no such cgroup controller: its limits are not enforced");
        }
    }

    /// Version 1 mounts that a group needs, each once (`cpu` and `cpuacct` are often one mount).
    fn v1_roots(&self, limits: &Limits) -> BTreeSet<PathBuf> {
        let hugetlb = (!limits.hugepage_bytes.is_empty()).then_some("hugetlb");
        let wanted = V1_ALWAYS.into_iter().chain(hugetlb).filter(|name| !self.v2.contains(*name));
        wanted.filter_map(|name| self.v1.get(name).cloned()).collect()
    }

    /// Every place where a group may have a directory.
    fn directories_of(&self, group: &str) -> BTreeSet<PathBuf> {
        let names = V1_ALWAYS.into_iter().chain(["cpuset", "hugetlb"]);
        let v1 = names.filter_map(|name| self.v1.get(name));
        v1.chain(self.unified.iter()).map(|root| below(root, group)).collect()
    }

    fn make_dirs(
        &self,
        root: &Path,
        group: &str,
        prepare: impl Fn(&Path) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let mut directory = root.to_owned();
        for name in group.split('/').filter(|name| !name.is_empty()) {
            directory.push(plain_file_name(name));
            if self.unified.as_deref() == Some(root) {
                prepare(&directory)?;
            }
            match self.host.make_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make", &directory)(error));
                }
                _ => {}
            }
            if self.unified.as_deref() != Some(root) {
                prepare(&directory)?;
            }
        }
        Ok(())
    }

    /// Makes the controllers of a version 2 group available to those below it.
    fn hand_down(&self, directory: &Path) -> Result<(), CgroupError> {
        if self.v2.is_empty() {
            return Ok(());
        }
        let path = directory.join("cgroup.subtree_control");
        let enabled = self.text(&path)?;
        let offered = self.text(&directory.join("cgroup.controllers"))?;
        let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
        let missing: Vec<_> = self
            .v2
            .iter()
            .filter(|name| has(&offered, name) && !has(&enabled, name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() { Ok(()) } else { self.write(&path, &missing.join(" ")) }
    }

    /// A new version 1 cpuset is empty and admits nobody: it starts with what its parent has.
    fn inherit_cpuset(&self, directory: &Path) -> Result<(), CgroupError> {
        let parent = directory.parent().expect("a group made below the root has a parent");
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if self.text(&directory.join(file))?.trim().is_empty() {
                let inherited = self.text(&parent.join(file))?;
                self.write(&directory.join(file), inherited.trim())?;
            }
        }
        Ok(())
    }

    fn children(&self, directory: &Path) -> Result<Vec<String>, CgroupError> {
        match self.host.directories(directory) {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            listed => listed.map_err(failed("list", directory)),
        }
    }

    fn text(&self, path: &Path) -> Result<String, CgroupError> {
        self.host.read(path).map_err(failed("read", path))
    }

    fn number(&self, path: &Path) -> Result<u64, CgroupError> {
        let text = self.text(path)?;
        text.trim().parse().map_err(|_| failed("understand", path)(io::ErrorKind::InvalidData.into()))
    }

    fn write(&self, path: &Path, value: &str) -> Result<(), CgroupError> {
        self.host.write(path, value).map_err(failed(&format!("write {value} to"), path))
    }

    /// Writes where the kernel has the file: without swap accounting it has none.
    fn write_if_there(&self, path: &Path, value: &str) -> Result<(), CgroupError> {
        match self.host.write(path, value) {
            Err(error) if !is_gone(&error) => Err(failed(&format!("write {value} to"), path)(error)),
            _ => Ok(()),
        }
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError + use<> {
    let (action, path) = (action.to_owned(), path.to_owned());
    move |source| CgroupError { action, path, source }
}

fn is_gone(error: &io::Error) -> bool {
    // A file of a group that is being removed answers ENODEV.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

fn below(root: &Path, group: &str) -> PathBuf {
    root.join(group.trim_start_matches('/'))
}

/// A name from a spec as one path component, so that it cannot lead elsewhere.
fn plain_file_name(name: &str) -> &str {
    name.rsplit('/').next().filter(|name| *name != "..").unwrap_or("invalid")
}

fn wants_cpuset(limits: &Limits) -> bool {
    limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some()
}

fn max_or(value: i64) -> String {
    if value <= 0 { "max".to_owned() } else { value.to_string() }
}

fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Version 1's shares (2..=262144, default 1024) as version 2's weight (1..=10000, default 100), along the curve that maps
/// default to default, as the OCI runtimes do since 2025.
fn weight_of_shares(shares: u64) -> u64 {
    if shares == 0 {
        return 100;
    }
    let shares = shares.clamp(2, 262_144);
    #[expect(clippy::cast_precision_loss, reason = "the range is small")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=10000")]
    let weight = 10f64.powf(exponent).ceil().clamp(1.0, 10_000.0) as u64;
    weight
}

fn parse_mountinfo(text: &str) -> (BTreeMap<String, PathBuf>, BTreeSet<PathBuf>, Option<PathBuf>) {
    const KNOWN: [&str; 6] = ["cpu", "cpuacct", "cpuset", "hugetlb", "memory", "pids"];
    let (mut v1, mut others) = (BTreeMap::new(), BTreeSet::new());
    let mut unified = None;
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(target), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        match right.next() {
            Some("cgroup2") => unified = unified.or_else(|| Some(PathBuf::from(target))),
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default();
                if !options.split(',').any(|name| KNOWN.contains(&name)) {
                    others.insert(PathBuf::from(target));
                }
                for name in options.split(',').filter(|name| KNOWN.contains(name)) {
                    v1.entry(name.to_owned()).or_insert_with(|| PathBuf::from(target));
                }
            }
            _ => {}
        }
    }
    (v1, others, unified)
}

#[cfg(test)]
mod tests;
