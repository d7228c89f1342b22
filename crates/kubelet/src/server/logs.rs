//! `/containerLogs/NAMESPACE/POD/CONTAINER`: the log of the present or the previous run, from the end, from a time, and as it
//! grows.

use std::path::PathBuf;
use std::sync::Arc;

use base::chain;
use bytes::Bytes;
use cri::v1;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::{Body, Connection, Query, Refusal, find_pod, find_runs};
use crate::host::Host;
use crate::identity::Identity;
use crate::log_file::{Options, Reader, Watch};
use crate::rotation;

/// Blocks that wait for a slow client; then reading waits.
const BLOCKS_MAX: usize = 4;

type Sender = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

pub(super) async fn serve(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let (options, follow) = options(query, host.clock.now())?;
    let object = find_pod(host, namespace, pod)?;
    let runs = find_runs(host, &object, container).await?;
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let previous = query.is_set(&["previous"]);
    let run = match (previous, runs.as_slice()) {
        (true, [_, previous, ..]) => previous,
        (true, _) => {
            return Err(bad(format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")));
        }
        (false, [latest, ..]) => latest,
        (false, []) => {
            return Err(bad(format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
            )));
        }
    };
    let status = host.runtime.container_status(&run.id).await.map_err(|error| bad(chain(&error)))?;
    let log = Identity::of(&object).log_directory(&host.log_dir).join(&status.log_path);
    if !tokio::fs::try_exists(&log).await.unwrap_or(false) {
        return Err(bad(format!("the log of container \"{container}\" in pod \"{pod}\" is not there (yet)")));
    }
    let (sender, receiver) = mpsc::channel(BLOCKS_MAX);
    let source = Source { host: host.clone(), id: run.id.clone(), log, options, follow };
    let connection = connection.clone();
    host.tasks.spawn(format!("log of {container} in {namespace}/{pod}"), async move {
        match connection.stop.or_stopped(source.send(&sender)).await {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                tracing::info!(error = chain(&error), "reading a container's log failed");
                let _ = sender.send(Err(error)).await;
            }
            _ => {}
        }
    });
    let mut response =
        Response::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed_unsync());
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

fn options(query: &Query, now: Timestamp) -> Result<(Options, bool), Refusal> {
    let bad = |name: &str, value: &str| Refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("invalid {name}: {value:?}"));
    let number = |name: &str| match query.get(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => value.parse::<i64>().map(Some).map_err(|_| bad(name, value)),
    };
    let tail = match number("tailLines")? {
        Some(lines) if lines < 0 => return Err(bad("tailLines", &lines.to_string())),
        lines => lines.and_then(|lines| usize::try_from(lines).ok()),
    };
    let limit_bytes = match number("limitBytes")? {
        Some(bytes) if bytes < 1 => return Err(bad("limitBytes", &bytes.to_string())),
        bytes => bytes.and_then(|bytes| u64::try_from(bytes).ok()),
    };
    let since_time = match query.get("sinceTime").filter(|value| !value.is_empty()) {
        None => None,
        Some(value) => Some(value.parse::<Timestamp>().map_err(|_| bad("sinceTime", value))?),
    };
    let since = number("sinceSeconds")?.map(|seconds| now - SignedDuration::from_secs(seconds)).or(since_time);
    let stderr_only = match query.get("stream") {
        Some("Stdout") => Some(false),
        Some("Stderr") => Some(true),
        _ => None,
    };
    let options =
        Options { tail_lines: tail, since, timestamps: query.is_set(&["timestamps"]), limit_bytes, stderr_only };
    Ok((options, query.is_set(&["follow"])))
}

/// One reader of one run's log.
struct Source {
    host: Arc<Host>,
    id: String,
    log: PathBuf,
    options: Options,
    follow: bool,
}

impl Source {
    async fn send(&self, out: &Sender) -> std::io::Result<()> {
        // Subscribed before the first look, so that no end is missed.
        let mut changes = self.host.changes.subscribe();
        let watch = if self.follow { Some(Watch::new(&self.log)?) } else { None };
        let mut options = self.options.clone();
        if options.tail_lines.is_none() {
            // A reader of everything gets the renamed parts first.
            for old in rotation::rotated(&self.log).await? {
                let mut reader = Reader::open(old, options.clone()).await?;
                drain(&mut reader, out).await?;
                options.limit_bytes = reader.left_bytes();
                if reader.is_done() {
                    return Ok(());
                }
            }
        }
        let mut reader = Reader::open(self.log.clone(), options).await?;
        let mut running = self.is_running().await;
        loop {
            drain(&mut reader, out).await?;
            if reader.follow_rotation().await? {
                continue;
            }
            let Some(watch) = watch.as_ref().filter(|_| running && !reader.is_done()) else { return Ok(()) };
            tokio::select! {
                changed = watch.changed() => changed?,
                change = changes.recv() => match change {
                    Ok(change) if change.container_id != self.id => {}
                    // One more round after the end: the last lines may have come just before it.
                    Ok(_) | Err(RecvError::Lagged(_)) => running = self.is_running().await,
                    Err(RecvError::Closed) => return Ok(()),
                },
                () = out.closed() => return Ok(()),
            }
        }
    }

    async fn is_running(&self) -> bool {
        let status = self.host.runtime.container_status(&self.id).await;
        status.is_ok_and(|status| {
            matches!(status.state(), v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerCreated)
        })
    }
}

async fn drain(reader: &mut Reader, out: &Sender) -> std::io::Result<()> {
    loop {
        let block = reader.next().await?;
        if block.is_empty() {
            return Ok(());
        }
        let sent = out.send(Ok(Frame::data(block.into()))).await;
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
    }
}
