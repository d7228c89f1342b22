//! Several machines in one cluster: how they join, how their pods reach each other, and what happens when one is lost.

use std::collections::BTreeSet;
use std::path::Path;

use crate::machine::{Machine, Switch, text};
use workload::image;

const SERVER: &str = "https://192.0.2.10:6443";

/// A server `n0` and agents `n1`, `n2` ... on one switch. Machines go before the switch does.
pub(crate) struct Cluster {
    machines: Vec<Machine>,
    token: String,
    switch: Switch,
}

impl Cluster {
    /// Without agents. A node counts as lost after 15 s: little more than the time between its life signs.
    fn new(flags: &str) -> Self {
        let switch = Switch::new();
        let server = Machine::on(&switch, 0);
        server.timonier(&format!("up --detach --node-name n0 --node-monitor-grace-period 15s{flags}"));
        import(&server);
        let token = server.timonier("token create").lines().next().unwrap().to_owned();
        Self { machines: vec![server], token, switch }
    }

    pub(crate) fn with_agents(agents: u32, flags: &str) -> Self {
        let mut cluster = Self::new(flags);
        for _ in 0..agents {
            cluster.join("");
        }
        cluster
    }

    pub(crate) fn server(&self) -> &Machine {
        &self.machines[0]
    }

    /// The agent of that number.
    pub(crate) fn agent(&self, number: usize) -> &Machine {
        &self.machines[number]
    }

    /// Starts the server again.
    pub(crate) fn start_server(&self, flags: &str) {
        self.server().timonier(&format!("up --detach --node-name n0 --node-monitor-grace-period 15s{flags}"));
    }

    /// One more machine; returns when it is ready.
    fn join(&mut self, flags: &str) {
        let number = u32::try_from(self.machines.len()).unwrap();
        let machine = Machine::on(&self.switch, number);
        import(&machine);
        let said = machine
            .timonier(&format!("agent --detach --node-name n{number} --server {SERVER} --token {}{flags}", self.token));
        assert!(said.starts_with(&format!("Timonier is ready: node n{number} ")), "{said}");
        self.machines.push(machine);
    }

    fn kubectl(&self, args: &str) -> String {
        self.server().kubectl(args)
    }

    fn apply(&self, yaml: &str) {
        self.server().kubectl_args(&["apply", "-f", "-"], yaml);
    }

    /// What a pod prints that is told to run a shell script.
    fn sh(&self, pod: &str, script: &str) -> String {
        self.server().kubectl_args(&["exec", pod, "--", "sh", "-c", script], "")
    }
}

impl Drop for Cluster {
    /// What the agents said, beside what the server's machine shows of a failure.
    fn drop(&mut self) {
        for machine in self.machines.iter().skip(1).filter(|_| std::thread::panicking()) {
            let log = std::fs::read_to_string(machine.data().join("timonier.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("$ tail an agent's log\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn import(machine: &Machine) {
    let archive = image::archive(machine.folder()).unwrap();
    machine.timonier(&format!("image import {}", archive.display()));
}

/// A shell command that prints what a web server answers at this address.
fn fetch(address: &str, port: u16, path: &str) -> String {
    format!("printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port} | sed '1,/^\\r$/d'")
}

/// A web server that answers with its node's name, on this node.
fn web_on(node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{app: page, on: {node}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: example.test/web:1
    command: [sh, -c, "echo from {node} > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
    )
}

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {type: NodePort, selector: {on: n1}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"#;

fn ip_of(cluster: &Cluster, pod: &str) -> String {
    cluster.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"))
}

#[test]
fn pods_of_two_machines_reach_each_other_and_the_server_reaches_into_them() {
    let cluster = Cluster::with_agents(1, "");
    let nodes = cluster.kubectl("get nodes --no-headers");
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 2, "{nodes}");
    assert!(cluster.machines[1].timonier("status").contains("role      agent"));
    assert!(cluster.server().timonier("status").contains("role      server"));
    for node in ["n0", "n1"] {
        cluster.apply(&web_on(node));
    }
    cluster.apply(SERVICES);
    cluster.kubectl("wait --for=condition=Ready pod -l app=page --timeout=60s");

    // By address, in both directions, by the service's name, and by a node port of the node where the pod is not.
    let far = ip_of(&cluster, "web-n1");
    assert_eq!(cluster.sh("web-n0", &fetch(&far, 8080, "/")), "from n1\n");
    assert_eq!(cluster.sh("web-n1", &fetch(&ip_of(&cluster, "web-n0"), 8080, "/")), "from n0\n");
    for pod in ["web-n0", "web-n1"] {
        assert_eq!(cluster.sh(pod, "get far.default.svc.cluster.local"), "from n1\n", "{pod}");
        assert_eq!(cluster.sh(pod, &fetch("192.0.2.10", 30080, "/")), "from n1\n", "{pod}");
    }
    let sent = cluster.sh("web-n1", "seq 50000 > /www/large; wc -c < /www/large");
    let got = cluster.sh("web-n0", &format!("{} | wc -c", fetch(&far, 8080, "/large")));
    assert_eq!(got, sent, "packets of full size arrive");

    // The API server fetches from the agent's kubelet, which it knows by its certificate.
    assert_eq!(cluster.kubectl("logs web-n1"), "serving\n");
    assert_eq!(cluster.sh("web-n1", "cat /www/index.html"), "from n1\n");
    assert!(cluster.kubectl("get --raw /api/v1/nodes/n1/proxy/healthz").starts_with("ok"));
    cluster.server().kubectl_until("top node n1 --no-headers", |row| row.starts_with("n1 "));
    let proxied = cluster.kubectl("get --raw /api/v1/namespaces/default/pods/web-n1:8080/proxy/");
    assert_eq!(proxied, "from n1\n");

    node_may_only_what_is_its_own(&cluster);
    the_api_server_says_who_reads_what_of_a_node(&cluster);

    let before = groups(&cluster);
    let said = cluster.machines[1].timonier("reset --yes");
    assert!(said.contains("kubectl delete node n1"), "{said}");
    let left: Vec<_> = cluster.machines[1].traces().into_iter().filter(|trace| !trace.starts_with("cgroup")).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    assert_eq!(groups(&cluster).len() + 1, before.len(), "the machine's control group is gone");
    cluster.kubectl("delete node n1");
    let links = || text(&cluster.server().command("ip").args(["-o", "link"]).output().unwrap().stdout);
    cluster.server().kubectl_until("get nodes -o name", |_| !links().contains("timonier-vxlan"));
}

/// The control groups of all clusters on the machine that runs the tests.
fn groups(cluster: &Cluster) -> BTreeSet<String> {
    let traces = cluster.server().traces();
    let groups =
        traces.iter().filter_map(|trace| trace.split("/timonier-").nth(1)?.split('/').next().map(str::to_owned));
    groups.collect()
}

/// A monitoring system's account, at the nodes' own ports.
fn the_api_server_says_who_reads_what_of_a_node(cluster: &Cluster) {
    cluster.kubectl("create serviceaccount monitor");
    cluster.kubectl("create clusterrole metrics --verb=get --resource=nodes/metrics");
    cluster.kubectl("create clusterrolebinding metrics --clusterrole=metrics --serviceaccount=default:monitor");
    let token = cluster.kubectl("create token monitor");
    let ca = cluster.machines[1].data().join("agent/ca.crt");
    for address in ["https://192.0.2.10:10250", "https://192.0.2.11:10250"] {
        let get = |token: &str, path: &str| {
            let args =
                ["--kubeconfig", "/dev/null", "--certificate-authority", ca.to_str().unwrap(), "--server", address];
            let output =
                cluster.server().try_kubectl(&[&args[..], &["--token", token, "get", "--raw", path]].concat(), "");
            (output.status.success(), text(&output.stdout) + &text(&output.stderr))
        };
        let (done, metrics) = get(token.trim(), "/metrics");
        assert!(done && metrics.contains("kubelet_running_pods "), "{address}: {metrics}");
        assert!(get(token.trim(), "/metrics/cadvisor").1.contains("pod=\"web-"), "{address}");
        let (done, said) = get(token.trim(), "/pods");
        assert!(!done && said.contains("orbidden"), "{address}: {said}");
        let (done, said) = get("made-up", "/metrics");
        assert!(!done && said.contains("nauthorized") | said.contains("must be logged in"), "{address}: {said}");
    }
}

/// With the agent's own certificate.
fn node_may_only_what_is_its_own(cluster: &Cluster) {
    let agent = cluster.machines[1].data().join("agent");
    let (ca, pem) = (agent.join("ca.crt"), agent.join("client.pem"));
    let (ca, pem) = (ca.to_str().unwrap(), pem.to_str().unwrap());
    let with = ["--server", SERVER, "--certificate-authority", ca, "--client-certificate", pem, "--client-key", pem];
    let may = |args: &[&str]| {
        let output = cluster.server().try_kubectl(&[args, &with, &["--kubeconfig", "/dev/null"]].concat(), "");
        (output.status.success(), text(&output.stderr))
    };
    assert!(may(&["get", "node", "n1"]).0 && may(&["get", "nodes"]).0);
    for refused in [
        &["get", "secrets", "-A"][..],
        &["label", "node", "n0", "mine=yes"],
        &["label", "node", "n1", "node-restriction.kubernetes.io/mine=yes"],
        &["delete", "pod", "web-n0"],
    ] {
        let (done, said) = may(refused);
        assert!(!done && said.contains("orbidden"), "{refused:?}: {said}");
    }
}

#[test]
fn who_may_not_join_is_told_what_to_do() {
    let cluster = Cluster::new("");
    let machine = Machine::on(&cluster.switch, 1);
    let fails =
        |token: &str| machine.timonier_fails(&format!("agent --node-name n1 --server {SERVER} --token {token}"));
    let says = |error: &str, words: &[&str]| {
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
    };
    let (token, hash) = cluster.token.split_once('@').unwrap();
    let (id, secret) = token.split_once('.').unwrap();
    let wrong = fails(&format!("{id}.0123456789abcdef@{hash}"));
    says(&wrong, &[id, "expired", "timonier token create"]);
    let stranger = fails(&format!("{token}@sha256:{}", "0".repeat(64)));
    says(&stranger, &[hash, "--server", "timonier token create"]);
    says(&fails(token), &["names no cluster", "timonier token create"]);
    says(&machine.timonier_fails("agent --node-name n1"), &["--server"]);
    says(
        &machine.timonier_fails(&format!("agent --node-name n1 --server {SERVER}")),
        &["--token", "timonier token create"],
    );
    let nobody = format!("agent --node-name n1 --server https://192.0.2.10:1 --token {}", cluster.token);
    says(&machine.timonier_fails(&nobody), &["no API server answers at https://192.0.2.10:1", "port"]);
    for error in [&wrong, &stranger] {
        assert!(!error.contains(secret) && !error.contains("0123456789abcdef"), "{error}");
    }

    // One second is over when the cluster says so.
    let short = cluster.server().timonier("token create --ttl 1s --description short");
    let short = short.lines().next().unwrap();
    let short_id = short.split('.').next().unwrap();
    let listed = cluster.server().timonier("token list");
    assert!(listed.contains(id) && !listed.contains(secret), "{listed}");
    cluster.server().kubectl_until("get secrets -n kube-system -o name", |names| !names.contains(short_id));
    says(&fails(short), &[short_id, "expired", "timonier token create"]);
    cluster.server().timonier(&format!("token delete {id}"));
    says(&fails(&cluster.token), &[id, "was deleted"]);

    // By a file, and with another name for the server.
    let token = cluster.server().timonier("token create");
    let file = machine.folder().join("token");
    std::fs::write(&file, token.lines().next().unwrap()).unwrap();
    says(&cluster.server().timonier_fails(&format!("agent --token-file {}", file.display())), &["timonier down"]);
    machine.timonier(&format!("agent --detach --node-name n1 --server {SERVER} --token-file {}", file.display()));
    let secret = token.split_once('.').unwrap().1.split_once('@').unwrap().0.to_owned();
    for said in [
        std::fs::read_to_string(machine.data().join("timonier.log")).unwrap(),
        text(&std::fs::read(format!("/proc/{}/cmdline", machine.pid())).unwrap()),
        text(&std::fs::read(format!("/proc/{}/environ", machine.pid())).unwrap()),
    ] {
        assert!(!said.contains(&secret), "the token can be seen: {said}");
    }
    machine.timonier("down");
    says(&machine.timonier_fails("up"), &["is a node of the cluster of", SERVER]);
    let other_kind = cluster.server().try_timonier("down");
    assert!(other_kind.status.success());
    says(&cluster.server().timonier_fails("agent --node-name n0"), &["holds a server"]);
}

/// What tells one run of a container from the next.
fn containers(cluster: &Cluster) -> String {
    let format =
        "-o=jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    cluster.server().kubectl_args(&["get", "pods", format], "")
}

#[test]
fn killed_servers_and_agents_find_each_other_and_their_pods_again() {
    let cluster = Cluster::with_agents(1, " --cluster-signing-duration 20s");
    cluster.apply(&web_on("n0"));
    cluster.apply(&web_on("n1"));
    cluster.kubectl("wait --for=condition=Ready pod -l app=page --timeout=60s");
    let (before, agent) = (containers(&cluster), &cluster.machines[1]);
    let far = ip_of(&cluster, "web-n1");

    agent.kill();
    assert_eq!(cluster.sh("web-n0", &fetch(&far, 8080, "/")), "from n1\n", "pods go on without their agent");
    agent.timonier("agent --detach --node-name n1");
    cluster.kubectl("wait --for=condition=Ready pod -l app=page --timeout=60s");
    assert_eq!(cluster.kubectl("logs web-n1"), "serving\n");

    // The agent is started while its server is away, and is ready when that comes.
    cluster.server().kill();
    agent.kill();
    let mut start = agent.command(env!("CARGO_BIN_EXE_timonier"));
    start.args(["agent", "--node-name", "n1", "--data-dir"]).arg(agent.data());
    let log = std::fs::OpenOptions::new().append(true).open(agent.data().join("timonier.log")).unwrap();
    start.stdout(std::process::Stdio::null()).stderr(log);
    let mut agent_process = start.spawn().unwrap();
    cluster
        .server()
        .timonier("up --detach --node-name n0 --node-monitor-grace-period 15s --cluster-signing-duration 20s");
    cluster.server().kubectl_until("exec web-n1 -- cat /www/index.html", |said| said == "from n1\n");
    cluster.kubectl("wait --for=condition=Ready pod -l app=page --timeout=60s");
    assert_eq!(containers(&cluster), before, "the containers are the same ones");

    // Both certificates of the node last 20 s: they were renewed, and the server takes both.
    let serial = |path: &Path| text(&std::fs::read(path).unwrap());
    let files = ["client.pem", "serving.pem"].map(|name| agent.data().join("agent").join(name));
    let old = files.clone().map(|file| serial(&file));
    cluster
        .server()
        .kubectl_until("get nodes -o name", |_| files.iter().zip(&old).all(|(file, old)| serial(file) != *old));
    assert_eq!(cluster.sh("web-n1", "cat /www/index.html"), "from n1\n");
    cluster.apply(&web_on("n1").replace("web-n1", "later"));
    cluster.kubectl("wait --for=condition=Ready pod/later --timeout=60s");
    agent.timonier("down");
    agent_process.wait().unwrap();
}

#[test]
fn a_machine_that_is_cut_off_loses_its_pods_and_comes_back() {
    let cluster = Cluster::with_agents(2, " --pod-network host-routes");
    let template = |kind: &str, name: &str, more: &str| {
        format!(
            r#"
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  {more}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      nodeSelector: {{agent: "yes"}}
      containers:
      - name: web
        image: example.test/web:1
        command: [sh, -c, "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
        )
    };
    cluster.kubectl("label node n1 n2 agent=yes");
    cluster.apply(&template("Deployment", "web", "replicas: 2"));
    cluster.apply(
        &template("DaemonSet", "each", "minReadySeconds: 0")
            .replace("nodeSelector: {agent: \"yes\"}\n", "restartPolicy: Always\n"),
    );
    cluster.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n");
    cluster.apply(&web_on("n0"));
    cluster.kubectl("rollout status daemonset/each --timeout=60s");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("wait --for=condition=Ready pod/web-n0 --timeout=60s");
    let spread = |app: &str| cluster.kubectl(&format!("get pods -l app={app} -o jsonpath={{.items[*].spec.nodeName}}"));
    assert_eq!(spread("each").split(' ').collect::<BTreeSet<_>>(), ["n0", "n1", "n2"].into());
    let ask = "for i in $(seq 20); do get web.default.svc.cluster.local >/dev/null || echo failed; done";
    assert_eq!(cluster.sh("web-n0", ask), "");

    cluster.switch.cable(1, "down");
    let ready = "get node n1 -o jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    cluster.server().kubectl_until(ready, |status| status == "Unknown");
    let taints = "get node n1 -o jsonpath={.spec.taints[*].key}";
    cluster.server().kubectl_until(taints, |keys| keys.contains("node.kubernetes.io/unreachable"));
    let there = "get pods -l app=web --field-selector spec.nodeName=n2,status.phase=Running -o name";
    cluster.server().kubectl_until(there, |names| names.lines().count() == 2);
    cluster.kubectl("wait --for=jsonpath={.status.readyReplicas}=2 deployment/web --timeout=60s");
    assert_eq!(cluster.sh("web-n0", ask), "", "nobody is sent to the lost machine");

    cluster.switch.cable(1, "up");
    cluster.server().kubectl_until(ready, |status| status == "True");
    cluster.server().kubectl_until(taints, str::is_empty);
    cluster.server().kubectl_until("get pods -l app=web -o name", |names| names.lines().count() == 2);
    let daemons = "get daemonset each -o jsonpath={.status.numberReady}";
    cluster.server().kubectl_until(daemons, |ready| ready == "3");

    // Drained while it serves: the others take over, and the machine is empty but for its daemon.
    // It warns of the daemon that it leaves.
    let drained = cluster.server().try_kubectl(&["drain", "n2", "--ignore-daemonsets", "--timeout=60s"], "");
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    cluster
        .server()
        .kubectl_until("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}", |nodes| nodes == "n1 n1");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    assert_eq!(cluster.sh("web-n0", ask), "");
    cluster.kubectl("uncordon n2");
}

/// A machine gets another address while its agent runs: it goes on under that, and so do its pods, for all the others.
#[test]
fn a_machine_that_gets_another_address_goes_on_under_it() {
    let cluster = Cluster::with_agents(1, "");
    cluster.apply(&web_on("n0"));
    cluster.apply(&web_on("n1"));
    cluster.kubectl("wait --for=condition=Ready pod -l app=page --timeout=60s");
    let (before, agent) = (containers(&cluster), &cluster.machines[1]);
    let pid = agent.pid();
    agent.ip("addr del 192.0.2.11/24 dev uplink");
    agent.ip("addr add 192.0.2.77/24 dev uplink");
    agent.ip("route add default via 192.0.2.1 dev uplink");
    let address = "get node n1 -o jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    cluster.server().kubectl_until(address, |address| address == "192.0.2.77");
    // The server knows the node's agent by a certificate for the new address.
    cluster.server().kubectl_until("exec web-n1 -- cat /www/index.html", |said| said == "from n1\n");
    cluster.kubectl("wait --for=condition=Ready node/n1 pod/web-n1 --timeout=60s");
    let far = ip_of(&cluster, "web-n1");
    let reach = fetch(&far, 8080, "/");
    cluster.server().kubectl_until("get pods -o name", |_| {
        let asked = cluster.server().try_kubectl(&["exec", "web-n0", "--", "sh", "-c", &reach], "");
        text(&asked.stdout) == "from n1\n"
    });
    assert_eq!(cluster.sh("web-n1", &fetch(&ip_of(&cluster, "web-n0"), 8080, "/")), "from n0\n");
    assert_eq!(containers(&cluster), before, "the containers are the same ones");
    assert_eq!(agent.pid(), pid, "and so is the agent");
}
