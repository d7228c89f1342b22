//! Which sandbox holds which address, durably.
//!
//! One directory; one file an address, named for it, holding the sandbox's id. The file is created before the address is
//! used and removed after its last use, so after a crash at any point an address is held by at most one sandbox. What the
//! directory says is read once, at the start; the memory is the truth from then on.
//!
//! Addresses are given out in a circle: one that was freed comes back last, when nobody sends to its former holder any more.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ipnet::Ipv4Net;

/// Addresses could not be given out or taken back.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Every address is held.
    #[error("all addresses of {range} are in use")]
    Exhausted {
        /// The node's range.
        range: Ipv4Net,
    },
    /// The directory could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `create` or `remove`.
        action: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The addresses of one node's range.
#[derive(Debug)]
pub struct Addresses {
    directory: PathBuf,
    range: Ipv4Net,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_address: BTreeMap<Ipv4Addr, String>,
    by_sandbox: BTreeMap<String, Ipv4Addr>,
    /// The address given out last: the search for a free one starts behind it.
    last: Option<Ipv4Addr>,
}

impl Addresses {
    /// Reads what is held. The range's first address is the gateway's and never given out. Blocks on the disk.
    pub fn open(directory: &Path, range: Ipv4Net) -> Result<Self, AddressError> {
        let failed = |action| {
            let path = directory.display().to_string();
            move |source| AddressError::Io { action, path, source }
        };
        std::fs::create_dir_all(directory).map_err(failed("create"))?;
        let mut held = Held::default();
        for entry in std::fs::read_dir(directory).map_err(failed("read"))? {
            let path = entry.map_err(failed("read"))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Ipv4Addr>().ok());
            let Some(address) = name else { continue };
            let sandbox = std::fs::read_to_string(&path).map_err(failed("read"))?;
            // A crash between creating and filling the file: nobody was told this address. A file from another range is
            // from a node that was given another one since; its pods are gone with it.
            if sandbox.is_empty() || !range.contains(&address) {
                std::fs::remove_file(&path).map_err(failed("remove"))?;
                continue;
            }
            held.last = held.last.max(Some(address));
            held.by_sandbox.insert(sandbox.clone(), address);
            held.by_address.insert(address, sandbox);
        }
        Ok(Self { directory: directory.to_owned(), range, held: Mutex::new(held) })
    }

    /// The gateway's address: the range's first.
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(self.range)
    }

    /// The address that a sandbox holds.
    pub fn of(&self, sandbox: &str) -> Option<Ipv4Addr> {
        self.lock().by_sandbox.get(sandbox).copied()
    }

    /// The sandboxes that hold addresses.
    pub fn sandboxes(&self) -> Vec<String> {
        self.lock().by_sandbox.keys().cloned().collect()
    }

    /// Gives an address to a sandbox, or the one that it holds already. Blocks on the disk.
    pub fn hold(&self, sandbox: &str) -> Result<Ipv4Addr, AddressError> {
        let address = {
            let mut held = self.lock();
            if let Some(address) = held.by_sandbox.get(sandbox) {
                return Ok(*address);
            }
            let address = held.free(self.range).ok_or(AddressError::Exhausted { range: self.range })?;
            held.last = Some(address);
            held.by_sandbox.insert(sandbox.to_owned(), address);
            held.by_address.insert(address, sandbox.to_owned());
            address
        };
        let path = self.directory.join(address.to_string());
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| file.write_all(sandbox.as_bytes()));
        written.map(|()| address).map_err(|source| {
            self.forget(sandbox);
            AddressError::Io { action: "create", path: path.display().to_string(), source }
        })
    }

    /// Takes a sandbox's address back. Blocks on the disk.
    pub fn free(&self, sandbox: &str) -> Result<(), AddressError> {
        let Some(address) = self.of(sandbox) else { return Ok(()) };
        let path = self.directory.join(address.to_string());
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AddressError::Io { action: "remove", path: path.display().to_string(), source })
            }
            _ => {
                self.forget(sandbox);
                Ok(())
            }
        }
    }

    fn forget(&self, sandbox: &str) {
        let mut held = self.lock();
        if let Some(address) = held.by_sandbox.remove(sandbox) {
            held.by_address.remove(&address);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().expect("no holder of the addresses' lock panics")
    }
}

/// The first address of a range.
pub fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() + 1)
}

impl Held {
    /// The next free address behind the one given out last: neither the network's own, the gateway's nor the broadcast's.
    fn free(&self, range: Ipv4Net) -> Option<Ipv4Addr> {
        let (first, end) = (gateway(range).to_bits() + 1, range.broadcast().to_bits());
        let start = self.last.map_or(first, |last| last.to_bits() + 1).clamp(first, end);
        (start..end).chain(first..start).map(Ipv4Addr::from_bits).find(|address| !self.by_address.contains_key(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Addresses {
        Addresses::open(directory, "10.42.0.0/29".parse().unwrap()).unwrap()
    }

    #[test]
    fn goes_round_in_a_circle_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = open(directory.path());
        let last = |address: Ipv4Addr| address.octets()[3];
        assert_eq!(["a", "b", "c"].map(|sandbox| last(addresses.hold(sandbox).unwrap())), [2, 3, 4]);
        assert_eq!(last(addresses.hold("b").unwrap()), 3, "a sandbox keeps what it holds");
        addresses.free("a").unwrap();
        addresses.free("a").unwrap();
        assert_eq!(last(addresses.hold("d").unwrap()), 5, "a freed address waits for its turn");

        let addresses = open(directory.path());
        assert_eq!(addresses.of("c").map(last), Some(4));
        assert_eq!(["e", "f"].map(|sandbox| last(addresses.hold(sandbox).unwrap())), [6, 2]);
        assert!(matches!(addresses.hold("g"), Err(AddressError::Exhausted { .. })));
        assert_eq!(addresses.sandboxes(), ["b", "c", "d", "e", "f"]);
    }

    #[test]
    fn a_crash_before_the_file_was_filled_leaves_the_address_free() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("10.42.0.2"), "").unwrap();
        std::fs::write(directory.path().join("10.99.0.2"), "elsewhere").unwrap();
        let addresses = open(directory.path());
        assert!(addresses.sandboxes().is_empty());
        assert_eq!(addresses.hold("a").unwrap(), Ipv4Addr::new(10, 42, 0, 2));
    }

    #[test]
    fn an_address_whose_file_exists_is_not_given_out() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = open(directory.path());
        std::fs::write(directory.path().join("10.42.0.2"), "someone else").unwrap();
        assert!(matches!(addresses.hold("a"), Err(AddressError::Io { action: "create", .. })));
        assert_eq!(addresses.of("a"), None);
    }
}
