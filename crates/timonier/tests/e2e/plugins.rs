//! Pods on a network of somebody else's: the plugins that come with Debian, under the embedded runtime.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;

use crate::application::{answering, deploy};
use crate::machine::Machine;
use workload::image;

/// Where Debian has them; where they are not installed the test says so, and shows nothing.
const PLUGINS: &str = "/usr/lib/cni";

/// A bridge with addresses from a file store, and a plugin after it that changes what it gave.
fn configure(machine: &Machine) -> PathBuf {
    let folder = machine.folder().join("net.d");
    std::fs::create_dir_all(&folder).unwrap();
    let ipam = json!({"type": "host-local", "dataDir": machine.folder().join("leases"),
        "ranges": [[{"subnet": "10.42.9.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam});
    let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}});
    let text = json!({"cniVersion": "1.0.0", "name": "test-net", "plugins": [bridge, tuning]}).to_string();
    std::fs::write(folder.join("10-test.conflist"), text).unwrap();
    folder
}

/// The addresses that are leased.
fn leases(machine: &Machine) -> BTreeSet<String> {
    let entries = std::fs::read_dir(machine.folder().join("leases/test-net")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.42.")).collect()
}

#[test]
fn pods_hang_on_a_network_of_installed_plugins() {
    if !std::path::Path::new(PLUGINS).join("bridge").is_file() {
        eprintln!("NOT TESTED: no network plugins are installed in {PLUGINS}");
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    let folder = configure(&machine);
    let up = format!("up --detach --pod-network cni --cni-conf-dir {} --cni-bin-dir {PLUGINS}", folder.display());
    machine.timonier(&up);
    let archive = image::archive(machine.folder()).unwrap();
    machine.timonier(&format!("image import {}", archive.display()));
    deploy(&machine);
    assert_eq!(answering(&machine).len(), 3, "the Service spreads over all three");
    let ips: BTreeSet<String> =
        machine.kubectl("get pods -o jsonpath={.items[*].status.podIP}").split(' ').map(str::to_owned).collect();
    assert_eq!(leases(&machine), ips);
    assert_eq!(machine.kubectl("exec client -- cat /proc/sys/net/core/somaxconn"), "500\n");

    // Without a configuration the node takes no pods; those that run stay.
    std::fs::rename(folder.join("10-test.conflist"), folder.join("away")).unwrap();
    let ready = "get nodes -o jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].message}";
    machine.kubectl_until(ready, |message| {
        message.contains("NetworkReady=false reason:NetworkPluginNotReady") && message.contains("no networks found in ")
    });
    std::fs::rename(folder.join("away"), folder.join("10-test.conflist")).unwrap();

    // What was given before a crash is taken back after it.
    machine.kill();
    machine.timonier(&up);
    machine.kubectl("wait --for=condition=Ready node --all --timeout=60s");
    machine.kubectl("delete pods -l app=web --timeout=60s");
    machine.kubectl("rollout status deployment/web --timeout=120s");
    assert_eq!(answering(&machine).len(), 3);
    machine.kubectl("delete deployment web");
    machine.kubectl_until("get pods -o name", |pods| pods == "pod/client\n");
    let client = machine.kubectl("get pod client -o jsonpath={.status.podIP}");
    assert_eq!(leases(&machine), BTreeSet::from([client]));
    machine.timonier("reset --yes");
    assert_eq!(leases(&machine), BTreeSet::new());
    // The plugin's own, which it leaves.
    machine.ip("link delete cni0");
    let left: Vec<_> = machine.traces().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}
