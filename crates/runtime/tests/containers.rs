//! Real containers on this machine: sandboxes, logs, commands, ends, restarts, and that nothing is left. Needs root and
//! `/bin/busybox`, statically linked.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Stop, SystemClock};
use bytes::Bytes;
use cri::{AttachRequest, ExecStart, Input, NetworkError, Output, PodNetwork, Runtime, TerminalSize, v1};
use futures::StreamExt;
use runtime::{Config, Embedded, Handlers};

const DEADLINE: Duration = Duration::from_secs(20);

/// Remembers who is attached.
#[derive(Default)]
struct FakeNetwork(Mutex<BTreeMap<String, PathBuf>>);

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        assert!(request.namespace_path.exists(), "the namespace is there when the network is made");
        self.0.lock().unwrap().insert(request.sandbox_id.clone(), request.namespace_path.clone());
        Ok(vec![IpAddr::from([10, 42, 0, 7])])
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        self.0.lock().unwrap().remove(sandbox_id);
        Ok(())
    }
}

/// A runtime in a directory and a control group of its own; takes everything down when dropped, and counts what is left.
struct Node {
    runtime: Option<Arc<Embedded>>,
    stop: Stop,
    network: Arc<FakeNetwork>,
    directory: tempfile::TempDir,
    cgroup_root: String,
    /// What starts its containers.
    handler: &'static str,
}

impl Node {
    async fn new() -> Self {
        Self::with("").await
    }

    async fn with(handler: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cgroup_root =
            format!("timonier-test-{}", directory.path().file_name().unwrap().to_str().unwrap().replace('.', ""));
        let mut node =
            Self { runtime: None, stop: Stop::new(), network: Arc::default(), directory, cgroup_root, handler };
        node.open().await;
        node.runtime().images().import(busybox().as_slice()).unwrap();
        node
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    async fn open(&mut self) {
        self.stop = Stop::new();
        let config = Config {
            root: self.root(),
            shim: PathBuf::from(env!("CARGO_BIN_EXE_timonier-shim")),
            network: self.network.clone(),
            cgroup_root: self.cgroup_root.clone(),
            handlers: handlers(),
            registries: runtime::registry::Config::default(),
            clock: Arc::new(SystemClock),
            stop: self.stop.clone(),
        };
        self.runtime = Some(Embedded::open(config).await.unwrap());
    }

    fn runtime(&self) -> &Arc<Embedded> {
        self.runtime.as_ref().unwrap()
    }

    /// Ends the runtime as the end of its process would.
    async fn close(&mut self) {
        self.stop.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.join().await;
        }
    }

    fn pod(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.directory.path().join("logs").display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_processes()),
                    ..v1::LinuxSandboxSecurityContext::default()
                }),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        }
    }

    async fn sandbox(&self, config: &v1::PodSandboxConfig) -> String {
        self.runtime().run_pod_sandbox(config.clone(), self.handler).await.map_err(|error| base::chain(&error)).unwrap()
    }

    async fn create(&self, sandbox: &str, config: v1::ContainerConfig) -> Result<String, String> {
        let pod = self.pod("unused");
        self.runtime().create_container(sandbox, config, pod).await.map_err(|error| base::chain(&error))
    }

    async fn start(&self, sandbox: &str, config: v1::ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.unwrap();
        self.runtime().start_container(&id).await.map_err(|error| base::chain(&error)).unwrap();
        id
    }

    async fn status(&self, id: &str) -> v1::ContainerStatus {
        self.runtime().container_status(id).await.unwrap()
    }

    /// Waits for a container's end.
    async fn ended(&self, id: &str) -> v1::ContainerStatus {
        let mut events = self.runtime().events().await.unwrap();
        let wait = async {
            while self.status(id).await.state != v1::ContainerState::ContainerExited as i32 {
                events.next().await.expect("the reader keeps up");
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("the container ends in time");
        self.status(id).await
    }

    /// Runs a script to its end; its exit code and log.
    async fn run(&self, sandbox: &str, config: v1::ContainerConfig) -> (v1::ContainerStatus, String) {
        let id = self.start(sandbox, config).await;
        let status = self.ended(&id).await;
        let log = std::fs::read_to_string(&status.log_path).unwrap();
        let text: String = log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n").collect();
        self.runtime().remove_container(&id).await.unwrap();
        (status, text)
    }

    async fn exec(&self, id: &str, script: &str) -> (i32, String) {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let response = self.runtime().exec_sync(id, command, 20).await.map_err(|error| base::chain(&error)).unwrap();
        let text = [response.stdout, response.stderr].concat();
        (response.exit_code, String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.close()));
        // A process that another test is just starting may hold a copy of the lock until it executes.
        let begin = Instant::now();
        while let Err(error) = runtime::remove_all(&self.root(), &self.cgroup_root) {
            assert!(begin.elapsed() < DEADLINE, "everything can be removed: {}", base::chain(&error));
            std::thread::yield_now();
        }
        runtime::remove_all(&self.root(), &self.cgroup_root).expect("and again");
        if !std::thread::panicking() {
            let path = self.directory.path().display().to_string();
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(&path), "mounts are left");
            assert!(
                !linux::cgroup::Cgroups::detect().unwrap().exists(&format!("/{}", self.cgroup_root)),
                "groups are left"
            );
            assert_eq!(processes_with(&path), Vec::<i32>::new(), "processes are left");
        }
    }
}

/// Where installed OCI runtimes are.
fn handlers() -> Handlers {
    Handlers { search: PROGRAMS.map(PathBuf::from).to_vec(), ..Handlers::default() }
}

const PROGRAMS: [&str; 3] = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];

/// Of these, those that are installed.
fn installed(handlers: &[&'static str]) -> Vec<&'static str> {
    let is_there = |name: &&&str| PROGRAMS.iter().any(|folder| Path::new(folder).join(name).is_file());
    handlers.iter().filter(is_there).copied().collect()
}

/// The processes whose command line names a path: the shims of a node.
fn processes_with(path: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(path))
    })
    .collect()
}

/// An image with busybox, as docker save writes one.
fn busybox() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut file = |name: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        layer.append_data(&mut header, name, bytes).unwrap();
    };
    file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").expect("busybox-static is installed"));
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:77:app\n");
    for name in [
        "sh", "sleep", "cat", "echo", "id", "ls", "mount", "touch", "hostname", "head", "mknod", "unshare", "ps",
        "kill", "grep", "stty", "tail", "wc", "pwd", "env", "mkdir", "chmod",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o1777);
    header.set_entry_type(tar::EntryType::Directory);
    layer.append_data(&mut header, "tmp/", std::io::empty()).unwrap();
    let layer = layer.into_inner().unwrap();
    use sha2::Digest;
    let digest: String = sha2::Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!(
        r#"{{"config":{{"Cmd":["sh"],"Env":["PATH=/bin","FROM_IMAGE=yes"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["busybox:latest"],"Layers":["l.tar"]}]"#;
    let mut image = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("l.tar", layer.as_slice()), ("c.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        image.append_data(&mut header, name, bytes).unwrap();
    }
    image.into_inner().unwrap()
}

/// What pods have unless they say otherwise: CRI's zero value shares processes.
fn own_processes() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container as i32, ..v1::NamespaceOption::default() }
}

fn script(name: &str, text: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "busybox".to_owned(), ..v1::ImageSpec::default() }),
        command: ["sh", "-c", text].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(own_processes()),
                ..v1::LinuxContainerSecurityContext::default()
            }),
            ..v1::LinuxContainerConfig::default()
        }),
        ..v1::ContainerConfig::default()
    }
}

fn security(
    mut config: v1::ContainerConfig,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> v1::ContainerConfig {
    change(config.linux.get_or_insert_default().security_context.get_or_insert_default());
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_leaves_nothing() {
    lives(Node::new().await).await;
}

async fn lives(node: Node) {
    let sandbox = node.sandbox(&node.pod("web")).await;
    let status = node.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(
        (status.state, status.network.unwrap().ip),
        (v1::PodSandboxState::SandboxReady as i32, "10.42.0.7".to_owned())
    );
    let text = "echo out; echo err >&2; hostname; echo $FROM_IMAGE $HOME; echo -n part; exit 3";
    let id = node.start(&sandbox, script("main", text)).await;
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at < status.finished_at);
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    let mut lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout F web", "stdout F yes /root", "stdout P part"]);
    node.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
    node.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
    assert!(node.network.0.lock().unwrap().is_empty(), "the network was given back");
    let status = node.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.state, v1::PodSandboxState::SandboxNotready as i32);
    node.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    node.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(node.runtime().list_containers(None).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(node.root().join("sandboxes")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_in_containers() {
    runs_commands(Node::new().await).await;
}

async fn runs_commands(node: Node) {
    let sandbox = node.sandbox(&node.pod("exec")).await;
    let id = node.start(&sandbox, script("main", "sleep 1000")).await;
    assert_eq!(node.exec(&id, "echo hi; echo oops >&2; exit 7").await, (7, "hi\noops\n".to_owned()));
    assert_eq!(node.exec(&id, "kill -9 $$").await.0, 137);
    let missing = node.runtime().exec_sync(&id, vec!["nope".to_owned()], 0).await.unwrap_err();
    assert!(base::chain(&missing).contains("not found in $PATH"), "{}", base::chain(&missing));
    let late = node.runtime().exec_sync(&id, vec!["sleep".to_owned(), "1000".to_owned()], 1).await.unwrap_err();
    assert!(matches!(late, cri::RuntimeError::DeadlineExceeded(_)));
    // Input of many times what pipes hold comes back whole.
    let start = ExecStart { container_id: id.clone(), command: vec!["cat".to_owned()], stdin: true, tty: false };
    let cri::ExecSession { input, mut output } = node.runtime().exec(start).await.unwrap();
    let sent = Bytes::from(vec![b'x'; 3 << 20]);
    let feed = async {
        input.send(Input::Stdin(sent.clone())).await.unwrap();
        drop(input);
    };
    let drain = async {
        let (mut bytes, mut exit_code) = (0, None);
        while let Some(part) = output.recv().await {
            match part {
                Output::Stdout(part) => bytes += part.len(),
                Output::Stderr(part) => panic!("{part:?}"),
                Output::Failed(why) => panic!("{why}"),
                Output::Exited(code) => exit_code = Some(code),
            }
        }
        (bytes, exit_code)
    };
    let ((), received) = tokio::time::timeout(DEADLINE, async { tokio::join!(feed, drain) }).await.unwrap();
    assert_eq!(received, (3 << 20, Some(0)));
    // A terminal has a size, and tells it.
    let command =
        ["sh", "-c", "read line; stty size; tty=$(ls -l /proc/self/fd/0); echo ${tty##*/}"].map(str::to_owned).to_vec();
    let start = ExecStart { container_id: id.clone(), command, stdin: true, tty: true };
    let cri::ExecSession { input, mut output } = node.runtime().exec(start).await.unwrap();
    input.send(Input::Resize(TerminalSize { width: 132, height: 43 })).await.unwrap();
    input.send(Input::Stdin(Bytes::from_static(b"go\n"))).await.unwrap();
    let mut text = String::new();
    while let Some(part) = tokio::time::timeout(DEADLINE, output.recv()).await.unwrap() {
        if let Output::Stdout(part) = part {
            text.push_str(&String::from_utf8_lossy(&part));
        }
    }
    assert!(text.contains("43 132"), "{text:?}");
    // Leaving a session kills its command.
    let start = ExecStart {
        container_id: id.clone(),
        command: vec!["sleep".to_owned(), "777".to_owned()],
        ..ExecStart::default()
    };
    drop(node.runtime().exec(start).await.unwrap());
    let gone = async {
        while node.exec(&id, "ps").await.1.contains("sleep 777") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the command is killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_stop_and_say_why() {
    stops(Node::new().await).await;
}

async fn stops(node: Node) {
    let sandbox = node.sandbox(&node.pod("stop")).await;
    let polite =
        node.start(&sandbox, script("polite", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done")).await;
    let deaf = node.start(&sandbox, script("deaf", "trap '' TERM; sleep 1000 & wait; sleep 1000")).await;
    // It listens once it says so.
    let log = node.status(&polite).await.log_path;
    let ready = async {
        while !std::fs::read_to_string(&log).unwrap().contains("ready") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.unwrap();
    node.runtime().stop_container(&polite, 20).await.unwrap();
    assert_eq!(node.status(&polite).await.exit_code, 5);
    let begin = Instant::now();
    node.runtime().stop_container(&deaf, 1).await.unwrap();
    assert!((1..10).contains(&begin.elapsed().as_secs()));
    let status = node.status(&deaf).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    // More memory than is allowed.
    let mut greedy = script("greedy", "tail /dev/zero");
    greedy.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        ..v1::LinuxContainerResources::default()
    });
    let (status, _) = node.run(&sandbox, greedy).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    // A program that is not there.
    let mut missing = script("missing", "");
    missing.command = vec!["/no/such/program".to_owned()];
    let id = node.create(&sandbox, missing).await.unwrap();
    let error = base::chain(&node.runtime().start_container(&id).await.unwrap_err());
    let wording = if node.handler == "crun" {
        "executable file `/no/such/program`"
    } else {
        "stat /no/such/program: no such file"
    };
    assert!(error.contains(wording), "{error}");
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    let (status, text) = node.run(&sandbox, script("fine", "echo still works")).await;
    assert_eq!((status.reason.as_str(), text.as_str()), ("Completed", "still works\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_confined() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("confined")).await;
    let run = async |name: &str, text: &str, change: &dyn Fn(&mut v1::LinuxContainerSecurityContext)| {
        let (status, log) = node.run(&sandbox, security(script(name, text), change)).await;
        (status.exit_code, log)
    };
    let look = "id -u; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '; ps | wc -l; pwd";
    let (_, text) = run("plain", &look.replace("tr ", "busybox tr "), &|_| {}).await;
    let expected = "0\n0\nCapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 0\n";
    assert!(text.starts_with(expected), "{text}");
    let (_, text) = run("user", &look.replace("tr ", "busybox tr "), &|security| {
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
        security.supplemental_groups = vec![5];
        security.no_new_privs = true;
        security.seccomp = Some(v1::SecurityProfile::default());
        security.capabilities =
            Some(v1::Capability { drop_capabilities: vec!["ALL".to_owned()], ..v1::Capability::default() });
    })
    .await;
    let expected = "1000\n1000 5 77\nCapEff: 0000000000000000\nCapBnd: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n";
    assert!(text.starts_with(expected), "{text}");
    // The default filter refuses what reaches beyond a container, whatever capabilities say.
    let (code, text) =
        run("filtered", "unshare -U true 2>&1", &|security| security.seccomp = Some(v1::SecurityProfile::default()))
            .await;
    assert!(code != 0 && text.contains("Operation not permitted"), "{code} {text}");
    let (code, text) = run(
        "readonly",
        "touch /x 2>&1; echo a > /dev/null && touch /dev/shm/x && touch /etc/hosts 2>&1",
        &|security| {
            security.readonly_rootfs = true;
        },
    )
    .await;
    assert!(code != 0 && text.matches("Read-only file system").count() == 2, "{code} {text}");
    // A device that it makes itself cannot be opened, and the machine's secrets are hidden.
    let escape = "mknod /disk b 254 0; head -c1 /disk 2>&1; head -c1 /proc/kcore | wc -c; echo 1 2>&1 > /proc/sys/kernel/panic; ls /sys/firmware | wc -l; ls /dev/vda 2>&1";
    let (_, text) = run("escape", escape, &|_| {}).await;
    assert!(
        text.contains("Permission denied") && text.contains("Read-only file system") && text.contains("\n0\n"),
        "{text}"
    );
    assert!(text.contains("/dev/vda: No such file"), "{text}");
    let (_, text) = run(
        "privileged",
        "mount -t tmpfs none /tmp && echo mounted; ls /dev/vda /sys/fs/cgroup | head -n 1",
        &|security| security.privileged = true,
    )
    .await;
    assert!(text.starts_with("mounted"), "{text}");
    let unknown = security(script("unknown", ""), |security| security.run_as_username = "ghost".to_owned());
    assert!(node.create(&sandbox, unknown).await.unwrap_err().contains("no \"ghost\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_mounted_as_asked() {
    mounts_volumes(Node::new().await).await;
}

async fn mounts_volumes(node: Node) {
    let sandbox = node.sandbox(&node.pod("volumes")).await;
    let host = node.directory.path().join("volume");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let mount = |target: &str, source: &Path, readonly| v1::Mount {
        container_path: target.to_owned(),
        host_path: source.display().to_string(),
        readonly,
        ..v1::Mount::default()
    };
    let text = "cat /data/file /deep/er/file; touch /data/new /ro/new; echo x > /etc/hosts; cat /etc/resolv.conf | wc -l; ls /made";
    let mut config = script("main", text);
    let made = node.directory.path().join("made");
    config.mounts = vec![
        mount("/deep/er/file", &host.join("file"), false),
        mount("/data", &host, false),
        mount("/ro", &host, true),
        mount("/made", &made, false),
        mount("/etc/hosts", &host.join("file"), true),
    ];
    let (_, log) = node.run(&sandbox, config).await;
    assert!(log.contains("content\ncontent\n"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
    assert!(host.join("new").exists() && made.is_dir());
    // Both containers of a pod see one shared memory.
    let first = node.start(&sandbox, script("first", "echo shared > /dev/shm/x; exec sleep 1000")).await;
    let second = node.start(&sandbox, script("second", "sleep 1000")).await;
    let seen = async {
        while node.exec(&second, "cat /dev/shm/x").await.1 != "shared\n" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap();
    assert_eq!(
        node.exec(&first, "ps | grep -c 'sleep 100[0]'").await.1,
        "1\n",
        "the sleep of the other container is not seen"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_may_share_its_processes() {
    shares_processes(Node::new().await).await;
}

async fn shares_processes(node: Node) {
    let mut pod = node.pod("shared");
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Pod as i32, ..v1::NamespaceOption::default() };
    pod.linux.get_or_insert_default().security_context = Some(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(options.clone()),
        ..v1::LinuxSandboxSecurityContext::default()
    });
    let sandbox = node.sandbox(&pod).await;
    let shared = |config| security(config, |security| security.namespace_options = Some(options.clone()));
    let first = node.start(&sandbox, shared(script("first", "sleep 4321 & sleep 4321"))).await;
    let second = node.start(&sandbox, shared(script("second", "sleep 1000"))).await;
    assert_eq!(node.exec(&second, "cat /proc/1/comm").await.1, "pause\n");
    let both = async {
        while node.exec(&second, "ps").await.1.matches("sleep 4321").count() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, both).await.unwrap();
    // All of a container ends with it, though no process namespace does.
    node.runtime().stop_container(&first, 0).await.unwrap();
    assert_eq!(node.exec(&second, "ps").await.1.matches("sleep 4321").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outlive_the_runtime() {
    outlives(Node::new().await).await;
}

async fn outlives(mut node: Node) {
    let sandbox = node.sandbox(&node.pod("outlive")).await;
    let runs = node.start(&sandbox, script("runs", "sleep 1000")).await;
    let ends = node.start(&sandbox, script("ends", "while ! test -e /dev/shm/go; do sleep 0.02; done; exit 4")).await;
    let created = node.create(&sandbox, script("created", "true")).await.unwrap();
    node.close().await;
    node.open().await;
    let status = node.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(
        (status.state, status.network.unwrap().ip.as_str()),
        (v1::PodSandboxState::SandboxReady as i32, "10.42.0.7")
    );
    assert_eq!(node.status(&runs).await.state, v1::ContainerState::ContainerRunning as i32);
    assert_eq!(node.status(&created).await.state, v1::ContainerState::ContainerCreated as i32);
    assert_eq!(node.exec(&runs, "touch /dev/shm/go; echo alive").await.1, "alive\n");
    assert_eq!(node.ended(&ends).await.exit_code, 4);
    node.close().await;
    node.open().await;
    assert_eq!(node.status(&ends).await.exit_code, 4, "an end is remembered");
    // Now the shim dies, and its containers with it.
    let shims = processes_with(&node.root().display().to_string());
    assert_eq!(shims.len(), 1);
    let shim = rustix::process::Pid::from_raw(shims[0]).unwrap();
    linux::process::signal(shim, 9).unwrap();
    let status = node.ended(&runs).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(node.status(&ends).await.exit_code, 4);
    let status = node.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.state, v1::PodSandboxState::SandboxNotready as i32);
    assert!(node.create(&sandbox, script("late", "true")).await.unwrap_err().contains("shim has gone"));
    node.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_everything_dies_at_once() {
    dies_at_once(Node::new().await).await;
}

async fn dies_at_once(mut node: Node) {
    let sandbox = node.sandbox(&node.pod("crash")).await;
    let id = node.start(&sandbox, script("main", "sleep 1000")).await;
    node.close().await;
    for shim in processes_with(&node.root().display().to_string()) {
        linux::process::signal(rustix::process::Pid::from_raw(shim).unwrap(), 9).unwrap();
    }
    // And a sandbox of which only the directory was made.
    std::fs::create_dir(node.root().join("sandboxes/half")).unwrap();
    node.open().await;
    assert_eq!(node.status(&id).await.exit_code, 255);
    assert_eq!(node.runtime().list_pod_sandboxes(None).await.unwrap().len(), 1);
    node.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(std::fs::read_dir(node.root().join("sandboxes")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_is_quick_and_the_shim_is_small() {
    let node = Node::new().await;
    let mut times = Vec::new();
    for round in 0..10 {
        let begin = Instant::now();
        let sandbox = node.sandbox(&node.pod(&format!("quick{round}"))).await;
        let made = begin.elapsed();
        let id = node.create(&sandbox, script("main", "sleep 1000")).await.unwrap();
        let created = begin.elapsed();
        node.runtime().start_container(&id).await.unwrap();
        times.push((begin.elapsed(), made, created - made, begin.elapsed() - created));
    }
    times.sort();
    println!(
        "sandbox, create, start: total {:?}, sandbox {:?}, create {:?}, start {:?}",
        times[5].0, times[5].1, times[5].2, times[5].3
    );
    let stats =
        node.runtime().container_stats(&node.runtime().list_containers(None).await.unwrap()[0].id).await.unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
    let shim = processes_with(&node.root().display().to_string())[0];
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    println!(
        "{}",
        rollup
            .lines()
            .filter(|line| line.starts_with("Pss") || line.starts_with("Private"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    // Bounds that hold on a loaded machine with an unoptimised build; the figures are printed above.
    assert!(times[5].0 < Duration::from_millis(500), "{times:?}");
    let sandboxes = node.runtime().list_pod_sandboxes(None).await.unwrap();
    for sandbox in sandboxes {
        node.runtime().remove_pod_sandbox(&sandbox.id).await.unwrap();
    }
}

/// Files in one layer of an image of this name; a later file may be a whiteout.
fn data_image(name: &str, layers: &[&[(&str, &str)]]) -> Vec<u8> {
    use sha2::Digest;
    let file = |builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let (mut archive, mut digests, mut names) = (tar::Builder::new(Vec::new()), Vec::new(), Vec::new());
    for (number, files) in layers.iter().enumerate() {
        let mut layer = tar::Builder::new(Vec::new());
        files.iter().for_each(|(name, text)| file(&mut layer, name, text.as_bytes()));
        let layer = layer.into_inner().unwrap();
        let digest: String = sha2::Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
        digests.push(format!("sha256:{digest}"));
        names.push(format!("{number}.tar"));
        file(&mut archive, &format!("{number}.tar"), &layer);
    }
    let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": digests}}).to_string();
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": [name], "Layers": names}]).to_string();
    file(&mut archive, "c.json", config.as_bytes());
    file(&mut archive, "manifest.json", manifest.as_bytes());
    archive.into_inner().unwrap()
}

fn image_mount(image: &str, target: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: target.to_owned(),
        image: Some(v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() }),
        image_sub_path: sub_path.to_owned(),
        readonly: true,
        ..v1::Mount::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_volumes_that_nobody_writes_to_or_runs() {
    mounts_images(Node::new().await).await;
}

async fn mounts_images(node: Node) {
    let archive = data_image(
        "data:1",
        &[
            &[("data.json", "old"), ("gone", "x"), ("inner/run.sh", "#!/bin/sh\necho ran\n")],
            &[("data.json", "new"), (".wh.gone", "")],
        ],
    );
    node.runtime().images().import(archive.as_slice()).unwrap();
    node.runtime().images().import(data_image("empty:1", &[]).as_slice()).unwrap();
    let sandbox = node.sandbox(&node.pod("volumes")).await;
    let text =
        "cat /data/data.json; ls /data | wc -l; ls /inner; touch /data/x; /inner/run.sh; ls /empty | wc -l; sleep 1000";
    let mut config = script("c", text);
    config.mounts = vec![
        image_mount("data:1", "/data", ""),
        image_mount("data:1", "/inner", "inner"),
        image_mount("empty:1", "/empty", ""),
    ];
    let id = node.start(&sandbox, config).await;
    let log = node.directory.path().join("logs/c.log");
    let deadline = Instant::now() + DEADLINE;
    let (out, errors) = loop {
        // Output and errors come each in their order, and between each other in any.
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let of = |stream: &str| {
            let lines = text.lines().filter(|line| line.split(' ').nth(1) == Some(stream));
            lines.map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect::<Vec<_>>().join("|")
        };
        if text.lines().count() >= 5 {
            break (of("stdout"), of("stderr"));
        }
        assert!(Instant::now() < deadline, "{text:?}");
        tokio::task::yield_now().await;
    };
    assert_eq!(out, "new2|run.sh|0", "the upper layer wins and hides; an image without layers is an empty directory");
    assert!(errors.contains("Read-only file system") && errors.contains("Permission denied"), "{errors}");
    // One that is in use stays; a path that is not in it is named.
    let kept = node.runtime().remove_image("data:1").await.unwrap_err();
    assert!(base::chain(&kept).contains("in use by container"), "{}", base::chain(&kept));
    let mut missing = script("m", "true");
    missing.mounts = vec![image_mount("data:1", "/data", "not/there")];
    let created = node.create(&sandbox, missing).await.unwrap();
    let error = node.runtime().start_container(&created).await.unwrap_err();
    assert!(base::chain(&error).contains("not/there of the image"), "{}", base::chain(&error));
    node.runtime().remove_container(&created).await.unwrap();
    let mut unknown = script("u", "true");
    unknown.mounts = vec![image_mount("unknown:1", "/data", "")];
    assert!(node.create(&sandbox, unknown).await.unwrap_err().contains("unknown:1"));
    node.runtime().remove_container(&id).await.unwrap();
    node.runtime().remove_image("data:1").await.unwrap();
}

/// What an installed OCI runtime starts behaves like what our own launcher starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_with_an_installed_oci_runtime() {
    let installed = installed(&["runc", "crun"]);
    eprintln!(
        "installed OCI runtimes: {}",
        if installed.is_empty() { "none".to_owned() } else { installed.join(", ") }
    );
    for handler in installed {
        lives(Node::with(handler).await).await;
        shares_processes(Node::with(handler).await).await;
        mounts_images(Node::with(handler).await).await;
        dies_at_once(Node::with(handler).await).await;
        outlives(Node::with(handler).await).await;
        mounts_volumes(Node::with(handler).await).await;
        runs_commands(Node::with(handler).await).await;
        stops(Node::with(handler).await).await;
        is_of_the_machine_where_asked(Node::with(handler).await).await;
    }
}

async fn is_of_the_machine_where_asked(node: Node) {
    let sandbox = node.sandbox(&node.pod("privileged")).await;
    let text = "ls /dev/loop-control /dev/fuse /dev/kmsg 2>/dev/null | wc -l; echo $FROM_IMAGE";
    let all = security(script("all", text), |security| security.privileged = true);
    let (status, text) = node.run(&sandbox, all).await;
    assert!(status.exit_code == 0 && !text.starts_with('0') && text.ends_with("yes\n"), "{text}");
    let user = security(script("user", "id -u; touch /tmp/x && ls -n /tmp/x"), |security| {
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
    });
    let (_, text) = node.run(&sandbox, user).await;
    assert!(text.starts_with("1000\n") && text.contains(" 1000 "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_handler_is_named() {
    let node = Node::new().await;
    let error = node.runtime().run_pod_sandbox(node.pod("web"), "special").await.unwrap_err();
    assert!(base::chain(&error).contains("no runtime for \"special\" is configured"), "{}", base::chain(&error));
    assert_eq!(std::fs::read_dir(node.root().join("sandboxes")).unwrap().count(), 0);
}

/// Everything that a client of the socket does in the life of a pod.
#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_is_served_on_a_socket() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::new().await;
    let (socket, stop) = (node.directory.path().join("cri.sock"), Stop::new());
    let (path, runtime, ended) = (socket.clone(), node.runtime().clone(), stop.clone());
    let tasks = base::Tasks::new("test");
    tasks.spawn("socket", async move { cri::serve(&path, runtime, ended).await.unwrap() });
    let client = cri::Remote::new(&format!("unix://{}", socket.display())).unwrap();
    let begin = Instant::now();
    let version = loop {
        match client.version().await {
            Ok(version) => break version,
            Err(error) => assert!(begin.elapsed() < DEADLINE, "{}", base::chain(&error)),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(version.runtime_name, "timonier");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(client.list_images().await.unwrap().len(), 1);

    let mut events = client.events().await.unwrap();
    let pod = node.pod("served");
    let sandbox = client.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let config = script("web", "echo hello; exec sleep 1000");
    let container = client.create_container(&sandbox, config, pod).await.unwrap();
    client.start_container(&container).await.unwrap();
    let started = async {
        while let Some(change) = events.next().await {
            if change.container_id == container && change.event == v1::ContainerEventType::ContainerStartedEvent {
                return change;
            }
        }
        panic!("the events ended");
    };
    let change = tokio::time::timeout(DEADLINE, started).await.unwrap();
    assert_eq!((change.pod_uid.as_str(), change.sandbox_id.as_str()), ("uid-served", sandbox.as_str()));

    let words = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let ran = client.exec_sync(&container, words("echo out; exit 3"), 10).await.unwrap();
    assert_eq!((ran.stdout.as_slice(), ran.exit_code), (b"out\n".as_slice(), 3));
    let command = words("cat; exit 4");
    let start = ExecStart { container_id: container.clone(), command, tty: false, stdin: true };
    let mut session = client.exec(start).await.unwrap();
    session.input.send(Input::Stdin(Bytes::from_static(b"through"))).await.unwrap();
    session.input.send(Input::StdinClosed).await.unwrap();
    let mut seen = Vec::new();
    while let Some(output) = session.output.recv().await {
        match output {
            Output::Stdout(bytes) => seen.extend_from_slice(&bytes),
            other => assert_eq!(other, Output::Exited(4)),
        }
    }
    assert_eq!(seen, b"through");
    let stats = client.container_stats(&container).await.unwrap();
    assert!(stats.memory.and_then(|memory| memory.working_set_bytes).is_some_and(|bytes| bytes.value > 0));
    let status = client.container_status(&container).await.unwrap();
    let begin = Instant::now();
    while !std::fs::read_to_string(&status.log_path).unwrap().ends_with("stdout F hello\n") {
        assert!(begin.elapsed() < DEADLINE, "the log is not written");
        tokio::task::yield_now().await;
    }
    let unknown = client.container_status("nobody").await.unwrap_err();
    assert!(matches!(unknown, cri::RuntimeError::NotFound { .. }), "{unknown}");

    client.stop_container(&container, 0).await.unwrap();
    client.remove_container(&container).await.unwrap();
    client.stop_pod_sandbox(&sandbox).await.unwrap();
    client.remove_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(client.list_pod_sandboxes(None).await.unwrap().len(), 0);
    drop(events);
    stop.stop();
    tasks.join().await;
}
