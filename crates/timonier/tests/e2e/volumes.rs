//! Volumes that live as long as their pod: config maps, secrets, the downward API, projections of them, and empty directories.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::application::start;
use crate::machine::{Machine, run};

fn apply(machine: &Machine, manifest: &str) {
    machine.kubectl_args(&["apply", "-f", "-"], manifest);
}

fn shell(machine: &Machine, pod: &str, script: &str) -> String {
    machine.kubectl_args(&["exec", pod, "--", "sh", "-c", script], "")
}

/// Waits until a script in a pod prints what is wanted.
#[track_caller]
fn shows(machine: &Machine, pod: &str, file: &str, wanted: &str) {
    machine.kubectl_until(&format!("exec {pod} -- cat {file}"), |content| content == wanted);
}

/// What the pod's volumes are made from.
const SOURCES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {a: "1", b: "2"}
binaryData: {bytes: 3q2+7w==}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {a: s1, b: s2}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: other}
stringData: {a: not-this}
"#;

/// A pod of a user of its own, with every kind of file in every way.
const FILES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: files, labels: {tier: one}, annotations: {note: first}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, fsGroup: 1001}
  containers:
  - name: c
    image: example.test/web:1
    command: [sleep, "3600"]
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 1250m, memory: 64Mi}}
    volumeMounts:
    - {name: map, mountPath: /map}
    - {name: map, mountPath: /again}
    - {name: mapped, mountPath: /mapped}
    - {name: secret, mountPath: /secret}
    - {name: picked, mountPath: /picked}
    - {name: downward, mountPath: /downward}
    - {name: all, mountPath: /all}
    - {name: optional, mountPath: /optional}
    - {name: map, mountPath: /sub/map, subPath: a}
    - {name: map, mountPath: /etc/hostname.conf, subPath: b}
    - {name: secret, mountPath: /sub/secret, subPath: a}
    - {name: downward, mountPath: /sub/name, subPath: name}
    - {name: all, mountPath: /sub/map-and-more, subPath: map}
  - name: bare
    image: example.test/web:1
    command: [sleep, "3600"]
    volumeMounts: [{name: downward, mountPath: /downward}]
  volumes:
  - {name: map, configMap: {name: map}}
  - {name: mapped, configMap: {name: map, defaultMode: 256, items: [{key: a, path: deep/path}, {key: b, path: open, mode: 292}]}}
  - {name: secret, secret: {secretName: secret, defaultMode: 288}}
  - {name: picked, secret: {secretName: secret, items: [{key: b, path: of/b, mode: 256}]}}
  - name: downward
    downwardAPI:
      defaultMode: 256
      items:
      - {path: name, fieldRef: {fieldPath: metadata.name}}
      - {path: labels, mode: 292, fieldRef: {fieldPath: metadata.labels}}
      - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
      - {path: cpu-limit, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}
      - {path: cpu-request, resourceFieldRef: {containerName: c, resource: requests.cpu, divisor: 1m}}
      - {path: memory-limit, resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}
      - {path: memory-request, resourceFieldRef: {containerName: c, resource: requests.memory, divisor: 1Mi}}
      - {path: node-cpu, resourceFieldRef: {containerName: bare, resource: limits.cpu, divisor: 1m}}
      - {path: node-memory, resourceFieldRef: {containerName: bare, resource: limits.memory}}
  - name: all
    projected:
      defaultMode: 288
      sources:
      - configMap: {name: map, items: [{key: a, path: map/a}]}
      - secret: {name: secret, items: [{key: a, path: secret/a, mode: 256}]}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: node-cpu, resourceFieldRef: {containerName: bare, resource: limits.cpu, divisor: 1m}}]}
      - serviceAccountToken: {path: token, audience: somebody}
      - configMap: {name: later, optional: true}
      - secret: {name: later, optional: true}
  - {name: optional, configMap: {name: later, optional: true}}
"#;

/// Conformance: ConfigMap, Secrets, Downward API volume, Projected, Subpath.
pub(crate) fn files(machine: &Machine) {
    apply(machine, SOURCES);
    apply(machine, FILES);
    machine.kubectl("wait --for=condition=Ready pod/files --timeout=60s");

    let content = "for f in map/a again/b map/bytes mapped/deep/path mapped/open secret/a secret/b picked/of/b \
                   downward/name downward/cpu-limit downward/cpu-request downward/memory-limit downward/memory-request \
                   all/map/a all/secret/a sub/map etc/hostname.conf sub/secret sub/name sub/map-and-more/a; \
                   do echo \"$f $(cat /$f)\"; done";
    let printed = machine.try_kubectl(&["exec", "files", "--", "sh", "-c", content], "").stdout;
    let printed = String::from_utf8_lossy(&printed);
    let bytes = "map/bytes \u{fffd}\u{fffd}\u{fffd}\u{fffd}";
    let expected = [
        "map/a 1",
        "again/b 2",
        bytes,
        "mapped/deep/path 1",
        "mapped/open 2",
        "secret/a s1",
        "secret/b s2",
        "picked/of/b s2",
        "downward/name files",
        "downward/cpu-limit 1250",
        "downward/cpu-request 10",
        "downward/memory-limit 64",
        "downward/memory-request 16",
        "all/map/a 1",
        "all/secret/a s1",
        "sub/map 1",
        "etc/hostname.conf 2",
        "sub/secret s1",
        "sub/name files",
        "sub/map-and-more/a 1",
    ];
    for line in expected {
        assert!(line == bytes || printed.lines().any(|printed| printed == line), "no {line:?} in\n{printed}");
    }
    assert_eq!(shell(machine, "files", "wc -c /map/bytes").split(' ').next(), Some("4"));
    assert_eq!(
        shell(machine, "files", "ls /picked/of /optional /mapped/deep"),
        "/mapped/deep:\npath\n\n/optional:\n\n/picked/of:\nb\n"
    );

    // A group owns the files, so that it is added to what may be read.
    let modes = shell(
        machine,
        "files",
        "cd /; stat -L -c '%n %a %g' map/a mapped/deep/path mapped/open secret/a picked/of/b downward/name downward/labels \
         all/map/a all/secret/a",
    );
    let expected = "map/a 644 1001\nmapped/deep/path 440 1001\nmapped/open 444 1001\nsecret/a 440 1001\npicked/of/b 440 1001\n\
                    downward/name 440 1001\ndownward/labels 444 1001\nall/map/a 440 1001\nall/secret/a 440 1001\n";
    assert_eq!(modes, expected);

    // What has no limit has the node's.
    let node = machine.kubectl("get nodes -o jsonpath={.items[0].status.allocatable.cpu}");
    let cpu = shell(machine, "files", "cat /downward/node-cpu; echo; cat /all/node-cpu");
    let milli: i64 = node.trim_end_matches('m').parse::<i64>().unwrap() * if node.ends_with('m') { 1 } else { 1000 };
    assert_eq!(cpu.lines().collect::<Vec<_>>(), [milli.to_string(), milli.to_string()]);
    assert!(shell(machine, "files", "cat /downward/node-memory").trim().parse::<i64>().unwrap() > 1 << 20);
    follow(machine);
}

/// Every change of an object is seen in the files; what is optional comes and goes.
fn follow(machine: &Machine) {
    machine.kubectl_args(&["patch", "configmap", "map", "-p", r#"{"data": {"a": "new", "c": "3"}}"#], "");
    shows(machine, "files", "/map/a", "new");
    shows(machine, "files", "/all/map/a", "new");
    assert_eq!(shell(machine, "files", "cat /map/c /sub/map"), "31", "a sub path shows what was there at the start");
    machine.kubectl_args(&["patch", "secret", "secret", "-p", r#"{"stringData": {"a": "s-new"}}"#], "");
    shows(machine, "files", "/secret/a", "s-new");
    shows(machine, "files", "/all/secret/a", "s-new");
    machine.kubectl("label pod files tier=two --overwrite");
    machine.kubectl("annotate pod files note=second --overwrite");
    shows(machine, "files", "/downward/labels", "tier=\"two\"");
    shows(machine, "files", "/all/labels", "tier=\"two\"");
    machine.kubectl_until("exec files -- cat /downward/annotations", |notes| notes.contains("note=\"second\""));
    machine.kubectl("create configmap later --from-literal=there=yes");
    shows(machine, "files", "/optional/there", "yes");
    shows(machine, "files", "/all/there", "yes");
    machine.kubectl("create secret generic later --from-literal=hidden=yes");
    shows(machine, "files", "/all/hidden", "yes");
    machine.kubectl("delete configmap later");
    machine.kubectl_until("exec files -- ls /optional", str::is_empty);
    machine.kubectl("delete secret later");
    machine.kubectl_until("exec files -- ls /all", |names| !names.contains("hidden") && !names.contains("there"));
}

/// A pod whose two containers share directories, and another user's.
const EMPTY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: empty}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: root
    image: example.test/web:1
    command: [sleep, "3600"]
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  - name: user
    image: example.test/web:1
    command: [sleep, "3600"]
    securityContext: {runAsUser: 1000}
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
"#;

/// Conformance: EmptyDir volumes.
pub(crate) fn empty_directories(machine: &Machine) {
    apply(machine, EMPTY);
    machine.kubectl("wait --for=condition=Ready pod/empty --timeout=60s");
    let inside = |container: &str, script: &str| {
        machine.kubectl_args(&["exec", "empty", "-c", container, "--", "sh", "-c", script], "")
    };
    let mounts = inside("root", "grep -E ' /memory ' /proc/mounts");
    assert!(mounts.contains(" /memory tmpfs ") && mounts.contains("size=8192k"), "{mounts}");
    let disk = std::fs::metadata(machine.data()).unwrap().dev();
    assert_eq!(inside("root", "stat -c %d /disk"), format!("{disk}\n"), "it lies where the data directory does");
    for volume in ["/disk", "/memory"] {
        assert_eq!(inside("user", &format!("stat -c %a {volume}")), "777\n");
        for (writer, reader) in [("root", "user"), ("user", "root")] {
            for mode in ["0644", "0666", "0777"] {
                let mask = format!("{:o}", 0o777 & !u32::from_str_radix(mode, 8).unwrap());
                let file = format!("{volume}/{writer}-{mode}");
                // Files are made with 0666 at most, what is more is a directory's.
                let made = if mode == "0777" { format!("mkdir {file}") } else { format!("echo of-{writer} > {file}") };
                inside(writer, &format!("umask {mask}; {made}"));
                assert_eq!(inside(reader, &format!("stat -c %a {file}")), format!("{}\n", &mode[1..]), "{file}");
                if mode != "0777" {
                    assert_eq!(inside(reader, &format!("cat {file}")), format!("of-{writer}\n"));
                }
            }
        }
    }
    machine.kubectl("delete pod empty");
    machine.kubectl_until("get pods -o name", str::is_empty);
}

/// Conformance: "EmptyDir wrapper volumes should not cause race condition when used for configmaps".
pub(crate) fn many_config_maps(machine: &Machine) {
    let maps: String = (0..50)
        .map(|number| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: racey-{number}}}\ndata: {{data-1: value-1}}\n---\n"
            )
        })
        .collect();
    apply(machine, &maps);
    let volumes: String =
        (0..50).map(|number| format!("      - {{name: v{number}, configMap: {{name: racey-{number}}}}}\n")).collect();
    let mounts: String =
        (0..50).map(|number| format!("        - {{name: v{number}, mountPath: /etc/config-{number}}}\n")).collect();
    apply(
        machine,
        &format!(
            "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: racey}}\nspec:\n  replicas: 5\n  selector: {{matchLabels: \
             {{app: racey}}}}\n  template:\n    metadata: {{labels: {{app: racey}}}}\n    spec:\n      \
             terminationGracePeriodSeconds: 0\n      containers:\n      - name: c\n        image: example.test/web:1\n        \
             command: [sleep, \"3600\"]\n        volumeMounts:\n{mounts}      volumes:\n{volumes}"
        ),
    );
    machine.kubectl_until("get replicaset racey -o jsonpath={.status.readyReplicas}", |ready| ready == "5");
    let pod = machine.kubectl("get pods -l app=racey -o jsonpath={.items[0].metadata.name}");
    assert_eq!(shell(machine, &pod, "cat /etc/config-*/data-1").matches("value-1").count(), 50);
}

/// Mounts that are made while pods run: by the machine, and by a pod that may.
pub(crate) fn propagation(machine: &Machine) {
    let folder = machine.folder().join("shared");
    std::fs::create_dir_all(folder.join("by-host")).unwrap();
    std::fs::create_dir_all(folder.join("by-pod")).unwrap();
    let mounted = Mounted(vec![folder.clone(), folder.join("by-host"), folder.join("by-pod")]);
    run(Command::new("mount").arg("--bind").args([&folder, &folder]));
    run(Command::new("mount").arg("--make-shared").arg(&folder));
    let pod = |name: &str, propagation: &str, privileged: bool| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: c, image: \"example.test/web:1\", command: [sleep, \"3600\"], \
             securityContext: {{privileged: {privileged}}}, \
             volumeMounts: [{{name: v, mountPath: /v, mountPropagation: {propagation}}}]}}]\n  \
             volumes: [{{name: v, hostPath: {{path: {}}}}}]\n---\n",
            folder.display()
        )
    };
    apply(
        machine,
        &(pod("gives", "Bidirectional", true) + &pod("takes", "HostToContainer", false) + &pod("alone", "None", false)),
    );
    machine.kubectl("wait --for=condition=Ready pod/gives pod/takes pod/alone --timeout=60s");
    shell(machine, "gives", "mount -t tmpfs made /v/by-pod && touch /v/by-pod/seen");
    run(Command::new("mount").args(["-t", "tmpfs", "made"]).arg(folder.join("by-host")));
    std::fs::write(folder.join("by-host/seen"), "").unwrap();
    assert!(folder.join("by-pod/seen").exists(), "the machine sees what the pod mounted");
    let list = "ls /v/by-pod /v/by-host";
    let both = "/v/by-host:\nseen\n\n/v/by-pod:\nseen\n";
    assert_eq!(shell(machine, "gives", list), both);
    assert_eq!(shell(machine, "takes", list), both);
    assert_eq!(shell(machine, "alone", list), "/v/by-host:\n\n/v/by-pod:\n");
    machine.kubectl("delete pod gives takes alone --timeout=60s");
    drop(mounted);
}

/// Mounts of the machine that go when the test does.
struct Mounted(Vec<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = Command::new("umount").arg(path).stderr(Stdio::null()).status();
        }
    }
}

#[test]
fn mounts_are_seen_by_those_who_asked_for_it() {
    let machine = Machine::new();
    start(&machine);
    propagation(&machine);
}

#[test]
fn files_come_from_their_objects_and_follow_them() {
    let machine = Machine::new();
    start(&machine);
    files(&machine);
}

#[test]
fn empty_directories_are_shared_by_containers_and_open_to_all_users() {
    let machine = Machine::new();
    start(&machine);
    empty_directories(&machine);
}

#[test]
fn many_config_maps_in_several_pods_at_once_are_no_race() {
    let machine = Machine::new();
    start(&machine);
    many_config_maps(&machine);
}
