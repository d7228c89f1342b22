//! Which of a schedule's times is due. Pure.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use machinery::cron::Schedule;

/// From so many missed times on the user is told: the clock may be wrong, or the server have been away for long.
const MISSED_MAX: i64 = 100;

/// A time that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Timestamp,
    /// Whether very many others were missed.
    pub(super) too_many: bool,
}

/// The last time between `since` and `now`, if there is one; none that was more than `deadline_seconds` ago.
///
/// The times between are not walked through, there may be millions: from the distance of the first two it is worked out
/// where the last one must be near.
pub(super) fn due(
    schedule: &Schedule,
    zone: &TimeZone,
    since: Timestamp,
    deadline_seconds: Option<i64>,
    now: Timestamp,
) -> Option<Due> {
    let deadline = deadline_seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    let since = deadline.map_or(since, |deadline| deadline.max(since));
    let first = schedule.next(since, zone).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Some(Due { at: first, too_many: false });
    };
    let apart = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / apart + 1;
    let (span, mut back) = ((missed - 2) * apart, 0);
    // Times that are not evenly apart, such as working days, may leave none there: then further and further back.
    let mut at = loop {
        let near = first.checked_add(SignedDuration::from_secs((span - back).max(0))).ok()?;
        match schedule.next(near, zone).filter(|at| *at <= now) {
            Some(at) => break at,
            None if back >= span => break second,
            None => back = (back * 2).max(apart),
        }
    };
    while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
        at = next;
    }
    Some(Due { at, too_many: missed > MISSED_MAX })
}

/// How long until the next time.
pub(super) fn next(schedule: &Schedule, zone: &TimeZone, since: Timestamp, now: Timestamp) -> Option<Duration> {
    // What comes at intervals goes on from the last time that was due.
    let last = due(schedule, zone, since, None, now).map_or(since, |due| due.at);
    let next = schedule.next(last, zone).filter(|next| *next > now).or_else(|| schedule.next(now, zone))?;
    Some(next.duration_since(now).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use machinery::cron;

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2030-01-{text}Z").parse().expect("a time")
    }

    #[test]
    fn only_the_last_missed_time_is_due() {
        let table = [
            ("0 * * * *", "01T10:00:00", None, "01T10:59:59", None, false),
            ("0 * * * *", "01T10:00:00", None, "01T11:00:00", Some("01T11:00:00"), false),
            ("0 * * * *", "01T10:00:00", None, "01T13:30:00", Some("01T13:00:00"), false),
            ("0 * * * *", "01T10:00:00", Some(600), "01T13:30:00", None, false),
            ("* * * * *", "01T10:00:00", None, "02T10:00:30", Some("02T10:00:00"), true),
            ("30 6-16/4 * * 1-5", "01T00:00:00", None, "06T12:00:00", Some("04T14:30:00"), false),
            ("@every 1h", "01T10:20:00", None, "01T13:30:00", Some("01T13:20:00"), false),
        ];
        for (schedule, since, deadline, now, wanted, too_many) in table {
            let schedule = cron::parse(schedule).expect("a schedule");
            let due = due(&schedule, &TimeZone::UTC, at(since), deadline, at(now));
            let wanted = wanted.map(|wanted| Due { at: at(wanted), too_many });
            assert_eq!(due, wanted, "{schedule:?} since {since}, now {now}");
        }
    }

    #[test]
    fn the_next_look_is_at_the_next_time() {
        let every = cron::parse("@every 1h").expect("a schedule");
        let wait = |schedule: &Schedule, since: &str, now: &str| next(schedule, &TimeZone::UTC, at(since), at(now));
        assert_eq!(wait(&every, "01T10:20:00", "01T13:30:00"), Some(Duration::from_secs(50 * 60)));
        let hourly = cron::parse("@hourly").expect("a schedule");
        assert_eq!(wait(&hourly, "01T10:20:00", "01T13:30:00"), Some(Duration::from_secs(30 * 60)));
    }
}
