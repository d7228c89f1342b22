//! Puts the cluster's own objects back when somebody deletes or changes them. Event-driven: nothing is read while nothing
//! happens, and its own writes are events that find nothing to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use base::{Backoff, Stop};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};

use super::{Wanted, ensure, wanted};
use crate::Server;
use crate::watch_cache::{Filter, Pace, Start, WatchEvent};

/// Watches are opened anew after this, as all watches are.
const WATCH_LASTS: Duration = Duration::from_secs(3600);

/// Runs until `stop`.
pub(super) async fn run(server: Arc<Server>, stop: Stop) {
    let wanted: Vec<Wanted> = wanted(&server.config).into_iter().filter(|wanted| wanted.watched).collect();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    while !stop.is_stopped() {
        match stop.or_stopped(Box::pin(watch(&server, &wanted, &mut backoff))).await {
            None | Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(error = base::chain(&error), "cannot watch the cluster's own objects");
                let _ = stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await;
            }
        }
    }
}

/// Watches until a watch ends. Looks at everything first: something may have happened since the last watch.
async fn watch(server: &Arc<Server>, wanted: &[Wanted], backoff: &mut Backoff) -> Result<(), ApiError> {
    let mut changes = changes(server, wanted).await?;
    let mut due: BTreeSet<usize> = (0..wanted.len()).collect();
    loop {
        for number in std::mem::take(&mut due) {
            if let Err(error) = ensure(server, &wanted[number]).await {
                tracing::warn!(error = base::chain(&error), "cannot put an object back; trying again");
                due.insert(number);
            }
        }
        let retry = async {
            match due.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(backoff.next_delay()).await,
            }
        };
        tokio::select! {
            change = changes.next() => match change.flatten() {
                Some(number) => drop(due.insert(number)),
                None => return Ok(()),
            },
            () = retry => {}
        }
        if due.is_empty() {
            backoff.reset();
        }
    }
}

/// The numbers of the objects that something happens to; `None` where a watch ends.
async fn changes(
    server: &Arc<Server>,
    wanted: &[Wanted],
) -> Result<SelectAll<BoxStream<'static, Option<usize>>>, ApiError> {
    let mut streams = Vec::new();
    for (number, one) in wanted.iter().enumerate() {
        let cache = server.caches.of(one.resource).await?;
        let (namespace, name) = (one.namespace, &*one.name);
        let filter = Filter {
            namespace: Some(namespace.into()).filter(|_| !namespace.is_empty()),
            name: Some(name.into()),
            ..Filter::default()
        };
        let from = server.caches.applied();
        let watching = cache.watch(from, filter, Start::After(from), Pace::AtOnce, false, WATCH_LASTS)?;
        let numbers = watching.map(move |event| match event {
            WatchEvent::Expired(_) => None,
            _ => Some(number),
        });
        streams.push(numbers.chain(futures::stream::iter([None])).boxed());
    }
    Ok(select_all(streams))
}
