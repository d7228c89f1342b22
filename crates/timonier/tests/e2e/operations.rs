//! What an operator does: backs up, loses, restores and checks a cluster; and what a cluster does when nobody asks for
//! anything.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use bytes::Bytes;
use store::{EmbeddedStore, Options, Range, Revision, Store};

use crate::machine::Machine;

/// Renewals in a row between which nothing else may be written, once the cluster has come to rest.
const RENEWALS: usize = 3;
/// Renewals, every ten seconds, within which it must have.
const RENEWALS_TO_REST: usize = 12;

#[test]
fn an_idle_cluster_writes_nothing_but_leases() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let format = "-o=jsonpath={.metadata.resourceVersion}{\"\\n\"}";
    let mut watch = machine.command("kubectl");
    let mut watch = watch.args(["get", "leases", "-A", "-w", format]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut revisions = lines.map(|line| line.unwrap().parse::<u64>().unwrap());
    let (mut last, mut in_a_row, mut seen) = (revisions.next().unwrap(), 0, Vec::new());
    // Every write has the next revision: leases with neighbouring revisions have no other write between them.
    while in_a_row < RENEWALS && seen.len() < RENEWALS_TO_REST {
        let next = revisions.next().expect("the watch goes on");
        in_a_row = if next == last + 1 { in_a_row + 1 } else { 0 };
        seen.push((last, next));
        last = next;
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    machine.timonier("down");
    assert!(in_a_row >= RENEWALS, "written between leases: {:#?}", written(&machine, &seen));
}

/// The keys that were written between leases.
fn written(machine: &Machine, seen: &[(u64, u64)]) -> Vec<String> {
    let store = EmbeddedStore::open(machine.data().join("datastore.redb"), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, last) = (seen.first().unwrap().0, seen.last().unwrap().1);
    runtime.block_on(async {
        use futures::StreamExt;
        let all = Range { start: Bytes::new(), end: Bytes::new(), limit: 0, at: None };
        let batches = store.watch(all, Revision(first + 1)).await.unwrap();
        let wanted = usize::try_from(last - first).unwrap();
        let events = batches.take(wanted).map(|batch| batch.unwrap().events);
        let events: Vec<_> = events.collect::<Vec<_>>().await.concat();
        events.iter().map(|event| format!("{} {}", event.revision(), String::from_utf8_lossy(event.key()))).collect()
    })
}

#[test]
fn a_lost_cluster_comes_back_from_its_backup() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    machine.kubectl("create configmap kept --from-literal=k=v");
    let backup = machine.folder().join("backup");
    let said = machine.timonier(&format!("datastore backup {}", backup.display()));
    assert!(said.starts_with("backed up ") && said.contains(" keys at revision "), "{said}");
    let again = machine.timonier_fails(&format!("datastore backup {}", backup.display()));
    assert!(again.contains("exists: choose another name"), "{again}");
    machine.kubectl("create configmap later");
    let running = machine.timonier_fails("datastore check");
    assert!(running.contains("timonier down"), "{running}");
    machine.timonier("down");
    assert!(machine.timonier("datastore check").contains(": whole, "));
    let refused = machine.timonier_fails(&format!("datastore restore {}", backup.display()));
    assert!(refused.contains("move it away first"), "{refused}");
    let datastore = machine.data().join("datastore.redb");
    let mut bytes = std::fs::read(&datastore).unwrap();
    let at = bytes.windows(5).rposition(|bytes| bytes == b"later").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&datastore, bytes).unwrap();
    let damaged = machine.timonier_fails("datastore check");
    assert!(damaged.contains("is damaged in"), "{damaged}");
    std::fs::remove_file(&datastore).unwrap();
    let said = machine.timonier(&format!("datastore restore {}", backup.display()));
    assert!(said.contains("the cluster goes on at revision"), "{said}");
    machine.timonier("up --detach");
    assert_eq!(machine.kubectl("get configmap kept -o=jsonpath={.data.k}"), "v");
    let names = machine.kubectl("get configmaps -o name");
    assert!(!names.contains("later"), "{names}");
}
