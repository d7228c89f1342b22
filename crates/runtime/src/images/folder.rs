//! A folder of archives that are imported at the start: what was imported and has not changed since is not read again.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ImageSummary, Store, StoreError, file_error};
use crate::records::{self, Durability};

/// What the files' names end with.
const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];
/// Archives in the folder; more are left out, with a warning.
const FILES_MAX: usize = 1_000;
const RECORD: &str = "folder.json";

/// Size, seconds and nanoseconds of the last change, and inode of each archive that was imported.
type Seen = BTreeMap<String, (u64, i64, i64, u64)>;

/// One archive and what came of it.
#[derive(Debug)]
pub struct Imported {
    /// The archive.
    pub path: PathBuf,
    /// Its images.
    pub result: Result<Vec<ImageSummary>, StoreError>,
}

impl Store {
    /// Imports the archives of a folder that are new or changed; a folder that is not there has none. One that cannot be
    /// imported is told of and does not keep the others.
    pub fn import_folder(&self, folder: &Path) -> Result<Vec<Imported>, StoreError> {
        let directory = self.root.join("images");
        let mut seen: Seen = records::read(&directory, RECORD)?.unwrap_or_default();
        let (mut done, mut now) = (Vec::new(), Seen::new());
        for (name, path) in archives(folder)? {
            let stat = std::fs::metadata(&path).map_err(file_error("look at", &path))?;
            let stamp = (stat.size(), stat.mtime(), stat.mtime_nsec(), stat.ino());
            if seen.remove(&name) == Some(stamp) {
                now.insert(name, stamp);
                continue;
            }
            let result = self.import_file(&path);
            if result.is_ok() {
                now.insert(name, stamp);
            }
            done.push(Imported { path, result });
        }
        if !done.is_empty() || !seen.is_empty() {
            records::write(&directory, RECORD, &now, Durability::Disk)?;
        }
        Ok(done)
    }
}

fn archives(folder: &Path) -> Result<BTreeMap<String, PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        listed => listed.map_err(file_error("list", folder))?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(file_error("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !ENDINGS.iter().any(|ending| name.ends_with(ending)) || !entry.path().is_file() {
            continue;
        }
        if found.len() >= FILES_MAX {
            tracing::warn!(folder = %folder.display(), "the folder has more than {FILES_MAX} archives; the others are left out");
            break;
        }
        found.insert(name, entry.path());
    }
    Ok(found)
}
