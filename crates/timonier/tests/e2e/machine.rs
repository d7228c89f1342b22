//! A machine for one test: a network namespace, a data directory, and what is left behind on both.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before the test says that it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A machine with an address of its own and a cluster's data directory. Dropping it removes everything.
pub(crate) struct Machine {
    namespace: String,
    folder: tempfile::TempDir,
}

impl Machine {
    /// With an interface and an address, as most machines have.
    pub(crate) fn new() -> Self {
        let machine = Self::with_loopback_only();
        machine.ip("link add name uplink type veth peer name uplink-peer");
        machine.ip("addr add 192.0.2.10/24 dev uplink");
        machine.ip("link set uplink up");
        machine.ip("link set uplink-peer up");
        machine.ip("route add default via 192.0.2.1 dev uplink");
        machine
    }

    /// One of several on a switch, with the address `192.0.2.(10 + number)`.
    #[allow(dead_code, reason = "not all programs that share this file have several machines")]
    pub(crate) fn on(switch: &Switch, number: u32) -> Self {
        let machine = Self::with_loopback_only();
        let port = format!("port{number}");
        machine.ip(&format!("link add name uplink type veth peer name {port} netns {}", switch.namespace));
        switch.ip(&format!("link set {port} master switch up"));
        machine.ip(&format!("addr add 192.0.2.{}/24 dev uplink", 10 + number));
        machine.ip("link set uplink up");
        machine.ip("route add default via 192.0.2.1 dev uplink");
        machine
    }

    /// With nothing but a loopback that is down.
    pub(crate) fn with_loopback_only() -> Self {
        let namespace = format!("timonier-e2e-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        run(Command::new("ip").args(["netns", "add", &namespace]));
        Self { namespace, folder: tempfile::tempdir().unwrap() }
    }

    /// `ip ARGS` in the machine's network.
    pub(crate) fn ip(&self, args: &str) {
        run(Command::new("ip").args(["-n", &self.namespace]).args(args.split(' ')));
    }

    /// The cluster's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Puts the data directory on a disk of its own; `options` are tmpfs's.
    pub(crate) fn mount_data(&self, options: &str) {
        std::fs::create_dir(self.data()).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.data()));
    }

    /// A folder for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command inside the machine's network. (`ip netns exec` would hide the cgroups.)
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program);
        command.env("KUBECONFIG", self.data().join("kubeconfig")).env("HOME", self.folder.path());
        command
    }

    /// Runs `work` on a thread inside the machine's network.
    #[allow(dead_code, reason = "not all programs that share this file have work of their own in there")]
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = std::fs::File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `timonier ARGS --data-dir ...`, whatever comes of it.
    pub(crate) fn try_timonier(&self, args: &str) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_timonier"));
        command.args(args.split(' ')).arg("--data-dir").arg(self.data()).output().unwrap()
    }

    /// `timonier ARGS`, which must succeed; returns its output.
    #[track_caller]
    pub(crate) fn timonier(&self, args: &str) -> String {
        self.succeeded(&format!("timonier {args}"), &self.try_timonier(args))
    }

    /// `timonier ARGS`, which must fail; returns its one sentence.
    #[track_caller]
    pub(crate) fn timonier_fails(&self, args: &str) -> String {
        one_sentence(&format!("timonier {args}"), &self.try_timonier(args))
    }

    /// `kubectl` with these arguments and this input, whatever comes of it.
    pub(crate) fn try_kubectl(&self, args: &[&str], input: &str) -> Output {
        self.try_program("kubectl", args, input)
    }

    /// Some program of this path, in the same way.
    pub(crate) fn try_program(&self, program: &str, args: &[&str], input: &str) -> Output {
        let mut child = self
            .command(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// `kubectl ARGS`, which must succeed without a warning; returns its output. Words are split at spaces; see
    /// [`Machine::kubectl_args`] for others.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &str) -> String {
        self.kubectl_args(&args.split(' ').collect::<Vec<_>>(), "")
    }

    /// `kubectl` with arguments that hold spaces, and input.
    #[track_caller]
    pub(crate) fn kubectl_args(&self, args: &[&str], input: &str) -> String {
        let output = self.try_kubectl(args, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        let shown = format!("kubectl {}", args.join(" "));
        assert!(!errors.contains("Warning"), "{shown} warned: {errors}");
        self.succeeded(&shown, &output)
    }

    #[track_caller]
    fn succeeded(&self, shown: &str, output: &Output) -> String {
        assert!(
            output.status.success(),
            "{shown}: {}\n{}{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.evidence()
        );
        text(&output.stdout)
    }

    /// Waits until `kubectl ARGS` prints what `done` accepts.
    #[track_caller]
    pub(crate) fn kubectl_until(&self, args: &str, done: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let output = self.try_kubectl(&args.split(' ').collect::<Vec<_>>(), "");
            let printed = text(&output.stdout);
            if output.status.success() && done(&printed) {
                return printed;
            }
            assert!(
                Instant::now() < deadline,
                "kubectl {args} still prints:\n{printed}{}\n{}",
                text(&output.stderr),
                self.evidence()
            );
            std::thread::yield_now();
        }
    }

    /// The process id of the cluster.
    pub(crate) fn pid(&self) -> i32 {
        std::fs::read_to_string(self.data().join("lock")).unwrap().trim().parse().unwrap()
    }

    /// `kill -9` of the cluster's process; returns when it is gone.
    pub(crate) fn kill(&self) {
        let pid = self.pid();
        run(Command::new("kill").args(["-9", &pid.to_string()]));
        let deadline = Instant::now() + DEADLINE;
        // Its program is let go of before its locks are: it is gone when it is no more than an exit code.
        let lives = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let is_over = status.contains("State:\tZ") && status.contains("Threads:\t1\n");
            !(status.is_empty() || is_over)
        };
        while lives() {
            assert!(Instant::now() < deadline, "process {pid} survives kill -9");
            std::thread::yield_now();
        }
    }

    /// What a person would look at first after a failure.
    pub(crate) fn evidence(&self) -> String {
        let mut evidence = String::new();
        for args in ["get pods,svc,endpointslices -A -o wide", "get events -A"] {
            let output = self.try_kubectl(&args.split(' ').collect::<Vec<_>>(), "");
            let _ = writeln!(evidence, "$ kubectl {args}\n{}{}", text(&output.stdout), text(&output.stderr));
        }
        let log = std::fs::read_to_string(self.data().join("timonier.log")).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(60).collect();
        let _ = writeln!(evidence, "$ tail timonier.log");
        for line in tail.iter().rev() {
            let _ = writeln!(evidence, "{line}");
        }
        evidence
    }

    /// Everything of this machine's cluster that the kernel holds: mounts, cgroups, processes, links, rules, routes.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        let data = self.data();
        let mut traces = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        traces.extend(
            mounts.lines().filter(|line| line.contains(data.to_str().unwrap())).map(|line| format!("mount {line}")),
        );
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            if command.contains(data.to_str().unwrap()) {
                traces.insert(format!("process {} {}", process.file_name().display(), command.replace('\0', " ")));
            }
        }
        for (label, args) in
            [("link", "ip -o link"), ("rule", "nft list tables"), ("route", "ip route"), ("address", "ip -o addr")]
        {
            let words: Vec<_> = args.split(' ').collect();
            let output = self.command(words[0]).args(&words[1..]).output().unwrap();
            let own = |line: &&str| !line.contains("lo ") && !line.contains("lo:") && !line.contains("uplink");
            traces.extend(text(&output.stdout).lines().filter(own).map(|line| format!("{label} {line}")));
        }
        let cgroups =
            Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", "*timonier*"]).output().unwrap();
        traces.extend(text(&cgroups.stdout).lines().map(|line| format!("cgroup {line}")));
        traces
    }
}

/// What joins machines: a bridge in a network namespace of its own. Dropping it removes it.
#[allow(dead_code, reason = "not all programs that share this file have several machines")]
pub(crate) struct Switch {
    namespace: String,
}

#[allow(dead_code, reason = "not all programs that share this file have several machines")]
impl Switch {
    pub(crate) fn new() -> Self {
        let namespace = format!("timonier-switch-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        run(Command::new("ip").args(["netns", "add", &namespace]));
        let switch = Self { namespace };
        switch.ip("link add name switch type bridge");
        switch.ip("link set switch up");
        switch
    }

    fn ip(&self, args: &str) {
        run(Command::new("ip").args(["-n", &self.namespace]).args(args.split(' ')));
    }

    /// Pulls or puts in the cable of a machine.
    pub(crate) fn cable(&self, number: u32, state: &str) {
        self.ip(&format!("link set port{number} {state}"));
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let reset = self.try_timonier("reset --yes");
        if !reset.status.success() {
            eprintln!("reset failed: {}", text(&reset.stderr));
        }
        // Only where a test mounted it.
        let _ = Command::new("umount").args(["-q", "-l"]).arg(self.data()).status();
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

/// One line on the error output that begins with `error:`, and a non-zero exit.
#[track_caller]
pub(crate) fn one_sentence(shown: &str, output: &Output) -> String {
    let errors = text(&output.stderr);
    assert!(!output.status.success(), "{shown} succeeded: {}", text(&output.stdout));
    let lines: Vec<_> = errors.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{shown}: not one clear sentence: {errors}");
    lines[0].to_owned()
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
