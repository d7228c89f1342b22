//! Backups: everything that a store holds at one revision, as a stream of bytes that says whether it is whole.
//!
//! A file is a head, records and an end. Every record has a checksum, so that damage can be named; the end has the count of
//! records and a digest of all that came before, so that a cut or mixed-up file is known as one. Numbers are big-endian.
//!
//! | part | bytes |
//! |---|---|
//! | head | `TIMONIER-BACKUP` and a line feed, version (4), revision (8) |
//! | record | `R`, CRC-32 of the rest (4), length of the rest (4); created (8), modified (8), key length (4), key, value |
//! | end | `E`, count of records (8), SHA-256 (32) |

use std::io::Read;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};

use crate::{KeyValue, Revision, StoreError};

const MAGIC: &[u8; 16] = b"TIMONIER-BACKUP\n";
const VERSION: u32 = 1;
const RECORD: u8 = b'R';
const END: u8 = b'E';
/// A longer record is damage: no transaction is that large.
const RECORD_BYTES_MAX: u32 = 64 << 20;

/// All latest values of a store, as of one revision.
pub struct Export {
    /// The revision.
    pub revision: Revision,
    /// In key order, piece by piece.
    pub pieces: BoxStream<'static, Result<Vec<KeyValue>, StoreError>>,
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It does not begin as one.
    #[error("this is not a backup of a Timonier datastore")]
    NotOne,
    /// A newer program wrote it.
    #[error("the backup's version is {0}, this program reads {VERSION}")]
    Version(u32),
    /// Bytes were changed.
    #[error("record {number} is damaged: {what}")]
    Record {
        /// Counted from 1.
        number: u64,
        /// What is wrong.
        what: String,
    },
    /// It ends before its end, or has more behind it.
    #[error("the backup is cut short after {0} records")]
    CutShort(u64),
    /// All records are right, but not all are there, or not as they were.
    #[error("the backup's digest is wrong: it is not what was written")]
    Digest,
    /// The file cannot be read.
    #[error("cannot read the backup")]
    Io(#[source] std::io::Error),
}

/// The bytes of a backup.
pub fn stream(export: Export) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_be_bytes());
    head.extend_from_slice(&export.revision.0.to_be_bytes());
    let writer = Writer { digest: Sha256::new(), count: 0, pieces: export.pieces };
    let state = (Some(head), Some(writer));
    stream::unfold(state, |(head, writer)| async move {
        let mut writer = writer?;
        if let Some(head) = head {
            return Some((Ok(writer.digested(head)), (None, Some(writer))));
        }
        match writer.pieces.next().await {
            Some(Ok(items)) => {
                let mut bytes = Vec::new();
                for item in &items {
                    write_record(item, &mut bytes);
                }
                writer.count += items.len() as u64;
                Some((Ok(writer.digested(bytes)), (None, Some(writer))))
            }
            // No end follows: what was written so far is no backup.
            Some(Err(error)) => Some((Err(error), (None, None))),
            None => Some((Ok(writer.end()), (None, None))),
        }
    })
    .boxed()
}

struct Writer {
    digest: Sha256,
    count: u64,
    pieces: BoxStream<'static, Result<Vec<KeyValue>, StoreError>>,
}

impl Writer {
    fn digested(&mut self, bytes: Vec<u8>) -> Bytes {
        self.digest.update(&bytes);
        bytes.into()
    }

    fn end(self) -> Bytes {
        let mut end = vec![END];
        end.extend_from_slice(&self.count.to_be_bytes());
        let digest = self.digest.chain_update(&end).finalize();
        end.extend_from_slice(&digest);
        end.into()
    }
}

fn write_record(item: &KeyValue, out: &mut Vec<u8>) {
    let length = |length: usize| u32::try_from(length).expect("a transaction is shorter than 4 GiB");
    out.push(RECORD);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length(20 + item.key.len() + item.value.len()).to_be_bytes());
    out.extend_from_slice(&item.created.0.to_be_bytes());
    out.extend_from_slice(&item.modified.0.to_be_bytes());
    out.extend_from_slice(&length(item.key.len()).to_be_bytes());
    out.extend_from_slice(&item.key);
    out.extend_from_slice(&item.value);
    let sum = crc32fast::hash(&out[start + 8..]).to_be_bytes();
    out[start..start + 4].copy_from_slice(&sum);
}

/// A backup being read. The last error is the last item; only a reader that ends without one has read a whole backup.
pub struct Reader<R> {
    input: R,
    digest: Sha256,
    revision: Revision,
    count: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    pub fn open(input: R) -> Result<Self, BackupError> {
        let mut reader = Self { input, digest: Sha256::new(), revision: Revision(0), count: 0, ended: false };
        let magic: [u8; 16] = reader.bytes().map_err(|_| BackupError::NotOne)?;
        if magic != *MAGIC {
            return Err(BackupError::NotOne);
        }
        let version = u32::from_be_bytes(reader.bytes()?);
        if version != VERSION {
            return Err(BackupError::Version(version));
        }
        reader.revision = Revision(u64::from_be_bytes(reader.bytes()?));
        Ok(reader)
    }

    /// The revision that the backup shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        let count = self.count;
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => BackupError::CutShort(count),
            _ => BackupError::Io(error),
        })?;
        self.digest.update(bytes);
        Ok(())
    }

    fn record(&mut self) -> Result<Option<KeyValue>, BackupError> {
        let number = self.count + 1;
        let damaged = |what: &str| BackupError::Record { number, what: what.to_owned() };
        match self.bytes::<1>()?[0] {
            RECORD => {}
            END => return self.end().map(|()| None),
            _ => return Err(damaged("it does not begin as a record")),
        }
        let sum: [u8; 4] = self.bytes()?;
        let length = u32::from_be_bytes(self.bytes()?);
        if !(20..=RECORD_BYTES_MAX).contains(&length) {
            return Err(damaged("its length cannot be"));
        }
        let mut rest = vec![0; length as usize];
        self.fill(&mut rest)?;
        let u64_at = |at: usize| u64::from_be_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
        let key_length = u32::from_be_bytes(rest[16..20].try_into().expect("four bytes")) as usize;
        if crc32fast::hash(&rest).to_be_bytes() != sum || key_length > rest.len() - 20 {
            return Err(damaged("its checksum is wrong"));
        }
        let (created, modified) = (Revision(u64_at(0)), Revision(u64_at(8)));
        let rest = Bytes::from(rest);
        self.count += 1;
        Ok(Some(KeyValue {
            key: rest.slice(20..20 + key_length),
            value: rest.slice(20 + key_length..),
            created,
            modified,
        }))
    }

    fn end(&mut self) -> Result<(), BackupError> {
        let count = u64::from_be_bytes(self.bytes()?);
        let expected = self.digest.clone().finalize();
        let digest: [u8; 32] = self.bytes()?;
        if digest[..] != expected[..] || count != self.count {
            return Err(BackupError::Digest);
        }
        // Something behind the end means that this is not the file that was written.
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(BackupError::Digest),
            Err(error) => Err(BackupError::Io(error)),
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<KeyValue, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
