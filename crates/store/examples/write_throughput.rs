//! Measures durable writes: 64 writers with values of 1 KiB each, on the disk that holds the given folder (default: the
//! current one), for five seconds. Prints writes a second and the latency that 99 of 100 writes stay under.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{EmbeddedStore, Options, Store, StoreError, Txn, Write};

const WRITERS: usize = 64;
const VALUE_BYTES: usize = 1024;
const DURATION: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()))?;
    let store = EmbeddedStore::open(folder.path().join("db"), Options::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let writers = (0..WRITERS).map(|writer| write(&store, writer, start));
    let latencies = runtime.block_on(futures::future::try_join_all(writers))?;
    let elapsed = start.elapsed();
    let mut all: Vec<Duration> = latencies.into_iter().flatten().collect();
    all.sort();
    let percentile = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    println!(
        "{:.0} writes/s, p50 {:?}, p99 {:?}, max {:?}",
        all.len() as f64 / elapsed.as_secs_f64(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
    drop(store);
    let start = Instant::now();
    let bytes = std::fs::metadata(folder.path().join("db"))?.len();
    EmbeddedStore::open(folder.path().join("db"), Options::default())?;
    println!("opened and checked {} MiB in {:?}", bytes >> 20, start.elapsed());
    Ok(())
}

async fn write(store: &EmbeddedStore, writer: usize, start: Instant) -> Result<Vec<Duration>, StoreError> {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let mut latencies = Vec::new();
    for round in 0.. {
        let begun = Instant::now();
        if begun - start > DURATION {
            break;
        }
        // Every writer goes round 50 keys, as a cluster's objects are mostly updated.
        let key = Bytes::from(format!("/registry/core/configmaps/load/{writer}-{}", round % 50));
        store.txn(Txn { preconditions: Vec::new(), writes: vec![Write::Put(key, value.clone())] }).await?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}
