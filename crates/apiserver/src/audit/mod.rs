//! The audit log: who did what, when, and what came of it. One line of JSON an event, in the form of `audit.k8s.io/v1`.
//!
//! What is logged how is the [`Policy`]'s to say. An event is put together while its request is answered and handed to a
//! bounded queue; encoding and writing happen off the request's path. A queue that is full loses the newest events: that is
//! counted and said. Public behaviour: the Kubernetes documentation's "Auditing".

mod event;
mod log;
mod policy;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use api::{ApiError, Reason};
use base::{SharedClock, Stop, Tasks};
use bytes::Bytes;
use control::Body;
use futures::{Stream, StreamExt};
use http::HeaderValue;
use jiff::Timestamp;

use self::event::{Event, Stage};
use self::log::Log;
pub(crate) use self::log::{EVENTS, LOST};
use self::policy::{Level, Verdict};
pub use self::policy::{Policy, PolicyError};
use crate::authentication::UserInfo;
use crate::authorization::{Attributes, Decision};
use crate::request::info::RequestInfo;
use crate::request::negotiate::BodyKind;
use crate::request::notes::Notes;
use crate::request::respond::Answer;
use crate::request::{Origin, Request};

const HEADER: &str = "audit-id";
/// A longer identifier of a client's is replaced by one of ours: it stands in each line.
const ID_BYTES_MAX: usize = 128;
/// How many addresses of a header's are read: they stand in each line.
const HOPS_MAX: usize = 16;

/// Where audit events go and which there are.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// What is logged how.
    pub policy: Policy,
    /// The file. It is set aside when it is large; four such older ones are kept.
    pub path: PathBuf,
}

/// Writes the audit log of one server, or nothing.
pub(crate) struct Audit {
    writing: Option<Writing>,
    clock: SharedClock,
}

struct Writing {
    policy: Arc<Policy>,
    log: Log,
}

/// What is known of a request that may be logged. Filled in while it is answered.
#[derive(Debug)]
pub struct Trail {
    id: String,
    received: Timestamp,
    uri: String,
    user_agent: String,
    source_ips: Vec<IpAddr>,
    attributes: Attributes,
    sender: OnceLock<Arc<UserInfo>>,
    /// Whom the sender acts as, where that is another.
    acts_as: OnceLock<Arc<UserInfo>>,
    /// Whether a task that answered it failed.
    panicked: AtomicBool,
    verdict: OnceLock<Verdict>,
    decision: OnceLock<(&'static str, String)>,
    request: OnceLock<(BodyKind, Bytes)>,
    policy: Arc<Policy>,
}

impl Audit {
    /// Opens the log.
    pub(crate) fn start(config: Option<AuditConfig>, clock: SharedClock, tasks: &Tasks, stop: Stop) -> Self {
        let writing =
            config.map(|config| Writing { policy: Arc::new(config.policy), log: Log::start(config.path, tasks, stop) });
        Self { writing, clock }
    }

    /// Begins a request's trail; `None` where there is no log.
    pub(crate) fn begin(&self, request: &Request, info: &RequestInfo) -> Option<Box<Trail>> {
        let writing = self.writing.as_ref()?;
        let headers = &request.parts.headers;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let given = text(HEADER);
        let own = given.is_empty() || given.len() > ID_BYTES_MAX;
        Some(Box::new(Trail {
            id: if own { uuid::Uuid::new_v4().to_string() } else { given },
            received: self.clock.now(),
            uri: request.parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            user_agent: text("user-agent"),
            source_ips: source_ips(request),
            attributes: info.attributes(),
            sender: OnceLock::new(),
            acts_as: OnceLock::new(),
            panicked: AtomicBool::new(false),
            verdict: OnceLock::new(),
            decision: OnceLock::new(),
            request: OnceLock::new(),
            policy: writing.policy.clone(),
        }))
    }

    /// Says who sent the request: from now on it is known how much is logged, and that it was received is.
    pub(crate) fn received(self: &Arc<Self>, notes: &Arc<Notes>, sender: &Arc<UserInfo>) {
        let (Some(writing), Some(trail)) = (&self.writing, notes.trail()) else { return };
        let verdict = trail.verdict.get_or_init(|| trail.policy.verdict(Some(sender), &trail.attributes));
        let _ = trail.sender.set(sender.clone());
        let (stage, at) = (Stage::RequestReceived, trail.received);
        writing.log.send(verdict, stage, || Event { notes: notes.clone(), stage, at, code: 0, response: None });
    }

    /// As long as what this gives lives, a panic that passes by is logged.
    pub(crate) fn watch_for_panic(self: &Arc<Self>, notes: &Arc<Notes>) -> Option<PanicWatch> {
        notes.trail().map(|_| PanicWatch { audit: self.clone(), notes: notes.clone() })
    }

    /// Ends a request's trail with its answer. A stream's end is logged when it has ended.
    pub(crate) fn end(self: &Arc<Self>, notes: &Arc<Notes>, answer: &mut Answer) {
        let (Some(writing), Some(trail)) = (&self.writing, notes.trail()) else { return };
        if let Ok(id) = HeaderValue::from_str(&trail.id) {
            answer.headers_mut().insert(HEADER, id);
        }
        // Who could not be authenticated is nobody, and that is worth a line.
        let verdict = trail.verdict.get_or_init(|| trail.policy.verdict(None, &trail.attributes));
        if verdict.level == Level::None {
            return;
        }
        let code = answer.status().as_u16();
        let event = |stage, response| Event { notes: notes.clone(), stage, at: self.clock.now(), code, response };
        match answer.body_mut() {
            Body::Full(body) => {
                let shown = verdict.level == Level::RequestResponse || code >= 400;
                let body = Some(body.clone()).filter(|_| shown);
                let failed = trail.panicked.load(Ordering::Relaxed);
                let stage = if failed { Stage::Panic } else { Stage::ResponseComplete };
                writing.log.send(verdict, stage, || event(stage, body));
            }
            Body::Stream(stream) => {
                writing.log.send(verdict, Stage::ResponseStarted, || event(Stage::ResponseStarted, None));
                let ended = Ended { audit: self.clone(), notes: notes.clone(), code };
                let inner = std::mem::replace(stream, futures::stream::empty().boxed());
                *stream = watched(inner, ended).boxed();
            }
        }
    }
}

/// Logs a panic while a request is answered.
pub(crate) struct PanicWatch {
    audit: Arc<Audit>,
    notes: Arc<Notes>,
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        let verdict = self.notes.trail().and_then(|trail| trail.verdict.get());
        let (Some(writing), Some(verdict), true) = (&self.audit.writing, verdict, std::thread::panicking()) else {
            return;
        };
        let error = ApiError::new(Reason::InternalError, "the API server panicked; its log says why");
        let response = Some(Bytes::from(error.to_status().to_string()));
        let (stage, at, code) = (Stage::Panic, self.audit.clock.now(), error.code);
        writing.log.send(verdict, stage, || Event { notes: self.notes.clone(), stage, at, code, response });
    }
}

/// Where a request came from: what proxies say of it, the nearest last, then the connection's other end, which nobody can
/// make up.
fn source_ips(request: &Request) -> Vec<IpAddr> {
    let headers = &request.parts.headers;
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = said("x-forwarded-for").split(',').take(HOPS_MAX);
    let mut found: Vec<IpAddr> = forwarded.filter_map(|part| part.trim().parse().ok()).collect();
    found.extend(said("x-real-ip").parse::<IpAddr>().ok().filter(|real| !found.contains(real)));
    if let Origin::Connection(_, Some(peer)) = &request.origin
        && found.last() != Some(peer)
    {
        found.push(*peer);
    }
    found
}

/// Logs a stream's end when it is dropped, by whomever.
struct Ended {
    audit: Arc<Audit>,
    notes: Arc<Notes>,
    code: u16,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let verdict = self.notes.trail().and_then(|trail| trail.verdict.get());
        let (Some(writing), Some(verdict)) = (&self.audit.writing, verdict) else { return };
        let (stage, at, code) = (Stage::ResponseComplete, self.audit.clock.now(), self.code);
        writing.log.send(verdict, stage, || Event { notes: self.notes.clone(), stage, at, code, response: None });
    }
}

/// The stream, with `ended` alive as long as it is.
fn watched<T>(stream: impl Stream<Item = T> + Send, ended: Ended) -> impl Stream<Item = T> + Send {
    stream.map(move |item| {
        let _alive = &ended;
        item
    })
}

impl Trail {
    /// Says whom the sender acts as. How much is logged goes by the sender.
    pub(crate) fn acts_as(&self, user: &Arc<UserInfo>) {
        if self.sender.get().is_some_and(|sender| !Arc::ptr_eq(sender, user)) {
            let _ = self.acts_as.set(user.clone());
        }
    }

    /// Says that a task which answered it failed.
    pub(crate) fn panicked(&self) {
        self.panicked.store(true, Ordering::Relaxed);
    }

    /// Says whether the request was permitted, and why.
    pub(crate) fn decided(&self, decision: &Decision) {
        let (word, reason) = match decision {
            Decision::Allow { reason } => ("allow", reason),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => ("forbid", reason),
        };
        if self.level() > Level::None {
            let _ = self.decision.set((word, reason.clone()));
        }
    }

    /// Keeps the body, where it is logged.
    pub(crate) fn sent(&self, kind: BodyKind, body: &Bytes) {
        if self.level() >= Level::Request && !body.is_empty() {
            let _ = self.request.set((kind, body.clone()));
        }
    }

    fn level(&self) -> Level {
        self.verdict.get().map_or(Level::None, |verdict| verdict.level)
    }
}
