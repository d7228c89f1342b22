//! How long the datastore takes: upstream's names for etcd, whichever store is under the server.

use std::sync::Arc;

use api::storage_key;
use base::metrics::{Counters, Histograms};
use futures::FutureExt;
use futures::future::BoxFuture;
use store::{Export, Precondition, Range, RangeResult, Revision, Store, StoreError, Txn, TxnOutcome, Watch, Write};
use tokio::time::Instant;

pub(super) static SECONDS: Histograms<3> = Histograms::histograms(
    "etcd_request_duration_seconds",
    "Etcd request latency in seconds for each operation and object type.",
    ["operation", "group", "resource"],
    &[
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
        30.0, 45.0, 60.0,
    ],
)
.slots(1024);

pub(super) static REQUESTS: Counters<3> = Counters::counters(
    "etcd_requests_total",
    "Etcd request counts for each operation and object type.",
    ["operation", "group", "resource"],
)
.slots(1024);

pub(super) static ERRORS: Counters<3> = Counters::counters(
    "etcd_request_errors_total",
    "Etcd failed request counts for each operation and object type.",
    ["operation", "group", "resource"],
);

/// A store whose requests are counted and timed.
pub(crate) struct Measured(pub(crate) Arc<dyn Store>);

impl Store for Measured {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        let Some(write) = txn.writes.first() else { return self.0.txn(txn) };
        let operation = match write {
            Write::Delete(_) => "delete",
            Write::Put(..) if matches!(txn.preconditions.first(), Some(Precondition::Absent(_))) => "create",
            Write::Put(..) => "update",
        };
        let (Write::Put(key, _) | Write::Delete(key)) = write;
        let key = key.clone();
        async move { timed(operation, &key, self.0.txn(txn)).await }.boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        let start = range.start.clone();
        async move { timed("list", &start, self.0.range(range)).await }.boxed()
    }

    fn watch(&self, range: Range, from: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        self.0.watch(range, from)
    }

    fn committed(&self) -> Revision {
        self.0.committed()
    }

    fn export(&self) -> BoxFuture<'_, Result<Export, StoreError>> {
        self.0.export()
    }

    fn failure(&self) -> Option<String> {
        self.0.failure()
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.compact(before)
    }
}

async fn timed<T>(
    operation: &str,
    key: &[u8],
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let begun = Instant::now();
    let result = call.await;
    let (group, resource) = of_key(key);
    let labels = [operation, group, resource];
    SECONDS.with(labels).observe(begun.elapsed());
    REQUESTS.with(labels).inc();
    if result.is_err() {
        ERRORS.with(labels).inc();
    }
    result
}

/// Group and resource of a storage key.
fn of_key(key: &[u8]) -> (&str, &str) {
    let rest = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(storage_key::ROOT)).unwrap_or_default();
    let mut parts = rest.split('/');
    let (group, resource) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (if group == "core" { "" } else { group }, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_resource() {
        let table = [
            ("/registry/core/pods/default/a", ("", "pods")),
            ("/registry/apps/deployments/default/a", ("apps", "deployments")),
            ("/registry/core/nodes/", ("", "nodes")),
            ("elsewhere", ("", "")),
        ];
        for (key, expected) in table {
            assert_eq!(of_key(key.as_bytes()), expected, "{key}");
        }
    }
}
