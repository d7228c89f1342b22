//! Addresses of the web: `url('https://host:80/path?q=1').getHost()`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::cost::Cost;
use super::super::value::{Made, MapKey, Opaque, Table, Value};
use super::{Function, T, URL, fail, global, member, no_overload};

const ADDRESS: T = T::Opaque(URL);

/// The parts of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
    whole: String,
}

impl Url {
    /// Reads an address as it stands in a request: absolute, or a path.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("parse {text:?}: {why}");
        if text.is_empty() {
            return Err(wrong("empty url"));
        }
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(wrong("net/url: invalid control character in URL"));
        }
        let (before, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, rest) = scheme(before).map_err(|why| wrong(&why))?;
        if !rest.starts_with('/') && scheme.is_empty() {
            return Err(wrong("invalid URI for request"));
        }
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: rest.to_owned(),
            query: query.to_owned(),
            whole: text.to_owned(),
        };
        if !rest.starts_with('/') {
            // What has no slash behind its scheme is opaque: `mailto:x`.
            url.path.clear();
            return Ok(url);
        }
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///")) {
            let ends = authority.find('/').unwrap_or(authority.len());
            let (authority, path) = authority.split_at(ends);
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            check_host(host).map_err(|why| wrong(&why))?;
            url.host = percent_decoded(host).ok_or_else(|| wrong("invalid URL escape"))?;
            url.path = path.to_owned();
        }
        percent_decoded(&url.path).ok_or_else(|| wrong("invalid URL escape"))?;
        // A fragment is part of the path of a request, but of no address.
        if let Some((path, _)) = url.path.split_once('#') {
            url.path = path.to_owned();
        }
        Ok(url)
    }

    fn hostname(&self) -> &str {
        match (self.host.strip_prefix('['), self.port_at()) {
            (Some(inner), _) => inner.split(']').next().unwrap_or(inner),
            (None, Some(at)) => &self.host[..at],
            (None, None) => &self.host,
        }
    }

    fn port_at(&self) -> Option<usize> {
        let at = self.host.rfind(':')?;
        let behind_address = self.host.rfind(']').is_none_or(|bracket| at == bracket + 1);
        behind_address.then_some(at)
    }

    fn port(&self) -> &str {
        self.port_at().map_or("", |at| &self.host[at + 1..])
    }
}

/// The scheme, without its colon, and what stands behind it.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, sign) in text.char_indices() {
        match sign {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    let first = text.split('/').next().unwrap_or_default();
    if !text.starts_with('/') && first.contains(':') {
        return Err("first path segment in URL cannot contain colon".to_owned());
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = match host.strip_prefix('[') {
        Some(inner) => inner.split_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|d| d.is_ascii_digit())) {
        return Err(format!("invalid port {port:?} after host"));
    }
    match host.chars().find(|sign| " <>\"\\^`{|}".contains(*sign)) {
        Some(sign) => Err(format!("invalid character {:?} in host name", sign.to_string())),
        None => Ok(()),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push((high * 16 + low) as u8);
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// The path with what must be escaped escaped.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "url",
        overloads: &[global(&[T::String], ADDRESS)],
        cost: Cost::Url,
        call: |args, _| match args {
            [Value::String(text)] => match Url::parse(text) {
                Ok(url) => Ok(Value::opaque(Opaque::Url(url))),
                Err(why) => fail(format!("URL parse error during conversion from string: {why}")),
            },
            _ => no_overload("url", args),
        },
    },
    Function {
        name: "isURL",
        overloads: &[global(&[T::String], T::Bool)],
        cost: Cost::One,
        call: |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(Url::parse(text).is_ok())),
            _ => no_overload("isURL", args),
        },
    },
    Function {
        name: "getScheme",
        overloads: &[member(&[ADDRESS], T::String)],
        cost: Cost::One,
        call: |args, _| part("getScheme", args, |url| url.scheme.clone()),
    },
    Function {
        name: "getHost",
        overloads: &[member(&[ADDRESS], T::String)],
        cost: Cost::One,
        call: |args, _| part("getHost", args, |url| url.host.clone()),
    },
    Function {
        name: "getHostname",
        overloads: &[member(&[ADDRESS], T::String)],
        cost: Cost::One,
        call: |args, _| part("getHostname", args, |url| url.hostname().to_owned()),
    },
    Function {
        name: "getPort",
        overloads: &[member(&[ADDRESS], T::String)],
        cost: Cost::One,
        call: |args, _| part("getPort", args, |url| url.port().to_owned()),
    },
    Function {
        name: "getEscapedPath",
        overloads: &[member(&[ADDRESS], T::String)],
        cost: Cost::One,
        call: |args, _| part("getEscapedPath", args, |url| escaped(&url.path)),
    },
    Function {
        name: "getQuery",
        overloads: &[member(&[ADDRESS], T::Map(&T::String, &T::List(&T::String)))],
        cost: Cost::One,
        call: |args, _| match of(&args[0]) {
            Some(url) => Ok(query(&url.query)),
            None => no_overload("getQuery", args),
        },
    },
];

fn of<'v>(value: &'v Value<'_>) -> Option<&'v Url> {
    match value {
        Value::Opaque(of) => match &**of {
            Opaque::Url(url) => Some(url),
            _ => None,
        },
        _ => None,
    }
}

fn part<'a>(name: &str, args: &[Value<'a>], of_url: fn(&Url) -> String) -> Made<'a> {
    match of(&args[0]) {
        Some(url) => Ok(Value::String(of_url(url).into())),
        None => no_overload(name, args),
    }
}

fn query<'a>(query: &str) -> Value<'a> {
    let mut found: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = |text: &str| percent_decoded(&text.replace('+', " "));
        if let (Some(key), Some(value)) = (plain(key), plain(value)) {
            found.entry(key).or_default().push(Value::String(value.into()));
        }
    }
    let entries = found.into_iter().map(|(key, values)| (MapKey::String(key.into()), Value::list(values)));
    Value::Map(Table::Made(Arc::new(entries.collect())))
}
