//! How long a moment that a client names exactly can be listed: for five minutes after the next one, give or take one, as
//! upstream's compaction has it. Clients rely on both sides: a page's token is good for minutes, and one that was kept for an
//! hour ends in 410 instead of a list that nobody should act on.
//!
//! Watches go further back, as far as the datastore does.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// As long as upstream keeps what was compacted last.
const AGE_MAX: Duration = Duration::from_secs(300);

/// Revisions, each with when it was the newest.
#[derive(Debug, Default)]
pub(super) struct Moments {
    seen: VecDeque<(Instant, u64)>,
}

impl Moments {
    /// Notes the newest revision, now and then. What is older than the answer is too old by now.
    pub(super) fn note(&mut self, now: Instant, revision: u64) -> u64 {
        self.seen.push_back((now, revision));
        let is_old = |(at, _): &(Instant, u64)| now.duration_since(*at) >= AGE_MAX;
        while self.seen.get(1).is_some_and(is_old) {
            self.seen.pop_front();
        }
        self.seen.front().filter(|first| is_old(first)).map_or(0, |(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_too_old_five_minutes_after_it_was_the_newest() {
        let (mut moments, start) = (Moments::default(), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        for (minute, revision, oldest) in
            [(0, 10, 0), (1, 20, 0), (4, 30, 0), (5, 40, 10), (6, 50, 20), (8, 50, 20), (9, 60, 30), (30, 60, 60)]
        {
            assert_eq!(moments.note(at(minute), revision), oldest, "after {minute} minutes");
        }
    }
}
