//! Which program runs a pod whose `RuntimeClass` names a handler.
//!
//! The empty name and `timonier` are this runtime's own launcher. Any other handler is an installed OCI runtime: one that was
//! configured under that name, or one of a few well-known ones where it is found. What is found counts from then on for the
//! pod, whose record keeps the path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Handlers of the launcher itself.
const OWN: [&str; 2] = ["", "timonier"];

/// Handlers that need no configuration, with their programs' names.
const WELL_KNOWN: [(&str, &str); 5] =
    [("runc", "runc"), ("crun", "crun"), ("youki", "youki"), ("runsc", "runsc"), ("kata", "kata-runtime")];

/// Where the programs of handlers are.
#[derive(Debug, Clone, Default)]
pub struct Handlers {
    /// Programs by handler.
    pub named: BTreeMap<String, PathBuf>,
    /// Folders in which well-known programs are looked for, in this order.
    pub search: Vec<PathBuf>,
}

/// What runs a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Launcher {
    /// The shim itself.
    Own,
    /// An OCI runtime.
    Oci(PathBuf),
}

impl Handlers {
    /// The launcher of a handler; `None` where there is none of that name.
    pub(crate) fn find(&self, handler: &str) -> Option<Launcher> {
        if OWN.contains(&handler) {
            return Some(Launcher::Own);
        }
        self.program(handler).map(Launcher::Oci)
    }

    fn program(&self, handler: &str) -> Option<PathBuf> {
        if let Some(path) = self.named.get(handler) {
            return Some(path.clone());
        }
        let (_, program) = WELL_KNOWN.iter().find(|(known, _)| *known == handler)?;
        self.search.iter().map(|folder| folder.join(program)).find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_handler_is_ours_configured_or_found() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let crun = program("crun", 0o755);
        program("runsc", 0o644);
        let named = BTreeMap::from([("special".to_owned(), PathBuf::from("/opt/special"))]);
        let handlers = Handlers { named, search: vec!["/nowhere".into(), folder.path().to_owned()] };
        assert_eq!(handlers.find(""), Some(Launcher::Own));
        assert_eq!(handlers.find("timonier"), Some(Launcher::Own));
        assert_eq!(handlers.find("crun"), Some(Launcher::Oci(crun)));
        assert_eq!(handlers.find("special"), Some(Launcher::Oci("/opt/special".into())));
        assert_eq!(handlers.find("runsc"), None, "no program");
        assert_eq!(handlers.find("runc"), None, "not installed");
    }
}
