//! Clients that are not `kubectl`: what people write programs with.

use crate::application::{CLIENT, start};
use crate::machine::{Machine, text};

/// The daily work of a program: list, create, watch, patch, read a log, run a command, delete.
const PROGRAM: &str = r#"
from kubernetes import client, config, watch
from kubernetes.stream import stream

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()

assert [n.metadata.name for n in core.list_namespace(limit=1).items], "a namespace"
version = client.VersionApi().get_code()
assert (version.major, version.minor.rstrip("+")) >= ("1", "36"), version

made = core.create_namespaced_config_map("default", {"metadata": {"name": "by-python"}, "data": {"k": "v"}})
assert made.data == {"k": "v"}, made
since = core.list_namespaced_config_map("default").metadata.resource_version

core.patch_namespaced_config_map("by-python", "default", {"data": {"k": "w"}})
core.replace_namespaced_config_map("by-python", "default", {"metadata": {"name": "by-python"}, "data": {"k": "x"}})
core.delete_namespaced_config_map("by-python", "default")
seen = []
for event in watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version=since, timeout_seconds=60):
    if event["object"].metadata.name == "by-python":
        seen.append((event["type"], event["object"].data["k"]))
    if seen and seen[-1][0] == "DELETED":
        break
assert seen == [("MODIFIED", "w"), ("MODIFIED", "x"), ("DELETED", "x")], seen

try:
    core.read_namespaced_config_map("by-python", "default")
    raise SystemExit("it should be gone")
except client.ApiException as error:
    assert error.status == 404 and "not found" in error.body, error

said = stream(core.connect_get_namespaced_pod_exec, "client", "default", command=["echo", "ahoy"],
              stderr=True, stdin=False, stdout=True, tty=False)
assert said == "ahoy\n", repr(said)
assert core.read_namespaced_pod("client", "default").status.phase == "Running"
assert apps.list_deployment_for_all_namespaces().items is not None
print("all done")
"#;

#[test]
fn a_program_in_python_does_its_daily_work() {
    let machine = Machine::new();
    start(&machine);
    machine.kubectl_args(&["apply", "-f", "-"], CLIENT);
    machine.kubectl("wait --for=condition=Ready pod/client --timeout=100s");
    let program = machine.folder().join("program.py");
    std::fs::write(&program, PROGRAM).unwrap();
    // The system's own, for which the package is installed.
    let output = machine.command("/usr/bin/python3").arg(&program).output().unwrap();
    assert!(
        output.status.success() && text(&output.stdout) == "all done\n",
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}
