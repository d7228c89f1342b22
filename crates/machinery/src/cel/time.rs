//! Moments and durations in the texts that CEL and schemas know.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

const NANOS: i128 = 1_000_000_000;
const EPOCH: DateTime = jiff::civil::datetime(1970, 1, 1, 0, 0, 0, 0);
/// 0001-01-01T00:00:00Z
const SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z
const SECONDS_MAX: i64 = 253_402_300_799;

/// A moment of the years 1 to 9999, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// A moment by its seconds since 1970.
    pub(super) fn of_seconds(seconds: i64) -> Option<Self> {
        (SECONDS_MIN..=SECONDS_MAX).contains(&seconds).then_some(Self { seconds, nanos: 0 })
    }

    pub(super) fn seconds(self) -> i64 {
        self.seconds
    }

    fn total(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    pub(super) fn plus(self, nanos: i128) -> Option<Self> {
        let total = self.total() + nanos;
        let seconds = i64::try_from(total.div_euclid(NANOS)).ok()?;
        Some(Self { nanos: total.rem_euclid(NANOS) as u32, ..Self::of_seconds(seconds)? })
    }

    pub(super) fn nanos_since(self, other: Self) -> i128 {
        self.total() - other.total()
    }

    /// Reads RFC 3339.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (date, rest) = (text.get(..10)?, text.get(10..)?);
        let rest = rest.strip_prefix(['T', 't'])?;
        let zone_at = rest.find(['Z', 'z', '+', '-'])?;
        let (time, zone) = rest.split_at(zone_at);
        let offset = match zone {
            "Z" | "z" => 0,
            _ => offset_seconds(zone)?,
        };
        if time.len() < 8 || time.as_bytes()[2] != b':' || time.as_bytes()[5] != b':' {
            return None;
        }
        let time: jiff::civil::Time = time.parse().ok()?;
        let date: Date = date.parse().ok()?;
        let since = DateTime::from_parts(date, time).duration_since(EPOCH);
        let total = since.as_nanos() - i128::from(offset) * NANOS;
        Self { seconds: 0, nanos: 0 }.plus(total)
    }

    fn civil(self, offset_seconds: i64) -> DateTime {
        let since = SignedDuration::new(self.seconds + offset_seconds, self.nanos as i32);
        EPOCH.saturating_add(since)
    }

    /// Its date and time in a zone: a name, or an offset such as `+02:00`; `None` where there is no such zone.
    pub(super) fn in_zone(self, zone: &str) -> Option<DateTime> {
        if let Some(seconds) = offset_of(zone) {
            return Some(self.civil(seconds));
        }
        let zone = if zone.is_empty() { TimeZone::UTC } else { crate::cron::time_zone(zone)? };
        let at = jiff::Timestamp::new(self.seconds, 0).unwrap_or(jiff::Timestamp::MAX);
        Some(self.civil(i64::from(zone.to_offset(at).seconds())))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.civil(0);
        write!(f, "{:04}-{:02}-{:02}T", at.year(), at.month(), at.day())?;
        write!(f, "{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())?;
        if self.nanos > 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// `+02:00` in seconds.
fn offset_seconds(text: &str) -> Option<i64> {
    let (sign, digits) = (text.get(..1)?, text.get(1..)?);
    let (hours, minutes) = digits.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2)?;
    let seconds = hours.parse::<u8>().ok()?.min(24) as i64 * 3600 + i64::from(minutes.parse::<u8>().ok()?) * 60;
    Offset::from_seconds(seconds as i32).ok()?;
    Some(if sign == "-" { -seconds } else { seconds })
}

/// An offset as the accessors of timestamps take it: `02:00`, `-08:00`.
fn offset_of(zone: &str) -> Option<i64> {
    if !zone.contains(':') {
        return None;
    }
    if zone.starts_with(['+', '-']) { offset_seconds(zone) } else { offset_seconds(&format!("+{zone}")) }
}

/// A day, as the moment at which it begins.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    Timestamp::parse(&format!("{}T00:00:00Z", Some(text).filter(|text| text.len() == 10)?))
}

/// What base64 stands for.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A duration as Go writes them, in billionths of a second.
pub(super) fn duration(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with('+') => (true, rest),
        Some(_) => return None,
        None => (false, text),
    };
    let nanos = crate::duration::parse(unsigned).ok()?.as_nanos();
    let nanos = i128::try_from(nanos).ok()?;
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

/// A duration as schemas know them: Go's, or a number and a word, such as `3 days`.
pub(super) fn schema_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
        ("w", 604_800_000_000_000),
    ];
    if let Some(nanos) = duration(text) {
        return Some(nanos);
    }
    let text = text.trim();
    let ends = text.find(|sign: char| !sign.is_ascii_digit())?;
    let count: i64 = text[..ends].parse().ok()?;
    let word = text[ends..].trim();
    let unit = match word {
        "nano" | "nanosecond" | "nanoseconds" => "ns",
        "micro" | "microsecond" | "microseconds" | "µs" => "us",
        "milli" | "millisecond" | "milliseconds" => "ms",
        "sec" | "second" | "seconds" => "s",
        "min" | "minute" | "minutes" => "m",
        "hr" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        "wk" | "week" | "weeks" => "w",
        word => word,
    };
    count.checked_mul(UNITS.iter().find(|(known, _)| *known == unit)?.1)
}

/// A duration as CEL writes them: seconds, `90s`, `1.5s`.
pub(super) fn duration_text(nanos: i64) -> String {
    let whole = nanos.unsigned_abs();
    let (seconds, rest) = (whole / 1_000_000_000, whole % 1_000_000_000);
    let sign = if nanos < 0 { "-" } else { "" };
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let digits = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", digits.trim_end_matches('0'))
}
