//! `kill -9` of the binary: acknowledged writes stay, containers go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::application::{answering, deploy, start};
use crate::machine::Machine;

/// What tells one run of a container from the next.
fn containers(machine: &Machine) -> BTreeSet<String> {
    let format = "-o=jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let printed = machine.kubectl_args(&["get", "pods", format], "");
    printed.lines().map(str::to_owned).collect()
}

/// When the first process of each web server started, as the process itself tells.
fn started(machine: &Machine) -> BTreeSet<String> {
    let names = machine.kubectl("get pods -l app=web -o name");
    let stat = |pod: &str| {
        let stat = machine.kubectl(&format!("exec {pod} -- cat /proc/1/stat"));
        format!("{pod} {}", stat.split(' ').nth(21).unwrap())
    };
    names.lines().map(stat).collect()
}

/// Clients that write at the same time.
const WRITERS: usize = 4;

#[test]
fn acknowledged_writes_and_containers_survive_kill_9() {
    let machine = Machine::new();
    start(&machine);
    deploy(&machine);
    let (before, started_before) = (containers(&machine), started(&machine));

    for round in 0..3 {
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            // Also when this thread panics: the scope waits for its writers.
            let stopping = StopOnDrop(&stop);
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn({
                        let (machine, stop) = (&machine, &stop);
                        move || write_until(machine, stop, &format!("r{round}w{writer}"))
                    })
                })
                .collect();
            // What is there may still be on its way back to its writer: one write each. On a busy machine all four were.
            let there = |names: &str| names.matches(&format!("/r{round}w")).count();
            machine.kubectl_until("get configmaps -o name", |names| there(names) >= 8 + WRITERS);
            machine.kill();
            drop(stopping);
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(acknowledged.len() >= 8, "{acknowledged:?}");
        machine.timonier("up --detach");
        let names = machine.kubectl("get configmaps -o name");
        let there: BTreeSet<_> = names.lines().map(|line| line.trim_start_matches("configmap/").to_owned()).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(*name)).collect();
        assert!(lost.is_empty(), "acknowledged but lost: {lost:?}");
    }

    machine.kubectl("wait --for=condition=Ready pod --all --timeout=60s");
    assert_eq!(containers(&machine), before, "the containers are the same ones");
    assert_eq!(started(&machine), started_before, "and their processes never stopped");
    assert_eq!(answering(&machine).len(), 3);
    machine.kubectl("delete pod -l app=web");
    machine.kubectl_until("get deployment web -o jsonpath={.status.readyReplicas}", |ready| ready == "3");
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Creates ConfigMaps one after the other; returns those that the server acknowledged.
fn write_until(machine: &Machine, stop: &AtomicBool, prefix: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("{prefix}-{number}");
        let object = format!(r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "{name}"}}}}"#);
        if machine.try_kubectl(&["create", "-f", "-"], &object).status.success() {
            acknowledged.push(name);
        }
    }
    acknowledged
}
