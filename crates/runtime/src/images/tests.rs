//! Archives of both kinds, made in code, through the store.

use super::*;
use sha2::{Digest, Sha256};

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn sha(bytes: &[u8]) -> String {
    archive::hex(&Sha256::digest(bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", sha(layer))).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"User": "1000:1000", "Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": null, "StopSignal": "SIGQUIT"},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }))
    .unwrap()
}

fn docker(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    let config = config(layers);
    let names: Vec<_> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": [name], "Layers": names}]).to_string();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(layers.iter().copied()).collect();
    files.extend([("c.json", config.as_slice()), ("manifest.json", manifest.as_bytes())]);
    tar_of(&files)
}

fn oci(name: &str, layer: &[u8], damage: bool) -> Vec<u8> {
    let (config, packed) = (config(&[layer]), gzip(layer));
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha(bytes));
    let digest = |bytes: &[u8]| format!("sha256:{}", sha(bytes));
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": {"digest": digest(&config)}, "layers": [{"digest": digest(&packed)}],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"digest": digest(manifest.as_bytes()), "annotations": {"io.containerd.image.name": name}}],
    })
    .to_string();
    let stored = if damage { gzip(b"something else") } else { packed.clone() };
    tar_of(&[
        ("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}"),
        ("index.json", index.as_bytes()),
        (&blob(&packed), &stored),
        (&blob(&config), &config),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
    ])
}

#[test]
fn both_kinds_of_archives_share_layers_and_are_seen_by_other_processes() {
    let root = tempfile::tempdir().unwrap();
    let (server, command) = (Store::open(root.path()).unwrap(), Store::open(root.path()).unwrap());
    assert!(server.list().unwrap().is_empty());
    let layer = tar_of(&[("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")]);
    let first = command.import(docker("busybox:1", &[&layer]).as_slice()).unwrap();
    assert_eq!(first[0].names, ["docker.io/library/busybox:1"]);
    let image = server.find("busybox:1").unwrap().expect("the server sees what the command did");
    assert_eq!((image.config.user.as_str(), image.config.stop_signal.as_str()), ("1000:1000", "SIGQUIT"));
    assert_eq!((image.digests.len(), image.reference()), (0, image.id.clone()));
    assert!(root.path().join("layers").join(&image.layers[0]).join("etc/passwd").exists());
    // The same image as an OCI layout brings a name and a digest, and no second copy.
    let compressed = gzip(&oci("registry.example/app:2", &layer, false));
    let second = command.import(compressed.as_slice()).unwrap();
    assert_eq!(second[0].id, first[0].id);
    let image = server.find(&first[0].id[7..23]).unwrap().expect("found by the beginning of its id");
    assert_eq!(image.names.len(), 2);
    assert!(server.find(image.digests.first().unwrap()).unwrap().is_some(), "found by digest");
    assert!(command.remove("busybox:1").unwrap());
    assert!(!command.remove("busybox:1").unwrap());
    assert!(server.list().unwrap().is_empty());
    assert_eq!(directories(&root.path().join("layers")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn damaged_archives_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let layer = tar_of(&[("a", b"1")]);
    // The layer's content is another than its digest in the configuration says.
    let other = tar_of(&[("a", b"2")]);
    let manifest = br#"[{"Config":"c.json","RepoTags":["x"],"Layers":["l.tar"]}]"#;
    let lying = tar_of(&[("l.tar", &other), ("c.json", &config(&[&layer])), ("manifest.json", manifest)]);
    for (archive, text) in [
        (oci("x:1", &layer, true), "is damaged"),
        (lying, "has the content of"),
        (tar_of(&[("readme", b"hello")]), "neither an OCI image layout"),
        (b"not a tar at all".to_vec(), "cannot read the archive"),
    ] {
        let error = store.import(archive.as_slice()).unwrap_err();
        assert!(base::chain(&error).contains(text), "{}", base::chain(&error));
    }
    assert!(store.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(root.path().join("images/spool")).unwrap().count(), 0);
    assert_eq!(directories(&root.path().join("layers")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_name_moves_to_the_newest_image() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let (old, new) = (tar_of(&[("a", b"old")]), tar_of(&[("a", b"new")]));
    let old = store.import(docker("app", &[&old]).as_slice()).unwrap();
    let new = store.import(docker("app", &[&new]).as_slice()).unwrap();
    assert_eq!(store.find("app").unwrap().unwrap().id, new[0].id);
    assert!(store.find(&old[0].id).unwrap().unwrap().names.is_empty());
}

#[test]
fn a_folder_s_archives_are_imported_once_and_again_when_they_change() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let folder = root.path().join("folder");
    assert!(store.import_folder(&folder).unwrap().is_empty(), "a folder that is not there");
    std::fs::create_dir(&folder).unwrap();
    let archive = |text: &[u8]| docker("app", &[&tar_of(&[("a", text)])]);
    std::fs::write(folder.join("app.tar.gz"), gzip(&archive(b"1"))).unwrap();
    std::fs::write(folder.join("broken.tar"), b"no archive").unwrap();
    std::fs::write(folder.join("readme.txt"), b"no archive").unwrap();
    let done = store.import_folder(&folder).unwrap();
    let shown: Vec<_> = done.iter().map(|one| (one.path.file_name().unwrap(), one.result.is_ok())).collect();
    assert_eq!(shown, [("app.tar.gz".as_ref(), true), ("broken.tar".as_ref(), false)]);
    let first = store.find("app").unwrap().unwrap();
    assert!(first.pinned, "it may be nowhere else");
    assert_eq!(store.import_folder(&folder).unwrap().len(), 1, "only the broken one is tried again");
    std::fs::remove_file(folder.join("broken.tar")).unwrap();
    std::fs::write(folder.join("app.tar.gz"), archive(b"2")).unwrap();
    assert_eq!(store.import_folder(&folder).unwrap().len(), 1);
    assert_ne!(store.find("app").unwrap().unwrap().id, first.id);
    assert!(store.import_folder(&folder).unwrap().is_empty());
}
