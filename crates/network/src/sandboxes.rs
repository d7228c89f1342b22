//! What each attached sandbox is, durably: which pod's, at which address, with which ports of the node.
//!
//! One file a sandbox, written before anything of it is made and removed after its last trace: after a crash at any point
//! the next start finds all that may be there. What cannot be read is from a crash in the middle of the first write: nobody
//! was told of that sandbox, and it goes.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use cri::PortMapping;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::addresses::AddressError;

/// A sandbox that is attached or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Counts attachments: where two sandboxes want one port of the node, the later one has it.
    pub order: u64,
    /// The ports of the node that lead to it.
    pub ports: Vec<PortMapping>,
}

/// The directory of the files.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

impl Records {
    /// Reads what was attached. Blocks on the disk.
    pub fn open(directory: &Path) -> Result<(Self, BTreeMap<String, Sandbox>), AddressError> {
        std::fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let mut sandboxes = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(failed("read", directory))? {
            let path = entry.map_err(failed("read", directory))?.path();
            let text = std::fs::read(&path).map_err(failed("read", &path))?;
            match serde_json::from_slice::<Sandbox>(&text) {
                Ok(sandbox) => drop(sandboxes.insert(sandbox.id.clone(), sandbox)),
                Err(_) => std::fs::remove_file(&path).map_err(failed("remove", &path))?,
            }
        }
        Ok((Self(directory.to_owned()), sandboxes))
    }

    /// Writes a sandbox's file, as a whole. Blocks on the disk.
    pub fn write(&self, sandbox: &Sandbox) -> Result<(), AddressError> {
        let path = self.path(&sandbox.id);
        let text = serde_json::to_vec(sandbox).expect("a sandbox is plain data");
        let unfinished = path.with_extension("new");
        std::fs::write(&unfinished, text).map_err(failed("create", &unfinished))?;
        std::fs::rename(&unfinished, &path).map_err(failed("create", &path))
    }

    /// Removes a sandbox's file. Blocks on the disk.
    pub fn remove(&self, id: &str) -> Result<(), AddressError> {
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(source)),
            _ => Ok(()),
        }
    }

    /// A runtime's ids may be anything; a digest is a file's name.
    fn path(&self, id: &str) -> PathBuf {
        let digest = Sha256::digest(id.as_bytes());
        let name = digest[..16].iter().fold(String::new(), |name, byte| name + &format!("{byte:02x}"));
        self.0.join(name)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AddressError {
    let path = path.display().to_string();
    move |source| AddressError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_again_and_half_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (records, found) = Records::open(directory.path()).unwrap();
        assert!(found.is_empty());
        let port = PortMapping { protocol: 6, host_ip: None, host_port: 80, container_port: 8080 };
        let sandbox = Sandbox {
            id: "../odd id".to_owned(),
            pod_namespace: "ns".to_owned(),
            pod_name: "web".to_owned(),
            pod_uid: "uid".to_owned(),
            address: Ipv4Addr::new(10, 42, 0, 2),
            order: 7,
            ports: vec![port],
        };
        records.write(&sandbox).unwrap();
        std::fs::write(directory.path().join("half.new"), "{\"id\":").unwrap();
        let (records, found) = Records::open(directory.path()).unwrap();
        assert_eq!(found.into_values().collect::<Vec<_>>(), [sandbox]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        for _ in 0..2 {
            records.remove("../odd id").unwrap();
        }
        assert!(Records::open(directory.path()).unwrap().1.is_empty());
    }
}
