//! Pods as applications see them: what a container is told, as whom it runs, what is asked of it while it runs, how it ends. Each
//! scenario is the one of a group of conformance tests, and does not care which runtime is below.

use std::convert::Infallible;
use std::net::TcpListener;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::application;
use crate::machine::{Machine, text};
use workload::image;

/// A pod that is not started again, whose containers run `sh -c` with their `script`.
fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0}});
    merge(&mut pod["spec"], spec);
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            container["image"] = image::NAME.into();
            if let Some(script) = container.as_object_mut().unwrap().remove("script") {
                container["command"] = json!(["sh", "-c", script]);
            }
        }
    }
    pod
}

/// A pod of one container.
fn simple(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({"name": "c", "script": script});
    merge(&mut container, more);
    pod(name, json!({"containers": [container]}))
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { panic!("an object is merged") };
    from.into_iter().for_each(|(name, value)| into[name] = value);
}

fn apply(machine: &Machine, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    machine.kubectl_args(&["apply", "-f", "-"], &list);
}

fn get(machine: &Machine, what: &str, path: &str) -> String {
    machine.kubectl(&format!("get {what} -o jsonpath={{{path}}}"))
}

fn until(machine: &Machine, what: &str, path: &str, done: impl Fn(&str) -> bool) -> String {
    machine.kubectl_until(&format!("get {what} -o jsonpath={{{path}}}"), done)
}

fn is(value: &str) -> impl Fn(&str) -> bool {
    move |seen| seen == value
}

fn refused(machine: &Machine, object: &Value) -> String {
    let output = machine.try_kubectl(&["create", "-f", "-"], &object.to_string());
    assert!(!output.status.success(), "{object}");
    text(&output.stderr)
}

/// Pods that run to their ends, each with the lines that it must print.
struct Batch<'a> {
    machine: &'a Machine,
    pods: Vec<Value>,
    expected: Vec<(String, &'static str, Vec<String>)>,
}

impl<'a> Batch<'a> {
    fn new(machine: &'a Machine) -> Self {
        Self { machine, pods: Vec::new(), expected: Vec::new() }
    }

    fn add(&mut self, pod: Value, phase: &'static str, lines: &[&str]) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.expected.push((name, phase, lines.iter().map(|line| (*line).to_owned()).collect()));
        self.pods.push(pod);
    }

    fn check(self) {
        apply(self.machine, &self.pods);
        for (name, phase, lines) in self.expected {
            until(self.machine, &format!("pod {name}"), ".status.phase", is(phase));
            let said = self.machine.kubectl(&format!("logs {name}"));
            for line in lines {
                assert!(said.lines().any(|said| said == line), "{name} does not print {line:?}: {said}");
            }
        }
    }
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn resource(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": path}}})
}

pub(crate) fn environment(machine: &Machine) {
    apply(
        machine,
        &[
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"data-1": "value-1"}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"data-1": "hidden-1"}}),
        ],
    );
    for kind in ["ConfigMap", "Secret"] {
        let empty = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "empty"}, "data": {"": "dmFsdWU="}});
        let said = refused(machine, &empty);
        assert!(said.contains("data[]: Invalid value: \"\""), "{said}");
    }
    let mut batch = Batch::new(machine);
    let env = json!([
        {"name": "PLAIN", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "data-1"}}},
        {"name": "HIDDEN", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "data-1"}}},
        {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}}]);
    let prefixes = ["", "p_", "1-", "$_", "#@!.", "~[]"];
    let from: Vec<Value> =
        prefixes.iter().map(|prefix| json!({"prefix": prefix, "secretRef": {"name": "hidden"}})).collect();
    batch.add(simple("env", "env", json!({"env": env})), "Succeeded", &["PLAIN=value-1", "HIDDEN=hidden-1"]);
    let lines: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}data-1=hidden-1")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    batch.add(
        pod("prefixes", json!({"containers": [{"name": "c", "command": ["env"], "envFrom": from}]})),
        "Succeeded",
        &lines,
    );
    batch.add(
        // The shell would keep a name to itself that is none of its own variables.
        pod("env-from", json!({"containers": [{"name": "c", "command": ["env"], "envFrom": [{"configMapRef": {"name": "settings"}}]}]})),
        "Succeeded",
        &["data-1=value-1"],
    );
    let env = json!([
        resource("CPU_LIMIT", "limits.cpu"),
        resource("MEMORY_LIMIT", "limits.memory"),
        resource("CPU_REQUEST", "requests.cpu"),
        resource("MEMORY_REQUEST", "requests.memory")
    ]);
    let resources =
        json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    batch.add(
        simple("amounts", "env", json!({"env": env, "resources": resources})),
        "Succeeded",
        &["CPU_LIMIT=2", "MEMORY_LIMIT=67108864", "CPU_REQUEST=1", "MEMORY_REQUEST=33554432"],
    );
    let fields = [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
        ("POD_IP", "status.podIP"),
        ("HOST_IP", "status.hostIP"),
        ("HOST_IPS", "status.hostIPs"),
    ];
    let env: Vec<Value> = fields.iter().map(|(name, path)| field(name, path)).collect();
    batch.add(simple("fields", "env", json!({"env": env})), "Succeeded", &["POD_NAME=fields", "POD_NAMESPACE=default"]);
    batch.check();
    let told = machine.kubectl("logs fields");
    for (name, path) in [
        ("POD_UID", ".metadata.uid"),
        ("POD_IP", ".status.podIP"),
        ("HOST_IP", ".status.hostIP"),
        ("HOST_IPS", ".status.hostIPs[0].ip"),
    ] {
        let value = get(machine, "pod fields", path);
        assert!(!value.is_empty() && told.lines().any(|line| line == format!("{name}={value}")), "{name}: {told}");
    }
}

pub(crate) fn identities(machine: &Machine) {
    let mut batch = Batch::new(machine);
    let context = |context: Value| json!({"securityContext": context});
    batch.add(simple("user", "id -u", context(json!({"runAsUser": 65534}))), "Succeeded", &["65534"]);
    let both = json!({"runAsUser": 1001, "runAsGroup": 2002});
    let script = "echo $(id -u) $(id -g)";
    batch.add(simple("container-group", script, context(both.clone())), "Succeeded", &["1001 2002"]);
    let of_pod = pod("pod-group", json!({"securityContext": both, "containers": [{"name": "c", "script": script}]}));
    batch.add(of_pod, "Succeeded", &["1001 2002"]);
    let script = "mount -t tmpfs none /tmp 2>&1 || echo refused";
    batch.add(simple("unprivileged", script, context(json!({"privileged": false}))), "Succeeded", &["refused"]);
    let script = "id -u; sed -n 's/NoNewPrivs:\\t/no new: /p' /proc/self/status";
    let no_more = json!({"runAsUser": 1000, "allowPrivilegeEscalation": false});
    batch.add(simple("no-more", script, context(no_more)), "Succeeded", &["1000", "no new: 1"]);
    let script = "echo x > /file && echo written || echo refused";
    for (name, read_only, line) in [("read-only", true, "refused"), ("writable", false, "written")] {
        let context = context(json!({"readOnlyRootFilesystem": read_only}));
        batch.add(simple(name, script, context), "Succeeded", &[line]);
    }
    let sysctl = json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]});
    let script = "cat /proc/sys/kernel/shm_rmid_forced";
    let safe = pod("sysctl", json!({"securityContext": sysctl, "containers": [{"name": "c", "script": script}]}));
    batch.add(safe, "Succeeded", &["1"]);
    batch.check();
    let wrong = ["foo-", "kernel.shmmax.", "bar..", "FOO"].map(|name| json!({"name": name, "value": "1"}));
    let said =
        refused(machine, &pod("wrong", json!({"securityContext": {"sysctls": wrong}, "containers": [{"name": "c"}]})));
    for name in ["foo-", "bar..", "FOO"] {
        assert!(said.contains(&format!("Invalid value: \"{name}\"")), "{name}: {said}");
    }
}

/// `/etc/hosts` is the kubelet's, but where the pod brings its own, or is on the node's network.
pub(crate) fn hosts_files(machine: &Machine) {
    let own = machine.folder().join("own-hosts");
    std::fs::write(&own, "127.0.0.1 own\n").unwrap();
    let managed = json!({"name": "managed", "script": "head -n 1 /etc/hosts; exec sleep 3600"});
    let brings = json!({"name": "brings", "script": "head -n 1 /etc/hosts; exec sleep 3600",
        "volumeMounts": [{"name": "own", "mountPath": "/etc/hosts"}]});
    let volumes = json!([{"name": "own", "hostPath": {"path": own, "type": "File"}}]);
    let of_node =
        json!({"hostNetwork": true, "containers": [{"name": "c", "script": "head -n 1 /etc/hosts; exec sleep 3600"}]});
    apply(
        machine,
        &[pod("hosts", json!({"containers": [managed, brings], "volumes": volumes})), pod("hosts-of-node", of_node)],
    );
    machine.kubectl("wait --for=condition=Ready pod/hosts pod/hosts-of-node --timeout=60s");
    assert_eq!(machine.kubectl("logs hosts -c managed"), "# Kubernetes-managed hosts file.\n");
    assert_eq!(machine.kubectl("logs hosts -c brings"), "127.0.0.1 own\n");
    assert!(!machine.kubectl("logs hosts-of-node").contains("# Kubernetes-managed hosts file.\n"));
}

pub(crate) fn ends(machine: &Machine) {
    let mut batch = Batch::new(machine);
    batch.add(simple("prints", "echo out; echo err >&2", json!({})), "Succeeded", &["out", "err"]);
    let policy = |more: Value| {
        let mut policy = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
        merge(&mut policy, more);
        policy
    };
    batch.add(simple("silent", "echo DONE", policy(json!({}))), "Succeeded", &[]);
    batch.add(simple("to-file", "echo -n OK > /dev/termination-log", policy(json!({}))), "Succeeded", &[]);
    batch.add(simple("to-log", "echo -n DONE; exit 1", policy(json!({}))), "Failed", &[]);
    let elsewhere =
        json!({"terminationMessagePath": "/dev/termination-custom-log", "securityContext": {"runAsUser": 1000}});
    batch.add(simple("elsewhere", "echo -n DONE > /dev/termination-custom-log", elsewhere), "Succeeded", &[]);
    batch.add(simple("fails", "exit 3", json!({})), "Failed", &[]);
    batch.check();
    let ended = |name: &str, of: &str| {
        get(machine, &format!("pod {name}"), &format!(".status.containerStatuses[0].state.terminated.{of}"))
    };
    for (name, message) in [("silent", ""), ("to-file", "OK"), ("to-log", "DONE"), ("elsewhere", "DONE")] {
        assert_eq!(ended(name, "message"), message, "{name}");
    }
    assert_eq!((ended("fails", "reason"), ended("fails", "exitCode")), ("Error".into(), "3".into()));
    machine.kubectl("delete pod fails --timeout=60s");

    // Fails the first time.
    let script = "[ -e /v/failed ] || { touch /v/failed; exit 1; }; ";
    let again = |name: &str, policy: &str, then: &str| {
        let container = json!({"name": "c", "script": format!("{script}{then}"), "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        pod(
            name,
            json!({"restartPolicy": policy, "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}),
        )
    };
    let list =
        [("always", "Always", "exec sleep 3600"), ("on-failure", "OnFailure", "exit 0"), ("never", "Never", "exit 0")];
    apply(machine, &list.map(|(name, policy, then)| again(name, policy, then)));
    for (name, phase, restarts, ready) in [
        ("always", "Running", "1", "true"),
        ("on-failure", "Succeeded", "1", "false"),
        ("never", "Failed", "0", "false"),
    ] {
        let path = ".status.phase},{.status.containerStatuses[0].restartCount},{.status.containerStatuses[0].ready";
        until(machine, &format!("pod {name}"), path, is(&format!("{phase},{restarts},{ready}")));
    }
}

pub(crate) fn subpaths(machine: &Machine) {
    let with = |name: &str, value: Value, expression: &str, script: &str| {
        let mount = json!([{"name": "v", "mountPath": "/sub", "subPathExpr": expression}, {"name": "v", "mountPath": "/whole"}]);
        let container = json!({"name": "c", "script": script, "env": [value], "volumeMounts": mount});
        pod(name, json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
    };
    let plain = |value: &str| json!({"name": "AT", "value": value});
    let mut batch = Batch::new(machine);
    let script = "echo x > /sub/file; ls /whole/written/a";
    batch.add(with("written", field("AT", "metadata.name"), "$(AT)/a", script), "Succeeded", &["file"]);
    batch.check();
    let mut changes =
        with("changes", field("AT", "metadata.annotations['at']"), "$(AT)", "echo x > /sub/file; exec sleep 3600");
    changes["metadata"]["annotations"] = json!({"at": "/absolute"});
    apply(
        machine,
        &[with("absolute", plain("/tmp"), "$(AT)", "true"), with("upwards", plain(".."), "$(AT)", "true"), changes],
    );
    for name in ["absolute", "upwards", "changes"] {
        let reason = ".status.containerStatuses[0].state.waiting.reason";
        until(machine, &format!("pod {name}"), reason, is("CreateContainerConfigError"));
    }
    machine.kubectl("annotate pod changes --overwrite at=relative");
    machine.kubectl("wait --for=condition=Ready pod/changes --timeout=60s");
    assert_eq!(machine.kubectl("exec changes -- ls /whole/relative"), "file\n");
    machine.kubectl("delete pod changes absolute upwards --timeout=60s");
}

/// Answers `grpc.health.v1.Health/Check` with SERVING, on the node's loopback and addresses.
fn grpc_server(machine: &Machine) -> u16 {
    let listener = machine.inside(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(async |_| {
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let frames = [
                        hyper::body::Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])),
                        hyper::body::Frame::trailers(trailers),
                    ];
                    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
                    let response = http::Response::builder().header("content-type", "application/grpc").body(body);
                    Ok::<_, Infallible>(response.unwrap())
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        });
    });
    port
}

pub(crate) fn probes(machine: &Machine) {
    let port = grpc_server(machine);
    let probe = |mut probe: Value| {
        merge(&mut probe, json!({"periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}));
        probe
    };
    let live = |name: &str, script: &str, how: Value| {
        let container = json!({"name": "c", "script": script, "livenessProbe": probe(how)});
        let mut pod = pod(name, json!({"containers": [container], "restartPolicy": "Always"}));
        if name.starts_with("grpc") {
            pod["spec"]["hostNetwork"] = true.into();
        }
        pod
    };
    let serve = "touch /www/healthz; httpd -p 8080 -h /www; ";
    let broken = "sleep 3; /bin/busybox rm /www/healthz; exec sleep 3600";
    let exec = json!({"exec": {"command": ["cat", "/tmp/health"]}});
    let http = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    let delayed = json!({"name": "c", "script": "exec sleep 3600", "readinessProbe": {"exec": {"command": ["true"]},
        "initialDelaySeconds": 5, "periodSeconds": 1}});
    let unready = json!({"name": "c", "script": "exec sleep 3600", "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}});
    apply(
        machine,
        &[
            live("http-good", &format!("{serve} exec sleep 3600"), http.clone()),
            live("http-bad", &format!("{serve} {broken}"), http),
            live("exec-good", "echo ok > /tmp/health; exec sleep 3600", exec.clone()),
            live("exec-bad", "echo ok > /tmp/health; sleep 3; /bin/busybox rm /tmp/health; exec sleep 3600", exec),
            live("tcp-good", "httpd -p 8080 -h /tmp; exec sleep 3600", json!({"tcpSocket": {"port": 8080}})),
            live("grpc-good", "exec sleep 3600", json!({"grpc": {"port": port}})),
            live("grpc-bad", "exec sleep 3600", json!({"grpc": {"port": 1}})),
            pod("delayed", json!({"containers": [delayed]})),
            pod("unready", json!({"containers": [unready]})),
        ],
    );
    let restarts = ".status.containerStatuses[0].restartCount";
    for name in ["http-bad", "exec-bad", "grpc-bad"] {
        until(machine, &format!("pod {name}"), restarts, |count| count.parse::<u32>().is_ok_and(|count| count >= 1));
        let events =
            machine.kubectl_until(&format!("get events --field-selector involvedObject.name={name}"), |events| {
                events.contains("Liveness probe failed: ")
                    && events.contains("failed liveness probe, will be restarted")
            });
        assert!(events.contains("Unhealthy") && events.contains("Killing"), "{events}");
    }
    machine.kubectl("wait --for=condition=Ready pod/delayed --timeout=60s");
    let seconds = |path: &str| {
        let time: jiff::Timestamp = get(machine, "pod delayed", path).parse().unwrap();
        time.as_second()
    };
    let started = seconds(".status.containerStatuses[0].state.running.startedAt");
    let ready = seconds(".status.conditions[?(@.type==\"Ready\")].lastTransitionTime");
    // Both are whole seconds.
    assert!(ready - started >= 4, "ready after {} s", ready - started);
    for name in ["http-good", "exec-good", "tcp-good", "grpc-good", "delayed"] {
        let path = format!("{restarts}}},{{.status.containerStatuses[0].ready");
        assert_eq!(get(machine, &format!("pod {name}"), &path), "0,true", "{name}");
    }
    let path = format!("{restarts}}},{{.status.containerStatuses[0].ready}},{{.status.phase");
    assert_eq!(get(machine, "pod unready", &path), "0,false,Running");
}

/// Prints what it is asked for.
const SERVER: &str =
    "for path in start stop; do touch /www/$path-by-exec /www/$path-by-http; done; exec httpd -f -vv -p 8080 -h /www";

/// A web server that prints what it is asked for, and pods that ask it when they start and when they end.
pub(crate) fn hooks(machine: &Machine) {
    apply(machine, &[simple("server", SERVER, json!({}))]);
    machine.kubectl("wait --for=condition=Ready pod/server --timeout=60s");
    let server = get(machine, "pod server", ".status.podIP");
    let ask = |path: &str| {
        let script = format!("printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {server} 8080");
        json!({"exec": {"command": ["sh", "-c", script]}})
    };
    let fetch = |path: &str| json!({"httpGet": {"path": format!("/{path}"), "host": server, "port": 8080}});
    let with = |name: &str, hooks: Value| {
        let container =
            json!({"name": "c", "script": "trap 'exit 0' TERM; while true; do sleep 1; done", "lifecycle": hooks});
        pod(name, json!({"terminationGracePeriodSeconds": 30, "containers": [container]}))
    };
    apply(
        machine,
        &[
            with("by-exec", json!({"postStart": ask("start-by-exec"), "preStop": ask("stop-by-exec")})),
            with("by-http", json!({"postStart": fetch("start-by-http"), "preStop": fetch("stop-by-http")})),
        ],
    );
    machine.kubectl("wait --for=condition=Ready pod/by-exec pod/by-http --timeout=60s");
    let asked = |path: &str| {
        machine.kubectl_until("logs server", |said| said.contains(&format!("url:/{path}")));
    };
    asked("start-by-exec");
    asked("start-by-http");
    assert!(!machine.kubectl("logs server").contains("url:/stop"));
    machine.kubectl("delete pod by-exec by-http --timeout=60s");
    asked("stop-by-exec");
    asked("stop-by-http");
}

/// What may be changed of a pod that runs, and how its generation counts it.
pub(crate) fn changes(machine: &Machine) {
    let mut subject = simple("subject", "trap 'exit 0' TERM; while true; do sleep 1; done", json!({}));
    subject["metadata"]["labels"] = json!({"time": "before"});
    subject["spec"]["terminationGracePeriodSeconds"] = 5.into();
    apply(machine, &[subject.clone()]);
    machine.kubectl("wait --for=condition=Ready pod/subject --timeout=60s");
    let host = get(machine, "pod subject", ".status.hostIP");
    let node = get(machine, "nodes", ".items[0].status.addresses[?(@.type==\"InternalIP\")].address");
    assert!(host == node && host.parse::<std::net::IpAddr>().is_ok(), "{host} {node}");
    machine.kubectl("label pod subject --overwrite time=after");
    assert_eq!(machine.kubectl("get pods -l time=after -o name"), "pod/subject\n");
    assert_eq!(machine.kubectl("get pods -l time=before -o name"), "");
    let condition = r#"{"status":{"conditions":[{"type":"Mine","status":"True"}]}}"#;
    machine.kubectl_args(&["patch", "pod", "subject", "--subresource=status", "--type=strategic", "-p", condition], "");
    assert_eq!(get(machine, "pod subject", ".status.conditions[?(@.type==\"Mine\")].status"), "True");

    let generations = ".metadata.generation},{.status.observedGeneration";
    until(machine, "pod subject", generations, is("1,1"));
    // Each of these is one change of the spec.
    let versions: Vec<Value> = (1..500)
        .map(|at| {
            let mut version = subject.clone();
            version["metadata"]["labels"] = json!({"time": "after"});
            version["spec"]["activeDeadlineSeconds"] = (5_000 - at).into();
            version
        })
        .collect();
    apply(machine, &versions);
    until(machine, "pod subject", generations, is("500,500"));
    machine.kubectl("label pod subject more=labels");
    assert_eq!(get(machine, "pod subject", ".metadata.generation"), "500", "a label is not of the spec");
    // A pod that is to end ends in its own time, and that counts too.
    let mut held = simple("held", "exec sleep 3600", json!({}));
    merge(&mut held["metadata"], json!({"generation": 100, "finalizers": ["example.test/hold"]}));
    apply(machine, &[held]);
    machine.kubectl("wait --for=condition=Ready pod/held --timeout=60s");
    assert_eq!(get(machine, "pod held", ".metadata.generation"), "1", "who makes a pod does not choose it");
    machine.kubectl("delete pod held --wait=false");
    until(machine, "pod held", ".metadata.generation", is("2"));
    machine.kubectl_args(&["patch", "pod", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "");

    machine.kubectl_args(&["patch", "pod", "subject", "-p", r#"{"spec":{"activeDeadlineSeconds":1}}"#], "");
    until(machine, "pod subject", ".status.phase},{.status.reason", is("Failed,DeadlineExceeded"));
    machine.kubectl("delete pod subject --timeout=60s");
}

/// CPU and memory of containers as requests and limits, changed while they run.
pub(crate) fn resizes(machine: &Machine) {
    let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let guaranteed =
        |cpu: &str, memory: &str| json!({"requests": amounts(cpu, memory), "limits": amounts(cpu, memory)});
    let with = |name: &str, resources: &[Value]| {
        let containers: Vec<Value> = (0..).zip(resources).map(|(at, resources)| {
            json!({"name": format!("c{at}"), "script": "exec sleep 3600", "resources": resources})
        }).collect();
        pod(name, json!({"containers": containers}))
    };
    let request_only = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let three = [guaranteed("100m", "32Mi"), guaranteed("100m", "32Mi"), guaranteed("100m", "32Mi")];
    let plans = [
        (
            "net-more",
            three.to_vec(),
            vec![guaranteed("140m", "40Mi"), guaranteed("150m", "48Mi"), guaranteed("50m", "24Mi")],
        ),
        (
            "net-less",
            three.to_vec(),
            vec![guaranteed("120m", "40Mi"), guaranteed("50m", "24Mi"), guaranteed("60m", "24Mi")],
        ),
        (
            "mixed",
            three.to_vec(),
            vec![guaranteed("120m", "32Mi"), guaranteed("50m", "40Mi"), guaranteed("130m", "48Mi")],
        ),
        (
            "six",
            vec![
                request_only("20m"),
                json!({}),
                guaranteed("20m", "32Mi"),
                request_only("20m"),
                guaranteed("30m", "32Mi"),
                json!({}),
            ],
            vec![
                request_only("40m"),
                json!({"requests": amounts("10m", "16Mi"), "limits": amounts("20m", "32Mi")}),
                guaranteed("40m", "40Mi"),
                json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "50m"}}),
                guaranteed("20m", "48Mi"),
                request_only("10m"),
            ],
        ),
        (
            "equal",
            vec![json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "10m"}})],
            vec![json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}})],
        ),
    ];
    apply(machine, &plans.iter().map(|(name, before, _)| with(name, before)).collect::<Vec<_>>());
    for (name, _, after) in &plans {
        machine.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=60s"));
        let containers: Vec<Value> =
            (0..).zip(after).map(|(at, resources)| json!({"name": format!("c{at}"), "resources": resources})).collect();
        let patch = json!({"spec": {"containers": containers}}).to_string();
        machine.kubectl_args(&["patch", "pod", name, "--subresource=resize", "-p", &patch], "");
    }
    for (name, _, after) in &plans {
        for (at, wanted) in after.iter().enumerate() {
            let path = format!(
                ".status.containerStatuses[{at}].resources}}{{\"\\n\"}}{{.status.containerStatuses[{at}].restartCount"
            );
            let seen = until(machine, &format!("pod {name}"), &path, |seen| {
                let seen: Value = serde_json::from_str(seen.lines().next().unwrap_or_default()).unwrap_or_default();
                ["requests", "limits"].iter().all(|kind| {
                    wanted[kind].as_object().into_iter().flatten().all(|(of, amount)| seen[kind][of] == *amount)
                })
            });
            assert!(seen.ends_with("\n0"), "{name} c{at} was started again: {seen}");
        }
    }
    // Version 2 of control groups, or version 1.
    let script = "cat /sys/fs/cgroup/memory.max 2>&- || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    for (container, limit) in [("c0", 40), ("c1", 48), ("c2", 24)] {
        let shown = machine.kubectl_args(&["exec", "net-more", "-c", container, "--", "sh", "-c", script], "");
        assert_eq!(shown.trim(), (limit << 20_u32).to_string(), "{container}");
    }
    // By a whole object, as by a patch.
    let shown: Value = serde_json::from_str(&machine.kubectl("get pod equal -o json")).unwrap();
    let mut replaced = shown;
    replaced["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "4m".into();
    machine.kubectl_args(&["replace", "--subresource=resize", "-f", "-"], &replaced.to_string());
    until(machine, "pod equal", ".status.containerStatuses[0].resources.requests.cpu", is("4m"));
    let sub: Value = serde_json::from_str(&machine.kubectl("get pod equal --subresource=resize -o json")).unwrap();
    let main: Value = serde_json::from_str(&machine.kubectl("get pod equal -o json")).unwrap();
    assert_eq!((&sub["spec"], &sub["metadata"]["uid"]), (&main["spec"], &main["metadata"]["uid"]));
}

/// What a pod gets as a whole is its control group's, whatever its containers ask for.
fn whole_pods(machine: &Machine) {
    let resources = json!({"limits": {"cpu": "500m", "memory": "48Mi"}});
    let containers = ["a", "b"].map(|name| json!({"name": name, "script": "exec sleep 3600"}));
    apply(machine, &[pod("whole", json!({"resources": resources, "containers": containers}))]);
    machine.kubectl("wait --for=condition=Ready pod/whole --timeout=60s");
    assert_eq!(get(machine, "pod whole", ".status.qosClass"), "Guaranteed");
    let uid = get(machine, "pod whole", ".metadata.uid");
    let args = ["/sys/fs/cgroup", "-type", "d", "-path", &format!("*/pod{uid}")];
    let found = text(&std::process::Command::new("find").args(args).output().unwrap().stdout);
    let value = |names: [&str; 2]| {
        let paths = found.lines().flat_map(|group| names.map(|name| format!("{group}/{name}")));
        let values: Vec<String> = paths.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        values.first().map(|value| value.trim().to_owned())
    };
    assert_eq!(value(["memory.max", "memory.limit_in_bytes"]), Some((48 << 20).to_string()), "{found}");
    let quota = value(["cpu.max", "cpu.cfs_quota_us"]).unwrap();
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    machine.kubectl("delete pod whole --timeout=60s");
}

/// Classes, ephemeral containers, nodes and their taints.
fn around(machine: &Machine) {
    let class = |name: &str, more: Value| {
        let mut class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "none"});
        merge(&mut class, more);
        class
    };
    apply(
        machine,
        &[
            class("plain", json!({})),
            class("heavy", json!({"overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}})),
            class("gone", json!({})),
        ],
    );
    machine.kubectl("delete runtimeclass gone");
    let of_class =
        |name: &str, class: &str| pod(name, json!({"runtimeClassName": class, "containers": [{"name": "c"}]}));
    for class in ["gone", "never-made"] {
        let said = refused(machine, &of_class("classless", class));
        assert!(said.contains(&format!("RuntimeClass \"{class}\" not found")), "{said}");
    }
    apply(machine, &[of_class("plain", "plain"), of_class("heavy", "heavy")]);
    for (name, overhead) in [("plain", ""), ("heavy", r#"{"cpu":"10m","memory":"1Mi"}"#)] {
        until(machine, &format!("pod {name}"), ".status.conditions[?(@.type==\"PodScheduled\")].status", is("True"));
        assert_eq!(get(machine, &format!("pod {name}"), ".spec.overhead"), overhead);
    }
    machine.kubectl("delete pod plain heavy --timeout=60s");

    apply(machine, &[simple("looked-at", "exec sleep 3600", json!({}))]);
    machine.kubectl("wait --for=condition=Ready pod/looked-at --timeout=60s");
    for name in ["first", "second"] {
        machine.kubectl(&format!(
            "debug looked-at --image={} --container={name} --profile=general -- sleep 3600",
            image::NAME
        ));
        let path = format!(".status.ephemeralContainerStatuses[?(@.name==\"{name}\")].state.running.startedAt");
        until(machine, "pod looked-at", &path, |at| !at.is_empty());
    }
    assert_eq!(get(machine, "pod looked-at", ".spec.ephemeralContainers[*].name"), "first second");

    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "made-up", "labels": {"step": "made"}}});
    machine.kubectl_args(&["create", "-f", "-"], &node.to_string());
    assert_eq!(machine.kubectl("get node made-up -o name"), "node/made-up\n");
    machine.kubectl_args(&["patch", "node", "made-up", "-p", r#"{"metadata":{"labels":{"step":"patched"}}}"#], "");
    assert_eq!(machine.kubectl("get nodes -l step=patched -o name"), "node/made-up\n");
    let mut made: Value = serde_json::from_str(&machine.kubectl("get node made-up -o json")).unwrap();
    made["metadata"]["labels"]["step"] = "updated".into();
    machine.kubectl_args(&["replace", "-f", "-"], &made.to_string());
    assert_eq!(machine.kubectl("get nodes -l step=updated -o name"), "node/made-up\n");
    machine.kubectl("delete nodes -l step=updated");
    machine.kubectl_until("get nodes -o name", |nodes| !nodes.contains("made-up"));
}

/// Pods go when their time on a tainted node is over, and stay when the taint goes before.
fn taints(machine: &Machine) {
    let node = get(machine, "nodes", ".items[0].metadata.name");
    let with = |name: &str, seconds: i32| {
        let tolerations =
            json!([{"key": "out", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        pod(name, json!({"tolerations": tolerations, "containers": [{"name": "c", "script": "exec sleep 3600"}]}))
    };
    apply(machine, &[with("soon", 1), with("sooner", 0), with("later", 3600)]);
    machine.kubectl("wait --for=condition=Ready pod/soon pod/sooner pod/later --timeout=60s");
    machine.kubectl(&format!("taint node {node} out=yes:NoExecute"));
    machine.kubectl_until("get pods -o name", |pods| !pods.contains("pod/soon") && pods.contains("pod/later"));
    machine.kubectl(&format!("taint node {node} out:NoExecute-"));
    assert_eq!(get(machine, "pod later", ".status.phase},{.metadata.deletionTimestamp"), "Running,");
}

#[test]
fn containers_are_told_their_settings_and_run_as_whom_they_should() {
    let machine = Machine::new();
    application::start(&machine);
    environment(&machine);
    identities(&machine);
    hosts_files(&machine);
    subpaths(&machine);
}

#[test]
fn containers_are_probed_hooked_and_end_as_they_should() {
    let machine = Machine::new();
    application::start(&machine);
    ends(&machine);
    probes(&machine);
    hooks(&machine);
}

#[test]
fn pods_are_changed_while_they_run() {
    let machine = Machine::new();
    application::start(&machine);
    changes(&machine);
    resizes(&machine);
    whole_pods(&machine);
    around(&machine);
    taints(&machine);
}
