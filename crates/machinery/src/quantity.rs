//! Amounts of resources: `500m`, `1Gi`, `2e3`.
//!
//! A quantity is exact: a whole number of billionths. As upstream, finer fractions round away from zero when they are
//! read, and what exceeds 2^63-1 is cut to it, so every value fits an `i128` with room for sums. The suffix family is
//! kept, so that what a user wrote in Gi is shown in Gi.
//!
//! Public behaviour: apimachinery's `resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Add, Neg, Sub};
use std::str::FromStr;

const NANOS: i128 = 1_000_000_000;
const NANOS_MAX: i128 = (i64::MAX as i128) * NANOS;

/// The family of suffixes in which a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// An exact amount. Equality and order are the amount's: `1Gi` equals `1024Mi`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It has another shape.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: &[(&str, i32)] =
    &[("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: &[&str] = &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_ends = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_ends);
        if number.is_empty() || !suffix_shape(suffix) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        let (scale, mut format) = Scale::parse(suffix)?;
        let nanos = scale.apply(whole, fraction);
        if format == Format::BinarySi && nanos < NANOS {
            // Less than one, written in Ki: upstream shows it as a decimal fraction, to round nothing.
            format = Format::DecimalSi;
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format }
    }

    /// Thousandths, such as milli-CPUs.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }

    /// The amount, rounded away from zero to a whole number.
    pub fn value(&self) -> i64 {
        rounded_up(self.nanos, NANOS)
    }

    /// The amount in thousandths, rounded away from zero, at most `i64::MAX`.
    pub fn milli_value(&self) -> i64 {
        rounded_up(self.nanos, 1_000_000)
    }

    /// The amount in billionths.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The family of suffixes in which it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

fn rounded_up(nanos: i128, unit: i128) -> i64 {
    let away = if nanos % unit == 0 { 0 } else { nanos.signum() };
    i64::try_from(nanos / unit + away).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn suffix_shape(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|c| c.is_ascii_digit())
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<(Self, Format), QuantityError> {
        if let Some(row) = DECIMAL.iter().find(|row| row.0 == suffix) {
            return Ok((Self::Ten(row.1), Format::DecimalSi));
        }
        if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
            return Ok((Self::Two(10 * power as u32), Format::BinarySi));
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
        let exponent = exponent.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
        Ok((Self::Ten(exponent), Format::DecimalExponent))
    }

    /// The billionths in `whole.fraction` times this scale: rounded up, at most [`NANOS_MAX`].
    fn apply(self, whole: &str, fraction: &str) -> i128 {
        match self {
            Self::Ten(exponent) => decimal_nanos(whole, fraction, i64::from(exponent) + 9),
            // 2^10n times a decimal fraction: the whole part exactly, then each digit of the fraction. 2^60 * 10^18 fits.
            Self::Two(power) => {
                let whole = decimal_nanos(whole, "", 9).checked_mul(1 << power).unwrap_or(NANOS_MAX);
                let digits = fraction.trim_end_matches('0');
                let kept = &digits[..digits.len().min(18)];
                let parts: i128 = if kept.is_empty() { 0 } else { kept.parse().unwrap_or(0) };
                let denominator = 10_i128.pow(kept.len() as u32);
                // parts/denominator * 2^power * 10^9, without leaving 128 bits: split at the denominator first.
                let scaled = parts << power;
                let (units, rest) = (scaled / denominator, scaled % denominator);
                let nanos = units * NANOS + (rest * NANOS + denominator - 1) / denominator;
                let lost = i128::from(digits.len() > kept.len());
                (whole.min(NANOS_MAX) + nanos + lost).min(NANOS_MAX)
            }
        }
    }
}

/// `whole.fraction * 10^exponent`, rounded up, at most [`NANOS_MAX`].
fn decimal_nanos(whole: &str, fraction: &str, exponent: i64) -> i128 {
    let digits = whole.bytes().chain(fraction.bytes()).map(|c| i128::from(c - b'0'));
    // How many of the digits stand before the decimal point once scaled.
    let point = whole.len() as i64 + exponent;
    let (mut total, mut lost) = (0_i128, false);
    for (at, digit) in digits.enumerate() {
        if (at as i64) < point {
            total = (total * 10 + digit).min(NANOS_MAX);
        } else {
            lost |= digit != 0;
        }
    }
    let missing = point - (whole.len() + fraction.len()) as i64;
    for _ in 0..missing.min(40) {
        total = (total * 10).min(NANOS_MAX);
    }
    (total + i128::from(lost)).min(NANOS_MAX)
}

impl fmt::Display for Quantity {
    /// Canonical: no fraction, the largest suffix that keeps the amount exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANOS == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANOS {
            let (mut value, mut power) = (self.nanos / NANOS, 0);
            while value % 1024 == 0 && power < BINARY.len() - 1 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", BINARY[power]);
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(f, "{value}e{exponent}"),
            _ => {
                let suffix = DECIMAL.iter().find(|row| row.1 == exponent).map_or("", |row| row.0);
                write!(f, "{value}{suffix}")
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;
    /// Keeps the left side's format, unless that is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nanos: -self.nanos, format: self.format }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_text_value_and_milli_value() {
        for (text, canonical, value, milli) in [
            ("0", "0", 0, 0),
            ("0Ki", "0", 0, 0),
            ("1", "1", 1, 1000),
            ("100m", "100m", 1, 100),
            ("0.1", "100m", 1, 100),
            ("1.5", "1500m", 2, 1500),
            ("1500m", "1500m", 2, 1500),
            ("2000m", "2", 2, 2000),
            ("1000", "1k", 1000, 1_000_000),
            ("1024", "1024", 1024, 1_024_000),
            ("1Ki", "1Ki", 1024, 1_024_000),
            ("1024Ki", "1Mi", 1 << 20, (1 << 20) * 1000),
            ("1.5Gi", "1536Mi", 3 << 29, (3_i64 << 29) * 1000),
            ("0.5Ki", "512", 512, 512_000),
            ("0.001Ki", "1024m", 2, 1024),
            ("1e3", "1e3", 1000, 1_000_000),
            ("1E3", "1e3", 1000, 1_000_000),
            ("1E", "1E", 1_000_000_000_000_000_000, i64::MAX),
            ("12e-1", "1200e-3", 2, 1200),
            ("1n", "1n", 1, 1),
            ("0.1n", "1n", 1, 1),
            ("-1500m", "-1500m", -2, -1500),
            (".5", "500m", 1, 500),
            ("5.", "5", 5, 5000),
            ("+1Mi", "1Mi", 1 << 20, (1 << 20) * 1000),
            ("9Ei", "9223372036854775807", i64::MAX, i64::MAX),
            ("1e50", "9223372036854775807", i64::MAX, i64::MAX),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            // Capped values keep their family; only the amount is pinned for them.
            if quantity.value() != i64::MAX {
                assert_eq!(quantity.to_string(), canonical, "{text}");
            }
            assert_eq!((quantity.value(), quantity.milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn refuses_with_upstreams_errors() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("-", QuantityError::Format),
            ("Ki", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("1.1.1", QuantityError::Number),
            (".", QuantityError::Number),
            ("1i", QuantityError::Suffix),
            ("1KI", QuantityError::Format),
            ("1ki", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1m5", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_format_of_what_is_not_zero() {
        let [a, b] = ["1Gi", "512Mi"].map(|text| Quantity::parse(text).unwrap());
        assert_eq!((a + b).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + b).to_string(), "512Mi");
        assert_eq!((b - a).to_string(), "-512Mi");
        assert!(a > b);
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back_as_the_same_amount(
            number in -4_000_000_000_i64..4_000_000_000,
            fraction in prop::option::of("[0-9]{1,12}"),
            suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-2"]),
        ) {
            let text = match fraction {
                Some(fraction) => format!("{number}.{fraction}{suffix}"),
                None => format!("{number}{suffix}"),
            };
            let quantity = Quantity::parse(&text).unwrap();
            let canonical = quantity.to_string();
            let again = Quantity::parse(&canonical).unwrap();
            prop_assert_eq!(quantity, again, "{} -> {}", text, canonical);
            prop_assert_eq!(&again.to_string(), &canonical);
        }

        #[test]
        fn never_panics(text in "[-+0-9.eEinumkKMGTPi]{0,40}") {
            let _ = Quantity::parse(&text).map(|quantity| (quantity.to_string(), quantity.value(), quantity.milli_value()));
        }
    }
}
