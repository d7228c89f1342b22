//! The embedded store: redb under one group-commit thread.
//!
//! The thread takes all waiting transactions, checks their preconditions against an index in memory, writes them with one
//! fsync, publishes them to the watchers, advances `committed` and only then answers. Readers see redb's snapshots and
//! never wait for it. An idle store does nothing: no timer, no write.
//!
//! Any failed write or fsync but a full disk stops the store for good, because the kernel may have dropped what it could
//! not write. A full disk refuses the transactions at hand; the next ones try again.

mod check;
mod commit;
mod file;
mod read;
mod record;
mod restore;

pub use check::{Report, check};
pub use restore::{RestoreError, Restored, restore};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use self::commit::{Command, Committer};
use self::file::{Failure, FirstError, OpenFile};
use self::read::Catchup;
use crate::live::Hub;
use crate::{Export, Range, RangeResult, Revision, Store, StoreError, Txn, TxnOutcome, Watch};

/// How much an embedded store holds and how much may wait.
#[derive(Debug, Clone)]
pub struct Options {
    /// Revisions whose events are kept, at most. More make longer absences of watchers harmless, and the file larger.
    pub retained_revisions_max: usize,
    /// Bytes of events that are kept, at most; the latest values are always kept.
    pub retained_bytes_max: u64,
    /// Pages cached in memory, in bytes.
    pub cache_bytes: usize,
    /// Transactions that may wait for the commit thread; further callers wait for a place.
    pub queue_max: usize,
    /// Batches that a watcher may fall behind before it is cut off.
    pub watch_batches_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retained_revisions_max: 10_000,
            retained_bytes_max: 64 << 20,
            cache_bytes: 16 << 20,
            queue_max: 1024,
            watch_batches_max: 8192,
        }
    }
}

/// A store in one file.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// Taken when the store is dropped, which ends the thread once it has done what was queued.
    queue: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in the file at `path`, or creates it (readable by its owner only). Reads and checks all of it: a
    /// damaged file is named here and never served.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self, StoreError> {
        let path = path.into();
        let (committer, queue) = Committer::open(&path, options).map_err(|failure| failure.at(&path))?;
        let shared = committer.shared();
        let thread = std::thread::Builder::new().name("store-commit".to_owned()).spawn(move || committer.run());
        let thread =
            thread.map_err(|source| Failure::Io("start the commit thread", source)).map_err(|e| e.at(&path))?;
        Ok(Self { shared, queue: Some(queue), thread: Some(thread) })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(|| self.shared.stopped())?;
        queue.send(command(reply)).await.map_err(|_| self.shared.stopped())?;
        answer.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue = None;
        // Waits for the transactions that were queued, so that the file is unlocked when the store has gone.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.shared.path.display(), "the commit thread panicked");
        }
    }
}

impl Store for EmbeddedStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        self.ask(|reply| Command::Txn(txn, reply)).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        let shared = self.shared.clone();
        shared.read(move |snapshot| snapshot.range(&range)).boxed()
    }

    fn watch(&self, range: Range, from: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let from = Revision(from.0.max(1));
        // What a watcher was given may be ahead of `committed` for a moment, and it may come back from there.
        let known = self.committed().max(self.shared.hub.published());
        let (first, next) = (Revision(self.shared.first.load(Ordering::Acquire)), known.0 + 1);
        if from < first || from.0 > next {
            let error = StoreError::NotRetained { asked: from, retained: first..=self.committed() };
            return futures::future::ready(Err(error)).boxed();
        }
        let start = Catchup::start(self.shared.clone(), range, from);
        let watch = start.map(|catchup| stream::unfold(Some(catchup), read::next_batch).boxed());
        futures::future::ready(watch).boxed()
    }

    fn committed(&self) -> Revision {
        Revision(self.shared.committed.load(Ordering::Acquire))
    }

    fn export(&self) -> BoxFuture<'_, Result<Export, StoreError>> {
        read::export(self.shared.clone()).boxed()
    }

    fn failure(&self) -> Option<String> {
        match &self.shared.door().state {
            DoorState::Stopped(why) => Some(why.clone()),
            DoorState::Open(_) | DoorState::Reopening => None,
        }
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(move |reply| Command::Compact(before, reply)).boxed()
    }
}

/// What the commit thread and the readers share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    hub: Arc<Hub>,
    committed: AtomicU64,
    /// The first retained revision.
    first: AtomicU64,
    door: Mutex<Door>,
    /// Told when the door opens or closes for good.
    door_changed: Condvar,
}

/// The way to the database. Held only to begin a transaction, which touches no disk.
#[derive(Debug)]
struct Door {
    state: DoorState,
    /// How often the file was opened: a read that failed may be done again if that changed meanwhile.
    opened: u64,
}

#[derive(Debug)]
enum DoorState {
    Open(Database),
    /// The file is being opened again after a full disk.
    Reopening,
    Stopped(String),
}

impl Shared {
    fn door(&self) -> MutexGuard<'_, Door> {
        // redb may panic on a damaged file while it begins a transaction; what the door says stays true.
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> StoreError {
        match &self.door().state {
            DoorState::Stopped(why) => StoreError::Stopped(why.clone()),
            DoorState::Open(_) | DoorState::Reopening => StoreError::Stopped("closed".to_owned()),
        }
    }

    /// Closes the file and ends all watches.
    fn stop(&self, why: &str) {
        let state = std::mem::replace(&mut self.door().state, DoorState::Stopped(why.to_owned()));
        self.door_changed.notify_all();
        self.hub.end(why);
        drop(state);
    }

    fn begin_write(&self) -> Result<WriteTransaction, Failure> {
        match &self.door().state {
            DoorState::Open(database) => Ok(database.begin_write()?),
            DoorState::Reopening | DoorState::Stopped(_) => unreachable!("the commit thread alone closes the door"),
        }
    }

    /// A snapshot of the latest commit, and how often the file was opened before it.
    fn begin_read(&self) -> Result<(ReadTransaction, u64), StoreError> {
        let mut door = self.door();
        loop {
            match &door.state {
                DoorState::Open(database) => {
                    let snapshot = database.begin_read().map_err(|error| Failure::from(error).at(&self.path))?;
                    return Ok((snapshot, door.opened));
                }
                DoorState::Stopped(why) => return Err(StoreError::Stopped(why.clone())),
                DoorState::Reopening => {
                    door = self.door_changed.wait(door).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Closes the file and opens it again: after an error redb refuses everything until then.
    fn reopen(&self, cache_bytes: usize) -> Result<FirstError, Failure> {
        let old = std::mem::replace(&mut self.door().state, DoorState::Reopening);
        drop(old);
        let open = OpenFile::open(&self.path, cache_bytes, |_| {
            Err(Failure::Damaged("the file was removed while it was open".to_owned()))
        })?;
        let mut door = self.door();
        door.state = DoorState::Open(open.database);
        door.opened += 1;
        self.door_changed.notify_all();
        Ok(open.first_error)
    }

    /// Runs a read on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        self: Arc<Self>,
        read: impl Fn(&read::Snapshot<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || {
            loop {
                let (transaction, opened) = self.begin_read()?;
                let result = read(&read::Snapshot::new(&transaction, &self.path));
                // A snapshot does not outlive the file's being opened again.
                if result.is_ok() || self.door().opened == opened {
                    return result;
                }
            }
        });
        done.await.unwrap_or_else(|error| Err(panicked(&path, &error)))
    }
}

/// redb trusts its own pages in places: a page that is not one makes it panic.
fn panicked(path: &Path, error: &tokio::task::JoinError) -> StoreError {
    Failure::Damaged(format!("reading it failed: {error}")).at(path)
}
