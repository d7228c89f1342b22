//! What files take of a disk.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files that are counted; a tree with more has its usage understated.
const FILES_COUNTED_MAX: u64 = 200_000;

/// Bytes on disk and files below a directory, or of one file; nothing where it is not there. Other filesystems that are mounted
/// below are left out. Files may come and go while we look.
pub fn usage(path: &Path) -> io::Result<(u64, u64)> {
    let start = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        found => found?,
    };
    if !start.is_dir() {
        return Ok((start.blocks() * 512, 1));
    }
    let (mut bytes, mut files) = (0, 0);
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            listed => listed?,
        };
        for entry in entries {
            let Ok((entry, stat)) = entry.and_then(|entry| entry.metadata().map(|stat| (entry, stat))) else {
                continue;
            };
            if stat.dev() != start.dev() {
                continue;
            }
            bytes += stat.blocks() * 512;
            files += 1;
            if files >= FILES_COUNTED_MAX {
                return Ok((bytes, files));
            }
            if stat.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok((bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_bytes_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(usage(&folder.path().join("absent")).unwrap(), (0, 0));
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(folder.path().join("inner/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        let (bytes, files) = usage(folder.path()).unwrap();
        assert!(bytes >= 100_000 && files == 3, "{bytes} {files}");
    }
}
