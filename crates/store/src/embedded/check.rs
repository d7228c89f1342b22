//! A look at every byte of a store's file, which names each damage that it finds instead of ending at the first.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use redb::{Key, ReadTransaction, ReadableDatabase, TableDefinition, Value};

use super::file::{Failure, OpenFile};
use super::record::{self, FORMAT, Head, LATEST, LOG, META, META_FORMAT, META_HEAD, REPLACED};
use crate::{Event, Revision, StoreError};

/// More findings say nothing new.
const DAMAGES_MAX: usize = 1_000;
/// Pages kept in memory while the file is read once.
const CACHE_BYTES: usize = 16 << 20;

/// What a store's file holds, and what of it is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The first and the latest revision, where they can be read.
    pub revisions: Option<(Revision, Revision)>,
    /// How many keys have a value.
    pub keys: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// One line for each damage; empty for a whole file.
    pub damages: Vec<String>,
}

/// Reads all of the file at `path`, which no process may have open. Like a start, it first undoes what a crash left half
/// done. An error where there is no file, or it cannot be read.
pub fn check(path: &Path) -> Result<Report, StoreError> {
    let length = std::fs::metadata(path).map_err(|error| Failure::Io("look at the file", error).at(path))?.len();
    let mut report = Report { bytes: length, ..Report::default() };
    let opened = OpenFile::open(path, CACHE_BYTES, |_| Err(Failure::Damaged("the file is gone".to_owned())));
    let mut open = match opened {
        Ok(open) => open,
        Err(Failure::Damaged(what)) => {
            report.damages.push(what);
            return Ok(report);
        }
        Err(failure) => return Err(failure.at(path)),
    };
    match open.check() {
        Ok(()) => {}
        Err(Failure::Damaged(what)) => report.damages.push(what),
        Err(failure) => return Err(failure.at(path)),
    }
    let scan =
        AssertUnwindSafe(|| open.database.begin_read().map(|snapshot| Scan { snapshot, report: &mut report }.run()));
    if !matches!(std::panic::catch_unwind(scan), Ok(Ok(()))) {
        report.damages.push("its pages do not fit together".to_owned());
    }
    Ok(report)
}

struct Scan<'a> {
    snapshot: ReadTransaction,
    report: &'a mut Report,
}

impl Scan<'_> {
    fn run(&mut self) {
        let head = self.head();
        self.report.revisions = head.map(|head| (Revision(head.first), Revision(head.committed)));
        let bytes = |key: &[u8]| format!("key {:?}", String::from_utf8_lossy(key));
        let mut keys = 0;
        self.table(LATEST, "latest", |key, value, scan| {
            keys += 1;
            let Ok((created, modified, _)) = record::item_parts(key, value) else {
                return Some(format!("{}: its checksum is wrong", bytes(key)));
            };
            let head = head?;
            if created > modified || modified.0 > head.committed {
                return Some(format!("{}: its revisions cannot be", bytes(key)));
            }
            (modified.0 >= head.first && !scan.logged(key, modified))
                .then(|| format!("{}: the log does not have its last write", bytes(key)))
        });
        self.report.keys = keys;
        self.table(REPLACED, "replaced", |key, value, _| {
            record::item_parts(key, value).err().map(|_| format!("{}: its checksum is wrong", bytes(key)))
        });
        let mut expected = head.map(|head| head.first);
        self.table(LOG, "log", |key, value, _| {
            let revision = record::log_revision(&key);
            let gap = expected.is_some_and(|expected| revision != expected && revision + 1 != expected);
            expected = Some(revision + 1);
            match record::decode_event(&key, value) {
                Err(_) => Some(format!("revision {revision}: a checksum is wrong")),
                Ok(_) if gap => Some(format!("revision {revision}: the revisions before it are missing")),
                Ok(_) => None,
            }
        });
        if let (Some(head), Some(expected)) = (head, expected)
            && expected != head.committed + 1
        {
            self.found("log", &format!("it does not end at the latest revision, {}", head.committed));
        }
    }

    fn head(&mut self) -> Option<Head> {
        let read = || -> Result<(Option<Vec<u8>>, Option<Head>), Failure> {
            let meta = self.snapshot.open_table(META)?;
            let format = meta.get(META_FORMAT)?.map(|format| format.value().to_vec());
            let head = meta.get(META_HEAD)?.and_then(|head| Head::decode(head.value()).ok());
            Ok((format, head))
        };
        let (format, head) = read().unwrap_or_default();
        if format.as_deref() != Some(&FORMAT.to_be_bytes()) {
            self.found("meta", &format!("the format is {format:?}, this program reads {FORMAT}"));
        }
        if head.is_none() {
            self.found("meta", "the record of the latest revision is damaged");
        }
        head
    }

    /// Whether the log has the write of `key` at `revision`.
    fn logged(&self, key: &[u8], revision: Revision) -> bool {
        let find = || -> Result<bool, Failure> {
            let log = self.snapshot.open_table(LOG)?;
            for entry in log.range(record::log_key(revision.0, 0)..=record::log_key(revision.0, u32::MAX))? {
                let (at, value) = entry?;
                if let Ok(Event::Put(item)) = record::decode_event(&at.value(), value.value())
                    && item.key == key
                {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        find().unwrap_or(false)
    }

    /// Looks at each record of a table.
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        name: &str,
        mut look: impl for<'k> FnMut(K::SelfType<'k>, V::SelfType<'k>, &Self) -> Option<String>,
    ) {
        let mut found = Vec::new();
        let mut read = || -> Result<(), Failure> {
            let table = self.snapshot.open_table(table)?;
            for entry in table.range::<K::SelfType<'_>>(..)? {
                let (key, value) = entry?;
                found.extend(look(key.value(), value.value(), self));
            }
            Ok(())
        };
        match std::panic::catch_unwind(AssertUnwindSafe(&mut read)) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => found.push(format!("the rest cannot be read: {failure:?}")),
            Err(_) => found.push("the rest cannot be read: its pages do not fit together".to_owned()),
        }
        found.into_iter().for_each(|what| self.found(name, &what));
    }

    fn found(&mut self, table: &str, what: &str) {
        if self.report.damages.len() < DAMAGES_MAX {
            self.report.damages.push(format!("table {table}: {what}"));
        }
    }
}
