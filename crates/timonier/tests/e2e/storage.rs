//! Persistent volumes: claims get them, data outlives pods and the process, and nothing is left when they go.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use crate::application::start;
use crate::machine::{Machine, text};

/// A set whose pods each have a claim and keep there how often they were started.
const SET: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Delete}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      containers:
      - name: db
        image: example.test/web:1
        command: [sh, -c, "echo started >> /data/log; echo ready; exec sleep 3600"]
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: data, mountPath: /part, subPathExpr: "of-$(POD)"}
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
"#;

fn apply(machine: &Machine, manifest: &str) {
    machine.kubectl_args(&["apply", "-f", "-"], manifest);
}

fn ready(machine: &Machine, pod: &str) {
    machine.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=60s"));
}

/// The directories of volumes of the class `local`.
fn directories(machine: &Machine) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(machine.data().join("volumes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn log(machine: &Machine, pod: &str) -> usize {
    machine.kubectl(&format!("exec {pod} -- cat /data/log")).lines().count()
}

#[test]
fn a_stateful_set_keeps_its_data_over_pods_and_kill_9() {
    let machine = Machine::new();
    let before = machine.traces();
    start(&machine);
    let class = machine.kubectl("get storageclass local -o jsonpath={.metadata.annotations}");
    assert!(class.contains("\"storageclass.kubernetes.io/is-default-class\":\"true\""), "{class}");
    apply(&machine, SET);
    machine.kubectl("rollout status statefulset/db --timeout=60s");
    let claims = machine.kubectl("get pvc -o jsonpath={.items[*].status.phase}");
    assert_eq!(claims, "Bound Bound");
    assert_eq!(directories(&machine).len(), 2);
    assert_eq!(machine.kubectl("exec db-0 -- stat -c %g /data"), "2000\n", "it is given to the pod's group");
    machine.kubectl("exec db-0 -- touch /part/file");
    assert_eq!(machine.kubectl("exec db-0 -- ls /data/of-db-0"), "file\n");

    machine.kubectl("delete pod db-0");
    machine.kubectl("rollout status statefulset/db --timeout=60s");
    ready(&machine, "db-0");
    assert_eq!((log(&machine, "db-0"), log(&machine, "db-1")), (2, 1));

    machine.kill();
    machine.timonier("up --detach");
    assert_eq!(log(&machine, "db-0"), 2, "the same container goes on");
    machine.kubectl("delete pod db-0");
    machine.kubectl_until("get pod db-0 -o jsonpath={.status.phase}", |phase| phase == "Running");
    ready(&machine, "db-0");
    assert_eq!(log(&machine, "db-0"), 3);

    // A size may grow, and a claim that is scaled away goes with its data.
    let bigger = r#"{"spec": {"resources": {"requests": {"storage": "32Mi"}}}}"#;
    machine.kubectl_args(&["patch", "pvc", "data-db-0", "-p", bigger], "");
    machine.kubectl_until("get pvc data-db-0 -o jsonpath={.status.capacity.storage}", |size| size == "32Mi");
    machine.kubectl("scale statefulset/db --replicas=1");
    machine.kubectl_until("get pv -o name", |names| names.lines().count() == 1);
    assert_eq!(directories(&machine).len(), 1);

    machine.kubectl("delete statefulset db");
    machine.kubectl_until("get pods -o name", str::is_empty);
    assert_eq!(machine.kubectl("get pvc -o name"), "persistentvolumeclaim/data-db-0\n");
    machine.kubectl("delete pvc data-db-0");
    machine.kubectl_until("get pv -o name", str::is_empty);
    assert!(directories(&machine).is_empty());
    let removals = machine.kubectl_until("get nodes -o jsonpath={.items[0].metadata.annotations}", |annotations| {
        !annotations.contains("removal.timonier.io")
    });
    assert!(removals.contains("timonier.io/volumes-directory"), "{removals}");

    machine.timonier("reset --yes");
    let left: Vec<_> = machine.traces().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    assert!(!machine.data().exists(), "the data directory is left");
}

/// A volume that somebody made by hand, and a claim for it.
fn by_hand(name: &str, directory: &str, policy: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}, labels: {{made: by-hand}}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce, ReadOnlyMany]
  persistentVolumeReclaimPolicy: {policy}
  storageClassName: ""
  hostPath: {{path: {directory}, type: Directory}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec:
  storageClassName: ""
  volumeName: {name}
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 100Mi}}}}
"#
    )
}

/// A pod that uses a claim, read only on demand.
fn user(name: &str, claim: &str, read_only: bool) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: example.test/web:1
    command: [sleep, "3600"]
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}, readOnly: {read_only}}}}}]
"#
    )
}

fn phase(machine: &Machine, object: &str, phase: &str) {
    machine.kubectl_until(&format!("get {object} -o jsonpath={{.status.phase}}"), |is| is == phase);
}

pub(crate) fn made_by_hand(machine: &Machine) {
    let directory = machine.folder().join("by-hand");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "kept\n").unwrap();
    apply(machine, &by_hand("kept", directory.to_str().unwrap(), "Retain"));
    phase(machine, "pvc/kept", "Bound");
    phase(machine, "pv/kept", "Bound");
    let annotations = machine.kubectl("get pvc kept -o jsonpath={.metadata.annotations}");
    assert!(annotations.contains("pv.kubernetes.io/bind-completed"), "{annotations}");
    apply(machine, &(user("writer", "kept", false) + "---" + &user("reader", "kept", true)));
    ready(machine, "writer");
    ready(machine, "reader");
    assert_eq!(machine.kubectl("exec reader -- cat /data/file"), "kept\n");
    machine.kubectl("exec writer -- touch /data/more");
    let refused = machine.try_kubectl(&["exec", "reader", "--", "touch", "/data/no"], "");
    assert!(!refused.status.success(), "the claim is used read only");

    // Both are held by their finalizers: the claim by its pods, the volume by its claim.
    machine.kubectl("delete pvc/kept pv/kept --wait=false");
    let held = machine.kubectl("get pvc/kept pv/kept -o jsonpath={.items[*].metadata.finalizers}");
    assert!(held.contains("kubernetes.io/pvc-protection") && held.contains("kubernetes.io/pv-protection"), "{held}");
    assert_eq!(machine.kubectl("get pvc kept -o jsonpath={.status.phase}"), "Bound");
    machine.kubectl("delete pod writer reader");
    machine.kubectl_until("get pvc,pv -o name", str::is_empty);
    assert!(directory.join("more").exists(), "the data stays");

    // Released, a volume waits for who made it.
    apply(machine, &by_hand("again", directory.to_str().unwrap(), "Retain"));
    phase(machine, "pvc/again", "Bound");
    machine.kubectl("delete pvc again");
    phase(machine, "pv/again", "Released");
    machine.kubectl("delete pv again");
    assert!(directory.join("file").exists());
}

/// A claim that nobody uses yet, of a class whose volumes are made when somebody does.
const LATE: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: late}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

/// A pod with a volume of its own that is a claim.
const SCRATCH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: scratch}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: example.test/web:1
    command: [sh, -c, "echo mine > /data/file; exec sleep 3600"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    ephemeral:
      volumeClaimTemplate:
        metadata: {labels: {of: scratch}}
        spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Mi}}}
"#;

pub(crate) fn made_for_consumers(machine: &Machine) {
    apply(machine, &user("early", "late", false));
    let waits = "get pod early -o jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    machine.kubectl_until(waits, |message| {
        message.starts_with("0/1 nodes are available: persistentvolumeclaim \"late\" not found.")
    });
    apply(machine, LATE);
    ready(machine, "early");
    let events = machine.kubectl("get events --field-selector involvedObject.name=late -o jsonpath={.items[*].reason}");
    assert!(events.contains("ProvisioningSucceeded"), "{events}");
    apply(machine, &LATE.replace("name: late", "name: unused"));
    let first = "get events --field-selector involvedObject.name=unused -o jsonpath={.items[*].reason}";
    machine.kubectl_until(first, |reasons| reasons.contains("WaitForFirstConsumer"));
    assert_eq!(machine.kubectl("get pvc unused -o jsonpath={.status.phase}"), "Pending");

    apply(machine, SCRATCH);
    ready(machine, "scratch");
    assert_eq!(directories(machine).len(), 2);
    assert_eq!(machine.kubectl("get pvc -l of=scratch -o name"), "persistentvolumeclaim/scratch-data\n");
    machine.kubectl("delete pod scratch early");
    machine.kubectl_until("get pvc -l of=scratch -o name", str::is_empty);
    machine.kubectl_until("get pv -o name", |names| names.lines().count() == 1);

    // One that is kept outlives its claim, and goes without its data.
    let volume = machine.kubectl("get pv -o jsonpath={.items[0].metadata.name}");
    machine
        .kubectl_args(&["patch", "pv", &volume, "-p", r#"{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}"#], "");
    machine.kubectl("delete pvc late unused");
    phase(machine, &format!("pv/{volume}"), "Released");
    machine.kubectl(&format!("delete pv {volume}"));
    assert_eq!(directories(machine).len(), 1, "the data of a volume that is kept is its owner's");
    let traces = machine.traces();
    let mounts: Vec<_> = traces.iter().filter(|trace| trace.contains("/volumes/")).collect();
    assert!(mounts.is_empty(), "{mounts:#?}");
}

/// A disk as it is, without a file system.
pub(crate) fn raw_disk(machine: &Machine) {
    let file = machine.folder().join("disk");
    std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let device = Device(text(&made.stdout).trim().to_owned());
    let node = machine.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let manifest = format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: raw}}
spec:
  capacity: {{storage: 8Mi}}
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  storageClassName: raw
  local: {{path: {device}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: raw}}
spec: {{accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: raw, resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: raw}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: example.test/web:1
    command: [sleep, "3600"]
    volumeDevices: [{{name: disk, devicePath: /dev/data}}]
  volumes: [{{name: disk, persistentVolumeClaim: {{claimName: raw}}}}]
"#,
        device = device.0
    );
    apply(machine, &manifest);
    ready(machine, "raw");
    let script = "stat -c %F /dev/data; printf 'on the disk' > /dev/data; head -c 11 /dev/data";
    assert_eq!(machine.kubectl_args(&["exec", "raw", "--", "sh", "-c", script], ""), "block special file\non the disk");
    machine.kubectl("delete pod/raw pvc/raw --timeout=60s");
    machine.kubectl("delete pv raw --timeout=60s");
    // What the kernel has not written yet is seen through the device.
    let mut begin = [0; 11];
    std::fs::File::open(&device.0).unwrap().read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"on the disk");
}

/// A loop device, let go of with the test.
struct Device(String);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_disk_without_a_file_system_is_a_device_of_the_container() {
    let machine = Machine::new();
    start(&machine);
    raw_disk(&machine);
}

#[test]
fn volumes_made_by_hand_are_bound_protected_and_kept() {
    let machine = Machine::new();
    start(&machine);
    made_by_hand(&machine);
}

#[test]
fn volumes_are_made_for_their_first_consumer_and_removed_with_the_last() {
    let machine = Machine::new();
    start(&machine);
    made_for_consumers(&machine);
}
