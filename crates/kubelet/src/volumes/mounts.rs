//! Mounts, owners and modes: the little that volumes need of the kernel. Everything may be repeated.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

/// Makes a directory, with its parents, that has exactly this mode.
pub(crate) fn directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Mounts a memory filesystem on a directory, unless one is there.
pub(crate) fn tmpfs(path: &Path, mode: u32, size_bytes: Option<i64>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(bytes) = size_bytes.filter(|bytes| *bytes > 0) {
        options.push_str(&format!(",size={bytes}"));
    }
    let options = std::ffi::CString::new(options).expect("options hold no zero byte");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())?;
    Ok(())
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::symlink_metadata(path)?.dev() != fs::symlink_metadata(parent)?.dev())
}

/// Gives a file or directory of a volume to the pod's group, as `fsGroup` asks.
pub(crate) fn give_to_group(path: &Path, group: u32, writable: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.file_type().is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(group));
    }
    chown(path, None, Some(group))?;
    let mut mode = metadata.permissions().mode() | if writable { 0o660 } else { 0o440 };
    if metadata.is_dir() {
        mode |= 0o2110;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The mount points below a directory, the deepest last.
pub(crate) fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(directory) && point != directory).collect())
}

/// Mount tables write blanks as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                result.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                result.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    result.push_str(rest);
    result.into()
}

/// Unmounts everything below a directory and then removes it. What is still mounted keeps the directory: removing through a
/// mount would delete what belongs to someone else.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    for point in below(directory)?.iter().rev() {
        match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            // A process that still has a file open gives the mount up when it ends.
            Err(rustix::io::Errno::BUSY) => {
                rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(point) = below(directory)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes `sub_path` of a volume visible at `target`, refusing symbolic links that lead out of the volume; makes it a
/// directory where it is missing. The bind mount holds on to what was checked, so that nobody can swap it afterwards.
pub(crate) fn bind_sub_path(volume: &Path, sub_path: &str, target: &Path) -> io::Result<()> {
    let relative = Path::new(sub_path);
    if relative.is_absolute() || relative.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(io::Error::other(format!("subPath {sub_path:?} leads out of the volume")));
    }
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mode = fs::metadata(volume)?.permissions().mode() & 0o7777;
    let found = open_or_make(&root, relative, mode)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    if target.exists() && below(target.parent().unwrap_or(target))?.iter().any(|point| point == target) {
        rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
    }
    if fs::metadata(&source)?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(target))?;
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    rustix::mount::mount_bind_recursive(&source, target)?;
    Ok(())
}

fn open_or_make(root: &OwnedFd, relative: &Path, mode: u32) -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(
            root.as_fd(),
            path,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    };
    match open(relative) {
        Ok(found) => return Ok(found),
        Err(rustix::io::Errno::NOENT) => {}
        Err(rustix::io::Errno::XDEV) => {
            return Err(io::Error::other(format!("subPath {} leads out of the volume", relative.display())));
        }
        Err(error) => return Err(error.into()),
    }
    let mut parent = open(Path::new("."))?;
    let mut path = PathBuf::new();
    for part in relative.components() {
        path.push(part);
        parent = match open(&path) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(parent.as_fd(), part.as_os_str(), Mode::from_raw_mode(mode))?;
                let made = open(&path)?;
                // The process's umask took from the mode; this names the very directory that was made.
                let by_descriptor = format!("/proc/self/fd/{}", made.as_raw_fd());
                fs::set_permissions(by_descriptor, fs::Permissions::from_mode(mode))?;
                made
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(r"/a\b"), PathBuf::from(r"/a\b"));
    }

    /// A group that may write to a volume could not write to the sub paths in it: the kubelet's umask took that away.
    #[test]
    fn a_sub_path_is_as_open_as_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, target) = (dir.path().join("volume"), dir.path().join("target"));
        directory(&volume, 0o2775).unwrap();
        bind_sub_path(&volume, "new/deep", &target).unwrap();
        for made in ["new", "new/deep"] {
            assert_eq!(fs::metadata(volume.join(made)).unwrap().permissions().mode() & 0o7777, 0o2775, "{made}");
        }
        remove_tree(dir.path()).unwrap();
    }

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("link")).unwrap();
        let target = dir.path().join("target");
        for bad in ["out", "out/passwd", "../x", "/etc"] {
            assert!(bind_sub_path(&volume, bad, &target).is_err(), "{bad}");
        }
        for good in ["link", "in", "new/deep"] {
            bind_sub_path(&volume, good, &target).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        assert!(volume.join("new/deep").is_dir());
        remove_tree(dir.path()).unwrap();
        assert!(!dir.path().exists());
    }
}
