//! Versions after semver.org: `semver('1.2.3')`. Comparisons stand with quantities.

use std::cmp::Ordering;

use super::super::cost::Cost;
use super::super::value::{Made, Opaque, Value};
use super::{Function, SEMVER, T, fail, global, member, no_overload};

const VERSION: T = T::Opaque(SEMVER);

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    parts: [u64; 3],
    /// The parts of a pre-release.
    before: Vec<String>,
}

impl Semver {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (text, before) = text.split_once('-').map_or((text, None), |(text, before)| (text, Some(before)));
        let numbers: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, patch] = numbers[..] else { return Err("No Major.Minor.Patch elements found".to_owned()) };
        let parts = [number("Major", major)?, number("Minor", minor)?, number("Patch", patch)?];
        let before: Vec<String> = before.map_or(Vec::new(), |before| before.split('.').map(str::to_owned).collect());
        for part in before.iter().map(String::as_str).chain(build.into_iter().flat_map(|build| build.split('.'))) {
            if part.is_empty() {
                return Err("Prerelease is empty".to_owned());
            }
            if !part.bytes().all(|sign| sign.is_ascii_alphanumeric() || sign == b'-') {
                return Err(format!("Invalid character(s) found in prerelease {part:?}"));
            }
        }
        let padded = |part: &String| part.len() > 1 && part.starts_with('0') && is_number(part);
        if let Some(part) = before.iter().find(|part| padded(part)) {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
        }
        Ok(Self { parts, before })
    }

    /// Reads what is almost a version: a leading `v`, missing parts, leading zeroes.
    fn normalized(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
        for part in &mut parts {
            if part.len() > 1 {
                let trimmed = part.trim_start_matches('0');
                let zero = !trimmed.starts_with(|sign: char| sign.is_ascii_digit());
                *part = format!("{}{trimmed}", if zero { "0" } else { "" });
            }
        }
        if parts.len() < 3 {
            if parts.last().is_some_and(|part| part.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".to_owned());
            }
            parts.resize(3, "0".to_owned());
        }
        Self::parse(&parts.join("."))
    }

    /// Which is earlier. What was built of it does not count.
    pub(in super::super) fn compare(&self, other: &Self) -> Ordering {
        let released = match (self.before.is_empty(), other.before.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => Ordering::Equal,
        };
        let parts = || {
            let pairs = self.before.iter().zip(&other.before);
            let order = pairs.map(|(one, other)| compared(one, other)).find(|order| order.is_ne());
            order.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
        };
        self.parts.cmp(&other.parts).then(released).then_with(parts)
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|sign| sign.is_ascii_digit())
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    if text.is_empty() || !is_number(text) {
        return Err(format!("Invalid character(s) found in {} number {text:?}", name.to_lowercase()));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{name} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

/// Numbers come before words and are compared as numbers.
fn compared(one: &str, other: &str) -> Ordering {
    match (is_number(one), is_number(other)) {
        (true, true) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => one.cmp(other),
    }
}

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "semver",
        overloads: &[global(&[T::String], VERSION), global(&[T::String, T::Bool], VERSION)],
        cost: Cost::Parse,
        call: |args, _| match parsed(args) {
            Some(Ok(version)) => Ok(Value::opaque(Opaque::Semver(version))),
            Some(Err(why)) => fail(why),
            None => no_overload("semver", args),
        },
    },
    Function {
        name: "isSemver",
        overloads: &[global(&[T::String], T::Bool), global(&[T::String, T::Bool], T::Bool)],
        cost: Cost::Parse,
        call: |args, _| match parsed(args) {
            Some(version) => Ok(Value::Bool(version.is_ok())),
            None => no_overload("isSemver", args),
        },
    },
    Function {
        name: "major",
        overloads: &[member(&[VERSION], T::Int)],
        cost: Cost::One,
        call: |args, _| part("major", args, 0),
    },
    Function {
        name: "minor",
        overloads: &[member(&[VERSION], T::Int)],
        cost: Cost::One,
        call: |args, _| part("minor", args, 1),
    },
    Function {
        name: "patch",
        overloads: &[member(&[VERSION], T::Int)],
        cost: Cost::One,
        call: |args, _| part("patch", args, 2),
    },
];

fn parsed(args: &[Value<'_>]) -> Option<Result<Semver, String>> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Some(Semver::parse(text)),
        [Value::String(text), Value::Bool(true)] => Some(Semver::normalized(text)),
        _ => None,
    }
}

fn part<'a>(name: &str, args: &[Value<'a>], at: usize) -> Made<'a> {
    match &args[0] {
        Value::Opaque(of) => match &**of {
            Opaque::Semver(version) => Ok(Value::Int(version.parts[at] as i64)),
            _ => no_overload(name, args),
        },
        _ => no_overload(name, args),
    }
}
