//! Named formats: `format.dns1123Label().validate('x')` is nothing, or a list of what is wrong.

use super::super::cost::Cost;
use super::super::time::{self, Timestamp};
use super::super::value::{Opaque, Value};
use super::urls::Url;
use super::{FORMAT, Function, Overload, T, global, member, no_overload};
use crate::names;

const NAMED: T = T::Opaque(FORMAT);
const CONSTANT: &[Overload] = &[global(&[], NAMED)];

type Check = fn(&str) -> Vec<String>;

/// A format: its name, what it says of a text, and how long a pattern costs as much.
struct Row {
    name: &'static str,
    check: Check,
    pattern_length: u64,
}

const fn row(name: &'static str, check: Check, pattern_length: u64) -> Row {
    Row { name, check, pattern_length }
}

const ROWS: &[Row] = &[
    row("dns1123Label", names::dns1123_label, 30),
    row("dns1123Subdomain", names::dns1123_subdomain, 60),
    row("dns1035Label", names::dns1035_label, 30),
    row("qualifiedName", names::qualified_name, 60),
    row("dns1123LabelPrefix", |text| names::dns1123_label(&names::without_last_dash(text)), 30),
    row("dns1123SubdomainPrefix", |text| names::dns1123_subdomain(&names::without_last_dash(text)), 60),
    row("dns1035LabelPrefix", |text| names::dns1035_label(&names::without_last_dash(text)), 30),
    row("labelValue", names::label_value, 40),
    row("uri", |text| wrong(Url::parse(text).err()), 1109),
    row("uuid", |text| wrong((!is_uuid(text)).then(|| "does not match the UUID format".to_owned())), 67),
    row("byte", |text| wrong(time::base64(text).is_none().then(|| "invalid base64".to_owned())), 81),
    row("date", |text| wrong(time::date(text).is_none().then(|| "invalid date".to_owned())), 99),
    row("datetime", |text| wrong(Timestamp::parse(text).is_none().then(|| "invalid datetime".to_owned())), 99),
];

fn wrong(why: Option<String>) -> Vec<String> {
    why.into_iter().collect()
}

fn is_uuid(text: &str) -> bool {
    let digits: String = text.chars().filter(|sign| *sign != '-').collect();
    let dashes = text.match_indices('-').all(|(at, _)| [8, 13, 18, 23].contains(&at) || digits.len() == 32);
    digits.len() == 32 && dashes && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

macro_rules! constant {
    ($name:literal, $format:literal) => {
        Function {
            name: $name,
            overloads: CONSTANT,
            cost: Cost::One,
            call: |_, _| Ok(Value::opaque(Opaque::Format($format))),
        }
    };
}

pub(super) static FUNCTIONS: &[Function] = &[
    constant!("format.dns1123Label", "dns1123Label"),
    constant!("format.dns1123Subdomain", "dns1123Subdomain"),
    constant!("format.dns1035Label", "dns1035Label"),
    constant!("format.qualifiedName", "qualifiedName"),
    constant!("format.dns1123LabelPrefix", "dns1123LabelPrefix"),
    constant!("format.dns1123SubdomainPrefix", "dns1123SubdomainPrefix"),
    constant!("format.dns1035LabelPrefix", "dns1035LabelPrefix"),
    constant!("format.labelValue", "labelValue"),
    constant!("format.uri", "uri"),
    constant!("format.uuid", "uuid"),
    constant!("format.byte", "byte"),
    constant!("format.date", "date"),
    constant!("format.datetime", "datetime"),
    Function {
        name: "format.named",
        overloads: &[global(&[T::String], T::Optional(&NAMED))],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::String(name)] => {
                let found = ROWS.iter().find(|row| row.name == &**name);
                Ok(found.map_or(Value::Optional(None), |row| Value::optional(Value::opaque(Opaque::Format(row.name)))))
            }
            _ => no_overload("format.named", args),
        },
    },
    Function {
        name: "validate",
        overloads: &[member(&[NAMED, T::String], T::Optional(&T::List(&T::String)))],
        cost: Cost::Validate,
        call: |args, _| match args {
            [Value::Opaque(of), Value::String(text)] => match find(of) {
                Some(row) => Ok(complaints((row.check)(text))),
                None => no_overload("validate", args),
            },
            _ => no_overload("validate", args),
        },
    },
];

fn find(of: &Opaque) -> Option<&'static Row> {
    let Opaque::Format(name) = of else { return None };
    ROWS.iter().find(|row| row.name == *name)
}

fn complaints<'a>(found: Vec<String>) -> Value<'a> {
    if found.is_empty() {
        return Value::Optional(None);
    }
    Value::optional(Value::list(found.into_iter().map(|text| Value::String(text.into())).collect()))
}

/// How long a pattern would cost as much as checking a text against a format.
pub(in super::super) fn pattern_length(value: &Value<'_>) -> u64 {
    match value {
        Value::Opaque(of) => find(of).map_or(1, |row| row.pattern_length),
        _ => 1,
    }
}
