//! Records as they lie in the tables, each with a checksum over its key and its content: bytes that the disk changed, or
//! that lie under another key than they were written for, are found and never served.

use bytes::Bytes;
use redb::TableDefinition;

use crate::{Event, KeyValue, Revision};

/// Events by (revision, position in the transaction), big-endian, so that the order of keys is the order of time.
pub(super) const LOG: TableDefinition<'static, [u8; 12], &'static [u8]> = TableDefinition::new("log");
/// The latest value of every key.
pub(super) const LATEST: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("latest");
/// Values written before the first retained revision and replaced since: what [`LOG`] and [`LATEST`] lack to show a
/// retained revision.
pub(super) const REPLACED: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("replaced");
/// Two records: the format's version and the [`Head`].
pub(super) const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

/// The version of the tables and records described here.
pub(super) const FORMAT: u32 = 1;
/// Where [`META`] keeps [`FORMAT`], as four big-endian bytes.
pub(super) const META_FORMAT: &str = "format";
/// Where [`META`] keeps the [`Head`].
pub(super) const META_HEAD: &str = "head";

/// A record is not what was written.
#[derive(Debug)]
pub(super) struct BadRecord;

/// Which revisions the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The first retained revision; 1 in a store that gave none up.
    pub(super) first: u64,
    /// The latest revision.
    pub(super) committed: u64,
}

impl Head {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut record = Record::new();
        record.u64(self.first).u64(self.committed);
        record.seal(META_HEAD.as_bytes())
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, BadRecord> {
        let mut fields = Fields::open(META_HEAD.as_bytes(), record)?;
        Ok(Self { first: fields.u64()?, committed: fields.u64()? })
    }
}

/// The key of an event in [`LOG`].
pub(super) fn log_key(revision: u64, position: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&position.to_be_bytes());
    key
}

/// The revision in a key of [`LOG`].
pub(super) fn log_revision(key: &[u8; 12]) -> u64 {
    u64::from_be_bytes(key[..8].try_into().expect("eight of twelve bytes"))
}

/// An event for [`LOG`].
pub(super) fn encode_event(log_key: &[u8; 12], event: &Event) -> Vec<u8> {
    let mut record = Record::new();
    match event {
        Event::Put(item) => record.u64(item.created.0).key(&item.key).bytes(&item.value),
        // No key was ever created by revision 0, so it can mark a removal.
        Event::Delete { key, .. } => record.u64(0).key(key),
    };
    record.seal(log_key)
}

/// The event that lies in [`LOG`] under `log_key`.
pub(super) fn decode_event(log_key: &[u8; 12], record: &[u8]) -> Result<Event, BadRecord> {
    let mut fields = Fields::open(log_key, record)?;
    let revision = Revision(log_revision(log_key));
    let created = Revision(fields.u64()?);
    let key = Bytes::copy_from_slice(fields.key()?);
    if created.0 == 0 {
        return Ok(Event::Delete { key, revision });
    }
    Ok(Event::Put(KeyValue { key, value: Bytes::copy_from_slice(fields.rest()), created, modified: revision }))
}

/// A value for [`LATEST`] or [`REPLACED`].
pub(super) fn encode_item(item: &KeyValue) -> Vec<u8> {
    let mut record = Record::new();
    record.u64(item.created.0).u64(item.modified.0).bytes(&item.value);
    record.seal(&item.key)
}

/// The value that lies in [`LATEST`] or [`REPLACED`] under `key`.
pub(super) fn decode_item(key: &[u8], record: &[u8]) -> Result<KeyValue, BadRecord> {
    let (created, modified, value) = item_parts(key, record)?;
    Ok(KeyValue { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), created, modified })
}

/// Checks a value's record and reads its revisions, without copying.
pub(super) fn item_parts<'a>(key: &[u8], record: &'a [u8]) -> Result<(Revision, Revision, &'a [u8]), BadRecord> {
    let mut fields = Fields::open(key, record)?;
    Ok((Revision(fields.u64()?), Revision(fields.u64()?), fields.rest()))
}

/// A record being written; its first four bytes are left for the checksum.
struct Record(Vec<u8>);

impl Record {
    fn new() -> Self {
        Self(vec![0; 4])
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    fn key(&mut self, key: &[u8]) -> &mut Self {
        let length = u32::try_from(key.len()).expect("a key is shorter than 4 GiB");
        self.bytes(&length.to_be_bytes()).bytes(key)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn seal(mut self, key: &[u8]) -> Vec<u8> {
        let sum = checksum(key, &self.0[4..]);
        self.0[..4].copy_from_slice(&sum);
        self.0
    }
}

/// A record being read; opened only when its checksum is right.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn open(key: &[u8], record: &'a [u8]) -> Result<Self, BadRecord> {
        let (sum, content) = record.split_at_checked(4).ok_or(BadRecord)?;
        if sum == checksum(key, content) { Ok(Self(content)) } else { Err(BadRecord) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], BadRecord> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadRecord)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, BadRecord> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    fn key(&mut self) -> Result<&'a [u8], BadRecord> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken"));
        self.take(length as usize)
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

fn checksum(key: &[u8], content: &[u8]) -> [u8; 4] {
    let mut sum = crc32fast::Hasher::new();
    sum.update(key);
    sum.update(content);
    sum.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_only_whole_and_under_its_own_key() {
        let item = KeyValue {
            key: Bytes::from_static(b"/a"),
            value: Bytes::from_static(b"value"),
            created: Revision(3),
            modified: Revision(9),
        };
        let record = encode_item(&item);
        assert_eq!(decode_item(b"/a", &record).unwrap(), item);
        assert!(decode_item(b"/b", &record).is_err());
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 0x10;
            assert!(decode_item(b"/a", &damaged).is_err(), "byte {at}");
        }
        for event in [Event::Put(item), Event::Delete { key: Bytes::from_static(b"/a"), revision: Revision(9) }] {
            let key = log_key(9, 2);
            assert_eq!(decode_event(&key, &encode_event(&key, &event)).unwrap(), event);
        }
    }
}
