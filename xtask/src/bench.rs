//! `cargo xtask bench`: measures a cluster on this machine, in a network namespace of its own, and prints one line a figure.
//!
//! The figures' meaning: `docs/benchmarks.md`. Whole node means every process of the cluster, shims included.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages;

/// What an idle cluster does is averaged over so long.
const IDLE: Duration = Duration::from_secs(30);

/// How long the allocator and the caches' histories get to come to rest before memory is read.
const SETTLE: Duration = Duration::from_secs(20);

/// Runs all measurements.
pub(crate) fn run(root: &Path, binaries: Option<PathBuf>) -> Result<()> {
    packages::install_for_tests()?;
    let binaries = match binaries {
        Some(binaries) => binaries,
        None => {
            crate::cargo(root, &["build", "--release", "--package", "timonier", "--package", "workload", "--locked"])?;
            crate::release_folder(root)?
        }
    };
    let bench = Bench::new(binaries.join("timonier"))?;
    bench.starts()?;
    bench.idle("idle")?;
    let archive = bench.output(&bench.beside("workload"), &["image", &bench.folder.display().to_string()])?;
    bench.timonier(&["image", "import", archive.trim()])?;
    let kubeconfig = bench.data().join("kubeconfig").display().to_string();
    print!("{}", bench.output(&bench.beside("workload"), &["pods", "--kubeconfig", &kubeconfig])?);
    print!("{}", bench.output(&bench.beside("workload"), &["api", "--kubeconfig", &kubeconfig])?);
    bench.idle("idle_after_load")?;
    drop(bench);
    memory_of(&binaries, "definitions", 200)?;
    memory_of(&binaries, "pods-at-rest", 20_000)
}

/// What each of `count` objects costs in a cluster that has nothing else to do, in every cache that keeps it.
fn memory_of(binaries: &Path, work: &str, count: u32) -> Result<()> {
    let bench = Bench::new(binaries.join("timonier"))?;
    bench.timonier(&["up", "--detach"])?;
    std::thread::sleep(SETTLE);
    let before = bench.pss_kib()?;
    let kubeconfig = bench.data().join("kubeconfig").display().to_string();
    let args = [work, "--kubeconfig", &kubeconfig, "--count", &count.to_string()];
    print!("{}", bench.output(&bench.beside("workload"), &args)?);
    std::thread::sleep(SETTLE);
    let after = bench.pss_kib()?;
    println!(
        "memory_of_{work} count={count} before_mb={:.1} after_mb={:.1} kb_each={:.2}",
        f64::from(before) / 1024.0,
        f64::from(after) / 1024.0,
        f64::from(after.saturating_sub(before)) * 1.024 / f64::from(count)
    );
    Ok(())
}

/// A network namespace and a data directory that are removed at the end.
struct Bench {
    timonier: PathBuf,
    namespace: String,
    folder: PathBuf,
}

impl Bench {
    fn new(timonier: PathBuf) -> Result<Self> {
        let namespace = format!("timonier-bench-{}", std::process::id());
        let folder = std::env::temp_dir().join(&namespace);
        std::fs::create_dir_all(&folder)?;
        let bench = Self { timonier, namespace, folder };
        bench.ip(&["netns", "add", &bench.namespace])?;
        for args in [
            "link add name uplink type veth peer name uplink-peer",
            "addr add 192.0.2.10/24 dev uplink",
            "link set uplink up",
            "link set uplink-peer up",
            "route add default via 192.0.2.1 dev uplink",
        ] {
            bench.ip(&[&["-n", bench.namespace.as_str()], args.split(' ').collect::<Vec<_>>().as_slice()].concat())?;
        }
        Ok(bench)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.timonier.with_file_name(name)
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        let status = Command::new("ip").args(args).status().context("cannot run ip")?;
        if !status.success() {
            bail!("ip {} failed", args.join(" "));
        }
        Ok(())
    }

    fn output(&self, program: &Path, args: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program).args(args);
        let output = command.output().context("cannot run nsenter")?;
        if !output.status.success() {
            bail!("{} {}: {}", program.display(), args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn timonier(&self, args: &[&str]) -> Result<String> {
        let data = self.data().display().to_string();
        self.output(&self.timonier, &[args, &["--data-dir", &data]].concat())
    }

    /// Start to node Ready: a new cluster, then the same one again.
    fn starts(&self) -> Result<()> {
        let mut again = Vec::new();
        for round in 0..6 {
            let started = Instant::now();
            self.timonier(&["up", "--detach"])?;
            let seconds = started.elapsed().as_secs_f64();
            match round {
                0 => println!("start_new seconds={seconds:.3}"),
                _ => again.push(seconds),
            }
            if round < 5 {
                self.timonier(&["down"])?;
            }
        }
        again.sort_by(f64::total_cmp);
        println!(
            "start_again seconds={:.3} (median of {}, {:.3} to {:.3})",
            again[again.len() / 2],
            again.len(),
            again[0],
            again[again.len() - 1]
        );
        Ok(())
    }

    /// Memory and processor time of every process of the node.
    fn idle(&self, name: &str) -> Result<()> {
        std::thread::sleep(Duration::from_secs(10));
        let before = self.ticks()?;
        std::thread::sleep(IDLE);
        let ticks = self.ticks()? - before;
        let (pss, processes) = (self.pss_kib()?, self.processes()?.len());
        let cpu = ticks as f64 / 100.0 / IDLE.as_secs_f64() * 100.0;
        println!("{name} pss_mb={:.1} cpu_percent_of_a_core={cpu:.2} processes={}", f64::from(pss) / 1024.0, processes);
        Ok(())
    }

    /// Memory of every process of the node.
    fn pss_kib(&self) -> Result<u32> {
        self.processes()?.into_iter().map(pss_kib).sum()
    }

    /// User and system time of the node's processes, in hundredths of a second.
    fn ticks(&self) -> Result<u64> {
        let mut ticks = 0;
        for pid in self.processes()? {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            ticks += field(11) + field(12);
        }
        Ok(ticks)
    }

    fn processes(&self) -> Result<BTreeSet<u32>> {
        let data = self.data().display().to_string();
        let mut pids = BTreeSet::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if command.contains(&data) && command.contains("timonier") {
                pids.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
            }
        }
        Ok(pids)
    }
}

fn pss_kib(pid: u32) -> Result<u32> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("no Pss line")?;
    Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = self.timonier(&["reset", "--yes"]) {
            eprintln!("error: {error:#}");
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
