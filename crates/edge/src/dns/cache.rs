//! Answers of other name servers, for as long as they say. Pure but for the time that it is told.
//!
//! - A "no" is remembered like a "yes", as its SOA record says; one without that record is not remembered.
//! - What is too old is kept on: where no server answers, an old answer is better than none (RFC 8767).
//! - A failure is remembered for some seconds: each question would else wait for servers that are not there.
//! - Nothing is asked for before it is asked: that would go on for names that nobody needs any more, and a question that
//!   comes at the wrong moment costs one exchange, whatever the number of clients.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Age, Body, code};

/// How many answers are remembered, and in how many bytes. The oldest go first.
const ENTRIES_MAX: usize = 4096;
const BYTES_MAX: usize = 4 << 20;
/// However long an answer may be remembered: who changes a name wants to see it within the hour.
const YES_SECONDS_MAX: u32 = 3600;
const NO_SECONDS_MAX: u32 = 1800;
/// For how long nobody is asked after a failure.
const FAILURE: Duration = Duration::from_secs(5);
/// For how long an old answer stands in for one that cannot be had, and for how long clients may remember it.
const STALE_MAX: Duration = Duration::from_secs(3600);
const STALE_SECONDS: u32 = 30;

/// What is remembered.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Vec<u8>, Entry>,
    /// The questions, oldest first.
    order: VecDeque<Vec<u8>>,
    bytes: usize,
}

struct Entry {
    body: Arc<Body>,
    at: Instant,
    /// Until when it is as good as new.
    fresh_until: Instant,
    /// Until when nobody is to be asked again although it is old.
    failing_until: Option<Instant>,
}

impl Cache {
    /// What is known and needs no asking.
    pub(super) fn get(&self, question: &[u8], now: Instant) -> Option<(Arc<Body>, Age)> {
        let entry = self.entries.get(question)?;
        if now < entry.fresh_until {
            let seconds = u32::try_from((now - entry.at).as_secs()).unwrap_or(u32::MAX);
            return Some((entry.body.clone(), Age::Seconds(seconds)));
        }
        entry.failing_until.filter(|until| now < *until).map(|_| (entry.body.clone(), Age::Stale(STALE_SECONDS)))
    }

    /// Takes in an answer; what clients are to get instead, where it is a failure and something older is known.
    pub(super) fn put(&mut self, question: &[u8], body: Arc<Body>, now: Instant) -> (Arc<Body>, Age) {
        let fresh = match body.code {
            code::NO_ERROR | code::NO_NAME if !body.truncated => {
                let most = if body.answers() > 0 { YES_SECONDS_MAX } else { NO_SECONDS_MAX };
                Duration::from_secs(body.ttl().unwrap_or(0).min(most).into())
            }
            code::SERVER_FAILURE => {
                if let Some(older) = self.entries.get_mut(question)
                    && older.body.code != code::SERVER_FAILURE
                    && now < older.fresh_until + STALE_MAX
                {
                    older.failing_until = Some(now + FAILURE);
                    return (older.body.clone(), Age::Stale(STALE_SECONDS));
                }
                FAILURE
            }
            _ => Duration::ZERO,
        };
        if !fresh.is_zero() {
            self.insert(question, Entry { body: body.clone(), at: now, fresh_until: now + fresh, failing_until: None });
        }
        (body, Age::Original)
    }

    /// How many answers there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn insert(&mut self, question: &[u8], entry: Entry) {
        self.bytes += entry.body.weight();
        match self.entries.insert(question.to_vec(), entry) {
            Some(former) => self.bytes -= former.body.weight(),
            None => self.order.push_back(question.to_vec()),
        }
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.entries.remove(&oldest) {
                self.bytes -= gone.body.weight();
            }
        }
    }
}
