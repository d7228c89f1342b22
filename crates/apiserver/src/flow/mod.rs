//! API Priority and Fairness: no client, however greedy, keeps others from being served. KEP-1040.
//!
//! A request falls under the first FlowSchema that matches it, which names its priority level and its flow. Levels share
//! the server's seats, flows share their level's; who finds no seat waits in a short queue, and is refused with `429` when
//! that is full or the wait is too long. The objects are followed through the watch cache; nothing is polled. Every request
//! takes one seat: upstream also charges more for long lists.

mod config;
pub(crate) mod defaults;
pub(crate) mod metrics;
mod seats;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use api::{ApiError, Object, resources};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::config::{Config, FlowSchema, PriorityLevel, Schema};
use self::seats::{Arrival, Place, Seats};
use crate::authentication::UserInfo;
use crate::metrics::TERMINATIONS;
use crate::request::info::RequestInfo;
use crate::request::respond::{self, Answer};
use crate::watch_cache::{Caches, Observer};

const POISON: &str = "no holder of flow control's lock panics";

/// Lets requests through.
pub(crate) struct FlowControl {
    seats: Mutex<Seats<oneshot::Sender<Seat>>>,
    config: RwLock<Arc<Config>>,
    objects: Mutex<Objects>,
    total: u32,
    /// How long a request may wait for a seat: a quarter of its time, as upstream.
    wait_max: Duration,
}

#[derive(Default)]
struct Objects {
    schemas: BTreeMap<Arc<str>, FlowSchema>,
    levels: BTreeMap<Arc<str>, PriorityLevel>,
}

/// The right to run, until it is dropped.
pub(crate) struct Seat {
    control: Arc<FlowControl>,
    place: Place,
    since: Instant,
}

/// What became of a request.
pub(crate) struct Admitted {
    /// Held while the request runs; `None` where it was refused.
    pub(crate) seat: Option<Seat>,
    schema: Arc<Schema>,
    _executing: Option<base::metrics::Held<'static>>,
}

impl FlowControl {
    /// Follows the objects in the caches. Until those are there, what every cluster has is in force.
    pub(crate) async fn start(caches: &Caches, total: u32, request_time_max: Duration) -> Result<Arc<Self>, ApiError> {
        let control = Self::new(total, request_time_max);
        let schemas = caches.of(resources::FLOW_SCHEMAS).await?;
        let levels = caches.of(resources::PRIORITY_LEVEL_CONFIGURATIONS).await?;
        schemas.observe(Arc::new(FollowSchemas(control.clone())));
        levels.observe(Arc::new(FollowLevels(control.clone())));
        Ok(control)
    }

    fn new(total: u32, request_time_max: Duration) -> Arc<Self> {
        let control = Self {
            seats: Mutex::new(Seats::new(total)),
            config: RwLock::default(),
            objects: Mutex::default(),
            total,
            wait_max: request_time_max / 4,
        };
        control.apply(&Objects::default());
        Arc::new(control)
    }

    /// Waits for a seat.
    pub(crate) async fn admit(self: &Arc<Self>, user: &UserInfo, info: &RequestInfo) -> Admitted {
        let config = self.config.read().expect(POISON).clone();
        let (schema, flow) = config.classify(user, info).expect("`catch-all` is always there");
        let refused = |reason: &str| {
            metrics::rejected(&schema.level, &schema.name, reason);
            Admitted { seat: None, schema: schema.clone(), _executing: None }
        };
        let (arrival, granted) = {
            let (sender, granted) = oneshot::channel();
            (self.lock().arrive(&schema.level, flow, || sender), granted)
        };
        let began = Instant::now();
        let seat = match arrival {
            Arrival::Runs(place) => self.seat(place),
            Arrival::Refused(reason) => return refused(reason),
            Arrival::Waits(place, ticket) => {
                let _waiting = schema.metrics.in_queue.hold();
                let waiting = Waiting { control: self, place, ticket };
                match tokio::time::timeout(self.wait_max, granted).await {
                    // The sender lives in the queue until it is used.
                    Ok(seat) => seat.expect("nobody leaves the queue unasked"),
                    Err(_) => {
                        drop(waiting);
                        return refused("time-out");
                    }
                }
            }
        };
        schema.metrics.dispatched.inc();
        schema.metrics.waited.observe(began.elapsed());
        Admitted { seat: Some(seat), schema: schema.clone(), _executing: Some(schema.metrics.executing.hold()) }
    }

    fn seat(self: &Arc<Self>, place: Place) -> Seat {
        Seat { control: self.clone(), place, since: Instant::now() }
    }

    /// Tells those that may run now. Not under the lock: a waiter that has gone gives its seat back at once.
    fn wake(self: &Arc<Self>, started: Vec<(Place, oneshot::Sender<Seat>)>) {
        for (place, waiter) in started {
            drop(waiter.send(self.seat(place)));
        }
    }

    /// Takes over changed objects; gives those that may run now.
    fn apply(&self, objects: &Objects) -> Vec<(Place, oneshot::Sender<Seat>)> {
        let (mut schemas, mut levels) = (objects.schemas.clone(), objects.levels.clone());
        let whole = schemas.is_empty() && levels.is_empty();
        for level in parsed::<PriorityLevel>(defaults::levels()) {
            match levels.get_mut(level.name()) {
                Some(known) if is_mandatory(level.name()) => known.become_like(level),
                None if whole || is_mandatory(level.name()) => drop(levels.insert(level.name().clone(), level)),
                _ => {}
            }
        }
        for schema in parsed::<FlowSchema>(defaults::schemas()) {
            match schemas.get_mut(schema.name()) {
                Some(known) if is_mandatory(schema.name()) => known.become_like(schema),
                None if whole || is_mandatory(schema.name()) => drop(schemas.insert(schema.name().clone(), schema)),
                _ => {}
            }
        }
        let config = Config::of(&schemas, &levels, self.total);
        for (name, limits) in &config.levels {
            metrics::seats(name, limits.nominal, limits.min, limits.max);
        }
        let started = self.lock().configure(&config.levels);
        *self.config.write().expect(POISON) = Arc::new(config);
        started
    }

    fn lock(&self) -> MutexGuard<'_, Seats<oneshot::Sender<Seat>>> {
        self.seats.lock().expect(POISON)
    }
}

fn is_mandatory(name: &str) -> bool {
    ["exempt", config::CATCH_ALL].contains(&name)
}

fn parsed<T: serde::de::DeserializeOwned>(objects: Vec<Value>) -> impl Iterator<Item = T> {
    objects.into_iter().map(|object| serde_json::from_value(object).expect("the built-in objects are well-formed"))
}

/// Follow the objects: a few dozen that rarely change, so each change makes the whole configuration anew.
struct FollowSchemas(Arc<FlowControl>);
struct FollowLevels(Arc<FlowControl>);

impl Observer for FollowSchemas {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        self.0.changed(old, new, |objects| &mut objects.schemas);
    }
}

impl Observer for FollowLevels {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        self.0.changed(old, new, |objects| &mut objects.levels);
    }
}

impl FlowControl {
    fn changed<T: serde::de::DeserializeOwned>(
        self: &Arc<Self>,
        old: Option<&Object>,
        new: Option<&Object>,
        of: impl Fn(&mut Objects) -> &mut BTreeMap<Arc<str>, T>,
    ) {
        let mut objects = self.objects.lock().expect(POISON);
        match new.map(|new| (new, serde_json::from_slice(new.json()))) {
            None => old.into_iter().for_each(|old| drop(of(&mut objects).remove(&old.key().name))),
            Some((new, Ok(read))) => drop(of(&mut objects).insert(new.key().name.clone(), read)),
            Some((new, Err(error))) => {
                let name = &new.key().name;
                return tracing::error!(%name, %error, "skipping a flow control object that cannot be read");
            }
        }
        let started = self.apply(&objects);
        drop(objects);
        self.wake(started);
    }
}

/// Leaves the queue when its request does.
struct Waiting<'a> {
    control: &'a Arc<FlowControl>,
    place: Place,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Where it no longer waits, the seat is in its channel, and is given back when that is dropped.
        self.control.lock().give_up(&self.place, self.ticket);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let micros = i64::try_from(self.since.elapsed().as_micros()).unwrap_or(i64::MAX);
        let started = self.control.lock().leave(&self.place, micros);
        self.control.wake(started);
    }
}

impl Admitted {
    /// Marks an answer with where its request fell.
    pub(crate) fn mark(&self, answer: &mut Answer) {
        let headers = answer.headers_mut();
        headers.insert("x-kubernetes-pf-flowschema-uid", self.schema.uid.clone());
        headers.insert("x-kubernetes-pf-prioritylevel-uid", self.schema.level_uid.clone());
    }
}

/// The answer to a request that found no seat.
pub(crate) fn too_many() -> Answer {
    TERMINATIONS.with(["429"]).inc();
    let text = "Too many requests, please try again later.\n";
    let mut answer = respond::text(StatusCode::TOO_MANY_REQUESTS, text);
    answer.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}
