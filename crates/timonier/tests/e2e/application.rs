//! A real application: three web servers behind a Service, with a ConfigMap, driven by `kubectl`.

use std::collections::BTreeSet;

use crate::machine::{Machine, text};
use workload::image;

/// Three web servers that answer with their own name and the ConfigMap's greeting.
pub(crate) const APPLICATION: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {greeting: "ahoy"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: example.test/web:1
        command: [sh, -c]
        args: ["echo \"$GREETING from $POD\" > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www"]
        env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: web, key: greeting}}}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        volumeMounts: [{name: web, mountPath: /config}]
      volumes: [{name: web, configMap: {name: web}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

/// A pod to send requests from.
pub(crate) const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: client, image: "example.test/web:1", command: [sleep, "3600"]}]
"#;

/// Starts a cluster with the image imported.
pub(crate) fn start(machine: &Machine) {
    machine.timonier("up --detach");
    let archive = image::archive(machine.folder()).unwrap();
    let imported = machine.timonier(&format!("image import {}", archive.display()));
    assert!(imported.contains(image::NAME), "{imported}");
}

/// Applies the application and waits until it is ready.
pub(crate) fn deploy(machine: &Machine) {
    machine.kubectl_args(&["apply", "-f", "-"], APPLICATION);
    machine.kubectl_args(&["apply", "-f", "-"], CLIENT);
    machine.kubectl("rollout status deployment/web --timeout=120s");
    machine.kubectl("wait --for=condition=Ready pod/client --timeout=120s");
}

/// Which pods answer 60 requests to the Service by its name.
pub(crate) fn answering(machine: &Machine) -> BTreeSet<String> {
    let script = "for i in $(seq 60); do get web.default.svc.cluster.local || echo failed; done";
    let answers = machine.kubectl_args(&["exec", "client", "--", "sh", "-c", script], "");
    answers
        .lines()
        .map(|line| line.strip_prefix("ahoy from ").unwrap_or_else(|| panic!("bad answer: {line}")).to_owned())
        .collect()
}

/// What was imported goes only when that is said, and what a container uses never.
fn no_image_is_removed_that_something_needs(machine: &Machine) {
    assert!(machine.timonier_fails("image remove nothing.test/a:1").contains("there is no image nothing.test/a:1"));
    assert!(machine.timonier_fails(&format!("image remove {}", image::NAME)).contains("`--imported`"));
    let used = machine.timonier_fails(&format!("image remove --imported {}", image::NAME));
    assert!(used.contains("in use by container"), "{used}");
    assert!(machine.timonier("image list").contains("example.test/web"));
}

fn pod_names(machine: &Machine) -> BTreeSet<String> {
    let names = machine.kubectl("get pods -l app=web -o name");
    names.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect()
}

#[test]
fn a_real_application_runs_and_nothing_is_left_after_reset() {
    let machine = Machine::new();
    let before = machine.traces();
    start(&machine);
    assert!(machine.timonier("status").contains("ready"));
    assert!(machine.timonier("image list").contains("example.test/web"));
    assert_eq!(
        machine.timonier("kubeconfig").trim(),
        std::fs::read_to_string(machine.data().join("kubeconfig")).unwrap().trim()
    );
    deploy(&machine);

    let pods = pod_names(&machine);
    assert_eq!(pods.len(), 3);
    assert_eq!(answering(&machine), pods, "the Service spreads over all three, by its DNS name");

    no_image_is_removed_that_something_needs(&machine);
    look(&machine, pods.first().unwrap());
    a_deleted_pod_is_replaced(&machine, pods.first().unwrap());
    scale(&machine);

    machine.kubectl("delete deployment/web service/web configmap/web pod/client --timeout=60s");
    machine.kubectl_until("get pods -o name", str::is_empty);

    machine.timonier("reset --yes");
    let left: Vec<_> = machine.traces().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    assert!(!machine.data().exists(), "the data directory is left");
}

/// `logs`, `exec`, `get`, `describe`.
fn look(machine: &Machine, pod: &str) {
    assert_eq!(machine.kubectl(&format!("logs {pod}")), "serving\n");
    assert_eq!(machine.kubectl(&format!("exec {pod} -- cat /config/greeting")), "ahoy");
    assert_eq!(machine.kubectl_args(&["exec", "-i", pod, "--", "cat"], "through and back"), "through and back");
    let failed = machine.try_kubectl(&["exec", pod, "--", "sh", "-c", "echo oops >&2; exit 3"], "");
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed.stderr));
    assert!(text(&failed.stderr).starts_with("oops\n"), "{}", text(&failed.stderr));
    let table = machine.kubectl(&format!("get pod {pod}"));
    let columns: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert!(table.contains("1/1") && table.contains("Running"), "{table}");
    let described = machine.kubectl(&format!("describe pod {pod}"));
    for expected in ["Successfully assigned", "Container created", "Container started", "kube-api-access-", "QoS Class"]
    {
        assert!(described.contains(expected), "no {expected:?} in\n{described}");
    }
    let described = machine.kubectl("describe deployment web");
    assert!(described.contains("3 desired | 3 updated | 3 total | 3 available"), "{described}");
    let token = machine.kubectl(&format!("exec {pod} -- wc -c /var/run/secrets/kubernetes.io/serviceaccount/token"));
    assert!(token.split_whitespace().next().unwrap().parse::<u32>().unwrap() > 100, "{token}");
}

fn a_deleted_pod_is_replaced(machine: &Machine, pod: &str) {
    machine.kubectl(&format!("delete pod {pod}"));
    machine.kubectl("rollout status deployment/web --timeout=120s");
    machine.kubectl_until("get deployment web -o jsonpath={.status.readyReplicas}", |ready| ready == "3");
    let pods = pod_names(machine);
    assert!(pods.len() == 3 && !pods.contains(pod), "{pods:?}");
    assert_eq!(answering(machine), pods);
}

fn scale(machine: &Machine) {
    machine.kubectl("scale deployment/web --replicas=5");
    machine.kubectl_until("get deployment web -o jsonpath={.status.readyReplicas}", |ready| ready == "5");
    machine.kubectl("scale deployment/web --replicas=1");
    machine.kubectl_until("get pods -l app=web -o name", |names| names.lines().count() == 1);
}

#[test]
fn a_machine_without_a_network_is_enough() {
    let machine = Machine::with_loopback_only();
    start(&machine);
    deploy(&machine);
    assert_eq!(answering(&machine).len(), 3);
}
