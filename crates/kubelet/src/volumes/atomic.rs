//! Replaces the files of a volume all at once, in the layout that programs watch: the files lie in a directory of their own,
//! `..data` is a symbolic link to it, and each name in the volume is a link through `..data`. Renaming `..data` is the one
//! step that changes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use super::mounts;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    /// The owner, where it is not root.
    pub(crate) owner: Option<u32>,
}

/// Files by their path in the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Makes the volume hold exactly these files. `stamp` names the new directory and must be new. True when something changed.
pub(crate) fn write(volume: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let old = fs::read_link(volume.join(DATA)).ok();
    let same = old.as_ref().is_some_and(|old| same_content(&volume.join(old), payload));
    if !same {
        let new = format!("..{stamp}");
        write_files(&volume.join(&new), payload, group)?;
        let link = volume.join(DATA_NEW);
        remove_if_there(&link)?;
        symlink(&new, &link)?;
        fs::rename(&link, volume.join(DATA))?;
    }
    // Also where nothing changed: a crash may have come between the rename and this.
    link_names(volume, payload)?;
    remove_leftovers(volume, payload)?;
    Ok(!same)
}

fn check(path: &str) -> io::Result<()> {
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !normal || path.starts_with("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path in volume: {path:?}")));
    }
    Ok(())
}

fn same_content(directory: &Path, payload: &Payload) -> bool {
    let mut files = 0;
    let same = payload.iter().all(|(path, file)| {
        files += 1;
        let path = directory.join(path);
        fs::read(&path).is_ok_and(|data| data == file.data)
            && fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & file.mode == file.mode)
    });
    same && count_files(directory).is_ok_and(|count| count == files)
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

fn write_files(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    mounts::directory(directory, 0o755)?;
    if let Some(group) = group {
        mounts::give_to_group(directory, group, false)?;
    }
    for (path, file) in payload {
        let target = directory.join(path);
        let mut parent = directory.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            mounts::directory(&parent, 0o755)?;
            if let Some(group) = group {
                mounts::give_to_group(&parent, group, false)?;
            }
        }
        // Nobody can read a secret between its making and its mode.
        let mut out = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&target)?;
        out.write_all(&file.data)?;
        out.set_permissions(fs::Permissions::from_mode(file.mode))?;
        if let Some(owner) = file.owner {
            chown(&target, Some(owner), None)?;
        }
        if let Some(group) = group {
            mounts::give_to_group(&target, group, false)?;
        }
    }
    Ok(())
}

fn names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(volume: &Path, payload: &Payload) -> io::Result<()> {
    for name in names(payload) {
        match symlink(Path::new(DATA).join(name), volume.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes names that the volume no longer has, and the directories that `..data` does not name.
fn remove_leftovers(volume: &Path, payload: &Payload) -> io::Result<()> {
    let current = fs::read_link(volume.join(DATA))?;
    let names = names(payload);
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        let ours = entry.file_type()?.is_symlink();
        if text == DATA || current.as_os_str() == name || names.contains(text) {
            continue;
        }
        if text.starts_with("..") && !ours {
            fs::remove_dir_all(entry.path())?;
        } else if ours && fs::read_link(entry.path())?.starts_with(DATA) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    /// `name=content` of everything that the volume shows.
    fn shown(volume: &Path) -> String {
        let mut names: Vec<_> =
            fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        let text = names.iter().map(|name| {
            let path = volume.join(name);
            let content = if path.is_dir() { "dir".to_owned() } else { fs::read_to_string(path).unwrap() };
            format!("{name}={content}")
        });
        text.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn files_change_together_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path();
        assert!(write(volume, &payload(&[("a", "1"), ("deep/b", "2")]), None, "t1").unwrap());
        assert_eq!(shown(volume), "a=1 deep=dir");
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(volume, &payload(&[("a", "1"), ("deep/b", "2")]), None, "t2").unwrap());
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), Path::new("..t1"));
        assert!(write(volume, &payload(&[("a", "3"), ("c", "4")]), None, "t3").unwrap());
        assert_eq!(shown(volume), "a=3 c=4");
        assert!(!volume.join("..t1").exists());
        assert_eq!(fs::read_link(volume.join("a")).unwrap(), Path::new("..data/a"));
    }

    #[test]
    fn a_file_that_went_is_a_change_and_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("b", "2")]), None, "t1").unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1")]), None, "t2").unwrap());
        assert_eq!(shown(dir.path()), "a=1");
        for bad in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "")]), None, "t3").is_err(), "{bad}");
        }
    }
}
