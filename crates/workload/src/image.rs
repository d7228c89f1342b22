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
    "sh", "httpd", "sed", "head", "printf", "nslookup", "cat", "sleep", "hostname", "seq", "ls", "echo", "touch", "id",
    "env", "date", "mkdir", "kill", "nc", "true", "false", "tee", "wc", "ps", "mount", "grep", "readlink", "stat",
    "tar", "sort", "tr",
];

/// Writes the archive into `folder`; returns its path. Fails where `/bin/busybox` is missing.
pub fn archive(folder: &Path) -> io::Result<PathBuf> {
    archive_of(&folder.join("web.tar"), NAME, &["/bin/sh"])
}

/// The same image under another name, with another command, as the file `path`.
pub fn archive_of(path: &Path, name: &str, command: &[&str]) -> io::Result<PathBuf> {
    let layer = layer()?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = Builder::new(File::create(path)?);
    for (name, content) in
        [(config_name.as_str(), config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
    {
        file(&mut archive, name, content, 0o644)?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(path.to_owned())
}

/// `get NAME [PORT]`: prints what a web server answers. (The static busybox's own client looks names up through libraries
/// that the image does not have.)
const GET: &str = r#"#!/bin/sh
address=$(nslookup "$1" 2>/dev/null | sed -n '/^Name:/,$s/^Address: *//p' | head -n 1)
[ -n "$address" ] || { echo "no address for $1"; exit 1; }
printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" | nc -w 5 "$address" "${2:-80}" | sed '1,/^\r$/d'
"#;

fn layer() -> io::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("www/", 0o777)] {
        directory(&mut layer, folder, mode)?;
    }
    file(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox")?, 0o755)?;
    for applet in APPLETS {
        symbolic_link(&mut layer, &format!("bin/{applet}"), "busybox")?;
    }
    file(&mut layer, "bin/get", GET.as_bytes(), 0o755)?;
    file(&mut layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n", 0o644)?;
    file(&mut layer, "etc/group", b"root:x:0:\nweb:x:1000:\n", 0o644)?;
    layer.into_inner()
}

fn file<W: std::io::Write>(archive: &mut Builder<W>, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let mut header = header(EntryType::Regular, content.len(), mode);
    archive.append_data(&mut header, path, content)
}

fn directory<W: std::io::Write>(archive: &mut Builder<W>, path: &str, mode: u32) -> io::Result<()> {
    let mut header = header(EntryType::Directory, 0, mode);
    archive.append_data(&mut header, path, io::empty())
}

fn symbolic_link<W: std::io::Write>(archive: &mut Builder<W>, path: &str, target: &str) -> io::Result<()> {
    let mut header = header(EntryType::Symlink, 0, 0o777);
    archive.append_link(&mut header, path, target)
}

/// A header of root's.
fn header(kind: EntryType, size: usize, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
