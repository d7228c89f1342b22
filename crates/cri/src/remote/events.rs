//! What happens in a runtime: its own stream of events, and looks at it.
//!
//! A runtime answers the request for events with the first event, so nobody knows when the stream began, and it may drop
//! events where it is busy. So it is looked at shortly after the start of the stream and once in a while. A runtime without
//! events is looked at as often as upstream's kubelet does.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::relist::{POD_UID, Snapshot};
use super::{Remote, path};
use crate::runtime::{ContainerChange, Runtime, RuntimeError};
use crate::v1;

/// How often a runtime without events is looked at: the period of upstream's pod lifecycle event generator.
const RELIST: Duration = Duration::from_secs(1);
/// How often one with events is, after the first looks.
const SAFETY: Duration = Duration::from_secs(60);
/// Looks at the start of a stream.
const FIRST_LOOKS: u32 = 2;

type Events = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

struct Follower {
    remote: Remote,
    seen: Snapshot,
    /// `None` where the runtime has none.
    stream: Option<Events>,
    waiting: VecDeque<ContainerChange>,
    looks: u32,
}

/// Changes from now on. The stream ends when the runtime goes away.
pub(super) async fn follow(remote: Remote) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
    let seen = look(&remote).await?;
    let stream = Some(events(remote.clone()));
    let follower = Follower { remote, seen, stream, waiting: VecDeque::new(), looks: 0 };
    Ok(stream::unfold(follower, |mut follower| async { Some((follower.next().await?, follower)) }).boxed())
}

async fn look(remote: &Remote) -> Result<Snapshot, RuntimeError> {
    let (sandboxes, containers) = tokio::try_join!(remote.list_pod_sandboxes(None), remote.list_containers(None))?;
    Ok(Snapshot::new(sandboxes, containers))
}

fn events(remote: Remote) -> Events {
    let asked = async move {
        let mut grpc = remote.grpc();
        grpc.ready().await.map_err(|error| Status::unavailable(base::chain(&error)))?;
        let codec = ProstCodec::<v1::GetEventsRequest, v1::ContainerEventResponse>::default();
        let request = Request::new(v1::GetEventsRequest {});
        let answer = grpc.server_streaming(request, path("RuntimeService/GetContainerEvents"), codec).await?;
        Ok::<_, Status>(answer.into_inner())
    };
    stream::once(asked).try_flatten().boxed()
}

impl Follower {
    async fn next(&mut self) -> Option<ContainerChange> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Some(change);
            }
            let pause = if self.stream.is_none() || self.looks < FIRST_LOOKS { RELIST } else { SAFETY };
            let event = async {
                match &mut self.stream {
                    Some(stream) => stream.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = event => match event? {
                    Ok(event) => return Some(self.change(event)),
                    Err(status) if status.code() == Code::Unimplemented => self.stream = None,
                    Err(status) => {
                        tracing::warn!(error = %status, "the container runtime's events ended");
                        return None;
                    }
                },
                () = tokio::time::sleep(pause) => self.look_again().await.ok()?,
            }
        }
    }

    async fn look_again(&mut self) -> Result<(), RuntimeError> {
        let now = look(&self.remote).await?;
        self.waiting.extend(self.seen.until(&now));
        self.seen = now;
        self.looks = self.looks.saturating_add(1);
        Ok(())
    }

    fn change(&self, event: v1::ContainerEventResponse) -> ContainerChange {
        let kind = event.container_event_type();
        let sandbox = event.pod_sandbox_status.unwrap_or_default();
        let labelled = event.containers_statuses.iter().find_map(|container| container.labels.get(POD_UID).cloned());
        let known = || self.seen.pod_of(&event.container_id).map(str::to_owned);
        let pod_uid = sandbox.metadata.map(|pod| pod.uid).filter(|uid| !uid.is_empty());
        ContainerChange {
            pod_uid: pod_uid.or(labelled).or_else(known).unwrap_or_default(),
            container_id: event.container_id,
            sandbox_id: sandbox.id,
            event: kind,
        }
    }
}
