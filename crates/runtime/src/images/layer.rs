//! One layer's archive, unpacked into a directory that an overlay takes as a lower one. Whiteouts become overlayfs' own.
//!
//! The archive is a stranger's. Each entry's parent directory is opened by the kernel with the layer as its root, and the
//! entry itself is made by its plain name below that, never through a symlink. Counts and sizes are bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use linux::rooted::Rooted;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use tar::{Archive, Entry, EntryType};

/// Bounds on one layer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, directories and links.
    pub entries_max: u64,
    /// Bytes in files, unpacked.
    pub bytes_max: u64,
}

/// What may follow an archive's end: tools pad to a block of their tapes.
pub(super) const TRAILER_BYTES_MAX: u64 = 1 << 20;

impl Limits {
    /// No more than the disk has: a layer that unpacks to more would take all that is left before it failed.
    pub(super) fn within(self, directory: &Path) -> Self {
        let free = rustix::fs::statvfs(directory).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { bytes_max: self.bytes_max.min(free / 20 * 19), ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries_max: 2_000_000, bytes_max: 64 << 30 }
    }
}

/// A layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive itself is broken.
    #[error("cannot read the layer's archive")]
    Archive(#[source] io::Error),
    /// An entry that no honest archive has.
    #[error("refused entry {path:?}: {why}")]
    Refused {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than the limits allow.
    #[error("the layer has more than {0}")]
    TooLarge(String),
    /// An entry could not be made.
    #[error("cannot make {path:?}")]
    Make {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT_OTHER: &[u8] = b".wh..wh.";
const OPAQUE: &str = "trusted.overlay.opaque";

/// Unpacks an archive (uncompressed) into an empty directory; returns the bytes in its files.
pub fn unpack(reader: impl Read, target: &Path, limits: &Limits) -> Result<u64, LayerError> {
    let root =
        Rooted::open(target).map_err(|source| LayerError::Make { path: target.display().to_string(), source })?;
    let (reader, budget) = super::archive::Budgeted::new(reader);
    let mut archive = Archive::new(reader);
    let mut unpacker = Unpacker { root, limits: *limits, entries: 0, bytes: 0, directory_times: Vec::new() };
    let mut entries = archive.entries().map_err(LayerError::Archive)?;
    while let Some(entry) = budget.next(&mut entries) {
        let mut entry = entry.map_err(LayerError::Archive)?;
        unpacker.unpack(&mut entry)?;
        unpacker.skip(&mut entry)?;
    }
    unpacker.set_directory_times()?;
    Ok(unpacker.bytes)
}

struct Unpacker {
    root: Rooted,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// Set last: each file made in a directory changes its time.
    directory_times: Vec<(PathBuf, i64)>,
}

impl Unpacker {
    /// Reads what an entry has beyond what was made of it: a directory, say, with content.
    fn skip(&mut self, entry: &mut impl Read) -> Result<(), LayerError> {
        let left = self.limits.bytes_max - self.bytes;
        self.bytes += io::copy(&mut entry.take(left + 1), &mut io::sink()).map_err(LayerError::Archive)?;
        if self.bytes > self.limits.bytes_max {
            return Err(LayerError::TooLarge(format!("{} bytes", self.limits.bytes_max)));
        }
        Ok(())
    }

    fn unpack<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(LayerError::TooLarge(format!("{} entries", self.limits.entries_max)));
        }
        let raw = entry.path().map_err(LayerError::Archive)?.into_owned();
        let path = plain_path(&raw)?;
        let make = |source| LayerError::Make { path: raw.display().to_string(), source };
        if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(name) = path.file_name().map(ToOwned::to_owned) else {
            // The layer's root itself.
            return self.set_attributes(entry, &path, None).map_err(make);
        };
        let parent = self.root.make_dirs(path.parent().unwrap_or(Path::new(""))).map_err(make)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return white_out(parent.as_fd(), name.as_bytes()).map_err(make);
        }
        self.make_entry(entry, &path, parent.as_fd(), &name).map_err(|error| match error {
            MakeError::Layer(error) => error,
            MakeError::Io(source) => make(source),
        })
    }

    fn make_entry<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        parent: BorrowedFd<'_>,
        name: &std::ffi::OsStr,
    ) -> Result<(), MakeError> {
        let kind = entry.header().entry_type();
        let refused = |why| LayerError::Refused { path: path.display().to_string(), why };
        if kind != EntryType::Directory {
            remove_existing(parent, name)?;
        }
        match kind {
            EntryType::Directory => make_directory(parent, name)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.write_file(entry, parent, name)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| refused("a symlink without a target"))?;
                rustix::fs::symlinkat(target.as_ref(), parent, name)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| refused("a hard link without a target"))?;
                let target =
                    self.root.open_at(&plain_path(&target)?, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
                rustix::fs::linkat(&target, "", parent, name, AtFlags::EMPTY_PATH)?;
                // It shares everything with its target, whose entry said what that is.
                return Ok(());
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
                let kind = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let number = rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0));
                if kind == FileType::CharacterDevice && number == 0 {
                    return Err(refused("a device that overlayfs takes for a removed file").into());
                }
                rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), number)?;
            }
            _ => return Err(refused("an entry of unknown type").into()),
        }
        Ok(self.set_attributes(entry, path, Some((parent, name)))?)
    }

    fn write_file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &std::ffi::OsStr,
    ) -> Result<(), MakeError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        let left = self.limits.bytes_max - self.bytes;
        let copied = io::copy(&mut entry.take(left.saturating_add(1)), &mut file)?;
        if copied > left {
            return Err(LayerError::TooLarge(format!("{} bytes", self.limits.bytes_max)).into());
        }
        self.bytes += copied;
        Ok(())
    }

    /// Owner first: changing it takes away setuid bits and file capabilities.
    fn set_attributes<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        place: Option<(BorrowedFd<'_>, &std::ffi::OsStr)>,
    ) -> io::Result<()> {
        let (parent, name) = place.unwrap_or((self.root.as_fd(), std::ffi::OsStr::new(".")));
        let number = |value: u64| u32::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let header = entry.header();
        let raw = header.as_old();
        let uid = number(number_or_zero(&raw.uid, || header.uid())?)?;
        let gid = number(number_or_zero(&raw.gid, || header.gid())?)?;
        let time = i64::try_from(number_or_zero(&raw.mtime, || header.mtime())?).unwrap_or(0);
        let (mode, kind) = (header.mode()?, header.entry_type());
        let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != EntryType::Symlink {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        }
        if matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory) {
            set_extended(entry, parent, name)?;
        }
        if kind == EntryType::Directory {
            self.directory_times.push((path.to_owned(), time));
            return Ok(());
        }
        set_time(parent, name, time)
    }

    fn set_directory_times(&self) -> Result<(), LayerError> {
        for (path, time) in self.directory_times.iter().rev() {
            let done = match path.file_name() {
                None => set_time(self.root.as_fd(), std::ffi::OsStr::new("."), *time),
                Some(name) => self
                    .root
                    .open_at(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                    .and_then(|parent| set_time(parent.as_fd(), name, *time)),
            };
            done.map_err(|source| LayerError::Make { path: path.display().to_string(), source })?;
        }
        Ok(())
    }
}

enum MakeError {
    Layer(LayerError),
    Io(io::Error),
}

impl From<LayerError> for MakeError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<io::Error> for MakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for MakeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A number of a header; one that was left empty is zero, as other readers take it.
fn number_or_zero(raw: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if raw.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { parse() }
}

/// A path without its root and dots. One that climbs is refused: no honest archive has it.
fn plain_path(path: &Path) -> Result<PathBuf, LayerError> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(LayerError::Refused {
                    path: path.display().to_string(),
                    why: "a path that climbs with '..'",
                });
            }
        }
    }
    Ok(plain)
}

fn kind_of(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<Option<(FileType, u64)>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat.st_rdev))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A later entry of an archive replaces an earlier one of the same name; a directory with content is not replaced.
fn remove_existing(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    let flags = match kind_of(parent, name)? {
        None => return Ok(()),
        Some((FileType::Directory, _)) => AtFlags::REMOVEDIR,
        Some(_) => AtFlags::empty(),
    };
    Ok(rustix::fs::unlinkat(parent, name, flags)?)
}

fn make_directory(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    let existing = kind_of(parent, name)?;
    if matches!(existing, Some((FileType::Directory, _))) {
        return Ok(());
    }
    remove_existing(parent, name)?;
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    // Removed below and made again here: what the lower layers have in it stays hidden.
    if existing == Some((FileType::CharacterDevice, 0)) { make_opaque(parent, name) } else { Ok(()) }
}

fn make_opaque(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    Ok(rustix::fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())?)
}

/// Whiteouts speak of the layers below only: what this layer itself has of that name stays, but hides theirs.
fn white_out(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    if name == WHITEOUT_OPAQUE {
        return make_opaque(parent, std::ffi::OsStr::new("."));
    }
    if name.starts_with(WHITEOUT_OTHER) {
        return Ok(());
    }
    let hidden = std::ffi::OsStr::from_bytes(&name[WHITEOUT.len()..]);
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match kind_of(parent, hidden)? {
        Some((FileType::Directory, _)) => make_opaque(parent, hidden),
        Some(_) => Ok(()),
        None => Ok(rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?),
    }
}

/// Extended attributes, where the filesystem takes them. Never those of overlayfs: they could point anywhere.
fn set_extended<R: Read>(entry: &mut Entry<'_, R>, parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    let mut attributes = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
            attributes.push((key.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    attributes.retain(|(key, _)| {
        key.starts_with("user.") && !key.starts_with("user.overlay.") || key == "security.capability"
    });
    if attributes.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for (key, value) in attributes {
        match rustix::fs::fsetxattr(&file, key.as_str(), &value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(error) => tracing::debug!(key, %error, "the filesystem does not take an extended attribute"),
        }
    }
    Ok(())
}

fn set_time(parent: BorrowedFd<'_>, name: &std::ffi::OsStr, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        // Written by hand: the builder refuses what an attacker would write.
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    #[test]
    fn strangers_cannot_leave_the_layer() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("layer");
        std::fs::create_dir(&target).unwrap();
        for path in ["../evil", "a/../../evil", "/../evil"] {
            let bytes = layer(|builder| add(builder, EntryType::Regular, path, "", b"x"));
            let error = unpack(bytes.as_slice(), &target, &Limits::default()).unwrap_err();
            assert!(matches!(error, LayerError::Refused { .. }), "{path}: {error}");
        }
        let link = outside.path().display().to_string();
        let bytes = layer(|builder| {
            add(builder, EntryType::Symlink, "out", &link, b"");
            add(builder, EntryType::Regular, "out/evil", "", b"x");
            add(builder, EntryType::Symlink, "up", "../..", b"");
            add(builder, EntryType::Regular, "up/evil", "", b"x");
        });
        unpack(bytes.as_slice(), &target, &Limits::default()).unwrap();
        assert!(!outside.path().join("evil").exists());
        assert!(target.join("evil").exists(), "the links lead to the same place inside");
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let bytes = layer(|builder| add(builder, EntryType::Link, "stolen", "out/../secret", b""));
        assert!(unpack(bytes.as_slice(), &target, &Limits::default()).is_err());
    }

    #[test]
    fn whiteouts_attributes_and_links() {
        let target = tempfile::tempdir().unwrap();
        let bytes = layer(|builder| {
            add(builder, EntryType::Directory, "d/", "", b"");
            add(builder, EntryType::Regular, "d/file", "", b"first");
            add(builder, EntryType::Regular, "d/file", "", b"second");
            add(builder, EntryType::Link, "hard", "d/file", b"");
            add(builder, EntryType::Regular, "d/.wh.gone", "", b"");
            add(builder, EntryType::Regular, "d/.wh..wh..opq", "", b"");
            add(builder, EntryType::Regular, ".wh.again", "", b"");
            add(builder, EntryType::Directory, "again/", "", b"");
        });
        assert_eq!(unpack(bytes.as_slice(), target.path(), &Limits::default()).unwrap(), 11);
        let path = |name: &str| target.path().join(name);
        let stat = std::fs::metadata(path("hard")).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777, stat.nlink()), (7, 8, 0o4755, 2));
        assert_eq!(std::fs::read(path("hard")).unwrap(), b"second");
        assert_eq!(std::fs::metadata(path("d")).unwrap().mtime(), 1_000_000);
        let gone = std::fs::symlink_metadata(path("d/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        for directory in ["d", "again"] {
            let mut value = [0u8; 8];
            let count = rustix::fs::getxattr(path(directory), OPAQUE, &mut value).unwrap();
            assert_eq!(&value[..count], b"y", "{directory}");
        }
    }

    /// A name of some gigabytes, which compresses to nothing, was read into memory.
    #[test]
    fn headers_are_bounded() {
        let target = tempfile::tempdir().unwrap();
        let long = vec![b'a'; 5 << 20];
        let bytes = layer(|builder| {
            add(builder, EntryType::GNULongName, "././@LongLink", "", &long);
            add(builder, EntryType::Regular, "a", "", b"x");
        });
        let error = unpack(bytes.as_slice(), target.path(), &Limits::default()).unwrap_err();
        assert!(base::chain(&error).contains("more than 4194304 bytes"), "{}", base::chain(&error));
        // What a directory's entry carries is neither a header nor free.
        let bytes = layer(|builder| add(builder, EntryType::Directory, "d", "", &long));
        unpack(bytes.as_slice(), target.path(), &Limits::default()).unwrap();
        let error = unpack(bytes.as_slice(), target.path(), &Limits { entries_max: 9, bytes_max: 9 }).unwrap_err();
        assert!(matches!(error, LayerError::TooLarge(_)), "{error}");
    }

    #[test]
    fn sizes_are_bounded() {
        let target = tempfile::tempdir().unwrap();
        let bytes = layer(|builder| {
            add(builder, EntryType::Regular, "a", "", b"12345");
            add(builder, EntryType::Regular, "b", "", b"12345");
        });
        for limits in [Limits { entries_max: 1, bytes_max: 100 }, Limits { entries_max: 9, bytes_max: 9 }] {
            let error = unpack(bytes.as_slice(), target.path(), &limits).unwrap_err();
            assert!(matches!(error, LayerError::TooLarge(_)), "{error}");
        }
    }
}
