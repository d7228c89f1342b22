//! The three layouts over a host that answers as the kernel does.

use std::sync::Mutex;

use super::*;

/// Files by path. Making a version 2 group brings the files that its parent handed down, as in the kernel.
#[derive(Debug, Default)]
struct FakeHost {
    files: Mutex<BTreeMap<PathBuf, String>>,
    directories: Mutex<BTreeSet<PathBuf>>,
}

impl FakeHost {
    fn with(mountinfo: &str, files: &[(&str, &str)]) -> Arc<Self> {
        let host = Self::default();
        host.put("/proc/self/mountinfo", mountinfo);
        files.iter().for_each(|(path, text)| host.put(path, text));
        Arc::new(host)
    }

    fn put(&self, path: &str, text: &str) {
        self.files.lock().unwrap().insert(path.into(), text.to_owned());
    }

    fn get(&self, path: &str) -> String {
        self.files.lock().unwrap().get(Path::new(path)).cloned().unwrap_or_else(|| format!("no {path}"))
    }
}

impl Host for FakeHost {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.files.lock().unwrap().get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        *file = if path.ends_with("cgroup.subtree_control") { value.replace('+', "") } else { value.to_owned() };
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if !self.directories.lock().unwrap().insert(path.to_owned()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut files = self.files.lock().unwrap();
        let parent = path.parent().unwrap();
        if let Some(handed) = files.get(&parent.join("cgroup.subtree_control")).cloned() {
            files.insert(path.join("cgroup.controllers"), handed.clone());
            files.insert(path.join("cgroup.subtree_control"), String::new());
            files.insert(path.join("cgroup.procs"), String::new());
            for name in handed.split_whitespace() {
                for file in match name {
                    "cpu" => &["cpu.weight", "cpu.max"][..],
                    "memory" => &["memory.max", "memory.swap.max"],
                    "pids" => &["pids.max"],
                    _ => &[],
                } {
                    files.insert(path.join(file), String::new());
                }
            }
        } else {
            for file in ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "pids.max"] {
                files.insert(path.join(file), String::new());
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                files.insert(path.join(file), String::new());
            }
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if !self.directories.lock().unwrap().remove(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.files.lock().unwrap().retain(|file, _| file.parent() != Some(path));
        Ok(())
    }

    fn directories(&self, path: &Path) -> io::Result<Vec<String>> {
        let all = self.directories.lock().unwrap();
        let names = all.iter().filter(|entry| entry.parent() == Some(path));
        Ok(names.map(|entry| entry.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }
}

const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
36 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

fn limits() -> Limits {
    Limits {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_bytes: Some(64 << 20),
        memory_swap_bytes: Some(64 << 20),
        pids_max: Some(100),
        ..Limits::default()
    }
}

#[test]
fn v2_hands_controllers_down_and_translates_limits() {
    let host = FakeHost::with(
        V2,
        &[
            ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids rdma"),
            ("/sys/fs/cgroup/cgroup.subtree_control", ""),
        ],
    );
    let cgroups = Cgroups::with_host(host.clone()).unwrap();
    assert!(cgroups.is_v2());
    cgroups.create("/timonier/pod1/c1", &limits()).unwrap();
    for (file, value) in [
        ("cgroup.subtree_control", "cpu cpuset io memory pids"),
        ("timonier/cgroup.subtree_control", "cpu cpuset io memory pids"),
        ("timonier/pod1/cgroup.subtree_control", "cpu cpuset io memory pids"),
        // A leaf hands nothing down: it may hold processes.
        ("timonier/pod1/c1/cgroup.subtree_control", ""),
        ("timonier/pod1/c1/cpu.weight", "100"),
        ("timonier/pod1/c1/cpu.max", "50000 100000"),
        ("timonier/pod1/c1/memory.max", "67108864"),
        ("timonier/pod1/c1/memory.swap.max", "0"),
        ("timonier/pod1/c1/pids.max", "100"),
    ] {
        assert_eq!(host.get(&format!("/sys/fs/cgroup/{file}")), value, "{file}");
    }
    cgroups.join("/timonier/pod1/c1").unwrap();
    assert_eq!(host.get("/sys/fs/cgroup/timonier/pod1/c1/cgroup.procs"), "0");
    cgroups.remove("/timonier").unwrap();
    cgroups.remove("/timonier").unwrap();
    assert!(host.directories.lock().unwrap().is_empty());
}

#[test]
fn hybrid_limits_go_to_v1_and_the_unified_group_is_there_for_killing() {
    let host = FakeHost::with(
        HYBRID,
        &[
            ("/sys/fs/cgroup/unified/cgroup.controllers", ""),
            ("/sys/fs/cgroup/unified/cgroup.subtree_control", ""),
            ("/sys/fs/cgroup/cpuset/cpuset.cpus", "0-1\n"),
            ("/sys/fs/cgroup/cpuset/cpuset.mems", "0\n"),
        ],
    );
    let cgroups = Cgroups::with_host(host.clone()).unwrap();
    assert!(!cgroups.is_v2());
    cgroups.create("/timonier/pod1", &limits()).unwrap();
    assert_eq!(host.get("/sys/fs/cgroup/cpu,cpuacct/timonier/pod1/cpu.cfs_quota_us"), "50000");
    assert_eq!(host.get("/sys/fs/cgroup/memory/timonier/pod1/memory.limit_in_bytes"), "67108864");
    assert_eq!(host.get("/sys/fs/cgroup/unified/timonier/pod1/cgroup.procs"), "");
    assert!(!host.directories.lock().unwrap().contains(Path::new("/sys/fs/cgroup/cpuset/timonier")));
    // A cpuset is made only when asked for, and starts with what its parent has.
    cgroups.create("/timonier/pod2", &Limits { cpuset_cpus: Some("1".to_owned()), ..Limits::default() }).unwrap();
    assert_eq!(host.get("/sys/fs/cgroup/cpuset/timonier/cpuset.cpus"), "0-1");
    assert_eq!(host.get("/sys/fs/cgroup/cpuset/timonier/pod2/cpuset.cpus"), "1");
    assert_eq!(host.get("/sys/fs/cgroup/cpuset/timonier/pod2/cpuset.mems"), "0");
}

#[test]
fn reads_what_a_group_uses() {
    let files = |prefix: &str, files: &[(&str, &str)]| {
        files.iter().map(|(name, text)| (format!("{prefix}/{name}"), (*text).to_owned())).collect::<Vec<_>>()
    };
    let host = FakeHost::with(V2, &[("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids")]);
    for (path, text) in files(
        "/sys/fs/cgroup/g",
        &[
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000"),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 300\ninactive_file 400\npgfault 7\npgmajfault 2\n"),
            ("memory.max", "max\n"),
            ("memory.events", "oom 3\noom_kill 2\n"),
            ("pids.current", "5\n"),
        ],
    ) {
        host.put(&path, &text);
    }
    let cgroups = Cgroups::with_host(host).unwrap();
    let stats = cgroups.stats("/g").unwrap();
    assert_eq!((stats.cpu_nanoseconds, stats.memory_working_set_bytes, stats.pids), (1_500_000, 600, 5));
    assert_eq!((stats.memory_limit_bytes, stats.page_faults, cgroups.oom_kills("/g")), (None, 7, 2));
}

#[test]
fn shares_become_weights() {
    for (shares, weight) in [(0, 100), (2, 1), (1024, 100), (262_144, 10_000), (1_000_000, 10_000)] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
}

#[test]
fn a_group_on_this_machine_kills_and_goes() {
    struct Remove(Cgroups, String);
    impl Drop for Remove {
        fn drop(&mut self) {
            let _ = self.0.kill(&self.1);
            let _ = self.0.remove(&self.1);
        }
    }
    let cgroups = Cgroups::detect().unwrap();
    let group = format!("/timonier-test-{}", std::process::id());
    let removed = Remove(cgroups.clone(), group.clone());
    let limits = Limits { pids_max: Some(64), memory_bytes: Some(64 << 20), ..Limits::default() };
    cgroups.create(&group, &limits).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for directory in cgroups.directories_of(&group) {
        let _ = RealHost.write(&directory.join("cgroup.procs"), &child.id().to_string());
    }
    assert_eq!(cgroups.processes(&group).unwrap().len(), 1);
    assert_eq!(cgroups.stats(&group).unwrap().memory_limit_bytes, Some(64 << 20));
    let killer = std::thread::spawn(move || child.wait().unwrap());
    cgroups.kill(&group).unwrap();
    assert!(!killer.join().unwrap().success());
    drop(removed);
    assert!(!cgroups.exists(&group));
}

/// An OCI runtime makes its groups in every hierarchy of version 1.
#[test]
fn what_others_made_in_unused_hierarchies_goes_too() {
    let mountinfo = "1 0 0:1 / /c/memory rw - cgroup cgroup rw,memory\n2 0 0:2 / /c/devices rw - cgroup cgroup rw,devices\n\
                     3 0 0:3 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    let host = FakeHost::with(mountinfo, &[]);
    let cgroups = Cgroups::with_host(host.clone()).unwrap();
    for place in ["/c/memory/pod", "/c/devices/pod", "/c/devices/pod/inner", "/c/systemd/pod"] {
        host.make_dir(Path::new(place)).unwrap();
    }
    cgroups.remove("/pod").unwrap();
    assert!(host.directories.lock().unwrap().is_empty(), "{:?}", host.directories.lock().unwrap());
    cgroups.remove("/pod").unwrap();
}
