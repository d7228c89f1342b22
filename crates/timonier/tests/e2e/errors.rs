//! What goes wrong on a user's machine: one clear sentence, a non-zero exit, nothing lost.

use std::io::{Seek, SeekFrom, Write};
use std::process::Command;

use crate::machine::{Machine, one_sentence, text};
use workload::image;

#[test]
fn a_port_in_use_is_named() {
    let machine = Machine::new();
    let mut holder = machine.command("busybox").args(["nc", "-l", "-p", "6443"]).spawn().unwrap();
    let listens = || text(&machine.command("ss").args(["-ltn"]).output().unwrap().stdout).contains(":6443 ");
    while !listens() {
        assert!(holder.try_wait().unwrap().is_none(), "the holder of the port ended");
    }
    let error = machine.timonier_fails("up");
    assert!(error.contains("port 6443 is in use") && error.contains("--api-port"), "{error}");
    assert_eq!(machine.timonier_fails("up --detach"), error, "detached or not, the sentence is the same");
    holder.kill().unwrap();
    holder.wait().unwrap();
    machine.timonier("up --detach");
}

#[test]
fn root_is_asked_for() {
    let machine = Machine::new();
    // Somebody without rights must be able to run the binary: a copy in a place that all may read.
    let folder =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let binary = folder.path().join("timonier");
    std::fs::copy(env!("CARGO_BIN_EXE_timonier"), &binary).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .args(["up", "--data-dir"])
        .arg(machine.data())
        .output()
        .unwrap();
    let error = one_sentence("timonier up without root", &output);
    assert!(error.contains("must run as root") && error.contains("sudo"), "{error}");
}

#[test]
fn a_damaged_datastore_is_named_and_never_served() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    machine.kubectl("create configmap precious --from-literal=k=v");
    machine.timonier("down");
    let path = machine.data().join("datastore.redb");
    let whole = std::fs::read(&path).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[0xff; 4096]).unwrap();
    file.sync_all().unwrap();
    let damaged = std::fs::read(&path).unwrap();
    let error = machine.timonier_fails("up --detach");
    assert!(error.contains("datastore.redb") && error.contains("damaged"), "{error}");
    assert!(std::fs::read(&path).unwrap() == damaged, "the damaged file was changed");
    std::fs::write(&path, whole).unwrap();
    machine.timonier("up --detach");
    assert_eq!(machine.kubectl("get configmap precious -o jsonpath={.data.k}"), "v");
}

#[test]
fn a_second_up_is_told_of_the_first() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let pid = machine.pid();
    let error = machine.timonier_fails("up");
    assert!(error.contains("already running") && error.contains(&pid.to_string()), "{error}");
    assert_eq!(machine.pid(), pid);
    machine.kubectl("get nodes");
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let machine = Machine::new();
    machine.mount_data("size=160m");
    machine.timonier("up --detach");
    machine.kubectl("create configmap before --from-literal=k=v");
    fill(&machine.data().join("ballast"));
    let payload = "x".repeat(900_000);
    let refused = (0..400).find_map(|number| {
        let object = format!(
            r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "full-{number}"}}, "data": {{"k": "{payload}"}}}}"#
        );
        let output = machine.try_kubectl(&["create", "-f", "-"], &object);
        (!output.status.success()).then(|| text(&output.stderr))
    });
    let refused = refused.expect("a full disk refuses writes");
    assert!(refused.contains("no space left"), "{refused}");
    assert_eq!(machine.kubectl("get configmap before -o jsonpath={.data.k}"), "v", "reads go on");
    std::fs::remove_file(machine.data().join("ballast")).unwrap();
    machine.kubectl_until("create configmap after --from-literal=k=v -o name", |name| name.contains("after"));
    machine.timonier("down");

    fill(&machine.data().join("ballast"));
    let error = machine.timonier_fails("up --detach");
    assert!(error.contains("full") && error.contains("free some space"), "{error}");
    std::fs::remove_file(machine.data().join("ballast")).unwrap();
    machine.timonier("up --detach");
    machine.kubectl("get configmap before after");
}

/// Writes until nothing more goes in.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn unknown_words_and_missing_clusters_are_explained() {
    let machine = Machine::new();
    assert!(machine.timonier_fails("status").contains("timonier up"));
    assert!(machine.timonier_fails("kubeconfig").contains("timonier up"));
    assert!(machine.timonier_fails("reset").contains("--yes"));
    assert!(machine.timonier_fails("image import /nonexistent").contains("/nonexistent"));
    let junk = machine.folder().join("junk.tar");
    std::fs::write(&junk, b"this is no archive").unwrap();
    let error = machine.timonier_fails(&format!("image import {}", junk.display()));
    assert!(error.contains("junk.tar"), "{error}");
    // No cluster runs: the commands on images work on the store itself.
    machine.timonier(&format!("image import {}", image::archive(machine.folder()).unwrap().display()));
    assert!(machine.timonier(&format!("image remove --imported {}", image::NAME)).contains(image::NAME));
    assert!(!machine.timonier("image list").contains("example.test/web"));
    let usage = machine.try_timonier("frobnicate");
    assert_eq!(usage.status.code(), Some(2));
    assert!(text(&usage.stderr).contains("frobnicate"));
}
