//! A new file from a backup.
//!
//! The restored store continues at a revision far beyond the backup's: whoever watched the old cluster, also in the time
//! that the backup does not have, is told that its revision is gone, and lists again. What etcd's documentation calls
//! revision bump.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use redb::Database;

use super::commit::{self, Tables};
use super::file::{Failure, OpenFile};
use super::record::{self, Head, LATEST, META, META_HEAD};
use crate::backup::{BackupError, Reader};
use crate::{Event, KeyValue, Revision, StoreError};

/// How far the restored store's revision is beyond the backup's. A cluster that writes 1,000 times a second takes eleven
/// days to write as much.
const REVISIONS_SKIPPED: u64 = 1_000_000_000;
/// Bytes that one transaction of the restoration writes, so that memory does not grow with the backup.
const PIECE_BYTES: usize = 16 << 20;
/// Written by the restoration itself: the one event that the new log begins with. No resource is stored under it.
const MARK: &[u8] = b"/timonier/restored";

/// Why a backup was not restored. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is a datastore already.
    #[error("there is a datastore at {path} already: move it away first")]
    Exists {
        /// Its file.
        path: String,
    },
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The new file cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// How many keys.
    pub keys: u64,
    /// The revision that the backup shows.
    pub from: Revision,
    /// The revision at which the store goes on.
    pub revision: Revision,
}

/// Writes a new store's file. It appears under its name when it is whole and on disk.
pub fn restore(path: &Path, input: impl Read) -> Result<Restored, RestoreError> {
    let exists = || RestoreError::Exists { path: path.display().to_string() };
    let looked = path.try_exists().map_err(|error| Failure::Io("look for the file", error).at(path))?;
    if looked {
        return Err(exists());
    }
    let mut reader = Reader::open(input)?;
    let mut outcome = None;
    let prepared = OpenFile::open(path, PIECE_BYTES, |database| {
        let result = fill(database, &mut reader);
        let failed = result.is_err();
        outcome = Some(result);
        // The reason is in `outcome`; this one only keeps the file from being named.
        if failed { Err(Failure::Damaged("the backup cannot be restored".to_owned())) } else { Ok(()) }
    });
    match (outcome, prepared) {
        (Some(Err(Stop::Backup(error))), _) => Err(error.into()),
        (Some(Err(Stop::Store(failure))), _) | (_, Err(failure)) => Err(failure.at(path).into()),
        (Some(Ok(restored)), Ok(_)) => Ok(restored),
        // Somebody else made a store there meanwhile, which was opened instead.
        (None, Ok(_)) => Err(exists()),
    }
}

enum Stop {
    Backup(BackupError),
    Store(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

fn fill(database: &Database, reader: &mut Reader<impl Read>) -> Result<Restored, Stop> {
    commit::prepare(database)?;
    let (from, mut keys) = (reader.revision(), 0);
    let mut piece = Vec::new();
    let mut bytes = 0;
    for item in reader {
        let item = item.map_err(Stop::Backup)?;
        bytes += item.key.len() + item.value.len();
        // An earlier restoration's mark is not part of the cluster.
        if item.key != MARK {
            keys += 1;
            piece.push(item);
        }
        if bytes >= PIECE_BYTES {
            write(database, &piece)?;
            piece.clear();
            bytes = 0;
        }
    }
    write(database, &piece)?;
    let revision = Revision(from.0 + REVISIONS_SKIPPED);
    begin(database, from, revision)?;
    Ok(Restored { keys, from, revision })
}

fn write(database: &Database, items: &[KeyValue]) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    {
        let mut latest = transaction.open_table(LATEST)?;
        for item in items {
            latest.insert(&item.key[..], &record::encode_item(item)[..])?;
        }
    }
    Ok(transaction.commit()?)
}

/// The log begins with the mark.
fn begin(database: &Database, from: Revision, revision: Revision) -> Result<(), Failure> {
    let value = Bytes::from(format!("from a backup at revision {from}"));
    let mark = KeyValue { key: Bytes::from_static(MARK), value, created: revision, modified: revision };
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(false);
    Tables::open(&transaction)?.write_event(&Event::Put(mark), 0)?;
    let head = Head { first: revision.0, committed: revision.0 };
    transaction.open_table(META)?.insert(META_HEAD, &head.encode()[..])?;
    Ok(transaction.commit()?)
}
