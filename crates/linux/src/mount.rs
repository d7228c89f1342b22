//! Mounts as file descriptors: a filesystem or a copy of a tree is made detached, gets its attributes, and only then is put
//! on a target that is itself an open descriptor. No path is looked up twice, and what is not attached vanishes when its
//! descriptor is closed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::libc;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

pub use rustix::mount::{MountAttrFlags as Attributes, UnmountFlags, unmount};

/// How mounts and unmounts travel between a mount and its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing travels.
    Private,
    /// Mounts made on the host arrive here.
    Slave,
    /// Mounts travel both ways.
    Shared,
}

/// A new filesystem, not attached anywhere. An option with an empty value is a flag.
pub fn filesystem(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of the mount at `source`, with all below it where `recursive`, not attached anywhere.
pub fn clone_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(rustix::fs::CWD, source, flags)?)
}

/// A copy of the single mount under an open directory or file.
pub fn clone_fd(source: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(source, "", flags)?)
}

/// Puts a detached mount on `target`.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}

/// Puts a detached mount on the directory or file at `target`.
pub fn attach_at(tree: impl AsFd, target: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Sets attributes and propagation of a mount, and of all below it where `recursive`.
pub fn set_attributes(
    tree: impl AsFd,
    set: Attributes,
    propagation: Option<Propagation>,
    recursive: bool,
) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: u64::from(set.bits()),
        attr_clr: 0,
        propagation: match propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
        },
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    #[expect(unsafe_code, reason = "mount_setattr has no wrapper in nix or rustix")]
    // SAFETY: the path is an empty C string, `change` lives across the call and its true size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes all mounts of this namespace receive from their peers but give them nothing.
pub fn isolate_namespace() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Makes the mount under `root` the root directory and drops the old one with all its mounts.
pub fn pivot_into(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root.as_fd())?;
    // With both arguments the same, the old root ends up stacked on the new one and needs no directory of its own.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_is_never_attached_leaves_nothing() {
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let tree = filesystem("tmpfs", &[("size", "65536"), ("mode", "0700")], Attributes::MOUNT_ATTR_NODEV).unwrap();
        set_attributes(&tree, Attributes::MOUNT_ATTR_RDONLY, Some(Propagation::Private), false).unwrap();
        let rooted = crate::rooted::Rooted::from_fd(tree);
        let written = rooted.make_file(Path::new("file")).map_err(|error| error.raw_os_error());
        assert_eq!(written.unwrap_err(), Some(libc::EROFS));
        drop(rooted);
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    }
}
