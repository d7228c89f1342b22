//! The container runtime interface on a socket: a node over an installed containerd.
//!
//! `containerd`, `ctr` and `containerd-shim-runc-v2` are looked for on the path and in the folder that
//! `TIMONIER_TEST_CONTAINERD` names. Where they or `runc` are not installed the test says so, and shows nothing.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::application::{answering, deploy};
use crate::machine::{DEADLINE, Machine, run, text};
use crate::{pods, storage, volumes};
use workload::image;

/// The image that holds a sandbox's namespaces.
const PAUSE: &str = "example.test/pause:1";

/// A containerd with folders of its own. Dropping it ends it and what is left of its pods.
struct Containerd<'a> {
    machine: &'a Machine,
    programs: PathBuf,
    process: Child,
}

/// The folder with containerd's programs; where they are not installed that is said.
fn installed() -> Option<PathBuf> {
    let found = find_installed();
    if found.is_none() {
        eprintln!("NOT TESTED: no containerd with runc is installed; TIMONIER_TEST_CONTAINERD names its folder");
    }
    found
}

fn find_installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::var_os("TIMONIER_TEST_CONTAINERD")
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .collect();
    let has = |folder: &Path, program: &str| folder.join(program).is_file();
    folders.iter().find(|folder| has(folder, "runc"))?;
    let whole =
        |folder: &&PathBuf| ["containerd", "ctr", "containerd-shim-runc-v2"].iter().all(|name| has(folder, name));
    folders.iter().find(whole).cloned()
}

impl<'a> Containerd<'a> {
    fn start(machine: &'a Machine, programs: PathBuf) -> Self {
        std::fs::create_dir_all(Self::folder_of(machine)).unwrap();
        std::fs::write(Self::folder_of(machine).join("config.toml"), configuration(machine)).unwrap();
        let process = Self::spawn(machine, &programs);
        let mut containerd = Self { machine, programs, process };
        containerd.wait();
        containerd
    }

    fn folder_of(machine: &Machine) -> PathBuf {
        machine.folder().join("containerd")
    }

    fn socket(machine: &Machine) -> PathBuf {
        Self::folder_of(machine).join("containerd.sock")
    }

    fn spawn(machine: &Machine, programs: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(machine.folder().join("containerd.log"));
        let log = log.unwrap();
        let mut path = std::ffi::OsString::from(programs);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = machine.command(programs.join("containerd").to_str().unwrap());
        command.arg("--config").arg(Self::folder_of(machine).join("config.toml")).env("PATH", path);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// Until it answers.
    fn wait(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.ctr(&["version"]).output().unwrap().status.success() {
            assert!(self.process.try_wait().unwrap().is_none(), "containerd ended: {}", self.log());
            assert!(Instant::now() < deadline, "containerd does not answer: {}", self.log());
            std::thread::yield_now();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.machine.folder().join("containerd.log")).unwrap_or_default()
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(self.programs.join("ctr").to_str().unwrap());
        command.arg("--address").arg(Self::socket(self.machine)).args(["--namespace", "k8s.io"]).args(args);
        command
    }

    /// Brings in the sandboxes' image and the application's.
    fn import(&self) {
        let pause = self.machine.folder().join("pause.tar");
        let pause = image::archive_of(&pause, PAUSE, &["sleep", "2147483647"]).unwrap();
        for archive in [pause, image::archive(self.machine.folder()).unwrap()] {
            run(self.ctr(&["images", "import", "--no-unpack"]).arg(archive));
        }
    }

    /// `kill -9`.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = Self::spawn(self.machine, &self.programs);
        self.wait();
    }

    fn containers(&self) -> String {
        text(&self.ctr(&["containers", "list", "--quiet"]).output().unwrap().stdout)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("$ tail containerd.log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
            // What it runs must not outlive the test.
            eprintln!("{}", text(&self.machine.try_timonier("reset --yes").stderr));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(machine: &Machine) -> String {
    let folder = Containerd::folder_of(machine);
    let path = |name: &str| folder.join(name).display().to_string();
    format!(
        r#"version = 3
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{networks}"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
Root = "{runc}"
SystemdCgroup = false
"#,
        root = path("root"),
        state = path("state"),
        socket = Containerd::socket(machine).display(),
        opt = path("opt"),
        plugins = path("plugins"),
        networks = path("networks"),
        runc = path("runc"),
    )
}

/// What containerd and its pods leave on the machine while they run.
fn traces(machine: &Machine) -> BTreeSet<String> {
    let folder = Containerd::folder_of(machine).display().to_string();
    let mut traces = machine.traces();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if command.contains(&folder) {
            traces.insert(format!("process {} {}", process.file_name().display(), command.replace('\0', " ")));
        }
    }
    let cgroups = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", "*/k8s.io/*"]).output().unwrap();
    traces.extend(text(&cgroups.stdout).lines().map(|line| format!("cgroup {line}")));
    for folder in ["/run/containerd/s", "/run/netns"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        traces.extend(entries.map(|entry| format!("file {}", entry.path().display())));
    }
    traces
}

const SHARED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 0
  initContainers: [{name: first, image: "example.test/web:1", command: [sh, -c, "echo made > /data/file"],
    volumeMounts: [{name: data, mountPath: /data}]}]
  containers:
  - name: reads
    image: example.test/web:1
    command: [sh, -c, "cat /data/file; while true; do sleep 1; done"]
    livenessProbe: {exec: {command: [cat, /data/file]}, periodSeconds: 1, failureThreshold: 1}
    volumeMounts: [{name: data, mountPath: /data}]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
  - name: writes
    image: example.test/web:1
    command: [sleep, "3600"]
    securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// Starts a cluster whose node runs over it.
fn up(machine: &Machine) {
    let folder = Containerd::folder_of(machine);
    machine.timonier(&format!(
        "up --detach --container-runtime-endpoint unix://{} --cni-conf-dir {} --cni-bin-dir {}",
        Containerd::socket(machine).display(),
        folder.join("networks").display(),
        folder.join("plugins").display(),
    ));
}

/// What pods do over the embedded runtime they do over this one.
#[test]
fn pods_and_volumes_are_the_same_over_an_installed_containerd() {
    let Some(programs) = installed() else { return };
    let machine = Machine::new();
    machine.ip("link set lo up");
    let before = traces(&machine);
    let containerd = Containerd::start(&machine, programs);
    containerd.import();
    up(&machine);
    for scenario in [
        pods::environment,
        pods::identities,
        pods::hosts_files,
        pods::subpaths,
        pods::ends,
        pods::probes,
        pods::hooks,
        pods::changes,
        pods::resizes,
        volumes::files,
        volumes::empty_directories,
        volumes::many_config_maps,
        volumes::propagation,
        storage::made_by_hand,
        storage::made_for_consumers,
        storage::raw_disk,
    ] {
        scenario(&machine);
        machine.kubectl("delete replicasets,pods --all --timeout=60s");
    }
    machine.timonier("reset --yes");
    assert_eq!(containerd.containers(), "", "containers are left");
    drop(containerd);
    let left: Vec<_> = traces(&machine).difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn a_node_runs_over_an_installed_containerd() {
    let Some(programs) = installed() else { return };
    let machine = Machine::new();
    // Where containerd serves its streams.
    machine.ip("link set lo up");
    let before = traces(&machine);
    let mut containerd = Containerd::start(&machine, programs);
    containerd.import();
    up(&machine);
    let folder = Containerd::folder_of(&machine);
    let version = machine.kubectl("get node -o jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}");
    assert!(version.starts_with("containerd://"), "{version}");
    deploy(&machine);
    assert_eq!(answering(&machine).len(), 3, "the Service spreads over all three");
    looks(&machine);
    shares_and_restarts(&machine);
    forwards(&machine);

    containerd.kill();
    assert_eq!(answers(&machine), "ahoy", "pods go on without their runtime");
    machine.kubectl("delete pod -l app=web --wait=false");
    containerd.start_again();
    machine.kubectl("rollout status deployment/web --timeout=120s");
    machine.kubectl_until("get pods -l app=web --no-headers", |pods| {
        pods.lines().count() == 3 && pods.lines().all(|pod| pod.contains("1/1"))
    });
    assert_eq!(answering(&machine).len(), 3, "the new pods answer");

    machine.kubectl("delete deployment/web pod/shared --timeout=60s");
    machine.kubectl_until("get pods -o name", |pods| pods == "pod/client\n");
    machine.timonier("reset --yes");
    assert_eq!(containerd.containers(), "", "containers are left");
    drop(containerd);
    let left: Vec<_> = traces(&machine).difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    let configuration: Vec<_> = std::fs::read_dir(folder.join("networks"))
        .unwrap()
        .chain(std::fs::read_dir(folder.join("plugins")).unwrap())
        .collect();
    assert!(configuration.is_empty(), "{configuration:?}");
}

/// One answer of the Service from inside the machine's network, without the runtime: from the node itself.
fn answers(machine: &Machine) -> String {
    let address = machine.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    let answer = machine.inside(|| get(&address, 80));
    answer.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The body of what an HTTP server answers.
fn get(address: &str, port: u16) -> String {
    let mut stream = TcpStream::connect((address, port)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer)
}

fn looks(machine: &Machine) {
    let pods = machine.kubectl("get pods -l app=web -o name");
    let pod = pods.lines().next().unwrap();
    assert_eq!(machine.kubectl(&format!("logs {pod}")), "serving\n");
    assert_eq!(machine.kubectl_args(&["exec", "-i", pod, "--", "cat"], "through and back"), "through and back");
    let failed = machine.try_kubectl(&["exec", pod, "--", "sh", "-c", "echo oops >&2; exit 3"], "");
    assert_eq!((failed.status.code(), text(&failed.stderr).starts_with("oops\n")), (Some(3), true));
    let token = machine.kubectl(&format!("exec {pod} -- wc -c /var/run/secrets/kubernetes.io/serviceaccount/token"));
    assert!(token.split_whitespace().next().unwrap().parse::<u32>().unwrap() > 100, "{token}");
    let node = machine.kubectl("get node -o jsonpath={.items[0].metadata.name}");
    let stats = machine.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary"));
    assert!(stats.contains("workingSetBytes") && stats.contains(pod.trim_start_matches("pod/")), "{stats}");
}

fn shares_and_restarts(machine: &Machine) {
    machine.kubectl_args(&["apply", "-f", "-"], SHARED);
    machine.kubectl("wait --for=condition=Ready pod/shared --timeout=60s");
    assert_eq!(machine.kubectl("logs shared -c reads"), "made\n");
    assert_eq!(machine.kubectl("exec shared -c writes -- id -u"), "1000\n");
    let hosts = machine.kubectl("exec shared -c reads -- cat /etc/hosts");
    let ip = machine.kubectl("get pod shared -o jsonpath={.status.podIP}");
    assert!(hosts.lines().any(|line| line.starts_with(&ip) && line.contains("shared")), "{hosts}");
    // Its liveness goes with the file.
    machine.kubectl("exec shared -c reads -- busybox rm /data/file");
    let restarts = "get pod shared -o jsonpath={.status.containerStatuses[?(@.name=='reads')].restartCount}";
    machine.kubectl_until(restarts, |count| count.parse::<u32>().is_ok_and(|count| count > 0));
    machine.kubectl("exec shared -c writes -- tee /data/file");
    machine.kubectl("wait --for=condition=Ready pod/shared --timeout=60s");
}

/// A connection through `kubectl port-forward`.
fn forwards(machine: &Machine) {
    let mut command = machine.command("kubectl");
    let mut kubectl = command.args(["port-forward", "deployment/web", ":8080"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(kubectl.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next()).unwrap();
    let port = port.parse().unwrap();
    let answer = machine.inside(|| get("127.0.0.1", port));
    assert!(answer.starts_with("ahoy from web-"), "{answer}");
    kubectl.kill().unwrap();
    kubectl.wait().unwrap();
}

/// What the cluster runs is seen on the embedded runtime's socket, which only root can open.
#[test]
fn the_embedded_runtime_answers_on_its_socket() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    crate::application::start(&machine);
    deploy(&machine);
    let socket = machine.data().join("cri.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (version, mut pods) = runtime.block_on(async {
        use cri::Runtime;
        let client = cri::Remote::new(&format!("unix://{}", socket.display())).unwrap();
        let pods = client.list_pod_sandboxes(None).await.unwrap();
        (
            client.version().await.unwrap(),
            pods.into_iter().filter_map(|pod| Some(pod.metadata?.name)).collect::<Vec<_>>(),
        )
    });
    assert_eq!(version.runtime_name, "timonier");
    pods.sort();
    assert_eq!(pods.len(), 4, "{pods:?}");
    assert_eq!(pods[0], "client");
    machine.timonier("down");
}
