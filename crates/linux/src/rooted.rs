//! A directory that nothing named below it can leave: each path is resolved by the kernel with that directory as its root,
//! so `..`, absolute symlinks and symlinks swapped during the walk stay inside (`openat2` with `RESOLVE_IN_ROOT`).
//!
//! Image layers and container roots are written by strangers. Every path in them is opened through here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// How many dangling symlinks `make_dirs` follows before it calls them a loop; the kernel's own limit for links that exist.
const DANGLING_LINKS_MAX: usize = 40;

/// A directory as the root of path lookups.
#[derive(Debug)]
pub struct Rooted(OwnedFd);

impl Rooted {
    /// Opens the directory at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Takes a directory that is open already.
    pub fn from_fd(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// The directory itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens what `path` names inside; magic links (`/proc/self/fd/N`) are refused.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    /// Opens a directory inside, making each missing one with mode 0755. A dangling symlink on the way is followed and its
    /// target made, inside the root.
    pub fn make_dirs(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_dirs_within(path, DANGLING_LINKS_MAX)
    }

    fn make_dirs_within(&self, path: &Path, links_left: usize) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_at(path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let mut walked = PathBuf::new();
        let mut directory = self.open_at(Path::new("."), flags, Mode::empty())?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                walked.push(if component == Component::ParentDir { ".." } else { "." });
                directory = self.open_at(&walked, flags, Mode::empty())?;
                continue;
            };
            let parent = walked.clone();
            walked.push(name);
            directory = match self.open_at(&walked, flags, Mode::empty()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_one(directory.as_fd(), &parent, name, links_left)?
                }
                opened => opened?,
            };
        }
        Ok(directory)
    }

    fn make_one(&self, parent: BorrowedFd<'_>, parent_path: &Path, name: &OsStr, links: usize) -> io::Result<OwnedFd> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                // Something is there that does not resolve: a dangling symlink, or another process was first.
                if let Ok(target) = rustix::fs::readlinkat(parent, name, Vec::new()) {
                    let links_left = links.checked_sub(1).ok_or(rustix::io::Errno::LOOP)?;
                    return self.make_dirs_within(&parent_path.join(OsStr::from_bytes(target.as_bytes())), links_left);
                }
            }
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
    }

    /// Opens, as a place to mount a file on, what `path` names inside; an empty file is made where nothing is.
    pub fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open_at(path, OFlags::PATH, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let name = path.file_name().ok_or(rustix::io::Errno::INVAL)?;
        let parent = self.make_dirs(path.parent().unwrap_or(Path::new(".")))?;
        match rustix::fs::mknodat(&parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open_at(path, OFlags::PATH, Mode::empty())
    }

    /// The text of a file inside, at most `limit` bytes of it; `None` where there is none.
    pub fn read_text(&self, path: &Path, limit: u64) -> io::Result<Option<String>> {
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What `path` names inside, without following it where it is itself a symlink.
    pub fn metadata(&self, path: &Path) -> io::Result<rustix::fs::Stat> {
        let found = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outer.path().join("secret"), "outside").unwrap();
        std::os::unix::fs::symlink("/../secret", root.join("up")).unwrap();
        std::os::unix::fs::symlink(outer.path(), root.join("absolute")).unwrap();
        let rooted = Rooted::open(&root).unwrap();
        for path in ["../secret", "up", "/../secret"] {
            assert_eq!(rooted.read_text(Path::new(path), 100).unwrap(), None, "{path}");
        }
        // A dangling link is followed inside the root: the directory appears there, not where the link points outside.
        rooted.make_dirs(Path::new("absolute/made")).unwrap();
        assert!(!outer.path().join("made").exists());
        assert!(root.join(outer.path().strip_prefix("/").unwrap()).join("made").is_dir());
    }

    #[test]
    fn makes_what_a_mount_needs() {
        let root = tempfile::tempdir().unwrap();
        let rooted = Rooted::open(root.path()).unwrap();
        rooted.make_file(Path::new("/etc/deep/hosts")).unwrap();
        rooted.make_file(Path::new("/etc/deep/hosts")).unwrap();
        assert!(root.path().join("etc/deep/hosts").is_file());
        std::os::unix::fs::symlink("b", root.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.path().join("b")).unwrap();
        assert!(rooted.make_dirs(Path::new("a/x")).is_err(), "a loop of links is an error, not a hang");
    }
}
