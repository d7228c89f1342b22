//! Gives a volume to its pod's group, as `fsGroup` and `fsGroupChangePolicy` ask.
//!
//! Other pods may be writing to the volume meanwhile: every entry is held by a descriptor before it is changed, no symbolic
//! link is followed, and what is mounted inside is left alone.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat};

/// What a group may do with files, and beyond that with directories: new files in them are the group's too.
const FILE_BITS: u32 = 0o660;
const DIRECTORY_BITS: u32 = 0o2110;

/// How deep directories may lie in each other: each level holds a descriptor open.
const DEPTH_MAX: usize = 400;

/// Gives the volume and all in it to the group. With `only_if_wrong` (`OnRootMismatch`) a root that is right stands for all.
pub(crate) fn give(volume: &Path, group: u32, only_if_wrong: bool) -> io::Result<()> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::statat(&root, "", AtFlags::EMPTY_PATH)?;
    let wanted = FILE_BITS | DIRECTORY_BITS;
    if only_if_wrong && stat.st_gid == group && stat.st_mode & wanted == wanted {
        return Ok(());
    }
    // Last, since it stands for all.
    give_entries(root.as_fd(), group, &stat, 0)?;
    give_one(root.as_fd(), group, &stat)
}

fn give_entries(directory: BorrowedFd<'_>, group: u32, root: &Stat, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("directories of the volume lie more than {DEPTH_MAX} deep")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held: OwnedFd = match rustix::fs::openat(&readable, name, flags, Mode::empty()) {
            Ok(held) => held,
            // It went meanwhile.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::statat(&held, "", AtFlags::EMPTY_PATH)?;
        if stat.st_dev != root.st_dev {
            continue;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            give_entries(held.as_fd(), group, root, depth + 1)?;
        }
        give_one(held.as_fd(), group, &stat)?;
    }
    Ok(())
}

fn give_one(entry: BorrowedFd<'_>, group: u32, stat: &Stat) -> io::Result<()> {
    rustix::fs::chownat(entry, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    let bits = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => return Ok(()),
        FileType::Directory => FILE_BITS | DIRECTORY_BITS,
        _ => FILE_BITS,
    };
    // The kernel changes modes by descriptor only of files that are open; this names the same file.
    let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
    fs::set_permissions(path, Permissions::from_mode((stat.st_mode | bits) & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn all_is_given_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("deep")).unwrap();
        fs::write(volume.join("deep/file"), "").unwrap();
        fs::write(&outside, "").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        give(&volume, 4242, false).unwrap();
        let seen = |path: &Path| {
            let metadata = fs::symlink_metadata(path).unwrap();
            (metadata.gid(), metadata.mode() & 0o2660)
        };
        assert_eq!(seen(&volume), (4242, 0o2660));
        assert_eq!(seen(&volume.join("deep")), (4242, 0o2660));
        assert_eq!(seen(&volume.join("deep/file")), (4242, 0o660));
        assert_eq!(fs::symlink_metadata(volume.join("link")).unwrap().gid(), 4242);
        assert_eq!(fs::metadata(&outside).unwrap().gid(), fs::metadata(dir.path()).unwrap().gid());
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_root_that_is_right_stands_for_all_where_the_pod_says_so() {
        let dir = tempfile::tempdir().unwrap();
        give(dir.path(), 4242, false).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, None, Some(7)).unwrap();
        give(dir.path(), 4242, true).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().gid(), 7);
        give(dir.path(), 4242, false).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().gid(), 4242);
    }
}
