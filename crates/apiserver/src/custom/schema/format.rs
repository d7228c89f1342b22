//! `format`: what a text must look like. The names and meanings are those that CRD schemas have upstream; other names are
//! ignored there, and here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::names;

use super::Type;

type Check = fn(&str) -> bool;

/// The formats of texts, without hyphens, as they are compared.
const FORMATS: &[(&str, Check)] = &[
    ("bsonobjectid", |text| text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit())),
    ("byte", |text| STANDARD.decode(text).is_ok()),
    ("cidr", is_cidr),
    ("creditcard", is_credit_card),
    ("date", |text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()),
    ("datetime", is_date_time),
    ("duration", is_duration),
    ("email", is_email),
    ("hexcolor", is_hex_color),
    ("hostname", is_hostname),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("isbn", |text| is_isbn10(text) || is_isbn13(text)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("k8slongname", |text| names::dns1123_subdomain(text).is_empty()),
    ("k8sshortname", |text| names::dns1123_label(text).is_empty()),
    ("mac", is_mac),
    ("password", |_| true),
    ("rgbcolor", is_rgb_color),
    ("ssn", is_ssn),
    ("uri", is_uri),
    ("uuid", |text| is_uuid(text, None)),
    ("uuid3", |text| is_uuid(text, Some('3'))),
    ("uuid4", |text| is_uuid(text, Some('4'))),
    ("uuid5", |text| is_uuid(text, Some('5'))),
];

fn find(format: &str) -> Option<Check> {
    let name = format.replace('-', "");
    FORMATS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}

/// Whether a format means anything at a place of that type.
pub fn is_supported(kind: Type, format: &str) -> bool {
    match kind {
        Type::Any | Type::String => find(format).is_some(),
        Type::Integer => matches!(format, "int32" | "int64"),
        Type::Number => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether a text has the format. Formats that are not known hold always.
pub(super) fn matches(format: &str, text: &str) -> bool {
    find(format).is_none_or(|check| check(text))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let max = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.len() <= 3 && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let between = |from: usize, to: usize, low: u32, high: u32| {
        digits.get(from..to).and_then(|part| part.parse().ok()).is_some_and(|part: u32| (low..=high).contains(&part))
    };
    let kind = match digits.len() {
        13 => digits.starts_with('4'),
        14 => between(0, 3, 300, 305) || between(0, 2, 36, 36) || between(0, 2, 38, 38),
        15 => between(0, 2, 34, 34) || between(0, 2, 37, 37) || between(0, 4, 2131, 2131) || between(0, 4, 1800, 1800),
        16 => {
            digits.starts_with('4')
                || between(0, 2, 51, 55)
                || between(0, 4, 6011, 6011)
                || between(0, 2, 65, 65)
                || between(0, 2, 35, 35)
        }
        _ => false,
    };
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (u32::from(digit - b'0'), at % 2) {
            (digit, 0) => digit,
            (digit, _) if digit > 4 => digit * 2 - 9,
            (digit, _) => digit * 2,
        })
        .sum();
    kind && sum.is_multiple_of(10)
}

fn is_date_time(text: &str) -> bool {
    // RFC 3339 wants both halves and an offset, which the parser of time stamps leaves to the writer.
    let with_offset = text.ends_with(['Z', 'z']) || text.get(19..).is_some_and(|rest| rest.contains(['+', '-']));
    text.get(10..11).is_some_and(|sign| matches!(sign, "T" | "t"))
        && with_offset
        && text.parse::<jiff::Timestamp>().is_ok()
}

/// Go's `1h30m`, and `3 days` as Scala writes it.
fn is_duration(text: &str) -> bool {
    const UNITS: &[&str] = &[
        "ns",
        "nano",
        "nanos",
        "nanosecond",
        "nanoseconds",
        "us",
        "µs",
        "μs",
        "micro",
        "micros",
        "microsecond",
        "microseconds",
        "ms",
        "milli",
        "millis",
        "millisecond",
        "milliseconds",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "m",
        "min",
        "mins",
        "minute",
        "minutes",
        "h",
        "hr",
        "hrs",
        "hour",
        "hours",
        "d",
        "day",
        "days",
        "w",
        "wk",
        "wks",
        "week",
        "weeks",
    ];
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return true;
    }
    let mut rest = unsigned;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let number = &rest[..digits];
        rest = rest[digits..].trim_start_matches(' ');
        let unit = rest.find(|sign: char| sign.is_ascii_digit() || sign == ' ').unwrap_or(rest.len());
        if number.parse::<f64>().is_err() || !UNITS.contains(&&*rest[..unit].to_lowercase()) {
            return false;
        }
        rest = rest[unit..].trim_start_matches(' ');
    }
    !unsigned.is_empty()
}

fn is_email(text: &str) -> bool {
    let address = text.rsplit_once('<').and_then(|(_, rest)| rest.strip_suffix('>')).unwrap_or(text);
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |part: &str| {
        !part.is_empty() && part.chars().all(|sign| !sign.is_whitespace() && !"()<>[]:;,@\"".contains(sign))
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || local.split('.').all(atom)) && domain.split('.').all(atom)
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')')) else { return false };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
}

/// Labels of letters, digits and symbols of any script, of at most 63 characters; the last is not all digits.
fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |sign: char| sign.is_alphanumeric() || sign == '-' || !sign.is_ascii() && !sign.is_whitespace();
        (1..=63).contains(&label.chars().count())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|sign| !matches!(sign, '-' | ' ')).collect();
    let value = |(at, sign): (usize, &char)| match sign {
        'X' | 'x' if at == 9 => Some(10),
        sign => sign.to_digit(10),
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    digits.len() == 10
        && values
            .is_some_and(|values| values.iter().zip(1..).map(|(digit, weight)| digit * weight).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Option<Vec<u32>> =
        text.chars().filter(|sign| !matches!(sign, '-' | ' ')).map(|sign| sign.to_digit(10)).collect();
    digits.is_some_and(|digits| {
        let weighted = digits.iter().enumerate().map(|(at, digit)| digit * if at % 2 == 0 { 1 } else { 3 });
        digits.len() == 13 && weighted.sum::<u32>() % 10 == 0
    })
}

fn is_mac(text: &str) -> bool {
    let pairs = |separator: char| {
        let parts: Vec<&str> = text.split(separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| is_hex(part, 2))
    };
    let dotted: Vec<&str> = text.split('.').collect();
    pairs(':') || pairs('-') || matches!(dotted.len(), 3 | 4 | 10) && dotted.iter().all(|part| is_hex(part, 4))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_ssn(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let plain: String = text.chars().map(|sign| if sign.is_ascii_digit() { '0' } else { sign }).collect();
    digits == 9 && matches!(plain.replace(' ', "-").as_str(), "000-00-0000" | "000000000" | "000-000000" | "00000-0000")
}

/// An absolute URI, or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.contains(|sign: char| sign.is_control() || sign == ' ') {
        return false;
    }
    let scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|sign| sign.is_ascii_alphanumeric() || "+-.".contains(sign))
    };
    text.starts_with('/') || text.split_once(':').is_some_and(|(head, rest)| scheme(head) && !rest.is_empty())
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    const PARTS: [usize; 5] = [8, 4, 4, 4, 12];
    let (mut rest, mut parts) = (text, Vec::new());
    for length in PARTS {
        let Some(part) = rest.get(..length).filter(|part| is_hex(part, length)) else { return false };
        parts.push(part);
        rest = &rest[length..];
        if parts.len() < PARTS.len() {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
    }
    let variant = |part: &str| part.starts_with(['8', '9', 'a', 'b', 'A', 'B']);
    rest.is_empty()
        && version.is_none_or(|version| parts[2].starts_with(version) && (version == '3' || variant(parts[3])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold_or_not() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("date", &["2006-01-02"], &["2006-1-2", "2006-13-01", "x"]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15T19:30:20+02:00"],
                &["2014-12-15 19:30:20", "2014-12-15T19:30:20"],
            ),
            ("duration", &["22 ns", "1h30m", "3 days", "0", "-5s"], &["", "abc", "5 parsecs"]),
            ("email", &["a@b.example", "A <a@b.example>"], &["a", "@b", "a b@c"]),
            ("hostname", &["example.com", "a"], &["-a", "a..b", ""]),
            ("ipv4", &["192.0.2.1"], &["192.0.2.256", "::1"]),
            ("ipv6", &["::1"], &["192.0.2.1"]),
            ("cidr", &["192.0.2.0/24", "2001:db8::/32"], &["192.0.2.0", "192.0.2.0/33"]),
            ("mac", &["00:00:5e:00:53:01", "0000.5e00.5301"], &["00:00:5e:00:53"]),
            ("uuid", &["DEADBEEF-0000-4000-8000-000000000000", "deadbeef000040008000000000000000"], &["deadbeef"]),
            ("uuid4", &["deadbeef-0000-4000-8000-000000000000"], &["deadbeef-0000-3000-8000-000000000000"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112"]),
            ("ssn", &["111-11-1111"], &["11-11-1111"]),
            ("hexcolor", &["#FFFFFF", "abc"], &["#ggg"]),
            ("rgbcolor", &["rgb(255,0,12)"], &["rgb(256,0,0)"]),
            ("byte", &["aGk=", ""], &["?"]),
            ("uri", &["https://example.com/a", "/a"], &["a b", "a"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("k8s-short-name", &["a-b"], &["A", "a.b"]),
            ("k8s-long-name", &["a.b"], &["A"]),
            ("anything", &["holds"], &[]),
        ];
        for (format, good, bad) in table {
            good.iter().for_each(|text| assert!(matches(format, text), "{format} {text}"));
            bad.iter().for_each(|text| assert!(!matches(format, text), "{format} {text}"));
        }
        assert!(is_supported(Type::Integer, "int32") && !is_supported(Type::Integer, "date"));
    }
}
