//! Names that are not the cluster's, asked of the name servers in a `resolv.conf`.
//!
//! Bounded in flight, in time and in memory. Servers are asked in the file's order, those that failed lately last, over UDP
//! and, where an answer does not fit, over TCP. Who asks what is being asked already waits for that answer. What was
//! answered is remembered ([`super::cache`]). The file is looked at again when a question comes and the last look is some
//! seconds old, so that a machine that changes networks needs no restart.
//!
//! A question must not come back here, where it would be asked again for ever. This server's own addresses in the file are
//! left out; and each server is asked once for a name that nobody else knows: one through which that comes back is left out,
//! too. ([`super::exchange`] is the talk with one server.)

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::{Random, Stop, Tasks};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cache::Cache;
use super::exchange::{Upstream, ask_all};
use super::metrics;
use super::respond::Asked;
use super::wire::{Age, Body, code, flag};

/// Beyond this, questions fail at once: name servers that do not answer must not eat the memory.
const IN_FLIGHT_MAX: usize = 512;
/// How old a look at `resolv.conf` may be.
const CONFIG_AGE_MAX: Duration = Duration::from_secs(5);
/// How many name servers are heeded: what more there are would never have their turn in time.
const UPSTREAMS_MAX: usize = 8;
/// How long a question is waited for that must not come back.
const PROBE_MAX: Duration = Duration::from_secs(2);
const PORT: u16 = 53;

/// What another name server said.
pub type Reply = (Arc<Body>, Age);

type Flight = Shared<BoxFuture<'static, Reply>>;

/// Asks other name servers.
pub struct Forwarder {
    source: Source,
    tasks: Tasks,
    stop: Stop,
    random: Random,
    permits: Semaphore,
    state: Mutex<State>,
    shared: Arc<Known>,
    /// Names that only a server that leads back here asks for, and which server was asked for each.
    probes: Mutex<HashMap<Vec<u8>, SocketAddr>>,
}

/// What was answered and what is being asked.
#[derive(Default)]
struct Known {
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Vec<u8>, WeakShared<BoxFuture<'static, Reply>>>>,
}

enum Source {
    File {
        path: PathBuf,
        never: Vec<IpAddr>,
    },
    #[cfg(test)]
    Fixed(Vec<SocketAddr>),
}

#[derive(Default)]
struct State {
    /// The text that `upstreams` were made from.
    text: Option<Vec<u8>>,
    looked: Option<Instant>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Forwarder {
    /// Asks the name servers in the file at `path`, but none of `never`.
    pub fn new(path: PathBuf, never: Vec<IpAddr>, tasks: Tasks, stop: Stop) -> Self {
        Self::of(Source::File { path, never }, tasks, stop)
    }

    #[cfg(test)]
    pub(super) fn fixed(upstreams: Vec<SocketAddr>, tasks: Tasks, stop: Stop) -> Self {
        Self::of(Source::Fixed(upstreams), tasks, stop)
    }

    fn of(source: Source, tasks: Tasks, stop: Stop) -> Self {
        let (permits, random) = (Semaphore::new(IN_FLIGHT_MAX), Random::from_os());
        let (state, shared, probes) = (Mutex::default(), Arc::default(), Mutex::default());
        Self { source, tasks, stop, random, permits, state, shared, probes }
    }

    /// What is remembered of a question.
    pub fn remembered(&self, asked: &Asked) -> Option<Reply> {
        let reply = lock(&self.shared.cache).get(&key(asked), Instant::now());
        if let Some((body, _)) = &reply {
            metrics::cache_hit(body.answers() == 0);
        }
        reply
    }

    /// Asks. `is_ours` tells more addresses that lead back here, such as the cluster IP of cluster DNS.
    pub async fn ask(&self, asked: &Asked, is_ours: impl Fn(IpAddr) -> bool) -> Reply {
        let failure = || (Arc::new(Body::of_code(code::SERVER_FAILURE)), Age::Original);
        if self.comes_back(asked) {
            return (Arc::new(Body::of_code(code::REFUSED)), Age::Original);
        }
        let Ok(_permit) = self.permits.try_acquire() else {
            metrics::forward_refused();
            return failure();
        };
        let upstreams = self.upstreams(is_ours).await;
        if upstreams.is_empty() {
            return failure();
        }
        metrics::cache_missed();
        self.flight(asked, upstreams).await
    }

    /// The question under way, begun where it is not.
    fn flight(&self, asked: &Asked, upstreams: Vec<Arc<Upstream>>) -> Flight {
        let key = key(asked);
        let mut flights = lock(&self.shared.flights);
        if let Some(flight) = flights.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        let (target, question) = (asked.target.clone(), asked.question());
        let (dnssec, flags) = (question.dnssec(), question.flags & flag::CHECKING_DISABLED);
        let ids = self.random.clone();
        // Whoever stops waiting last ends it: then the entry goes, too.
        let entry = Entry { known: self.shared.clone(), key };
        let key = entry.key.clone();
        let flight = async move {
            let body = Arc::new(ask_all(&upstreams, &target, dnssec, flags, &ids).await);
            let mut cache = lock(&entry.known.cache);
            let reply = cache.put(&entry.key, body, Instant::now());
            metrics::cache_holds(cache.len());
            drop(cache);
            reply
        };
        let flight = flight.boxed().shared();
        flights.insert(key, flight.downgrade().expect("it was not polled yet"));
        flight
    }

    /// Whether a question can only be one that was sent from here, through a server that sent it back.
    fn comes_back(&self, asked: &Asked) -> bool {
        let Some(through) = lock(&self.probes).remove(&asked.target) else { return false };
        tracing::warn!(server = %through, "a name server in resolv.conf asks this one: it is not asked any more");
        let mut state = lock(&self.state);
        let (looping, others) = state.upstreams.drain(..).partition(|upstream| upstream.address == through);
        state.upstreams = others;
        // Whoever is about to ask it, does not.
        let looping: Vec<Arc<Upstream>> = looping;
        looping.iter().for_each(|upstream| upstream.leave_out());
        true
    }

    /// The servers to ask. Nothing is read more often than every few seconds.
    async fn upstreams(&self, is_ours: impl Fn(IpAddr) -> bool) -> Vec<Arc<Upstream>> {
        {
            let mut state = lock(&self.state);
            if state.looked.is_some_and(|looked| looked.elapsed() < CONFIG_AGE_MAX) {
                return state.upstreams.clone();
            }
            state.looked = Some(Instant::now());
        }
        let text = match &self.source {
            Source::File { path, .. } => match tokio::fs::read(path).await {
                Ok(text) => text,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read which name servers to ask");
                    return lock(&self.state).upstreams.clone();
                }
            },
            #[cfg(test)]
            Source::Fixed(_) => Vec::new(),
        };
        let mut state = lock(&self.state);
        if state.text.as_ref() != Some(&text) {
            let addresses = match &self.source {
                Source::File { never, .. } => from_file(&text, |ip| leads_back(never, ip) || is_ours(ip)),
                #[cfg(test)]
                Source::Fixed(addresses) => addresses.clone(),
            };
            state.upstreams = addresses.into_iter().map(|address| Arc::new(Upstream::new(address))).collect();
            state.text = Some(text);
            self.probe(&state.upstreams);
        }
        state.upstreams.clone()
    }

    /// Asks each server for a name that nobody knows.
    fn probe(&self, upstreams: &[Arc<Upstream>]) {
        const HINFO_IN: [u8; 4] = [0, 13, 0, 1];
        let mut probes = lock(&self.probes);
        probes.clear();
        for upstream in upstreams {
            let label = || self.random.name_suffix(16);
            let (first, second) = (label(), label());
            let name = [&[16][..], first.as_bytes(), &[16], second.as_bytes(), &[0], &HINFO_IN].concat();
            probes.insert(name.clone(), upstream.address);
            let (upstream, random, stop) = (upstream.clone(), self.random.clone(), self.stop.clone());
            self.tasks.spawn("loop probe", async move {
                let asking = upstream.ask(&name, false, 0, &random);
                // What is answered does not matter: whether it comes back here does.
                let _ = stop.or_stopped(tokio::time::timeout(PROBE_MAX, asking)).await;
            });
        }
    }
}

/// Takes a question out of those under way when it is not any more.
struct Entry {
    known: Arc<Known>,
    key: Vec<u8>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.known.flights).remove(&self.key);
    }
}

/// What makes a difference to the answer.
fn key(asked: &Asked) -> Vec<u8> {
    let question = asked.question();
    let wants = u8::from(question.dnssec()) << 1 | u8::from(question.flags & flag::CHECKING_DISABLED != 0);
    [&asked.target[..], &[wants]].concat()
}

/// Whether a server that listens on `own` is reached at `ip`. On the unspecified address it is at every local one.
fn leads_back(own: &[IpAddr], ip: IpAddr) -> bool {
    own.iter().any(|own| *own == ip || (own.is_unspecified() && ip.is_loopback()))
}

fn from_file(text: &[u8], is_ours: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(text);
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_server = words.next()? == "nameserver";
        is_server.then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    let others: Vec<SocketAddr> =
        named.filter(|ip| !is_ours(*ip)).take(UPSTREAMS_MAX).map(|ip| (ip, PORT).into()).collect();
    if others.is_empty() {
        tracing::warn!("resolv.conf names no other server: names outside of the cluster have no answer");
    }
    others
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the forwarder's locks panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_asks_itself() {
        let own: Vec<IpAddr> = vec!["10.43.0.10".parse().unwrap(), "0.0.0.0".parse().unwrap()];
        for (text, usable) in [
            ("nameserver 10.43.0.10", &[][..]),
            ("nameserver 127.0.0.53", &[]),
            ("# nameserver 192.0.2.9\nnameserver\t10.43.0.10\nnameserver 192.0.2.1 # ours", &["192.0.2.1:53"]),
            ("nameserver 2001:db8::1\noptions ndots:5", &["[2001:db8::1]:53"]),
            ("search example.com", &[]),
        ] {
            let found = from_file(text.as_bytes(), |ip| leads_back(&own, ip));
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), usable, "{text}");
        }
    }
}
