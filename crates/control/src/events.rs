//! Events about objects, for people.
//!
//! Recording never blocks and never fails its caller. Equal events become one object that counts; many that differ only in
//! their message become one as well; an object that never stops having events is limited. The rules and figures are those
//! of client-go's event correlator.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{Key, Object, Resource, resources};
use base::{Backoff, SharedClock, Stop, Tasks, chain};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Client, ClientError, PatchType};
use machinery::time;

/// How many events may wait to be written. Beyond it events are dropped and counted: they must not use up memory while
/// the API server is away.
const QUEUE_MAX: usize = 1000;

/// How many different events are remembered, to count them up.
const REMEMBERED_MAX: usize = 4096;

/// How many events an object may have at once, and how long it takes for one more.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);

/// So many messages that differ within this time become one event.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);

/// How often a write is tried while the server is not reached.
const ATTEMPTS_MAX: u32 = 8;

/// What an event is about: an object or a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ObjectReference {
    /// `v1` or `apps/v1`.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The namespace; empty for cluster scope.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The uid.
    pub uid: String,
    /// The resource version.
    pub resource_version: String,
    /// The part, such as `spec.containers{web}`.
    pub field_path: String,
}

impl From<(&Resource, &Object)> for ObjectReference {
    fn from((resource, object): (&Resource, &Object)) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: object.key().namespace.to_string(),
            name: object.key().name.to_string(),
            uid: object.uid().to_owned(),
            resource_version: object.revision().to_string(),
            field_path: String::new(),
        }
    }
}

/// Whether something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Only for information.
    Normal,
    /// Something is wrong.
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Event {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
}

/// Records the events of one component. Cloning shares it.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder whose writer is a task of `tasks` and ends with `stop`. `component` and `host` are the events' source.
    pub fn new(client: Client, tasks: &Tasks, stop: Stop, clock: SharedClock, component: &str, host: &str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let source = Source { component: component.to_owned(), host: host.to_owned() };
        let writer = Writer { client, clock, source, correlator: Correlator::default() };
        tasks.spawn(format!("events of {component}"), async move {
            let _ = stop.or_stopped(writer.run(events)).await;
        });
        Self { queue, dropped: Arc::default() }
    }

    /// Records an event.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: &str) {
        let event = Event { about: about.clone(), kind, reason: reason.to_owned(), message: message.to_owned() };
        if self.queue.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped because too many were waiting.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Source {
    component: String,
    host: String,
}

struct Writer {
    client: Client,
    clock: SharedClock,
    source: Source,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            let now = self.clock.now();
            let Some(write) = self.correlator.correlate(event, now) else { continue };
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
            for attempt in 1..=ATTEMPTS_MAX {
                match self.write(&write).await {
                    Ok(()) => break,
                    // A refusal is final: the namespace may be going, for one.
                    Err(error @ ClientError::Api(_)) => {
                        tracing::debug!(error = chain(&error), "event refused");
                        break;
                    }
                    Err(error) if attempt == ATTEMPTS_MAX => {
                        tracing::warn!(error = chain(&error), reason = write.event.reason, "cannot record an event");
                    }
                    Err(_) => tokio::time::sleep(backoff.next_delay()).await,
                }
            }
        }
    }

    async fn write(&self, write: &Write) -> Result<(), ClientError> {
        let namespace = event_namespace(&write.event.about);
        if write.count > 1 {
            let patch = json!({"count": write.count, "lastTimestamp": time::seconds(write.last),
                "message": write.event.message});
            let key = Key::new(namespace, write.name.as_str());
            let patched = self.client.patch(resources::EVENTS, &key, None, PatchType::Merge, &patch).await;
            match patched {
                Err(error) if error.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        let body = Bytes::from(write.to_value(&self.source).to_string());
        match self.client.create(resources::EVENTS, namespace, body).await {
            // The answer to an earlier attempt was lost.
            Err(error) if error.is_already_exists() => Ok(()),
            created => created.map(drop),
        }
    }
}

fn event_namespace(about: &ObjectReference) -> &str {
    if about.namespace.is_empty() { "default" } else { &about.namespace }
}

/// One event to create, or to count up.
#[derive(Debug, Clone)]
struct Write {
    event: Event,
    name: String,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Write {
    fn to_value(&self, source: &Source) -> Value {
        let Event { about, kind, reason, message } = &self.event;
        let mut involved = serde_json::Map::new();
        for (field, value) in [
            ("kind", &about.kind),
            ("namespace", &about.namespace),
            ("name", &about.name),
            ("uid", &about.uid),
            ("apiVersion", &about.api_version),
            ("resourceVersion", &about.resource_version),
            ("fieldPath", &about.field_path),
        ] {
            if !value.is_empty() {
                involved.insert(field.to_owned(), value.as_str().into());
            }
        }
        let mut origin = json!({"component": source.component});
        if !source.host.is_empty() {
            origin["host"] = source.host.as_str().into();
        }
        json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": self.name, "namespace": event_namespace(about)},
            "involvedObject": involved, "reason": reason, "message": message, "source": origin,
            "firstTimestamp": time::seconds(self.first), "lastTimestamp": time::seconds(self.last),
            "count": self.count, "type": format!("{kind:?}"), "eventTime": null,
            "reportingComponent": source.component, "reportingInstance": source.host})
    }
}

/// Decides what becomes of an event. Pure but for its memory.
#[derive(Default)]
struct Correlator {
    seen: Bounded<Event, Write>,
    similar: Bounded<Event, (Timestamp, HashSet<String>)>,
    tokens: Bounded<ObjectReference, (f64, Timestamp)>,
}

impl Correlator {
    fn correlate(&mut self, event: Event, now: Timestamp) -> Option<Write> {
        let event = self.aggregate(event, now);
        // Not the resource version: the same event about a later state of the object is still the same.
        let about = ObjectReference { resource_version: String::new(), ..event.about.clone() };
        if !self.take_token(&about, now) {
            return None;
        }
        let same = Event { about, ..event.clone() };
        let remembered = self.seen.get_or_insert(same, || {
            let name = format!("{}.{:x}", event.about.name, now.as_nanosecond());
            Write { event: event.clone(), name, count: 0, first: now, last: now }
        });
        remembered.count += 1;
        remembered.last = now;
        Some(remembered.clone())
    }

    /// From the tenth message on, events that differ only in their message become one.
    fn aggregate(&mut self, event: Event, now: Timestamp) -> Event {
        let about = ObjectReference { resource_version: String::new(), ..event.about.clone() };
        let group = Event { about, message: String::new(), ..event.clone() };
        let (last, messages) = self.similar.get_or_insert(group, || (now, HashSet::new()));
        if now.duration_since(*last).unsigned_abs() > SIMILAR_WITHIN {
            messages.clear();
        }
        *last = now;
        if messages.len() < SIMILAR_MAX {
            messages.insert(event.message.clone());
            return event;
        }
        Event { message: format!("(combined from similar events): {}", event.message), ..event }
    }

    fn take_token(&mut self, about: &ObjectReference, now: Timestamp) -> bool {
        let (tokens, at) = self.tokens.get_or_insert(about.clone(), || (f64::from(BURST), now));
        let refilled = now.duration_since(*at).as_secs_f64().max(0.0) / REFILL.as_secs_f64();
        *tokens = (*tokens + refilled).min(f64::from(BURST));
        *at = now;
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

/// A map that forgets what was used longest ago.
struct Bounded<K, V> {
    entries: HashMap<K, (u64, V)>,
    uses: u64,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), uses: 0 }
    }
}

impl<K: Eq + Hash, V> Bounded<K, V> {
    fn get_or_insert(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.entries.len() >= REMEMBERED_MAX && !self.entries.contains_key(&key) {
            // A quarter at once: forgetting walks over all of them.
            let oldest = self.uses - (REMEMBERED_MAX as u64) * 3 / 4;
            self.entries.retain(|_, (used, _)| *used >= oldest);
        }
        let entry = self.entries.entry(key).or_insert_with(|| (0, value()));
        entry.0 = self.uses;
        &mut entry.1
    }
}

#[cfg(test)]
mod tests {
    use base::{Clock, FakeClock};

    use super::*;

    fn event(message: &str) -> Event {
        let about = ObjectReference { kind: "Pod".to_owned(), name: "p".to_owned(), ..ObjectReference::default() };
        Event { about, kind: EventType::Normal, reason: "Pulled".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn equal_events_are_counted_in_one_object() {
        let (mut correlator, clock) = (Correlator::default(), FakeClock::default());
        let first = correlator.correlate(event("a"), clock.now()).expect("allowed");
        clock.advance(Duration::from_secs(5));
        let later = Event { about: ObjectReference { resource_version: "9".into(), ..event("").about }, ..event("a") };
        let second = correlator.correlate(later, clock.now()).expect("allowed");
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!((first.name, first.first), (second.name, second.first));
        assert_ne!(first.last, second.last);
    }

    #[test]
    fn floods_are_combined_and_then_limited() {
        let (mut correlator, clock) = (Correlator::default(), FakeClock::default());
        let mut send = |number: u32| correlator.correlate(event(&number.to_string()), clock.now());
        let sent: Vec<_> = (0..30).map(&mut send).collect();
        assert_eq!(sent[9].as_ref().map(|write| write.event.message.as_str()), Some("9"));
        assert_eq!(
            sent[10].as_ref().map(|write| write.event.message.as_str()),
            Some("(combined from similar events): 10")
        );
        assert_eq!(sent.iter().flatten().count(), BURST as usize);
        clock.advance(REFILL);
        assert!(send(99).is_some(), "one more after a while");
    }

    #[test]
    fn memory_is_bounded() {
        let mut bounded: Bounded<usize, usize> = Bounded::default();
        for number in 0..REMEMBERED_MAX * 3 {
            bounded.get_or_insert(number, || number);
        }
        assert!(bounded.entries.len() <= REMEMBERED_MAX);
        assert!(bounded.entries.contains_key(&(REMEMBERED_MAX * 3 - 1)));
    }
}
