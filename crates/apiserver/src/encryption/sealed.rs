//! The store as the API server uses it: what is confidential is sealed on its way down and opened on its way up.

use std::sync::Arc;

use api::{resources, storage_key};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use store::{
    Batch, Event, Export, KeyValue, Precondition, Range, RangeResult, Revision, Store, StoreError, Txn, TxnOutcome,
    Watch, Write,
};

use super::EncryptionKeys;

/// How many records are looked at together when old ones are sealed anew.
const PAGE: usize = 256;

/// A store whose confidential records are sealed.
pub(crate) struct SealedStore {
    below: Arc<dyn Store>,
    sealer: Sealer,
}

/// Knows what is confidential and how it is sealed.
#[derive(Clone)]
struct Sealer {
    keys: Arc<EncryptionKeys>,
    /// Where confidential records lie.
    prefix: Arc<[u8]>,
}

impl Sealer {
    fn is_confidential(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix)
    }

    fn seal(&self, write: Write) -> Write {
        match write {
            Write::Put(key, value) if self.is_confidential(&key) => {
                let sealed = self.keys.seal(&key, &value);
                Write::Put(key, sealed.into())
            }
            write => write,
        }
    }

    fn open(&self, item: KeyValue) -> Result<KeyValue, StoreError> {
        if !self.is_confidential(&item.key) {
            return Ok(item);
        }
        match self.keys.open(&item.key, &item.value) {
            Ok(None) => Ok(item),
            Ok(Some(plain)) => Ok(KeyValue { value: plain.into(), ..item }),
            Err(error) => {
                let key = String::from_utf8_lossy(&item.key).into_owned();
                Err(StoreError::Unreadable { key, why: error.to_string() })
            }
        }
    }

    /// An event that cannot be opened is left out, and said: holding up all others would not make it readable.
    fn open_batch(&self, batch: Batch) -> Batch {
        let open = |event| match event {
            Event::Put(item) => match self.open(item) {
                Ok(item) => Some(Event::Put(item)),
                Err(error) => {
                    tracing::error!(error = base::chain(&error), "an encrypted record cannot be read");
                    None
                }
            },
            delete @ Event::Delete { .. } => Some(delete),
        };
        Batch { revision: batch.revision, events: batch.events.into_iter().filter_map(open).collect() }
    }
}

impl SealedStore {
    pub(crate) fn new(below: Arc<dyn Store>, keys: Arc<EncryptionKeys>) -> Self {
        let prefix = storage_key::prefix(resources::SECRETS, None).into_bytes().into();
        Self { below, sealer: Sealer { keys, prefix } }
    }

    /// Whether the keys fit what is stored, as far as one record shows: a start with the wrong key file ends here.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        self.range(self.confidential(None, 1)).await.map(drop)
    }

    /// Seals anew what is plain or under an older key, one record at a time; how many there were. May be cut off and
    /// repeated: what somebody changed meanwhile was sealed by that.
    pub(crate) async fn reseal(&self) -> Result<usize, StoreError> {
        let (mut resealed, mut after) = (0, None);
        loop {
            let page = self.below.range(self.confidential(after.as_ref(), PAGE)).await?;
            for item in &page.items {
                if !self.sealer.keys.is_current(&item.value) {
                    let opened = self.sealer.open(item.clone())?;
                    let precondition = Precondition::ModifiedAt(item.key.clone(), item.modified);
                    let write = Write::Put(item.key.clone(), opened.value);
                    self.txn(Txn { preconditions: vec![precondition], writes: vec![write] }).await?;
                    resealed += 1;
                }
            }
            match page.items.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(resealed),
            }
        }
    }

    fn confidential(&self, after: Option<&Bytes>, limit: usize) -> Range {
        let mut range = Range::prefix(self.sealer.prefix.to_vec());
        range.limit = limit;
        if let Some(after) = after {
            let mut start = after.to_vec();
            start.push(0);
            range.start = start.into();
        }
        range
    }
}

impl Store for SealedStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        let writes = txn.writes.into_iter().map(|write| self.sealer.seal(write)).collect();
        let outcome = self.below.txn(Txn { preconditions: txn.preconditions, writes });
        async move {
            match outcome.await? {
                TxnOutcome::Refused { precondition, current: Some(current) } => {
                    Ok(TxnOutcome::Refused { precondition, current: Some(self.sealer.open(current)?) })
                }
                outcome => Ok(outcome),
            }
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        async move {
            let mut result = self.below.range(range).await?;
            let opened: Result<_, _> = result.items.into_iter().map(|item| self.sealer.open(item)).collect();
            result.items = opened?;
            Ok(result)
        }
        .boxed()
    }

    fn watch(&self, range: Range, from: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        async move {
            let watch = self.below.watch(range, from).await?;
            let sealer = self.sealer.clone();
            Ok(watch.map(move |batch| batch.map(|batch| sealer.open_batch(batch))).boxed())
        }
        .boxed()
    }

    fn committed(&self) -> Revision {
        self.below.committed()
    }

    /// As it lies below: what is encrypted in the datastore is encrypted in a backup.
    fn export(&self) -> BoxFuture<'_, Result<Export, StoreError>> {
        self.below.export()
    }

    fn failure(&self) -> Option<String> {
        self.below.failure()
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.below.compact(before)
    }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    const SECRET: &str = "/registry/core/secrets/default/s";
    const OTHER: &str = "/registry/core/configmaps/default/c";

    fn put(key: &'static str, value: &'static str) -> Txn {
        Txn { preconditions: Vec::new(), writes: vec![Write::Put(key.into(), value.into())] }
    }

    async fn value(store: &dyn Store, key: &'static str) -> Bytes {
        store.range(Range::key(key)).await.unwrap().items[0].value.clone()
    }

    fn sealed(below: &Arc<dyn Store>, keys: &str) -> SealedStore {
        SealedStore::new(below.clone(), Arc::new(EncryptionKeys::parse(keys).unwrap()))
    }

    #[tokio::test]
    async fn only_secrets_are_sealed_and_everybody_above_sees_them_plain() {
        let below: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let line = EncryptionKeys::new_line();
        let store = sealed(&below, &line);
        let mut watch = store.watch(Range::prefix("/registry/"), Revision(1)).await.unwrap();
        store.txn(put(SECRET, "{hidden}")).await.unwrap();
        store.txn(put(OTHER, "{open}")).await.unwrap();
        assert_eq!((value(&store, SECRET).await, value(&store, OTHER).await), ("{hidden}".into(), "{open}".into()));
        assert_eq!(value(&*below, OTHER).await, "{open}");
        let raw = value(&*below, SECRET).await;
        assert!(!raw.windows(6).any(|window| window == b"hidden"), "{raw:?}");
        let Some(Ok(batch)) = watch.next().await else { panic!("no batch") };
        assert!(matches!(&batch.events[0], Event::Put(item) if item.value == "{hidden}"), "{batch:?}");
        let refused = Txn { preconditions: vec![Precondition::Absent(SECRET.into())], writes: Vec::new() };
        let outcome = store.txn(refused).await.unwrap();
        assert!(
            matches!(&outcome, TxnOutcome::Refused { current: Some(item), .. } if item.value == "{hidden}"),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn plain_and_old_records_are_sealed_anew_once() {
        let below: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (old, new) = (EncryptionKeys::new_line(), EncryptionKeys::new_line());
        below.txn(put(SECRET, "{plain}")).await.unwrap();
        assert_eq!(sealed(&below, &old).reseal().await.unwrap(), 1);
        assert_eq!(sealed(&below, &old).reseal().await.unwrap(), 0);
        let both = sealed(&below, &format!("{new}{old}"));
        assert_eq!(both.reseal().await.unwrap(), 1);
        // The old key can go now.
        let store = sealed(&below, &new);
        assert_eq!(value(&store, SECRET).await, "{plain}");
        let wrong = sealed(&below, &old).check().await.unwrap_err().to_string();
        assert!(wrong.starts_with("cannot read /registry/core/secrets/default/s: it is encrypted with key"), "{wrong}");
    }
}
