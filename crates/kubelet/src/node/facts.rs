//! What the machine is and has: read from `/proc`, `/sys` and the process's cgroup.
//!
//! A cgroup limit on the process's own tree counts as the machine's size: a node in a container offers what it was given.

use std::path::Path;

use crate::eviction::plan::Level;
use crate::resources::Capacity;

/// Pods that one node runs at most; upstream's default.
const PODS_MAX: i64 = 110;

/// What does not change while the process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) capacity: Capacity,
    pub(crate) architecture: &'static str,
    pub(crate) kernel_version: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
}

impl Facts {
    /// Reads them; what a machine does not tell stays empty.
    pub(crate) async fn read(root_dir: &Path) -> Self {
        let first_line = async |path: &str| {
            let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
            text.lines().next().unwrap_or_default().trim().to_owned()
        };
        let os_release = tokio::fs::read_to_string("/etc/os-release").await.unwrap_or_default();
        let machine_id = first_line("/etc/machine-id").await;
        let uuid = first_line("/sys/class/dmi/id/product_uuid").await;
        Self {
            capacity: capacity(root_dir).await,
            architecture: architecture(),
            kernel_version: first_line("/proc/sys/kernel/osrelease").await,
            os_image: pretty_name(&os_release),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: first_line("/proc/sys/kernel/random/boot_id").await,
        }
    }
}

/// The name that Go and so Kubernetes gives the machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn pretty_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}

async fn capacity(root_dir: &Path) -> Capacity {
    let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.unwrap_or_default();
    let mut memory_bytes = meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0);
    for path in ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"] {
        let limit = tokio::fs::read_to_string(path).await.ok().and_then(|text| text.trim().parse::<i64>().ok());
        memory_bytes = limit.filter(|limit| *limit > 0).map_or(memory_bytes, |limit| memory_bytes.min(limit));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Capacity {
        milli_cpu: i64::try_from(cores).unwrap_or(1) * 1000,
        memory_bytes,
        ephemeral_bytes: disk(root_dir).map_or(0, |disk| disk.total_bytes),
        pods: PODS_MAX,
    }
}

fn meminfo_bytes(meminfo: &str, field: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: i64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Size and free space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) total_bytes: i64,
    pub(crate) available_bytes: i64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// The filesystem that a path is on.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
    Some(Disk {
        total_bytes: bytes(found.f_blocks),
        available_bytes: bytes(found.f_bavail),
        inodes: found.f_files,
        inodes_free: found.f_favail,
    })
}

/// What runs short, as the node's conditions say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

/// What there is of what may run short; `None` where the machine does not tell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Levels {
    pub(crate) memory: Option<Level>,
    pub(crate) node_disk: Option<Level>,
    pub(crate) node_inodes: Option<Level>,
    pub(crate) image_disk: Option<Level>,
    pub(crate) pids: Option<Level>,
}

/// Looks at the machine. `images` is where the images are, if that is another disk.
pub(crate) async fn levels(root_dir: &Path, images: Option<&Path>) -> Levels {
    let read = async |path: &str| tokio::fs::read_to_string(path).await.unwrap_or_default();
    let meminfo = read("/proc/meminfo").await;
    let memory = meminfo_bytes(&meminfo, "MemAvailable").zip(meminfo_bytes(&meminfo, "MemTotal"));
    // `/proc/loadavg` ends in `running/all last-pid`.
    let loadavg = read("/proc/loadavg").await;
    let threads = loadavg.split_whitespace().nth(3).and_then(|word| word.split_once('/')?.1.parse::<u64>().ok());
    let pid_max = read("/proc/sys/kernel/pid_max").await.trim().parse::<u64>().ok();
    let node = disk(root_dir);
    let level = |(available, capacity)| Level { available, capacity };
    let space = |disk: Disk| Level { available: disk.available_bytes, capacity: disk.total_bytes };
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Levels {
        memory: memory.map(level),
        node_disk: node.map(space),
        // A filesystem that makes inodes as it needs them says that it has none.
        node_inodes: node
            .filter(|disk| disk.inodes > 0)
            .map(|disk| level((count(disk.inodes_free), count(disk.inodes)))),
        image_disk: images.and_then(disk).map(space),
        pids: threads.zip(pid_max).map(|(used, max)| level((count(max.saturating_sub(used)), count(max)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_understood() {
        let meminfo = "MemTotal:       24575968 kB\nMemFree:          4 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemAvailable"), Some(1 << 20));
        assert_eq!(meminfo_bytes(meminfo, "Mem"), None);
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
