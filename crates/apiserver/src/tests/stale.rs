//! Writes made from a cache that is behind what has been committed.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::{Method, StatusCode};
use serde_json::json;
use store::{Export, MemoryStore, Range, RangeResult, Revision, Store, StoreError, Txn, TxnOutcome, Watch};
use tokio::sync::watch;

use super::{CONFIG_MAPS, Cluster, config_map};

/// A store whose watchers learn nothing while the gate is shut.
struct Gated {
    inner: MemoryStore,
    open: watch::Sender<bool>,
}

impl Gated {
    /// Opens the gate when whoever runs beside this has begun.
    async fn opened(&self) {
        tokio::task::yield_now().await;
        self.open.send_replace(true);
    }
}

impl Store for Gated {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        self.inner.txn(txn)
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        self.inner.range(range)
    }

    fn watch(&self, range: Range, from: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let open = self.open.subscribe();
        async move {
            let batches = self.inner.watch(range, from).await?;
            let gated = batches.then(move |batch| {
                let mut open = open.clone();
                async move {
                    open.wait_for(|open| *open).await.expect("the test holds the gate");
                    batch
                }
            });
            Ok(gated.boxed())
        }
        .boxed()
    }

    fn committed(&self) -> Revision {
        self.inner.committed()
    }

    fn export(&self) -> BoxFuture<'_, Result<Export, StoreError>> {
        self.inner.export()
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(before)
    }
}

/// A cluster that has shown a config map, with the path to it, and whose caches learn nothing from now on.
async fn behind() -> (Arc<Gated>, Cluster, String) {
    let store = Arc::new(Gated { inner: MemoryStore::default(), open: watch::Sender::new(true) });
    let cluster = Cluster::over(store.clone()).await;
    cluster.post(CONFIG_MAPS, config_map("a", json!({"k": "old"}))).await;
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(cluster.get(&path).await["data"]["k"], "old");

    store.open.send_replace(false);
    (store, cluster, path)
}

/// A change was taken back while the cache still showed the state before it: there the second change was none, it was
/// answered as done, and was lost.
#[tokio::test]
async fn a_change_back_is_a_change() {
    let (store, cluster, path) = behind().await;
    let patch = async |value: &str| {
        let body = json!({"data": {"k": value}});
        cluster.call_as(Method::PATCH, &path, "application/merge-patch+json", &body).await
    };
    let (status, changed) = patch("new").await;
    assert_eq!((status, &changed["data"]["k"]), (StatusCode::OK, &json!("new")));
    let back = async {
        let (status, back) = patch("old").await;
        assert_eq!((status, &back["data"]["k"]), (StatusCode::OK, &json!("old")));
    };
    // The change back may wait for the cache, or be made without it; it must not go by what the cache says.
    tokio::join!(back, store.opened());
    assert_eq!(cluster.get(&path).await["data"]["k"], "old");
}

/// What cannot be done to the object as the cache shows it may well be done to what it has become.
#[tokio::test]
async fn a_refusal_of_the_past_is_none() {
    let (store, cluster, path) = behind().await;
    let patch = async |operation| {
        let (status, answer) =
            cluster.call_as(Method::PATCH, &path, "application/json-patch+json", &json!([operation])).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    };
    patch(json!({"op": "add", "path": "/data/more", "value": "1"})).await;
    tokio::join!(patch(json!({"op": "remove", "path": "/data/more"})), store.opened());
    assert_eq!(cluster.get(&path).await["data"], json!({"k": "old"}));
}
