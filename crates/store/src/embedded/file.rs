//! The store's file under redb: created whole, readable by its owner only, locked, with a guarded header.
//!
//! redb's pages and our records have checksums, but one bit of redb's header chooses which of two states is current: a
//! flipped bit could bring an older state back. So the header carries a checksum of ours in the unused rest of its disk
//! sector, written in the same write. What a write or fsync failed with is kept here, because redb passes on only that
//! something failed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend, StorageError};

use crate::StoreError;

/// redb's header, which redb writes as one piece at offset 0.
const HEADER_BYTES: usize = 320;
/// The guard behind it: a mark and the header's checksum. Both lie in the file's first 512-byte sector, which disks write
/// as a whole.
const GUARD_BYTES: usize = 8;
const GUARD_MARK: [u8; 4] = *b"TMNg";

/// A store's file failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No space; nothing of the transaction was kept.
    Full,
    /// The content is not what was written.
    Damaged(String),
    /// Another process holds the lock.
    InUse,
    /// Anything else that the operating system reported.
    Io(&'static str, io::Error),
}

impl Failure {
    /// The failure as callers see it.
    pub(super) fn at(&self, path: &Path) -> StoreError {
        let path = path.display().to_string();
        match self {
            Self::Full => StoreError::Full { path },
            Self::Damaged(what) => StoreError::Damaged { path, what: what.clone() },
            Self::InUse => StoreError::InUse { path },
            Self::Io(action, source) => {
                // An io::Error cannot be cloned; number or kind and text are all there is to it.
                let source = source
                    .raw_os_error()
                    .map_or_else(|| io::Error::new(source.kind(), source.to_string()), io::Error::from_raw_os_error);
                StoreError::Io { path, action, source }
            }
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Io(source) => Self::Io("read or write", source),
            redb::Error::PreviousIo => {
                Self::Io("go on after an earlier error", io::Error::other("see the first error"))
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// The first error that the operating system gave for a file, with what was tried.
pub(super) type FirstError = Arc<Mutex<Option<(&'static str, io::Error)>>>;

/// An open database and where its first error shows.
pub(super) struct OpenFile {
    pub(super) database: Database,
    pub(super) first_error: FirstError,
}

impl OpenFile {
    /// Opens the file at `path`; creates it and its folder if they do not exist. `prepare` fills a new database before it
    /// appears under its name, so that a crash never leaves half a store there.
    pub(super) fn open(
        path: &Path,
        cache_bytes: usize,
        prepare: impl FnOnce(&Database) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !path.try_exists().map_err(|error| Failure::Io("look for the file", error))? {
            return Self::create(path, folder, cache_bytes, prepare);
        }
        let file = open_private(path, false)?;
        Self::attach(file, cache_bytes)
    }

    fn create(
        path: &Path,
        folder: &Path,
        cache_bytes: usize,
        prepare: impl FnOnce(&Database) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| Failure::Io("create the folder", error))?;
        let unfinished = unfinished(path);
        let file = open_private(&unfinished, true)?;
        // The lock comes first: emptying a file that another process is filling would damage its store. And that process
        // may have finished, and named its file, since we looked.
        lock(&file)?;
        if path.try_exists().map_err(|error| Failure::Io("look for the file", error))? {
            return Self::attach(open_private(path, false)?, cache_bytes);
        }
        file.set_len(0).map_err(|error| full_or("create the file", error))?;
        let open = Self::attach(file, cache_bytes)?;
        prepare(&open.database)?;
        fs::rename(&unfinished, path).map_err(|error| Failure::Io("name the new file", error))?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| Failure::Io("sync the folder", error))?;
        Ok(open)
    }

    fn attach(file: File, cache_bytes: usize) -> Result<Self, Failure> {
        // redb locks too, but only after it was given a file whose header we have read: that header may be half written.
        lock(&file)?;
        let first_error = FirstError::default();
        let backend = GuardedFile::new(file, first_error.clone())?;
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)
        }));
        match opened {
            Ok(Ok(database)) => Ok(Self { database, first_error }),
            Ok(Err(error)) => Err(first_failure(&first_error).unwrap_or_else(|| open_failure(error))),
            // redb trusts its own pages in places: a page that is not one makes it panic.
            Err(_) => Err(Failure::Damaged("its pages do not fit together".to_owned())),
        }
    }

    /// Checks the checksum of every page. Costs one read of the file.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| self.database.check_integrity()));
        match checked {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Failure::Damaged("a page's checksum is wrong".to_owned())),
            Ok(Err(error)) => Err(first_failure(&self.first_error).unwrap_or_else(|| open_failure(error))),
            Err(_) => Err(Failure::Damaged("its pages do not fit together".to_owned())),
        }
    }
}

/// The operating system's error behind a failure of redb, if there was one.
pub(super) fn first_failure(first: &FirstError) -> Option<Failure> {
    let mut first = first.lock().expect("nothing panics while it holds the first error");
    first.take().map(|(action, error)| full_or(action, error))
}

fn full_or(action: &'static str, error: io::Error) -> Failure {
    // A failed fsync may have lost pages that were acknowledged to us: it is never only a full disk.
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) && action != SYNC;
    if full { Failure::Full } else { Failure::Io(action, error) }
}

fn open_failure(error: DatabaseError) -> Failure {
    match error {
        // The file ended before a page that its header promises.
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            Failure::Damaged("the file is cut short".to_owned())
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            Failure::Damaged(error.to_string())
        }
        other => other.into(),
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn open_private(path: &Path, create: bool) -> Result<File, Failure> {
    let opened = OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(|error| full_or("open the file", error))?;
    let private = file.set_permissions(fs::Permissions::from_mode(0o600));
    private.map_err(|error| Failure::Io("make the file private", error))?;
    Ok(file)
}

fn lock(file: &File) -> Result<(), Failure> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::InUse,
        TryLockError::Error(error) => Failure::Io("lock the file", error),
    })
}

const SYNC: &str = "sync to disk";

/// redb's file backend, with the guard behind the header, space that is allocated before it is used, and a memory for the
/// first error.
#[derive(Debug)]
struct GuardedFile {
    file: File,
    inner: FileBackend,
    first_error: FirstError,
}

impl GuardedFile {
    fn new(file: File, first_error: FirstError) -> Result<Self, Failure> {
        let length = file.metadata().map_err(|error| Failure::Io("measure the file", error))?.len();
        if length > 0 {
            verify_guard(&file)?;
        }
        let own = file.try_clone().map_err(|error| Failure::Io("open the file", error))?;
        Ok(Self { file: own, inner: FileBackend::new(file)?, first_error })
    }

    fn remember<T>(&self, action: &'static str, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let kept = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            let mut first = self.first_error.lock().expect("nothing panics while it holds the first error");
            first.get_or_insert((action, kept));
        })
    }

    /// Extends the file with real blocks, so that a full disk shows here, before any page is written, and not as a failed
    /// write or fsync half-way.
    fn extend(&self, from: u64, to: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), from, to - from) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.file.set_len(to),
            result => result.map_err(io::Error::from),
        }
    }
}

fn verify_guard(file: &File) -> Result<(), Failure> {
    let mut sector = [0; HEADER_BYTES + GUARD_BYTES];
    match file.read_exact_at(&mut sector, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(Failure::Damaged("the file is cut short".to_owned()));
        }
        result => result.map_err(|error| Failure::Io("read the header", error))?,
    }
    if sector[HEADER_BYTES..] != guard(&sector[..HEADER_BYTES]) {
        return Err(Failure::Damaged("the header's checksum is wrong".to_owned()));
    }
    Ok(())
}

fn guard(header: &[u8]) -> [u8; GUARD_BYTES] {
    let mut guard = [0; GUARD_BYTES];
    guard[..4].copy_from_slice(&GUARD_MARK);
    guard[4..].copy_from_slice(&crc32fast::hash(header).to_be_bytes());
    guard
}

impl StorageBackend for GuardedFile {
    fn len(&self) -> io::Result<u64> {
        self.remember("measure the file", self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.inner.read(offset, out);
        // Reading behind the end is damage, which redb reports by itself.
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof) {
            return read;
        }
        self.remember("read", read)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let now = self.len()?;
        let set = if length > now { self.extend(now, length) } else { self.inner.set_len(length) };
        self.remember("extend the file", set)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.remember(SYNC, self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset > 0 {
            return self.remember("write", self.inner.write(offset, data));
        }
        let header = data.get(..HEADER_BYTES).ok_or_else(|| io::Error::other("the header is shorter than expected"))?;
        let mut sector = data.to_vec();
        sector.resize(data.len().max(HEADER_BYTES + GUARD_BYTES), 0);
        sector[HEADER_BYTES..HEADER_BYTES + GUARD_BYTES].copy_from_slice(&guard(header));
        self.remember("write the header", self.inner.write(0, &sector))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
