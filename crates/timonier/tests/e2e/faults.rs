//! What goes wrong on machines: processes are killed at any moment, registries lie, servers are away. At the end the status is right,
//! and nothing is left that was not there before, by counting.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::application::start;
use crate::machine::{DEADLINE, Machine, run, text};
use crate::nodes;
use workload::image;

/// Mounts, links, rules, control groups and processes of pods; what the node itself has stays the same.
fn of_pods(machine: &Machine) -> BTreeSet<String> {
    let traces = machine.traces().into_iter().filter(|trace| !trace.starts_with("process") || trace.contains(" shim "));
    traces.filter_map(steady).collect()
}

/// Without what comes and goes with a link's carrier.
fn steady(trace: String) -> Option<String> {
    match trace.split_once(' ')? {
        ("link", rest) => Some(format!("link {}", rest.split(' ').nth(1)?)),
        ("address", rest) if rest.contains("inet6") => None,
        ("route", rest) => Some(format!("route {}", rest.trim_end().trim_end_matches("linkdown").trim_end())),
        _ => Some(trace),
    }
}

/// What there is on a node that has had a pod and has none: what it makes for its first one it keeps.
fn without_pods(machine: &Machine) -> BTreeSet<String> {
    apply(machine, &[pod("first")]);
    machine.kubectl("wait --for=condition=Ready pod/first --timeout=60s");
    machine.kubectl("delete pod first --timeout=60s");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let traces = of_pods(machine);
        if !traces.iter().any(|trace| trace.contains(" shim ")) {
            return traces;
        }
        assert!(Instant::now() < deadline, "the first pod's shim stays: {traces:#?}");
        std::thread::yield_now();
    }
}

/// Open descriptors of the cluster's process.
fn descriptors(machine: &Machine) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap().count()
}

/// Memory of the cluster's process that is its own, in KiB.
fn memory(machine: &Machine) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", machine.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until what is counted is what it was.
fn nothing_more(machine: &Machine, before: &BTreeSet<String>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left: Vec<_> = of_pods(machine).difference(before).cloned().collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        std::thread::yield_now();
    }
}

fn apply(machine: &Machine, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    machine.kubectl_args(&["apply", "-f", "-"], &list);
}

/// A pod with a volume of each simple kind. It has some time to end: one without is gone from the API before it has ended.
fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "pod"}}, "spec": {
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "image": image::NAME, "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1; done"],
            "volumeMounts": [{"name": "memory", "mountPath": "/memory"}, {"name": "disk", "mountPath": "/disk"}]}],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}]}})
}

#[test]
fn a_full_node_of_pods_comes_and_goes_ten_times_and_leaves_nothing() {
    const PODS: usize = 110;
    let machine = Machine::new();
    start(&machine);
    let before = without_pods(&machine);
    let mut template = pod("many");
    let spec = template["spec"].take();
    let template = json!({"metadata": {"labels": {"app": "many"}}, "spec": spec});
    apply(
        &machine,
        &[json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "many"}, "spec": {"replicas": 0,
            "selector": {"matchLabels": {"app": "many"}}, "template": template}})],
    );
    let mut seen = Vec::new();
    for round in 0..10 {
        machine.kubectl(&format!("scale replicaset many --replicas={PODS}"));
        machine.kubectl_until("get replicaset many -o jsonpath={.status.readyReplicas}", |ready| {
            ready == PODS.to_string()
        });
        let shims = of_pods(&machine).iter().filter(|trace| trace.contains(" shim ")).count();
        assert_eq!(shims, PODS, "in round {round}");
        machine.kubectl("scale replicaset many --replicas=0");
        machine.kubectl_until("get pods -o name", str::is_empty);
        nothing_more(&machine, &before);
        seen.push((descriptors(&machine), memory(&machine)));
    }
    // The first rounds fill caches and pools. After them a pod leaves its events, for an hour, and the versions of its objects, for
    // five minutes: about 35 KiB.
    let (descriptors, memory) = seen[9];
    assert!(descriptors <= seen[1].0 + 8, "descriptors and KiB of each round: {seen:?}");
    assert!(memory <= seen[2].1 + 7 * PODS as i64 * 64, "descriptors and KiB of each round: {seen:?}");
}

/// Numbers between 0 and a bound that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn killed_at_any_moment_of_pods_starting_and_ending_nothing_is_lost_or_left() {
    let machine = Machine::new();
    start(&machine);
    let before = without_pods(&machine);
    let mut dice = Dice(42);
    for round in 1..=20 {
        apply(&machine, &[pod(&format!("p{round}"))]);
        if round > 1 {
            machine.kubectl(&format!("delete pod p{} --wait=false", round - 1));
        }
        let moment = Instant::now() + Duration::from_millis(dice.below(300));
        while Instant::now() < moment {
            std::thread::yield_now();
        }
        machine.kill();
        machine.timonier("up --detach");
    }
    machine.kubectl_until("get pods -o name", |pods| pods == "pod/p20\n");
    machine.kubectl("wait --for=condition=Ready pod/p20 --timeout=60s");
    assert_eq!(machine.kubectl("exec p20 -- ls /disk /memory"), "/disk:\n\n/memory:\n");
    let restarts = machine.kubectl("get pod p20 -o jsonpath={.status.containerStatuses[0].restartCount}");
    assert_eq!(restarts, "0", "its container outlives its node's agent");
    machine.kubectl("delete pod p20 --timeout=60s");
    nothing_more(&machine, &before);
}

#[test]
fn pods_whose_shim_is_killed_start_anew_or_fail_as_they_say() {
    let machine = Machine::new();
    start(&machine);
    let mut never = pod("never");
    never["spec"]["restartPolicy"] = "Never".into();
    let before = without_pods(&machine);
    apply(&machine, &[pod("always"), never]);
    machine.kubectl("wait --for=condition=Ready pod/always pod/never --timeout=60s");
    let address = machine.kubectl("get pod always -o jsonpath={.status.podIP}");
    let shims: Vec<String> = of_pods(&machine).into_iter().filter(|trace| trace.contains(" shim ")).collect();
    assert_eq!(shims.len(), 2, "{shims:?}");
    for shim in shims {
        run(Command::new("kill").args(["-9", shim.split(' ').nth(1).unwrap()]));
    }
    machine.kubectl_until("get pod never -o jsonpath={.status.phase}", |phase| phase == "Failed");
    machine
        .kubectl_until("get pod always -o jsonpath={.status.containerStatuses[0].restartCount}", |count| count == "1");
    machine.kubectl("wait --for=condition=Ready pod/always --timeout=60s");
    let again = machine.kubectl("get pod always -o jsonpath={.status.podIP}");
    assert_ne!(again, "", "it was {address}");
    assert_eq!(machine.kubectl("exec always -- echo alive"), "alive\n");
    machine.kubectl("delete pod always never --timeout=60s");
    nothing_more(&machine, &before);
}

/// A registry on the machine's loopback that answers by the repository's name, until it is told to be honest.
fn registry(machine: &Machine, honest: Arc<AtomicBool>) -> u16 {
    let listener = machine.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let content = crate::node::content(machine);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (content, honest) = (content.clone(), honest.clone());
            std::thread::spawn(move || answer(stream, port, &content, honest.load(Ordering::SeqCst)));
        }
    });
    port
}

/// The head of a request, in lower case.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > 65_536 || !stream.read(&mut byte).is_ok_and(|count| count == 1) {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).to_lowercase())
}

fn answer(mut stream: TcpStream, port: u16, content: &std::collections::BTreeMap<String, Vec<u8>>, honest: bool) {
    let Some(head) = head(&mut stream) else { return };
    let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("/v2/").to_owned();
    let Some((name, rest)) = path.split_once('/') else {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    };
    let name = if honest { "good" } else { name };
    let Some(body) = content.get(rest) else {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    };
    let is_layer = rest.starts_with("blobs/") && body.len() > 65_536;
    let ok = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let mut send = |head: String, body: &[u8]| {
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    match name {
        "half" if is_layer => send(ok(body.len()), &body[..body.len() / 2]),
        "other" if is_layer => send(ok(body.len()), &vec![7; body.len()]),
        "more" if is_layer => send(ok(body.len() + 1000), &[body.as_slice(), &[0; 1000]].concat()),
        "circle" => {
            let to = format!("http://127.0.0.1:{port}/v2/circle/{rest}");
            send(
                format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                ),
                b"",
            );
        }
        "who" => send(
            format!(
                "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"http://127.0.0.1:{port}/v2/who/manifests/1\",service=\"s\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            ),
            b"",
        ),
        "broken" => {
            send(
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
                b"",
            );
        }
        "nonsense" => send("\u{1}\u{2}\u{3}nothing like HTTP\r\n\r\n".to_owned(), b""),
        _ => send(ok(body.len()), body),
    }
}

#[test]
fn registries_that_lie_are_told_of_and_forgiven_when_they_mend_their_ways() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let honest = Arc::new(AtomicBool::new(false));
    let port = registry(&machine, honest.clone());
    let names = ["half", "other", "more", "circle", "who", "broken", "nonsense"];
    let of = |name: &str| {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["image"] = format!("127.0.0.1:{port}/{name}:1").into();
        pod
    };
    apply(&machine, &names.map(of));
    let waiting = ".status.containerStatuses[0].state.waiting";
    for name in names {
        let message = machine.kubectl_until(&format!("get pod {name} -o jsonpath={{{waiting}.message}}"), |message| {
            message.contains("Back-off pulling image") && message.contains("ErrImagePull: ")
        });
        let why = message.split("ErrImagePull: ").nth(1).unwrap();
        let told = match name {
            "half" => why.contains("of") && why.len() > 20,
            "other" => why.contains("digest"),
            "more" => why.contains("bytes") || why.contains("size"),
            "circle" => why.contains("redirect"),
            "who" => why.contains("token") || why.contains("401") || why.contains("nauthorized"),
            "broken" => why.contains("500"),
            _ => why.len() > 20,
        };
        assert!(told, "{name}: {message}");
    }
    assert_eq!(machine.timonier("image list").matches("127.0.0.1").count(), 0, "nothing of them is an image");
    let spool = machine.data().join("runtime/images/spool");
    let left: Vec<_> = std::fs::read_dir(&spool).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "unfinished files are left: {left:?}");
    honest.store(true, Ordering::SeqCst);
    machine.kubectl("wait --for=condition=Ready pod -l app=pod --timeout=120s");
}

#[test]
fn an_agent_goes_on_without_its_server_and_tells_it_all_later() {
    let cluster = nodes::Cluster::with_agents(1, "");
    let agent = cluster.agent(1);
    let script = "echo run >> /log/runs; exec sleep 3600";
    let spec = |command: &str| {
        json!({"terminationGracePeriodSeconds": 0, "nodeName": "n1",
            "containers": [{"name": "c", "image": image::NAME, "command": ["sh", "-c", command],
                "volumeMounts": [{"name": "log", "mountPath": "/log"}]}],
            "volumes": [{"name": "log", "hostPath": {"path": agent.folder().join("log"), "type": "DirectoryOrCreate"}}]})
    };
    let lonely = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely"}, "spec": spec(script)});
    apply(cluster.server(), &[lonely]);
    cluster.server().kubectl("wait --for=condition=Ready pod/lonely --timeout=60s");
    cluster.server().kill();

    // A container that dies is started again, and a file in the folder is a pod, with nobody to ask.
    let runs = || std::fs::read_to_string(agent.folder().join("log/runs")).unwrap_or_default();
    run(Command::new("kill").args(["-9", &sleeper(agent)]));
    let wait = |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: {}", agent.evidence());
            std::thread::yield_now();
        }
    };
    wait("the container is started again", &|| runs().lines().count() == 2);
    let mut file = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static"}, "spec": spec("echo static >> /log/runs; exec sleep 3600")});
    file["spec"].as_object_mut().unwrap().remove("nodeName");
    let manifests = agent.data().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    std::fs::write(manifests.join("static.json"), file.to_string()).unwrap();
    wait("the pod of the file runs", &|| runs().contains("static\n"));

    cluster.start_server("");
    let server = cluster.server();
    server
        .kubectl_until("get pod lonely -o jsonpath={.status.containerStatuses[0].restartCount}", |count| count == "1");
    server.kubectl("wait --for=condition=Ready node/n1 pod/lonely --timeout=60s");
    server.kubectl_until("get pod static-n1 -o jsonpath={.status.phase}", |phase| phase == "Running");
    let events = server.kubectl("get events -A -o jsonpath={.items[*].reason}");
    assert!(!events.contains("TaintManagerEviction"), "{events}");
    assert_eq!(
        runs().lines().filter(|line| *line == "run").count(),
        2,
        "it was not started more often than it had to be"
    );
}

/// The only process in the machine's pods that sleeps.
fn sleeper(machine: &Machine) -> String {
    let name = machine.data().to_string_lossy().into_owned();
    let shims: Vec<String> =
        machine.traces().into_iter().filter(|trace| trace.contains(" shim ") && trace.contains(&name)).collect();
    let [shim] = shims.as_slice() else { panic!("{shims:?}") };
    let shim = shim.split(' ').nth(1).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let sleeps = |id: &&str| {
        std::fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|command| command.contains("sleep"))
    };
    children.split_whitespace().find(sleeps).map(str::to_owned).unwrap_or_else(|| {
        panic!(
            "no child of shim {shim} sleeps: {children} {}",
            text(&Command::new("ps").args(["-ef"]).output().unwrap().stdout)
        )
    })
}
