//! A small image in the form of `docker save`, made from the machine's static busybox: a shell, a web server, clients.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The name that pods use.
pub const NAME: &str = "example.test/web:1";

const APPLETS: &[&str] = &[
    "sh", "httpd", "wget", "nslookup", "cat", "sleep", "hostname", "seq", "ls", "echo", "touch", "id", "env", "date",
    "mkdir", "kill", "nc", "true", "false", "tee", "wc", "ps", "mount", "grep", "readlink", "stat",
];

/// Writes the archive into `folder`; returns its path. Fails where `/bin/busybox` is missing.
pub fn archive(folder: &Path) -> io::Result<PathBuf> {
    let layer = layer()?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]).to_string();
    let path = folder.join("web.tar");
    let mut archive = Builder::new(File::create(&path)?);
    for (name, content) in
        [(config_name.as_str(), config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
    {
        file(&mut archive, name, content, 0o644)?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(path)
}

fn layer() -> io::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("www/", 0o777)] {
        entry(&mut layer, EntryType::Directory, folder, "", mode)?;
    }
    file(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox")?, 0o755)?;
    for applet in APPLETS {
        entry(&mut layer, EntryType::Symlink, &format!("bin/{applet}"), "busybox", 0o777)?;
    }
    file(&mut layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n", 0o644)?;
    file(&mut layer, "etc/group", b"root:x:0:\nweb:x:1000:\n", 0o644)?;
    layer.into_inner()
}

fn file<W: std::io::Write>(archive: &mut Builder<W>, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, content)
}

fn entry<W: std::io::Write>(
    archive: &mut Builder<W>,
    kind: EntryType,
    path: &str,
    target: &str,
    mode: u32,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    archive.append_link(&mut header, path, target)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
