//! How long a node whose daemon pods fail is left alone before its failed pod gives way to the next one.
//!
//! Without it a node that refuses its daemon pod would be offered one after another without a pause. The times are
//! upstream's: the first failure costs nothing, then the pause doubles from one second to a quarter of an hour, and what has
//! been quiet for twice that is forgotten.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(15 * 60);

/// What the controller remembers, by the set's uid and the node. Bounded by forgetting: only what failed lately is here.
#[derive(Debug, Default)]
pub struct Failures(Mutex<BTreeMap<(String, String), Pause>>);

#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Instant,
    lasts: Duration,
}

impl Failures {
    /// How much longer a failed pod of the set stays on the node.
    pub(super) fn left(&self, set: &str, node: &str) -> Duration {
        let pauses = self.lock();
        let pause = pauses.get(&(set.to_owned(), node.to_owned()));
        pause.map_or(Duration::ZERO, |pause| pause.lasts.saturating_sub(pause.since.elapsed()))
    }

    /// A failed pod gives way now: the next pause is longer.
    pub(super) fn count(&self, set: &str, node: &str) {
        let mut pauses = self.lock();
        pauses.retain(|_, pause| pause.since.elapsed() < 2 * MAX);
        let now = Instant::now();
        let first = Pause { since: now, lasts: FIRST };
        let pause = pauses.entry((set.to_owned(), node.to_owned()));
        pause.and_modify(|pause| *pause = Pause { since: now, lasts: (pause.lasts * 2).min(MAX) }).or_insert(first);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Pause>> {
        self.0.lock().expect("no holder of the failures' lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_are_forgotten() {
        let failures = Failures::default();
        assert_eq!(failures.left("set", "a"), Duration::ZERO);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            failures.count("set", "a");
            assert_eq!(failures.left("set", "a"), Duration::from_secs(seconds));
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(failures.left("set", "a"), Duration::ZERO);
        }
        assert_eq!(failures.left("set", "b"), Duration::ZERO, "another node");
        tokio::time::advance(2 * MAX).await;
        failures.count("set", "a");
        assert_eq!(failures.left("set", "a"), FIRST);
    }
}
