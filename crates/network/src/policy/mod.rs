//! Network policies, both directions, for the pods of this node.
//!
//! [`objects`] cuts objects down to what counts, [`plan`] plans from them, [`rules`] says how that looks in nftables. Here is
//! the loop between: changes that arrive together become one transaction, which holds only what differs.
//!
//! A pod is never open before its policies hold: whoever attaches a sandbox asks [`Gate::attach`] first, which returns when
//! the kernel has what the pod's policies say of its address, or, where the pod is not known here yet, has it closed. While
//! there is no policy in the cluster, pods and namespaces are not watched at all. Where the process starts again, the rules
//! of the former one hold until all that is needed for new ones is known; the one transaction then replaces them.
//!
//! Public behaviour: the NetworkPolicy API reference. The node itself, and pods with the node's network, are exempt. IPv4.

pub mod objects;
pub mod plan;
pub mod rules;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api::Object;
use api::resources::{NAMESPACES, NETWORK_POLICIES, PODS};
use base::{Backoff, Stop};
use control::{Change, Changes, Informers};
use futures::FutureExt;
use futures::future::BoxFuture;
use linux::net::{Net, NetError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::sandboxes::Sandbox;
use objects::{Pod, Policy};
use plan::Planner;
pub use rules::TABLE;

/// How many sandboxes may wait to be attached: more pods than a node starts at once.
const ASKS_MAX: usize = 256;

/// What [`run`] is given.
pub struct Config {
    /// Where policies, pods and namespaces come from.
    pub informers: Informers,
    /// The network namespace that the node lives in.
    pub net: Arc<dyn Net>,
    /// This node's name.
    pub node_name: String,
    /// The sandboxes that are attached already.
    pub attached: Vec<Sandbox>,
}

/// A sandbox could not be put under its policies: it must not be attached.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Nobody looks after policies at the moment.
    #[error("network policies are not looked after at the moment")]
    Closed,
    /// The kernel refused.
    #[error("cannot put the pod under its network policies: {0}")]
    Refused(String),
}

enum Ask {
    Attach(Sandbox, Waiting),
    Detach(String),
}

type Waiting = oneshot::Sender<Result<(), GateError>>;

/// Puts pods under their policies before they are attached. Cloning shares it.
#[derive(Clone)]
pub struct Gate(mpsc::Sender<Ask>);

/// The other half of a [`Gate`].
pub struct Asks(mpsc::Receiver<Ask>);

/// A gate, and what [`run`] hears through it.
pub fn gate() -> (Gate, Asks) {
    let (sender, receiver) = mpsc::channel(ASKS_MAX);
    (Gate(sender), Asks(receiver))
}

impl Gate {
    /// Returns when the sandbox's address is under its pod's policies, or closed.
    pub async fn attach(&self, sandbox: Sandbox) -> Result<(), GateError> {
        let (waiting, done) = oneshot::channel();
        self.0.send(Ask::Attach(sandbox, waiting)).await.map_err(|_| GateError::Closed)?;
        done.await.unwrap_or(Err(GateError::Closed))
    }

    /// Tells that a sandbox has its address no more.
    pub async fn detach(&self, id: &str) {
        // Where nobody listens, the next one starts from what is attached then.
        let _ = self.0.send(Ask::Detach(id.to_owned())).await;
    }
}

/// Enforces policies until `stop`. A transaction that the kernel refuses is tried again with back-off, from nothing.
pub async fn run(config: Config, mut asks: Asks, stop: Stop) -> Result<(), NetError> {
    let mut enforcer = Enforcer::new(&config);
    let mut policies = config.informers.all(NETWORK_POLICIES).changes();
    let mut lost = None;
    loop {
        let retry_at = enforcer.retry_at;
        tokio::select! {
            () = stop.stopped() => return Ok(()),
            change = policies.next() => enforcer.take_policy(&change),
            change = next_of(&mut enforcer.pods) => enforcer.take_pod(&change),
            change = next_of(&mut enforcer.namespaces) => enforcer.take_namespace(&change),
            Some(ask) = asks.0.recv() => enforcer.take_ask(ask),
            gone = watch_of(&mut lost) => {
                lost = None;
                gone?;
                tracing::warn!("someone removed the network policies' rules; putting them back");
                enforcer.programmed = false;
            }
            () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
        }
        while let Some((change, _)) = policies.try_next() {
            enforcer.take_policy(&change);
        }
        enforcer.drain(&config.informers, &mut asks);
        if enforcer.is_ready() && enforcer.apply().await && lost.is_none() {
            let net = config.net.clone();
            lost = Some(async move { net.chain_gone(TABLE, rules::WATCHED).await }.boxed());
        }
    }
}

async fn next_of(changes: &mut Option<Changes>) -> Change {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

async fn watch_of(watch: &mut Option<BoxFuture<'_, Result<(), NetError>>>) -> Result<(), NetError> {
    match watch {
        Some(watch) => watch.await,
        None => std::future::pending().await,
    }
}

/// What the loop holds.
struct Enforcer {
    planner: Planner,
    net: Arc<dyn Net>,
    /// Watched from the first policy on.
    pods: Option<Changes>,
    namespaces: Option<Changes>,
    /// Whether all policies, pods and namespaces that were present at the start are here.
    synced: [bool; 3],
    /// Whether the kernel has what the planner gave out last.
    programmed: bool,
    /// Who waits for the next transaction.
    waiting: Vec<Waiting>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Enforcer {
    fn new(config: &Config) -> Self {
        let mut planner = Planner::new(&config.node_name);
        config.attached.iter().cloned().for_each(|sandbox| planner.attach(sandbox));
        Self {
            planner,
            net: config.net.clone(),
            pods: None,
            namespaces: None,
            synced: [false; 3],
            programmed: false,
            waiting: Vec::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(10)),
            retry_at: None,
        }
    }

    /// Takes in what has arrived already, so that a burst becomes one transaction.
    fn drain(&mut self, informers: &Informers, asks: &mut Asks) {
        if self.planner.has_policies() && self.pods.is_none() {
            self.pods = Some(informers.all(PODS).changes());
            self.namespaces = Some(informers.all(NAMESPACES).changes());
        }
        while let Some((change, _)) = self.pods.as_mut().and_then(Changes::try_next) {
            self.take_pod(&change);
        }
        while let Some((change, _)) = self.namespaces.as_mut().and_then(Changes::try_next) {
            self.take_namespace(&change);
        }
        while let Ok(ask) = asks.0.try_recv() {
            self.take_ask(ask);
        }
    }

    fn take_policy(&mut self, change: &Change) {
        match change {
            Change::Applied(object) => self.planner.set_policy(object.key(), read(object, Policy::of(object))),
            Change::Deleted(object) => self.planner.set_policy(object.key(), None),
            Change::Synced => self.synced[0] = true,
        }
    }

    fn take_pod(&mut self, change: &Change) {
        match change {
            Change::Applied(object) => self.planner.set_pod(object.key(), read(object, Pod::of(object))),
            Change::Deleted(object) => self.planner.set_pod(object.key(), None),
            Change::Synced => self.synced[1] = true,
        }
    }

    fn take_namespace(&mut self, change: &Change) {
        match change {
            Change::Applied(object) => {
                self.planner.set_namespace(&object.key().name, Some(objects::labels(object)));
            }
            Change::Deleted(object) => self.planner.set_namespace(&object.key().name, None),
            Change::Synced => self.synced[2] = true,
        }
    }

    fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Attach(sandbox, waiting) => {
                self.planner.attach(sandbox);
                self.waiting.push(waiting);
            }
            Ask::Detach(id) => self.planner.detach(&id),
        }
    }

    /// Whether enough is known to say what holds.
    fn is_ready(&self) -> bool {
        let enough = self.synced == [true; 3] || (self.synced[0] && !self.planner.has_policies());
        enough && self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Brings the kernel to what should hold; tells whether it is there.
    async fn apply(&mut self) -> bool {
        let changes = match self.programmed {
            true => self.planner.settle(),
            false => self.planner.from_nothing(),
        };
        self.programmed = false;
        match self.net.commit(TABLE, &changes).await {
            Ok(()) => {
                self.programmed = true;
                self.backoff.reset();
                self.retry_at = None;
            }
            Err(error) => {
                let delay = self.backoff.next_delay();
                tracing::warn!(error = base::chain(&error), ?delay, "cannot enforce network policies; trying again");
                self.retry_at = Some(Instant::now() + delay);
                let why = base::chain(&error);
                for waiting in self.waiting.drain(..) {
                    // Who does not wait any more has nothing attached.
                    let _ = waiting.send(Err(GateError::Refused(why.clone())));
                }
            }
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(()));
        }
        self.programmed
    }
}

/// One object that cannot be read is logged and treated as absent: the others go on.
fn read<T, E: std::error::Error + 'static>(object: &Object, result: Result<T, E>) -> Option<T> {
    if let Err(error) = &result {
        tracing::warn!(key = %object.key(), error = base::chain(error), "cannot read an object; ignoring it");
    }
    result.ok()
}
