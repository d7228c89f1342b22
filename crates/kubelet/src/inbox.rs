//! What reaches a pod's worker: the newest state of each thing, never a queue, so that a busy worker falls behind without
//! anything growing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use api::Object;
use tokio::sync::Notify;

use crate::plan::{ProbeKind, Verdict};

/// What came since the worker last looked.
#[derive(Default)]
pub(crate) struct Mail {
    /// The pod changed.
    pub(crate) pod: Option<Object>,
    /// The pod is no longer in the API.
    pub(crate) gone: bool,
    /// The mirror pod of this static pod is no longer in the API.
    pub(crate) mirror_gone: bool,
    /// Its containers or its sandbox changed.
    pub(crate) runtime: bool,
    /// An object that it names changed.
    pub(crate) references: bool,
    /// The pod must end.
    pub(crate) verdict: Option<Verdict>,
    /// What probes found, by container id.
    pub(crate) probes: BTreeMap<(String, ProbeKind), bool>,
}

/// A worker's inbox.
#[derive(Default)]
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    wake: Notify,
}

impl Inbox {
    /// Leaves something and wakes the worker.
    pub(crate) fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().expect("no holder of an inbox's lock panics"));
        self.wake.notify_one();
    }

    /// Takes everything out.
    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock().expect("no holder of an inbox's lock panics"))
    }

    /// Waits until something is left; at once where something was left since the last wait.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}
