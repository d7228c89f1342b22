//! Measures what churn does to the file: a constant set of objects is rewritten a million times (or as often as the second
//! argument says) on the disk that holds the folder of the first. Prints the file's size as it goes, and what writes took
//! with and without compaction at work.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{EmbeddedStore, Options, Store, StoreError, Txn, Write};

const WRITERS: usize = 64;
const OBJECTS: usize = 5_000;
const VALUE_BYTES: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = tempfile::tempdir_in(arguments.next().unwrap_or_else(|| ".".to_owned()))?;
    let rewrites: usize = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let path = folder.path().join("db");
    let store = EmbeddedStore::open(&path, Options::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let size = || std::fs::metadata(&path).map_or(0, |metadata| metadata.len() >> 20);
    let (mut largest, started) = (0, Instant::now());
    for tenth in 1..=10 {
        let each = rewrites / 10 / WRITERS;
        let writers = (0..WRITERS).map(|writer| write(&store, writer, each));
        let mut all: Vec<Duration> =
            runtime.block_on(futures::future::try_join_all(writers))?.into_iter().flatten().collect();
        all.sort();
        let percentile = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
        largest = largest.max(size());
        println!(
            "{:>8} rewrites: file {} MiB, p50 {:?}, p99 {:?}, max {:?}",
            rewrites / 10 * tenth,
            size(),
            percentile(50),
            percentile(99),
            percentile(100)
        );
    }
    println!("{:.0} writes/s, largest {largest} MiB", rewrites as f64 / started.elapsed().as_secs_f64());
    // All that is retained, at once, while others write.
    let compaction = async {
        let begun = Instant::now();
        store.compact(store.committed()).await?;
        Ok::<_, StoreError>(begun.elapsed())
    };
    let writers = futures::future::try_join_all((0..WRITERS).map(|writer| write(&store, writer, 100)));
    let (took, latencies) = runtime.block_on(async { futures::try_join!(compaction, writers) })?;
    let mut all: Vec<Duration> = latencies.into_iter().flatten().collect();
    all.sort();
    println!(
        "compacted in {took:?}; writes meanwhile p99 {:?}, max {:?}",
        all[all.len() * 99 / 100],
        all[all.len() - 1]
    );
    println!("file {} MiB", size());
    Ok(())
}

async fn write(store: &EmbeddedStore, writer: usize, count: usize) -> Result<Vec<Duration>, StoreError> {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let mut latencies = Vec::with_capacity(count);
    for round in 0..count {
        let key = Bytes::from(format!("/registry/core/configmaps/load/{}", (writer + round * WRITERS) % OBJECTS));
        let begun = Instant::now();
        store.txn(Txn { preconditions: Vec::new(), writes: vec![Write::Put(key, value.clone())] }).await?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}
