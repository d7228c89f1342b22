//! `'%s has %d'.format([name, count])`.

use super::super::eval::{EvalError, Meter};
use super::super::value::{List, Made, Text, Value};
use super::{conversions, fail};

const PRECISION: usize = 6;
/// More digits say nothing and would let a short expression make a long text.
const PRECISION_MAX: usize = 1000;
/// A list that is formatted over and over must not grow without end.
const BYTES_MAX: usize = 16 << 20;

/// A clause of a format: what is to be made of an argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) enum Clause {
    String,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Octal,
    Hex,
    UpperHex,
}

/// A piece of a format.
pub(in super::super) enum Piece<'f> {
    Plain(&'f str),
    Clause(Clause),
}

/// The pieces of a format, or what is wrong with it.
pub(in super::super) fn pieces(format: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        pieces.push(Piece::Plain(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('%') {
            pieces.push(Piece::Plain("%"));
            rest = behind;
            continue;
        }
        if rest.is_empty() {
            return Err("unexpected end of string".to_owned());
        }
        let mut precision = PRECISION;
        if let Some(behind) = rest.strip_prefix('.') {
            let digits = behind.len() - behind.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
            precision = behind[..digits].parse().ok().filter(|digits| *digits <= PRECISION_MAX).ok_or_else(|| {
                "could not parse formatting clause: error while parsing precision: could not convert precision to \
                 integer"
                    .to_owned()
            })?;
            rest = &behind[digits..];
        }
        let Some(sign) = rest.chars().next() else {
            return Err("could not parse formatting clause: unexpected end of string".to_owned());
        };
        pieces.push(Piece::Clause(match sign {
            's' => Clause::String,
            'd' => Clause::Decimal,
            'f' => Clause::Fixed(precision),
            'e' => Clause::Scientific(precision),
            'b' => Clause::Binary,
            'o' => Clause::Octal,
            'x' => Clause::Hex,
            'X' => Clause::UpperHex,
            other => {
                return Err(format!("could not parse formatting clause: unrecognized formatting clause {other:?}"));
            }
        }));
        rest = &rest[sign.len_utf8()..];
    }
    pieces.push(Piece::Plain(rest));
    Ok(pieces)
}

/// The words of a complaint that a clause does not take a type.
pub(in super::super) fn refused(clause: Clause, given: &str) -> String {
    let takes = match clause {
        Clause::String => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and \
             timestamps"
        }
        Clause::Decimal => "decimal clause can only be used on integers",
        Clause::Fixed(_) => "fixed-point clause can only be used on doubles",
        Clause::Scientific(_) => "scientific clause can only be used on doubles",
        Clause::Binary => "only integers and bools can be formatted as binary",
        Clause::Octal => "octal clause can only be used on integers",
        Clause::Hex | Clause::UpperHex => "only integers, byte buffers, and strings can be formatted as hex",
    };
    format!("error during formatting: {takes}, was given {given}")
}

/// The text that a format makes of its arguments.
pub(super) fn formatted<'a>(format: &str, with: &List<'a>, meter: &Meter) -> Made<'a> {
    let mut out = String::new();
    let mut next = 0;
    for piece in pieces(format).map_err(EvalError::new)? {
        match piece {
            Piece::Plain(text) => out.push_str(text),
            Piece::Clause(clause) => {
                if next >= with.len() {
                    return fail(format!("index {next} out of range"));
                }
                let value = with.get(next)?;
                let Some(text) = clause_text(clause, &value, meter)? else {
                    return fail(refused(clause, value.type_name()));
                };
                out.push_str(&text);
                next += 1;
            }
        }
        if out.len() > BYTES_MAX {
            return fail("format: the result is too long");
        }
    }
    Ok(Value::String(out.into()))
}

fn clause_text(clause: Clause, value: &Value<'_>, meter: &Meter) -> Result<Option<String>, EvalError> {
    Ok(Some(match (clause, value) {
        (Clause::String, Value::Null) => "null".to_owned(),
        (Clause::String, Value::List(_) | Value::Map(_)) => nested(value, meter)?,
        (Clause::String, Value::Opaque(_)) => return Ok(None),
        (Clause::String, _) => return Ok(conversions::text_of(value)?.map(|text| text.to_string())),
        (Clause::Decimal, Value::Int(value)) => value.to_string(),
        (Clause::Decimal, Value::Uint(value)) => value.to_string(),
        (Clause::Fixed(precision), value) => match number(value) {
            Some(number) if number.is_finite() => grouped(&format!("{number:.precision$}")),
            Some(number) => endless(number),
            None => return Ok(None),
        },
        (Clause::Scientific(precision), value) => match number(value) {
            Some(number) if number.is_finite() => scientific(number, precision),
            Some(number) => endless(number),
            None => return Ok(None),
        },
        (Clause::Binary, Value::Bool(value)) => u8::from(*value).to_string(),
        (Clause::Binary, Value::Int(value)) => signed(*value, |whole| format!("{whole:b}")),
        (Clause::Binary, Value::Uint(value)) => format!("{value:b}"),
        (Clause::Octal, Value::Int(value)) => signed(*value, |whole| format!("{whole:o}")),
        (Clause::Octal, Value::Uint(value)) => format!("{value:o}"),
        (Clause::Hex, Value::Int(value)) => signed(*value, |whole| format!("{whole:x}")),
        (Clause::Hex, Value::Uint(value)) => format!("{value:x}"),
        (Clause::Hex, Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        (Clause::Hex, Value::Bytes(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        (Clause::UpperHex, value) => return Ok(clause_text(Clause::Hex, value, meter)?.map(|text| text.to_uppercase())),
        _ => return Ok(None),
    }))
}

fn signed(value: i64, digits: fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn endless(number: f64) -> String {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "∞"
    } else {
        "-∞"
    }
    .to_owned()
}

/// Digits in groups of three, as English writes them.
fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `3.140000×10⁰⁰`
fn scientific(number: f64, precision: usize) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("", exponent), |exponent| ("⁻", exponent));
    let raised =
        format!("{exponent:0>2}").bytes().map(|digit| RAISED[usize::from(digit - b'0') % 10]).collect::<String>();
    format!("{digits}×10{sign}{raised}")
}

/// Lists and maps, their parts as they are written in expressions.
fn nested(value: &Value<'_>, meter: &Meter) -> Result<String, EvalError> {
    meter.steps(1)?;
    Ok(match value {
        Value::List(list) => {
            let mut parts = Vec::with_capacity(list.len());
            for item in list.iter() {
                parts.push(nested(&item?, meter)?);
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Map(table) => {
            let mut parts = Vec::with_capacity(table.len());
            for key in table.keys() {
                let inner = table.find(&key)?.unwrap_or(Value::Null);
                parts.push((nested(&key, meter)?, nested(&inner, meter)?));
            }
            parts.sort();
            let parts: Vec<String> = parts.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Null => "null".to_owned(),
        Value::String(text) => format!("{:?}", &**text),
        Value::Bytes(_) => format!("b{:?}", &*text_or_error(value)?),
        Value::Double(number) if !number.is_finite() => format!("{:?}", endless(*number)),
        Value::Double(number) => format!("{number:.PRECISION$}"),
        Value::Timestamp(_) => format!("timestamp({:?})", &*text_or_error(value)?),
        Value::Duration(_) => format!("duration({:?})", &*text_or_error(value)?),
        Value::Opaque(_) | Value::Optional(_) => {
            return Err(EvalError::new(format!("no formatting function for {}", value.type_name())));
        }
        _ => text_or_error(value)?.to_string(),
    })
}

fn text_or_error<'a>(value: &Value<'a>) -> Result<Text<'a>, EvalError> {
    conversions::text_of(value)?
        .ok_or_else(|| EvalError::new(format!("no formatting function for {}", value.type_name())))
}
